//! The authoritative DNS server: see `--help`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use hosting_dns::run::run;
use hosting_dns::settings::{Args, Settings};

/// A view is very many small allocations that live long.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One provider for the connection to the feed; a second install can only say that the first one stands.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "hosting-dns: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    let settings = Settings::load(args)?;
    if args.config.dump_config {
        std::io::stdout().write_all(settings.dump()?.as_bytes())?;
    } else if args.config.check_config {
        writeln!(std::io::stdout(), "the configuration is sound")?;
    } else {
        run(settings)?;
    }
    Ok(())
}
