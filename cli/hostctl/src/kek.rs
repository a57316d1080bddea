//! `hostctl kek`: the key-encryption keys of the store.

use std::{process::ExitCode, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    api::{Api, ApiError},
    args::KekCommand,
    format::Format,
    output::{self, cell, doubtful, good},
};

/// Between two looks whether everything is sealed anew.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn run(api: &Api, command: &KekCommand, format: Format) -> anyhow::Result<ExitCode> {
    let mut keks = match command {
        KekCommand::Show => api.get("/platform/keks").await?,
        KekCommand::Rotate(_) => api.post("/platform/keks/rotate", &json!({})).await?,
        KekCommand::Forget => api.post("/platform/keks/forget", &json!({})).await?,
    };
    let mut code = ExitCode::SUCCESS;
    if let KekCommand::Rotate(args) = command
        && args.wait
    {
        let until = Instant::now() + args.timeout;
        while keks["resealed"] != true {
            if Instant::now() >= until {
                code = ExitCode::from(output::NOT_READY);
                break;
            }
            tokio::time::sleep_until((Instant::now() + PAUSE).min(until)).await;
            match api.get("/platform/keks").await {
                Ok(seen) => keks = seen,
                // The rotation is stored: a controller that starts anew goes on with it.
                Err(ApiError::Unreachable { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    if format.is_for_programs() {
        output::data(format, &keks);
    } else {
        show(&keks);
    }
    Ok(code)
}

fn show(keks: &Value) {
    let resealed = keks["resealed"] == true;
    let state = if resealed { good("yes") } else { doubtful("not yet") };
    let rows = [
        ("current key", cell(&keks["current"])),
        ("former keys", cell(&keks["former"])),
        ("all sealed by the current one", state),
    ];
    output::table(&["keys", "value"], rows.map(|(name, value)| vec![name.to_owned(), value]));
    let former = keks["former"].as_array().map_or(0, Vec::len);
    if resealed && former > 0 {
        output::note("former keys open backups of their time only; `hostctl kek forget` drops them");
    }
}
