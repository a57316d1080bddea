//! Commands that fail: what is said about it, and their exit codes.

use std::process::ExitCode;

use console::Style;

use crate::{
    api::ApiError,
    output::{self, UsageError},
};

/// Wrong usage.
const MISUSED: u8 = 2;

/// Prints the error, says what to do next where that is known, and gives the exit code.
pub(crate) fn fail(as_json: bool, error: &anyhow::Error) -> ExitCode {
    let api = error.chain().find_map(|cause| cause.downcast_ref::<ApiError>());
    let misused = error.chain().any(|cause| cause.is::<UsageError>());
    let code = if misused { MISUSED } else { api.map_or(1, ApiError::exit_code) };
    if as_json {
        output::json(&serde_json::json!({"error": format!("{error:#}"), "exit_code": code}));
    } else {
        let word = |style: Style, text| style.for_stderr().apply_to(text);
        output::note(format!("{} {error:#}", word(Style::new().red().bold(), "error:")));
        if let Some(hint) = api.and_then(ApiError::hint) {
            output::note(format!("{} {hint}", word(Style::new().cyan(), "hint:")));
        }
    }
    ExitCode::from(code)
}

/// Answers a command line that is no command: help and version where they were asked for, else what is wrong with it.
pub(crate) fn not_understood(as_json: bool, error: &clap::Error) -> ExitCode {
    let rendered = error.render();
    if !error.use_stderr() && as_json {
        let is_version = error.kind() == clap::error::ErrorKind::DisplayVersion;
        output::json(
            &serde_json::json!({if is_version { "version" } else { "help" }: rendered.to_string().trim()}),
        );
        return ExitCode::SUCCESS;
    }
    if !error.use_stderr() {
        output::text(&if console::colors_enabled() {
            rendered.ansi().to_string()
        } else {
            rendered.to_string()
        });
        return ExitCode::SUCCESS;
    }
    if as_json {
        let plain = rendered.to_string();
        let message = match error.kind() {
            clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                "a command is missing; `hostctl --help` lists them"
            }
            _ => plain.split("\n\nUsage:").next().unwrap_or_default().trim().trim_start_matches("error: "),
        };
        output::json(&serde_json::json!({"error": message, "exit_code": MISUSED}));
    } else {
        let colours = console::colors_enabled_stderr();
        let words = if colours { rendered.ansi().to_string() } else { rendered.to_string() };
        output::note(words.trim_end());
    }
    ExitCode::from(MISUSED)
}
