//! Benchmarks: they report figures, they never pass or fail. Each prints a table and ends with one line of JSON.

mod agent;
mod change;
mod controller;
mod edge;
mod events;
mod figures;
mod lab;
mod platform;
mod reads;
mod subscribers;

use clap::{Parser, Subcommand};

/// Measure the platform
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  loadtest change                    200 host names added and deleted, against what `./up` runs
  loadtest controller --names 8000   8 000 host names as fast as the API takes them
  loadtest events --watchers 1000    what it costs to tell many of each change
  loadtest reads                     reads in a store of a million resources
  loadtest subscribers               1 000 subscribers, 100 changes a second, 10 000 resources
  loadtest subscribers --resources 1000000 --folder /var/tmp/large
  loadtest subscribers --subscribers 9000 --seconds 0 --restart --folder /var/tmp/many
  loadtest agent --sites 2000        the node agent with 2 000 sites, on its own
  loadtest change --count 1000 --data /var/tmp/platform
  cargo build --profile dist -p hosting-edge && loadtest edge
  loadtest edge --before ../older/target/dist/hosting-edge --cells http1,http2
  loadtest edge --cells start,idle
  loadtest edge --cells conformance  what HAProxy and nginx do otherwise than the edge; writes docs/conformance.md")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From the API's answer to the effect on edge and DNS, for host names added and deleted one by one
    Change(change::Args),
    /// Writes per second and CPU per write, and how long another tenant's change takes meanwhile
    Controller(controller::Args),
    /// CPU per event per watcher of the stream of events, and how soon the last watcher knows
    Events(events::Args),
    /// What the node agent's own work costs: a full pass, and one change (over a machine in memory)
    Agent(agent::Args),
    /// What common reads take in a store with a million resources
    Reads(reads::Args),
    /// From a change to who applies it, with very many subscribers, and how soon these are back after a restart
    Subscribers(subscribers::Args),
    /// CPU and memory of the edge beside HAProxy and nginx (run it from the project's root)
    Edge(edge::Args),
    /// The node behind a server of `edge`
    #[command(hide = true)]
    Node,
}

fn main() -> anyhow::Result<()> {
    // A second install can only fail because the first one stands.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Cli::parse().command {
        Command::Agent(args) => runtime.block_on(agent::run(&args)),
        Command::Controller(args) => runtime.block_on(controller::run(&args)),
        Command::Events(args) => runtime.block_on(events::run(&args)),
        Command::Change(args) => runtime.block_on(change::run(&args)),
        Command::Reads(args) => runtime.block_on(reads::run(&args)),
        Command::Subscribers(args) => subscribers::run(&args),
        Command::Edge(args) => runtime.block_on(edge::run(&args)),
        Command::Node => runtime.block_on(edge::node()),
    }
}
