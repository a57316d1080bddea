//! The controller: see `--help`.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use hosting_controller::{Args, Settings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // One provider for every TLS connection; a second install can only fail because the first one stands.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a listener on stderr there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "hosting-controller: {error:#}");
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
        hosting_controller::run(settings)?;
    }
    Ok(())
}
