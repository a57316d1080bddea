//! Which verb is whose.

use std::process::ExitCode;

use crate::{
    api,
    args::{Cli, Command},
    audit, ca, certificates, cluster, complete, declare, doctor, explain, fleet, jobs, kek, logs, output,
    past, place, resources, rollouts, seed, store, up, watch, webhooks,
};

pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let format = cli.format()?;
    let connection = &cli.connection;
    let api = || api::Api::connect(connection);
    match cli.command {
        Command::Up(up) => return Box::pin(up::run(up, connection.data_dir(), format)).await,
        Command::Down(down) => up::down(&down, connection.data_dir(), format).await?,
        Command::Status => return up::status(connection.data_dir(), format).await,
        Command::Cluster(command) => cluster::run(command, connection, format).await?,
        Command::ConvergeShard(shard) => resources::converge_shard(&api()?, &shard.id, format).await?,
        Command::Seed(seed) => seed::run(seed, connection, format).await?,
        Command::Get(get) => resources::get(&api()?, &get, format).await?,
        Command::Describe(one) => resources::describe(&api()?, &one, format).await?,
        Command::Create(create) => return resources::create(&api()?, &create, format).await,
        Command::Update(update) => return resources::update(&api()?, &update, format).await,
        Command::Delete(one) => return resources::delete(&api()?, &one, format).await,
        Command::Suspend(one) => return resources::suspend(&api()?, &one, format).await,
        Command::Unsuspend(one) => return resources::unsuspend(&api()?, &one, format).await,
        Command::PurgeCache(one) => return resources::purge_cache(&api()?, &one, format).await,
        Command::Retry(one) => return resources::retry(&api()?, &one, format).await,
        Command::Wait(one) => return resources::wait(&api()?, &one, format).await,
        Command::Verify(one) => resources::verify(&api()?, &one, format).await?,
        Command::Traffic(args) => resources::traffic(&api()?, &args, format).await?,
        Command::Usage(one) => resources::usage_of(&api()?, &one, format).await?,
        Command::Receipt(one) => return resources::receipt(&api()?, &one, format).await,
        Command::Explain(explain) => return explain::run(&explain, connection, format).await,
        Command::History(args) => past::history(&api()?, &args, format).await?,
        Command::Undelete(args) => return past::undelete(&api()?, &args, format).await,
        Command::Undo(args) => return past::undo(&api()?, &args, format).await,
        Command::Declare(command) => return Box::pin(declare::run(&api()?, &command, format)).await,
        Command::Place(command) => return place::run(&api()?, &command, format).await,
        Command::Watch(args) => watch::run(&api()?, &args, format).await?,
        Command::Logs(args) => logs::run(&api()?, &args, format).await?,
        Command::Doctor(args) => return doctor::run(api()?, &args, format).await,
        Command::Fleet => fleet::show(&api()?, format).await?,
        Command::Store(command) => return store::run(&command, connection.data_dir()),
        Command::Release(args) => return fleet::release(&api()?, &args, format).await,
        Command::Node(command) => resources::node(&api()?, &command, format).await?,
        Command::Ca(command) => ca::run(&api()?, &command, format).await?,
        Command::Kek(command) => return kek::run(&api()?, &command, format).await,
        Command::Jobs(command) => return jobs::run(&api()?, &command, format).await,
        Command::Rollouts(command) => rollouts::run(&api()?, &command, format).await?,
        Command::Audit(command) => return audit::run(api, &command, format).await,
        Command::Webhooks(command) => return webhooks::run(&api()?, &command, format).await,
        Command::Certificates(command) => return certificates::run(&api()?, &command, format).await,
        Command::Completion(completion) => output::text(&complete::script(completion.shell)),
    }
    Ok(ExitCode::SUCCESS)
}
