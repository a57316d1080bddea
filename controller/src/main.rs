//! The controller: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use hosting_controller::{Args, Command, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One provider for every TLS connection; a second install can only fail because the first one stands.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    hosting_scaffold::exit("hosting-controller", start(&Args::parse()))
}

fn start(args: &Args) -> anyhow::Result<()> {
    let settings = Settings::load(args)?;
    if args.config.answer(|| settings.dump(), || Ok(()))? {
        return Ok(());
    }
    match &args.command {
        Some(Command::Store(command)) => hosting_controller::store(&settings, command),
        None => hosting_controller::run(settings),
    }
}
