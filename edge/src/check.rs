//! `--check-config`: what stands in the way of a start, without starting.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::path::Path;

use anyhow::Context;
use hosting_scaffold::role::runtime;

use crate::budget;
use crate::certs::DevCa;
use crate::countries;
use crate::crawlers;
use crate::listeners::{Bound, Place, Purpose};
use crate::settings::Settings;
use crate::take_over::Taker;

/// Looks whether the memory is enough for what the settings allow, the addresses can be had (those of the edge that runs with the same data folder can: they are taken over), and whether
/// the files that are there can be read. Leaves nothing behind.
///
/// # Errors
/// What stands in the way, with the remedy.
pub fn check(settings: &Settings) -> anyhow::Result<()> {
    budget::check(settings)?;
    let shared = &settings.shared;
    let running = runtime("edge-check", 1)?.block_on(Taker::find(&shared.data_dir))?;
    let taken = running.map(|running| running.places).unwrap_or_default();
    drop(Bound::bind_beside(settings, &taken)?);
    let admin = shared.admin_listen;
    if !taken.contains(&Place { purpose: Purpose::Admin, address: admin }) {
        TcpListener::bind(admin)
            .with_context(|| format!("admin address {admin}; choose another with --admin-listen"))?;
    }
    let (certificate, key) = (settings.dev_ca(), settings.dev_ca_key());
    if certificate.exists() && key.exists() {
        DevCa::load_or_make(&certificate, &key)?;
    }
    // Whether there is a join token is not looked at: it may be written just before the start.
    for file in [settings.identity().join("credential.pem"), settings.ledger()] {
        readable(&file)?;
    }
    if let Some(file) = settings.crawlers_file() {
        crawlers::read(&file).context("crawlers_file")?;
    }
    if let Some(log) = settings.access_log().filter(|log| log.file.exists()) {
        let file = log.file;
        OpenOptions::new()
            .append(true)
            .open(&file)
            .with_context(|| format!("access_log {}", file.display()))?;
    }
    if let Some(file) = settings.countries_file() {
        countries::read(&file).with_context(|| format!("countries_file {}", file.display()))?;
    }
    Ok(())
}

/// A file that is there can be read.
fn readable(path: &Path) -> anyhow::Result<()> {
    match File::open(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        Ok(_) | Err(_) => Ok(()),
    }
}
