//! `hostctl ca`: the certificate authorities of the cell, and how one follows another.

use anyhow::bail;
use serde_json::{Value, json};

use crate::{
    api::Api,
    args::CaCommand,
    format::Format,
    output::{self, cell, doubtful, good},
};

const AUTHORITIES: &str = "/platform/authorities";

pub(crate) async fn run(api: &Api, command: &CaCommand, format: Format) -> anyhow::Result<()> {
    let answer = match command {
        CaCommand::Show => api.get(AUTHORITIES).await?,
        CaCommand::Add => api.post(&format!("{AUTHORITIES}/add"), &json!({})).await?,
        CaCommand::Promote(args) => {
            let fingerprint = whole(&api.get(AUTHORITIES).await?, &args.fingerprint)?;
            api.post(&format!("{AUTHORITIES}/promote"), &json!({"fingerprint": fingerprint})).await?
        }
        CaCommand::Retire(args) => {
            let fingerprint = whole(&api.get(AUTHORITIES).await?, &args.fingerprint)?;
            let body = json!({"fingerprint": fingerprint, "force": args.force});
            api.post(&format!("{AUTHORITIES}/retire"), &body).await?
        }
    };
    if format.is_for_programs() {
        output::data(format, &answer);
    } else {
        show(&answer);
    }
    Ok(())
}

/// The fingerprint that begins with `given`. One that no authority has is for the API to refuse.
fn whole(authorities: &Value, given: &str) -> anyhow::Result<String> {
    let given = given.to_ascii_lowercase();
    let all = authorities["items"].as_array().into_iter().flatten();
    let fits: Vec<&str> = all
        .filter_map(|one| one["fingerprint"].as_str())
        .filter(|fingerprint| !given.is_empty() && fingerprint.starts_with(&given))
        .collect();
    match fits.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Ok(given),
        [..] => {
            bail!(output::UsageError(format!("several authorities begin with {given}: {}", fits.join(", "))))
        }
    }
}

fn show(authorities: &Value) {
    let row = |one: &Value| {
        let state = if one["issues"] == true { good("issues") } else { doubtful("trusted") };
        vec![cell(&one["fingerprint"]), state]
    };
    let items = authorities["items"].as_array().map_or(&[][..], Vec::as_slice);
    output::whole(&["fingerprint", "state"], items.iter().map(row).collect());
    let untold = authorities["untold"].as_array().map_or(&[][..], Vec::as_slice);
    for one in untold {
        output::line(format!("not told yet: {}", cell(one)));
    }
    if items.len() > 1 {
        output::note(format!(
            "what does not issue can be retired from {} on, or be promoted once everybody has been told",
            cell(&authorities["retirable_at"])
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_named_by_the_beginning_of_its_fingerprint() {
        let all =
            json!({"items": [{"fingerprint": "ab12"}, {"fingerprint": "ab34"}, {"fingerprint": "cd56"}]});
        assert_eq!(whole(&all, "CD").unwrap(), "cd56");
        assert_eq!(whole(&all, "ab1").unwrap(), "ab12");
        assert_eq!(whole(&all, "ff").unwrap(), "ff");
        let several = whole(&all, "ab").unwrap_err();
        assert!(several.is::<output::UsageError>() && several.to_string().contains("ab34"), "{several}");
    }
}
