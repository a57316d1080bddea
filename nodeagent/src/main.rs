//! The node agent: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use hosting_nodeagent::run::run;
use hosting_nodeagent::settings::{Args, Settings};

/// Passes make very many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One provider for the connection to the feed; a second install can only say that the first one stands.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    hosting_scaffold::exit("hosting-nodeagent", start(&Args::parse()))
}

fn start(args: &Args) -> anyhow::Result<()> {
    let settings = Settings::load(args)?;
    // What the machine lacks counts as well.
    let check = || Ok((settings.role()?.check)(&settings)?);
    if args.config.answer(|| settings.dump(), check)? {
        return Ok(());
    }
    run(settings)
}
