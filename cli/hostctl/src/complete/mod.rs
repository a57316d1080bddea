//! Completion of what only the API knows: names, ids, fields. `hostctl __complete` is asked by the scripts of `hostctl completion`.
//!
//! It answers within [`LIMIT`] or gives nothing, prints no error, and no value but ids and names. Words that a shell would take for more
//! than a word are not offered.

mod line;
mod lookup;
mod scripts;

use std::{process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser};
use hosting_resource::{Kind, KindInfo, Status};
use serde_json::Value;

pub(crate) use self::scripts::script;
use self::{
    line::Line,
    lookup::{ids, names, searched_everywhere},
};
use crate::{
    api::Api,
    args::{Cli, Connection},
    kinds::{self, Named},
    output, resources,
};

/// The word that asks, in the place of a command.
pub(crate) const WORD: &str = "__complete";
/// Longest time that somebody waits at a prompt.
const LIMIT: Duration = Duration::from_millis(900);
/// Says to the script that this is nothing to ask about.
const NOT_MINE: u8 = 3;
/// States in which a rollout can be told something.
const OPEN: [&str; 4] = ["waiting", "running", "paused", "reverting"];

/// Answers for the line in the environment, a word a line.
pub(crate) fn answer() -> ExitCode {
    let Ok(text) = std::env::var(scripts::LINE) else { return ExitCode::from(NOT_MINE) };
    let mut command = Cli::command();
    command.build();
    let line = Line::read(&text, &command);
    let Some(wanted) = Wanted::of(&line) else { return ExitCode::from(NOT_MINE) };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::SUCCESS;
    };
    let found = runtime.block_on(async { tokio::time::timeout(LIMIT, wanted.words(&line)).await });
    // A name server that does not answer is not waited for.
    runtime.shutdown_background();
    let mut words = found.unwrap_or_default();
    words.sort();
    words.dedup();
    let lines: String =
        words.iter().filter(|word| is_plain(word)).map(|word| format!("{}{word}\n", line.before)).collect();
    output::text(&lines);
    ExitCode::SUCCESS
}

/// Whether a word is one to every shell as it stands.
fn is_plain(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with('-')
        && word.chars().all(|c| c.is_alphanumeric() || "._-@:/+,%=".contains(c))
}

/// What can stand at the cursor.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// A kind, or `KIND/ID`.
    Kind,
    /// A name of this kind.
    Name(&'static KindInfo),
    /// Names of nodes with commas between.
    Nodes,
    /// `FIELD=VALUE` of a body.
    Field(&'static KindInfo),
    /// `FIELD=VALUE` of a filter.
    Filter(&'static KindInfo),
    Status,
    HostName,
    /// What is deleted and kept.
    Deleted,
    Job,
    Rollout,
    Authority,
    /// The id of an API key.
    KeyId,
}

impl Wanted {
    /// What the argument at the cursor takes; `None`: nothing that has to be asked for.
    fn of(line: &Line) -> Option<Self> {
        let path: Vec<&str> = line.path.iter().map(String::as_str).collect();
        let info = |kind: Kind| kind.info();
        Some(match (path.as_slice(), line.at.as_deref()?) {
            (["watch"], _) | (["jobs", "list"], "kind") => match line.at.as_deref() {
                Some("tenant") => Self::Name(info(Kind::Tenant)),
                Some("brand") => Self::Name(info(Kind::Brand)),
                _ => return None,
            },
            (_, "kind") => Self::Kind,
            (["jobs", ..], "id") => Self::Job,
            (["rollouts", ..], "id") => Self::Rollout,
            (["webhooks", ..], "id") => Self::Name(info(Kind::Webhook)),
            (["node", ..], "id") | (["release"], "node") => Self::Name(info(Kind::Node)),
            (["converge-shard"], "id") => Self::Name(info(Kind::Shard)),
            (["suspend" | "unsuspend"], "words") => Self::Name(info(Kind::Tenant)),
            (["plan"], "without") => Self::Nodes,
            (["certificates", ..], "id" | "to") => Self::Name(info(Kind::CertificateAuthority)),
            (["ca", ..], "fingerprint") => Self::Authority,
            (["undo"], "key") => Self::KeyId,
            (["explain"], "fqdn") | (["history"], "name") => Self::HostName,
            (["undelete"], "name") => Self::Deleted,
            (_, "id" | "ids") => Self::Name(kind_of(line)?.info),
            (_, "parent") => Self::Name(kinds::parent_of(kind_of(line)?.info)?),
            (["create" | "update"], "set") => Self::Field(kind_of(line)?.info),
            (["get"], "filter") => Self::Filter(kind_of(line)?.info),
            (["get"], "status") => Self::Status,
            _ => return None,
        })
    }

    async fn words(self, line: &Line) -> Vec<String> {
        let typed = line.typed.as_str();
        let begins = |words: Vec<String>| words.into_iter().filter(|word| word.starts_with(typed)).collect();
        let within = line.value("parent");
        match self {
            Self::Kind => match (typed.split_once('/'), kinds::split_name(&format!("{typed}?"))) {
                (Some((noun, typed)), Some((info, _))) => {
                    let Some(api) = connected(line) else { return Vec::new() };
                    let found = names(&api, info, typed, within).await;
                    found.iter().map(|id| kinds::name(noun, id)).collect()
                }
                _ => {
                    // Lists are asked for in the plural, single ones in the singular.
                    let is_list = line.path.first().is_some_and(|verb| verb == "get");
                    let all = Kind::ALL.iter().map(|kind| kind.info());
                    begins(
                        all.map(|info| if is_list { info.plural().to_owned() } else { info.dashed() })
                            .collect(),
                    )
                }
            },
            Self::Status => begins(Status::ALL.iter().map(|status| status.as_str().to_owned()).collect()),
            Self::Field(info) => {
                let schema = match line.path.first().map(String::as_str) {
                    Some("create") => resources::create_schema(info),
                    _ => resources::update_schema(info),
                };
                field(line, info, &schema).await
            }
            Self::Filter(info) => {
                let known: Vec<String> =
                    kinds::filters(info).iter().map(|field| format!("{field}=")).collect();
                match typed.split_once('=') {
                    Some((field, value)) => values(line, info, field, &Value::Null, value).await,
                    None => begins(known),
                }
            }
            Self::Name(_)
            | Self::Nodes
            | Self::HostName
            | Self::Deleted
            | Self::Job
            | Self::Rollout
            | Self::Authority
            | Self::KeyId => match connected(line) {
                Some(api) => begins(self.asked(&api, line).await),
                None => Vec::new(),
            },
        }
    }

    /// The words that only the API knows.
    async fn asked(self, api: &Api, line: &Line) -> Vec<String> {
        let typed = line.typed.as_str();
        let within = line.value("parent");
        match self {
            Self::Name(info) if line.at.as_deref() == Some("parent") => names(api, info, typed, None).await,
            Self::Name(info) => {
                names(api, info, typed, within.filter(|_| kinds::parent_of(info).is_some())).await
            }
            Self::Nodes => {
                let (before, last) =
                    typed.rsplit_once(',').map_or(("", typed), |(before, last)| (before, last));
                let found = names(api, Kind::Node.info(), last, None).await;
                let comma = if before.is_empty() { "" } else { "," };
                found.iter().map(|node| format!("{before}{comma}{node}")).collect()
            }
            Self::HostName => {
                let mut found = searched_everywhere(api, Kind::Fqdn.name(), typed).await;
                found.extend(searched_everywhere(api, Kind::Zone.name(), typed).await);
                found
            }
            Self::Deleted => {
                let mut found = Vec::new();
                for info in [Kind::Tenant.info(), Kind::Zone.info()] {
                    let items =
                        lookup::page(api, &format!("{}?status=deleted&limit=100", info.collection)).await;
                    found.extend(items.iter().filter_map(kinds::label_of).map(str::to_owned));
                }
                found
            }
            Self::Job => {
                let state = if line.path.iter().any(|word| word == "retry") { "state=failed&" } else { "" };
                ids(api, &format!("/jobs?{state}limit=50"), "id", |_| true).await
            }
            Self::Rollout => {
                let is_shown = line.path.iter().any(|word| word == "show");
                let is_open = |one: &Value| OPEN.iter().any(|state| one["state"] == *state);
                ids(api, "/rollouts?limit=50", "id", |one| is_shown || is_open(one)).await
            }
            Self::Authority => {
                ids(api, "/platform/authorities", "fingerprint", |one| one["issues"] != true).await
            }
            Self::KeyId => ids(api, "/api-keys?limit=100", "id", |_| true).await,
            Self::Kind | Self::Field(_) | Self::Filter(_) | Self::Status => Vec::new(),
        }
    }
}

/// The kind that the line names.
fn kind_of(line: &Line) -> Option<Named> {
    let text = line.value("kind")?;
    match kinds::split_name(text) {
        Some((info, id)) => Some(Named { info, id: Some(id.to_owned()) }),
        None => kinds::kind(text).ok().map(|info| Named { info, id: None }),
    }
}

/// A field of a body, or its value.
async fn field(line: &Line, info: &'static KindInfo, schema: &Value) -> Vec<String> {
    let typed = line.typed.as_str();
    if let Some((field, value)) = typed.split_once('=') {
        return values(line, info, field, &schema["properties"][field], value).await;
    }
    let given: Vec<&str> = line.values("set").filter_map(|pair| pair.split('=').next()).collect();
    let fields = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let open = fields.filter(|name| name.starts_with(typed) && !given.contains(name));
    open.map(|name| format!("{name}=")).collect()
}

/// Values of a field, each behind `FIELD=`. A secret's are nobody's to complete.
async fn values(
    line: &Line,
    info: &'static KindInfo,
    field: &str,
    declared: &Value,
    typed: &str,
) -> Vec<String> {
    if declared["x-secret"] == true {
        return Vec::new();
    }
    let words = |value: &Value| -> Vec<String> {
        let all = value.as_array().into_iter().flatten();
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let is_truth = declared["type"] == "boolean" || declared["type"][0] == "boolean";
    let referred =
        Kind::ALL.iter().map(|kind| kind.info()).find(|kind| field == format!("{}_id", kind.kind.name()));
    let found = match referred {
        Some(other) => match connected(line) {
            Some(api) => {
                // What is named lies in the same cluster, tenant or zone as the new one.
                let same = kinds::parent_of(other)
                    .filter(|owner| kinds::parent_of(info).is_some_and(|own| own.kind == owner.kind));
                names(&api, other, typed, line.value("parent").filter(|_| same.is_some())).await
            }
            None => Vec::new(),
        },
        None if is_truth => vec!["true".to_owned(), "false".to_owned()],
        None if field == "role" => {
            hosting_resource::kinds::ROLES.iter().map(|role| (*role).to_owned()).collect()
        }
        None => words(&declared["enum"]),
    };
    found.iter().filter(|word| word.starts_with(typed)).map(|word| format!("{field}={word}")).collect()
}

/// The API that the line, the environment or the data folder name.
fn connected(line: &Line) -> Option<Api> {
    let mut words = vec!["hostctl".to_owned()];
    for (id, flag) in Connection::FLAGS {
        words.extend(line.value(id).map(|value| format!("{flag}={value}")));
    }
    words.push("status".to_owned());
    let cli = Cli::try_parse_from(words).ok()?;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Api::connect(&cli.connection).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_a_shell_would_take_for_more_is_not_offered() {
        for word in [
            "bakery.test",
            "t_ab12cd34ef",
            "acme/1001",
            "tenant_id=acme",
            "_acme-challenge.a.example/TXT",
            "bücher",
        ] {
            assert!(is_plain(word), "{word}");
        }
        for word in [
            "",
            "two words",
            "$(reboot)",
            "`x`",
            "a;b",
            "a&b",
            "*.a.example",
            "a'b",
            "--yes",
            "a\nb",
            "~x",
            "!x",
            "#x",
            "a\\b",
        ] {
            assert!(!is_plain(word), "{word}");
        }
    }

    #[test]
    fn every_flag_of_the_connection_is_one_of_the_command_line() {
        let command = Cli::command();
        for (id, flag) in Connection::FLAGS {
            let arg = command
                .get_arguments()
                .find(|arg| arg.get_id().as_str() == id)
                .unwrap_or_else(|| panic!("{id}"));
            assert_eq!(arg.get_long(), flag.strip_prefix("--"), "{id}");
        }
    }
}
