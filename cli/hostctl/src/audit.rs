//! `hostctl audit`: the audit log as JSON lines, and whether its chain and its signed heads hold.

mod heads;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use hosting_resource::audit_chain::{ChainedRow, link};
use hosting_resource::audit_head::AuditHead;
use serde_json::{Value, json};

use self::heads::{Heads, in_line};
use crate::api::{Api, ApiError, encode};
use crate::args::{AuditCommand, ExportArgs, VerifyArgs};
use crate::format::Format;
use crate::output;

/// `connect` is asked for the API when there is something to ask it: an export is verified without.
pub(crate) async fn run(
    connect: impl Fn() -> anyhow::Result<Api>,
    command: &AuditCommand,
    format: Format,
) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::Export(args) => export(&connect()?, args).await,
        AuditCommand::Verify(args) => verify(connect, args, format).await,
        AuditCommand::ReplaceKey => replace_key(&connect()?, format).await,
    }
}

/// Gives all rows to `take`, the oldest first, a page at a time.
async fn each(api: &Api, query: &str, mut take: impl FnMut(&Value)) -> Result<(), ApiError> {
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/audit-logs?order=asc&limit=200{query}{cursor}")).await?;
        page["items"].as_array().into_iter().flatten().for_each(&mut take);
        match page["next_cursor"].as_str() {
            Some(next) if page["has_more"] == true => cursor = format!("&cursor={}", encode(next)),
            _ => return Ok(()),
        }
    }
}

async fn export(api: &Api, args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let given = [("date_from", &args.from), ("date_to", &args.to)];
    let query: String = given
        .iter()
        .filter_map(|(name, value)| Some(format!("&{name}={}", encode(value.as_deref()?))))
        .collect();
    each(api, &query, |row| output::line(row)).await?;
    for head in signed(api).await? {
        output::line(json!({"audit_head": head}));
    }
    Ok(ExitCode::SUCCESS)
}

/// All signed heads, the oldest first. A controller of a build before there were any has none.
async fn signed(api: &Api) -> anyhow::Result<Vec<AuditHead>> {
    let heads = match api.list("/audit/heads").await {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        heads => heads?,
    };
    Ok(heads.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?)
}

async fn replace_key(api: &Api, format: Format) -> anyhow::Result<ExitCode> {
    let head = api.post("/audit/heads/replace-key", &json!({})).await?;
    if format.is_for_programs() {
        output::data(format, &head);
    } else {
        output::line(format!(
            "heads are signed by {} from now on; head {} says so",
            output::cell(&head["successor"]),
            head["number"]
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Gives each line of a file to `take`, with its number from 1.
fn lines(path: &Path, mut take: impl FnMut(usize, &str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    for (number, line) in BufReader::new(file).lines().enumerate() {
        take(number + 1, &line.with_context(|| path.display().to_string())?)?;
    }
    Ok(())
}

/// A walk along the chain.
#[derive(Debug, Default)]
struct Chain {
    rows: u64,
    /// Rows of builds before there was a chain.
    unlinked: u64,
    last: Option<Vec<u8>>,
    /// The first row that does not follow from the one before, and why.
    broken: Option<String>,
    sought: Option<String>,
    found: bool,
}

impl Chain {
    fn take(&mut self, row: &Value) {
        self.rows += 1;
        let text = |name: &str| row[name].as_str();
        let id = text("id").unwrap_or("without id");
        let Some(said) = text("link") else {
            self.unlinked += 1;
            if self.last.is_some() {
                self.break_at(format!("row {id} has no link, and rows before it have"));
            }
            return;
        };
        self.found |= self.sought.as_deref() == Some(said);
        let Ok(said) = hex::decode(said) else {
            return self.break_at(format!("row {id} has a link that is none"));
        };
        // What the first row here is behind may be gone by its age: it is taken as it is, unless it is the first of all.
        let before = match &self.last {
            Some(before) => before.clone(),
            None if self.unlinked > 0 => Vec::new(),
            None => {
                self.last = Some(said);
                return;
            }
        };
        let body = row.get("request_body").filter(|body| !body.is_null()).map(Value::to_string);
        let chained = ChainedRow {
            id,
            created_at: text("created_at").unwrap_or_default(),
            api_key_id: text("api_key_id"),
            method: text("method").unwrap_or_default(),
            path: text("path").unwrap_or_default(),
            resource_type: text("resource_type").unwrap_or_default(),
            resource_id: text("resource_id"),
            status_code: row["status_code"]
                .as_u64()
                .and_then(|code| u16::try_from(code).ok())
                .unwrap_or_default(),
            request_body: body.as_deref(),
            revision: row["revision"].as_u64(),
        };
        if link(&before, &chained).as_slice() != said {
            self.break_at(format!(
                "row {id} does not follow from the one before: it, or what was between them, was changed"
            ));
        }
        self.last = Some(said);
    }

    fn break_at(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }
}

async fn verify(
    connect: impl Fn() -> anyhow::Result<Api>,
    args: &VerifyArgs,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let api = if args.file.is_none() { Some(connect()?) } else { None };
    let mut chain =
        Chain { sought: args.contains.as_ref().map(|link| link.to_ascii_lowercase()), ..Chain::default() };
    let mut heads = Heads::default();
    let noted = args.file.iter().chain(&args.heads);
    for path in noted {
        lines(path, |_, line| {
            in_line(line).into_iter().for_each(|head| heads.take(head));
            Ok(())
        })?;
    }
    if let Some(api) = &api {
        signed(api).await?.into_iter().for_each(|head| heads.take(head));
    }
    let mut take = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        heads.row(text("id"), text("created_at"), text("link"));
        chain.take(row);
    };
    match (&args.file, &api) {
        (Some(path), _) => lines(path, |number, line| {
            let row: Value = serde_json::from_str(line)
                .with_context(|| format!("{}: line {number} is no JSON", path.display()))?;
            if row.get("audit_head").is_none() {
                take(&row);
            }
            Ok(())
        })?,
        (None, Some(api)) => each(api, "", take).await?,
        (None, None) => {}
    }
    if chain.broken.is_none() && chain.sought.is_some() && !chain.found {
        chain.break_at("the link that was noted is not among them: it is older than what is kept, or the log is another one".to_owned());
    }
    let verdict = heads.verdict(args.key.as_deref());
    if let Err(why) = &verdict {
        chain.break_at(why.clone());
    }
    let heads = verdict.unwrap_or_default();
    let holds = chain.broken.is_none();
    let last = chain.last.as_ref().map(hex::encode);
    if format.is_for_programs() {
        output::data(
            format,
            &json!({
                "holds": holds, "rows": chain.rows, "unlinked": chain.unlinked, "last_link": last, "heads": heads,
                "broken": chain.broken,
            }),
        );
    } else if let Some(broken) = &chain.broken {
        output::line(format!("the chain is broken: {broken}"));
    } else {
        output::line(format!("{} rows, each follows from the one before", chain.rows));
        output::line(format!("{heads} signed heads, each holds"));
        if let Some(last) = last {
            output::line(format!("last link: {last}"));
        }
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: u64) -> Vec<Value> {
        let mut before = Vec::new();
        let mut all = Vec::new();
        for n in 0..count {
            let id = format!("id-{n}");
            let body = json!({"n": n}).to_string();
            let row = ChainedRow {
                id: &id,
                created_at: "2026-11-29T10:00:00Z",
                api_key_id: None,
                method: "PUT",
                path: "/p",
                resource_type: "zones",
                resource_id: Some("z"),
                status_code: 202,
                request_body: Some(&body),
                revision: Some(n),
            };
            before = link(&before, &row).to_vec();
            all.push(json!({
                "id": id, "created_at": "2026-11-29T10:00:00Z", "method": "PUT", "path": "/p", "resource_type": "zones",
                "resource_id": "z", "status_code": 202, "request_body": {"n": n}, "revision": n, "link": hex::encode(&before),
            }));
        }
        all
    }

    fn walk(rows: &[Value], sought: Option<&str>) -> Chain {
        let mut chain = Chain { sought: sought.map(str::to_owned), ..Chain::default() };
        rows.iter().for_each(|row| chain.take(row));
        chain
    }

    #[test]
    fn what_was_changed_taken_out_or_put_in_shows() {
        let all = rows(6);
        let noted = all[4]["link"].as_str().unwrap().to_owned();
        let whole = walk(&all, Some(&noted));
        assert!(whole.broken.is_none() && whole.found && whole.rows == 6);
        // The oldest are gone by their age.
        assert!(walk(&all[3..], None).broken.is_none());
        let broken = |rows: &[Value]| walk(rows, None).broken;
        let mut changed = all.clone();
        changed[2]["status_code"] = json!(500);
        assert!(broken(&changed).unwrap().contains("id-2"));
        let mut out = all.clone();
        out.remove(3);
        assert!(broken(&out).unwrap().contains("id-4"));
        let mut between = all.clone();
        between.insert(3, all[1].clone());
        assert!(broken(&between).is_some());
        let mut swapped = all.clone();
        swapped.swap(2, 3);
        assert!(broken(&swapped).is_some());
        let mut bare = all.clone();
        bare[3].as_object_mut().unwrap().remove("link");
        assert!(broken(&bare).unwrap().contains("no link"));
        // Rows of before there was a chain.
        let mut old = all;
        old.insert(0, json!({"id": "old", "method": "PUT"}));
        assert!(broken(&old).is_none());
    }
}
