//! The completion script of a shell.

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hostctl completion bash > /etc/bash_completion.d/hostctl
  . <(hostctl completion bash)              for this shell only

bash, zsh and fish ask the API for names, ids and hosts as well, with the connection that the line, the environment or the data folder
name. They wait for a second at most, and show no errors.")]
pub(crate) struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    pub shell: clap_complete::Shell,
}
