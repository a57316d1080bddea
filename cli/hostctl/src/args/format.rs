//! `-o`, `--json` and `--wide`, which are one thing: the form that they ask for together, and which commands have names to print.

use super::{Cli, Command, PlaceCommand};
use crate::{
    format::{Format, Output},
    output::usage,
};

impl Cli {
    /// Whether an error is to be a JSON document as well.
    pub(crate) fn has_json_errors(&self) -> bool {
        self.json || self.output == Some(Output::Format(Format::Json))
    }

    /// The form that the flags ask for together.
    ///
    /// # Errors
    /// Wrong usage: flags that ask for different forms, or names of what has none.
    pub(crate) fn format(&self) -> anyhow::Result<Format> {
        let named = match self.output {
            Some(Output::Format(format)) => Some((format, format.flag())),
            Some(Output::File(_)) | None => None,
        };
        let is_wide = matches!(&self.command, Command::Get(get) if get.wide);
        let json = self.json.then_some((Format::Json, "--json"));
        let wide = is_wide.then_some((Format::Wide, "--wide"));
        let mut asked = [json, wide, named].into_iter().flatten();
        let Some((format, flag)) = asked.next() else { return Ok(Format::Table) };
        if let Some((_, other)) = asked.find(|(other, _)| *other != format) {
            return Err(usage(format!("{flag} and {other} ask for different forms of the result; give one")));
        }
        if format == Format::Name {
            if !has_names(&self.command) {
                return Err(usage(
                    "-o name is for commands whose result is resources; take -o yaml or -o json",
                ));
            }
            if is_dry_run(&self.command) {
                return Err(usage("-o name shows no plan; take -o yaml or -o json with --dry-run"));
            }
        }
        Ok(format)
    }
}

/// Whether the result of a command is resources, jobs or rollouts, which have names.
fn has_names(command: &Command) -> bool {
    match command {
        Command::Place(command) => !matches!(command, PlaceCommand::Plan(_)),
        Command::ConvergeShard(_)
        | Command::Get(_)
        | Command::Describe(_)
        | Command::Create(_)
        | Command::Update(_)
        | Command::Delete(_)
        | Command::Undelete(_)
        | Command::Suspend(_)
        | Command::Unsuspend(_)
        | Command::PurgeCache(_)
        | Command::Retry(_)
        | Command::Wait(_)
        | Command::Watch(_)
        | Command::Undo(_)
        | Command::Fleet
        | Command::Jobs(_)
        | Command::Rollouts(_) => true,
        _ => false,
    }
}

/// Whether the command shows what it would do, and does nothing.
fn is_dry_run(command: &Command) -> bool {
    let wait = match command {
        Command::Create(args) => &args.wait,
        Command::Update(args) => &args.wait,
        Command::Delete(args) => &args.wait,
        Command::Suspend(args) => &args.wait,
        Command::Unsuspend(args) => &args.wait,
        Command::PurgeCache(args) => &args.wait,
        Command::Retry(args) => &args.wait,
        Command::Undelete(args) => &args.wait,
        Command::Undo(args) => &args.wait,
        Command::Place(PlaceCommand::Drain(args)) => &args.wait,
        Command::Place(PlaceCommand::Undrain(args)) => &args.wait,
        _ => return false,
    };
    wait.dry_run
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn format(line: &str) -> Result<Format, String> {
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        cli.format().map_err(|error| error.to_string())
    }

    #[test]
    fn all_flags_are_one_mechanism() {
        for (line, wanted) in [
            ("hostctl get zones", Format::Table),
            ("hostctl get zones --json", Format::Json),
            ("hostctl -o yaml get zones", Format::Yaml),
            ("hostctl get zones --output=name", Format::Name),
            ("hostctl get zones -o wide --wide", Format::Wide),
            ("hostctl get zones -o json --json", Format::Json),
            ("hostctl jobs list -o name", Format::Name),
            ("hostctl ca show -o yaml", Format::Yaml),
        ] {
            assert_eq!(format(line), Ok(wanted), "{line}");
        }
        for line in [
            "hostctl get zones --json -o yaml",
            "hostctl get zones --wide -o name",
            "hostctl get zones --wide --json",
            "hostctl ca show -o name",
            "hostctl plan --without web-1 -o name",
            "hostctl delete zone a.example --dry-run -o name",
            "hostctl get zones -o table",
            "hostctl get zones -o xml",
        ] {
            assert!(format(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_file_of_a_join_token_is_no_format() {
        let line = ["hostctl", "--json", "node", "join-token", "web-1", "-o", "yaml"];
        let cli = Cli::try_parse_from(line).unwrap();
        assert_eq!(cli.output, Some(Output::File("yaml".into())));
        assert_eq!(cli.format().unwrap(), Format::Json);
    }
}
