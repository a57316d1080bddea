//! The authoritative DNS server: see `--help`.

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
    hosting_scaffold::exit("hosting-dns", start(&Args::parse()))
}

fn start(args: &Args) -> anyhow::Result<()> {
    let settings = Settings::load(args)?;
    if args.config.answer(|| settings.dump(), || Ok(()))? {
        return Ok(());
    }
    run(settings)
}
