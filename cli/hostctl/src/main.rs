//! `hostctl`, the operators' command.
//!
//! Owns what a person types and reads; everything it knows it asks the API for. It never reads the store.

mod api;
mod args;
mod cluster;
mod environment;
mod explain;
mod fleet;
mod output;
mod resources;
mod seed;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse_from(args::with_two_dashes(std::env::args_os()));
    let json = cli.json;
    // One provider for every TLS connection; a second install can only fail because the first one stands.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(json, &anyhow::anyhow!("cannot start: {error}")),
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => output::fail(json, &error),
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let connection = &cli.connection;
    match cli.command {
        Command::Up(up) => return up::run(up, connection.data_dir()).await,
        Command::Down(down) => up::down(&down, connection.data_dir()).await?,
        Command::Status => return up::status(connection.data_dir(), cli.json).await,
        Command::Cluster(command) => cluster::run(command, connection, cli.json).await?,
        Command::ConvergeShard(shard) => {
            resources::converge_shard(&api::Api::connect(connection)?, &shard.id, cli.json).await?;
        }
        Command::Seed(seed) => seed::run(seed, connection, cli.json).await?,
        Command::Get(get) => resources::get(&api::Api::connect(connection)?, &get, cli.json).await?,
        Command::Describe(one) => {
            resources::describe(&api::Api::connect(connection)?, &one, cli.json).await?;
        }
        Command::Create(create) => {
            return resources::create(&api::Api::connect(connection)?, &create, cli.json).await;
        }
        Command::Delete(one) => {
            return resources::delete(&api::Api::connect(connection)?, &one, cli.json).await;
        }
        Command::Explain(explain) => return explain::run(&explain, connection, cli.json).await,
        Command::Fleet => fleet::show(&api::Api::connect(connection)?, cli.json).await?,
        Command::Release(args) => {
            return fleet::release(&api::Api::connect(connection)?, &args, cli.json).await;
        }
        Command::Node(command) => {
            resources::node(&api::Api::connect(connection)?, &command, cli.json).await?;
        }
        Command::Completion(completion) => {
            let mut command = Cli::command();
            clap_complete::generate(completion.shell, &mut command, "hostctl", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}
