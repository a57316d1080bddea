//! The completion script of a shell.

use clap::{Args, CommandFactory};

use super::Cli;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl completion bash > /etc/bash_completion.d/hostctl
  . <(hostctl completion bash)              for this shell only")]
pub(crate) struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    pub shell: clap_complete::Shell,
}

impl CompletionArgs {
    /// The script, for the shell's own file.
    pub(crate) fn script(&self) -> String {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "hostctl", &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}
