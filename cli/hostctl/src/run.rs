//! Which verb is whose.

use std::process::ExitCode;

use crate::{
    api,
    args::{Cli, Command},
    audit, ca, cluster, declare, explain, fleet, jobs, kek, output, past, place, resources, rollouts, seed,
    store, up, watch, webhooks,
};

pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let (connection, json) = (&cli.connection, cli.json);
    let api = || api::Api::connect(connection);
    match cli.command {
        Command::Up(up) => return Box::pin(up::run(up, connection.data_dir(), json)).await,
        Command::Down(down) => up::down(&down, connection.data_dir(), json).await?,
        Command::Status => return up::status(connection.data_dir(), json).await,
        Command::Cluster(command) => cluster::run(command, connection, json).await?,
        Command::ConvergeShard(shard) => resources::converge_shard(&api()?, &shard.id, json).await?,
        Command::Seed(seed) => seed::run(seed, connection, json).await?,
        Command::Get(get) => resources::get(&api()?, &get, json).await?,
        Command::Describe(one) => resources::describe(&api()?, &one, json).await?,
        Command::Create(create) => return resources::create(&api()?, &create, json).await,
        Command::Update(update) => return resources::update(&api()?, &update, json).await,
        Command::Delete(one) => return resources::delete(&api()?, &one, json).await,
        Command::Suspend(one) => return resources::suspend(&api()?, &one, json).await,
        Command::Unsuspend(one) => return resources::unsuspend(&api()?, &one, json).await,
        Command::Retry(one) => return resources::retry(&api()?, &one, json).await,
        Command::Wait(one) => return resources::wait(&api()?, &one, json).await,
        Command::Verify(one) => resources::verify(&api()?, &one, json).await?,
        Command::Usage(one) => resources::usage_of(&api()?, &one, json).await?,
        Command::Receipt(one) => return resources::receipt(&api()?, &one, json).await,
        Command::Explain(explain) => return explain::run(&explain, connection, json).await,
        Command::History(args) => past::history(&api()?, &args, json).await?,
        Command::Undelete(args) => return past::undelete(&api()?, &args, json).await,
        Command::Undo(args) => return past::undo(&api()?, &args, json).await,
        Command::Declare(command) => return Box::pin(declare::run(&api()?, &command, json)).await,
        Command::Place(command) => return place::run(&api()?, &command, json).await,
        Command::Watch(args) => watch::run(&api()?, &args, json).await?,
        Command::Fleet => fleet::show(&api()?, json).await?,
        Command::Store(command) => return store::run(&command, connection.data_dir()),
        Command::Release(args) => return fleet::release(&api()?, &args, json).await,
        Command::Node(command) => resources::node(&api()?, &command, json).await?,
        Command::Ca(command) => ca::run(&api()?, &command, json).await?,
        Command::Kek(command) => return kek::run(&api()?, &command, json).await,
        Command::Jobs(command) => return jobs::run(&api()?, &command, json).await,
        Command::Rollouts(command) => rollouts::run(&api()?, &command, json).await?,
        Command::Audit(command) => return audit::run(api, &command, json).await,
        Command::Webhooks(command) => return webhooks::run(&api()?, &command, json).await,
        Command::Completion(completion) => output::text(&completion.script()),
    }
    Ok(ExitCode::SUCCESS)
}
