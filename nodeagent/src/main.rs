//! The node agent: see `--help`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use hosting_agent_engine::Secret;
use hosting_nodeagent::run::run;
use hosting_nodeagent::settings::{Args, Settings};

/// Passes make very many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One provider for the connection to the feed; a second install can only say that the first one stands.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "hosting-nodeagent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    let settings = Settings::load(args)?;
    if args.config.dump_config {
        std::io::stdout().write_all(settings.dump()?.as_bytes())?;
    } else if args.config.check_config {
        // What the machine lacks counts as well.
        settings.layout("unknown", Secret("unknown".to_owned()))?;
        writeln!(std::io::stdout(), "the configuration is sound")?;
    } else {
        run(settings)?;
    }
    Ok(())
}
