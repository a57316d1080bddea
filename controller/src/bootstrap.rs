//! What a new store needs before anybody can use it: its first API key.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use hosting_resource::key_from;
use hosting_scaffold::file::write_private;
use hosting_store::{Origin, Store, WriteError};

/// Makes sure that the key in `file` opens everything; writes a new one if the file is not there.
pub(crate) async fn first_key(store: &Store, file: &Path) -> anyhow::Result<()> {
    let key = match fs::read_to_string(file) {
        Ok(text) => {
            let mode = fs::metadata(file)?.mode() & 0o777;
            if mode & 0o077 != 0 {
                bail!(
                    "the API key file {} can be read by others (mode {mode:o}); run chmod 600 on it, and change the \
                     key if anybody may have read it",
                    file.display()
                );
            }
            text.trim().to_owned()
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = key_from(&rand::random());
            write_private(file, format!("{key}\n").as_bytes())
                .with_context(|| format!("cannot write the API key to {}", file.display()))?;
            key
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let path = file.display().to_string();
    let made = store
        .write(Origin::default(), move |tx| {
            Box::pin(async move {
                hosting_planner::admit_key(tx, "bootstrap", &key, &mut |bytes: &mut [u8]| rand::fill(bytes))
                    .await
            })
        })
        .await;
    match made {
        Ok(_) => Ok(()),
        Err(WriteError::Refused(error)) => bail!("the API key in {path} cannot be used: {error}"),
        Err(error) => Err(error).context("cannot store the first API key"),
    }
}
