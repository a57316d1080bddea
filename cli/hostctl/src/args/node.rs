//! What can be asked about machines that join and leave.

use clap::{Args, Subcommand};

use crate::format::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Make a join token for a node, valid once and for a short time
    #[command(name = "join-token", visible_alias = "token")]
    Token(NodeTokenArgs),
    /// Close what a dead node left open; says what data stayed on it
    Forget(ForgetArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl node join-token web-1 -o web-1.token")]
pub(crate) struct NodeTokenArgs {
    /// Node: its id or host name
    #[arg(value_name = "NODE")]
    pub id: String,
    /// Write the token to this file, readable by its owner only, instead of printing it
    #[arg(short, long, value_name = "FILE", value_parser = Output::file())]
    pub output: Option<Output>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  hostctl node forget web-2

The node stays registered: delete it with `hostctl delete node web-2` if it will not come back.")]
pub(crate) struct ForgetArgs {
    /// Node: its id or host name
    #[arg(value_name = "NODE")]
    pub id: String,
}
