//! `hostctl explain`: what the API knows of a host name, then what a visitor really gets; the first broken link is named.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::{
    api::{Api, encode},
    args::{Connection, ExplainArgs},
    output,
    up::{Summary, probe},
};

/// One step on the way from the API to the site.
struct Link {
    name: String,
    state: State,
    detail: String,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Ok,
    Broken,
    /// Nobody could be asked.
    Unknown,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
        }
    }
}

pub(crate) async fn run(
    args: &ExplainArgs,
    connection: &Connection,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let fqdn = host_of(&args.fqdn);
    let api = Api::connect(connection)?;
    let known = api.get(&format!("/explain/{}", encode(&fqdn))).await?;
    let mut links: Vec<Link> = known["links"].as_array().into_iter().flatten().map(from_api).collect();

    let up = Summary::read(connection.data_dir());
    let address = |given: &Option<String>, default: Option<&String>| -> anyhow::Result<Option<SocketAddr>> {
        let Some(text) = given.as_ref().or(default) else { return Ok(None) };
        text.parse().map(Some).with_context(|| format!("{text:?} is no ip:port"))
    };
    let dns = address(&args.dns, up.as_ref().map(|up| &up.dns))?;
    links.push(ask_dns(&fqdn, dns).await);
    let edge = address(&args.edge, up.as_ref().map(|up| &up.edge_http))?;
    links.push(ask_edge(&fqdn, edge).await);

    let broken = links.iter().find(|link| link.state == State::Broken);
    if as_json {
        let list: Vec<Value> = links
            .iter()
            .map(|link| json!({"name": link.name, "state": link.state.as_str(), "detail": link.detail}))
            .collect();
        output::json(&json!({"fqdn": fqdn, "broken": broken.map(|link| &link.name), "links": list}));
    } else {
        output::line(format!("{fqdn}\n"));
        output::table(
            &["link", "state", "detail"],
            links
                .iter()
                .map(|link| vec![link.name.clone(), link.state.as_str().to_owned(), link.detail.clone()]),
        );
        output::line("");
        match broken {
            Some(link) => output::line(format!("Broken at {}: {}", link.name, link.detail)),
            None => output::line("Every link that could be asked is sound."),
        }
    }
    Ok(if broken.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn from_api(link: &Value) -> Link {
    let state = match link["state"].as_str() {
        Some("ok") => State::Ok,
        Some("broken") => State::Broken,
        _ => State::Unknown,
    };
    Link { name: output::cell(&link["name"]), state, detail: output::cell(&link["detail"]) }
}

async fn ask_dns(fqdn: &str, server: Option<SocketAddr>) -> Link {
    let name = "DNS answer".to_owned();
    let Some(server) = server else {
        return Link {
            name,
            state: State::Unknown,
            detail: "no server known; give --dns IP:PORT".to_owned(),
        };
    };
    match probe::dns(server, fqdn, RecordType::A).await {
        Ok(answer) => {
            let data: Vec<String> = answer.data.iter().map(ToString::to_string).collect();
            let sound = answer.authoritative && !data.is_empty();
            let detail = format!("{} from {server}: {}", answer.code, data.join(", "));
            Link { name, state: if sound { State::Ok } else { State::Broken }, detail }
        }
        Err(error) => Link { name, state: State::Broken, detail: format!("{error:#}") },
    }
}

async fn ask_edge(fqdn: &str, edge: Option<SocketAddr>) -> Link {
    let name = "HTTP answer".to_owned();
    let Some(edge) = edge else {
        return Link { name, state: State::Unknown, detail: "no edge known; give --edge IP:PORT".to_owned() };
    };
    match probe::http(fqdn, edge, None).await {
        Ok((code, headers)) => {
            let headers: Vec<String> =
                headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            let detail = format!("{code} from {edge} {}", headers.join(", "));
            Link {
                name,
                state: if code < 500 && code != 404 && code != 421 { State::Ok } else { State::Broken },
                detail,
            }
        }
        Err(error) => Link { name, state: State::Broken, detail: format!("{error:#}") },
    }
}

/// The host of what a person pastes: a name, or a URL.
fn host_of(text: &str) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pasted_url_is_a_host() {
        assert_eq!(host_of("https://User@WWW.Example.com:8443/a?b#c"), "www.example.com");
        assert_eq!(host_of("www.example.com."), "www.example.com");
    }
}
