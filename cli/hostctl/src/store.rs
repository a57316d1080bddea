//! `hostctl store`: the controller's own program does the work, because it alone knows the store.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::Context;

use crate::args::{ControllerPlace, StoreCommand};

pub(crate) fn run(command: &StoreCommand, up: &Path) -> anyhow::Result<ExitCode> {
    let controller = match command {
        StoreCommand::Backup { controller, .. }
        | StoreCommand::Restore { controller, .. }
        | StoreCommand::Migrate { controller, .. } => controller,
    };
    let program = match &controller.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.parent().context("no folder")?.join("hosting-controller"),
    };
    let mut process = Command::new(&program);
    process.args(place(controller, up));
    process.arg("store");
    match command {
        StoreCommand::Backup { folder, without_key, .. } => {
            process.arg("backup").arg(folder);
            if *without_key {
                process.arg("--without-key");
            }
        }
        StoreCommand::Restore { folder, .. } => {
            process.arg("restore").arg(folder);
        }
        StoreCommand::Migrate { to, .. } => {
            process.arg("migrate").arg("--to").arg(to);
        }
    }
    let status = process.status().with_context(|| format!("cannot start {}", program.display()))?;
    // It has said by itself what is wrong.
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// The controller's own flags that say where its store is.
fn place(controller: &ControllerPlace, up: &Path) -> Vec<std::ffi::OsString> {
    let mut flags = Vec::new();
    let mut flag = |name: &str, value: &Path| flags.extend([name.into(), value.as_os_str().to_owned()]);
    if let Some(config) = &controller.config {
        flag("--config", config);
    }
    let folder = match &controller.data_dir {
        Some(folder) => Some(folder.clone()),
        None => (controller.config.is_none()).then(|| up.join("controller")),
    };
    if let Some(folder) = folder {
        flag("--data-dir", &folder);
        let database = folder.join("database");
        if database.is_file() {
            flag("--database-file", &database);
        }
    }
    flags
}
