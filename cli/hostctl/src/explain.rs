//! `hostctl explain`: what the API knows of a host name, then what a visitor really gets; the first broken link is named.

use std::{net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::{Api, ApiError, encode},
    args::{Connection, ExplainArgs},
    format::Format,
    output, probe,
    summary::Summary,
};

/// How long the API may take. Shorter than elsewhere: it may be what is broken, and the other links are still to be asked.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// Works as far as it can be seen from here, but may not for everybody.
    Warning,
    /// Nobody could be asked.
    Unknown,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Broken => "broken",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
        }
    }

    fn coloured(self) -> String {
        match self {
            Self::Ok => output::good(self.as_str()),
            Self::Broken => output::bad(self.as_str()),
            Self::Warning | Self::Unknown => output::doubtful(self.as_str()),
        }
    }
}

pub(crate) async fn run(
    args: &ExplainArgs,
    connection: &Connection,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let fqdn = host_of(&args.fqdn);
    if fqdn.is_empty() {
        return Err(output::UsageError(format!("{:?} holds no host name", args.fqdn)).into());
    }
    let api = Api::connect(connection)?;
    let up = Summary::read(connection.data_dir());
    let address = |given: &Option<String>, default: Option<&String>| -> anyhow::Result<Option<SocketAddr>> {
        let Some(text) = given.as_ref().or(default) else { return Ok(None) };
        let example = "write IP:PORT, as in 127.0.0.1:53 or [::1]:53";
        let problem = |_| output::UsageError(format!("{text:?} is no address of a server; {example}"));
        Ok(Some(text.parse().map_err(problem)?))
    };
    let dns = address(&args.dns, up.as_ref().map(|up| &up.dns))?;
    let edge = address(&args.edge, up.as_ref().map(|up| &up.edge_http))?;

    let mut links = ask_api(&api, &fqdn, args.at.as_deref()).await?;
    // What a visitor got then, nobody can be asked.
    if args.at.is_none() {
        links.push(ask_dns(&fqdn, dns).await);
        links.push(ask_edge(&fqdn, edge, None).await);
        // Only `up` says which CA signs; elsewhere a browser's trust is needed to judge a certificate.
        if let Some(up) = up.as_ref().filter(|_| args.edge.is_none()) {
            let https = address(&None, Some(&up.edge_https))?;
            links.push(ask_edge(&fqdn, https, Some(&up.edge_ca_file)).await);
        }
    }

    let broken = links.iter().find(|link| link.state == State::Broken);
    if format.is_for_programs() {
        let list: Vec<Value> = links
            .iter()
            .map(|link| json!({"name": link.name, "state": link.state.as_str(), "detail": link.detail}))
            .collect();
        output::data(format, &json!({"fqdn": fqdn, "broken": broken.map(|link| &link.name), "links": list}));
    } else {
        output::line(format!("{fqdn}\n"));
        output::table(
            &["link", "state", "detail"],
            links.iter().map(|link| vec![link.name.clone(), link.state.coloured(), link.detail.clone()]),
        );
        output::line("");
        match broken {
            Some(link) => {
                output::line(format!("{} at {}: {}", output::bad("Broken"), link.name, link.detail))
            }
            None if links.iter().any(|link| link.state == State::Warning) => {
                output::line("No link is broken; see the warnings.");
            }
            None => output::line("Every link that could be asked is sound."),
        }
    }
    Ok(if broken.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the API knows. One that cannot be reached is a broken link like any other: visitors do not depend on it.
async fn ask_api(api: &Api, fqdn: &str, at: Option<&str>) -> anyhow::Result<Vec<Link>> {
    let query = at.map(|at| format!("?at={}", encode(at))).unwrap_or_default();
    let path = format!("/explain/{}{query}", encode(fqdn));
    match api.send_within(Method::GET, &path, None, PATIENCE).await {
        Ok((_, known)) => Ok(known["links"].as_array().into_iter().flatten().map(from_api).collect()),
        Err(error @ (ApiError::Unreachable { .. } | ApiError::Stranger { .. })) => Ok(vec![Link {
            name: "API".to_owned(),
            state: State::Broken,
            detail: format!("{error}; what visitors get does not depend on it, see below"),
        }]),
        Err(error @ (ApiError::Answer { .. } | ApiError::NoSuch(_))) => Err(error.into()),
    }
}

fn from_api(link: &Value) -> Link {
    let state = match link["state"].as_str() {
        Some("ok") => State::Ok,
        Some("broken") => State::Broken,
        Some("warning") => State::Warning,
        _ => State::Unknown,
    };
    Link { name: output::cell(&link["name"]), state, detail: output::cell(&link["detail"]) }
}

async fn ask_dns(fqdn: &str, server: Option<SocketAddr>) -> Link {
    let link = |state, detail| Link { name: "DNS answer".to_owned(), state, detail };
    let Some(server) = server else {
        return link(State::Unknown, "no server known; give --dns IP:PORT".to_owned());
    };
    let mut data = Vec::new();
    let mut said = String::new();
    for record_type in [RecordType::A, RecordType::AAAA] {
        match probe::dns(server, fqdn, record_type).await {
            Ok(answer) => {
                said = match (answer.code, answer.authoritative) {
                    (ResponseCode::NoError, true) => "no address".to_owned(),
                    (ResponseCode::NXDomain, true) => "no such name".to_owned(),
                    (code, true) => code.to_string(),
                    (code, false) => {
                        format!("{code}; no zone of this server holds the name")
                    }
                };
                if answer.authoritative {
                    data.extend(answer.data.iter().map(ToString::to_string));
                }
            }
            Err(error) => return link(State::Broken, format!("{error:#}")),
        }
    }
    if data.is_empty() {
        link(State::Broken, format!("{server}: {said}"))
    } else {
        link(State::Ok, format!("{} from {server}", data.join(", ")))
    }
}

async fn ask_edge(fqdn: &str, edge: Option<SocketAddr>, ca_file: Option<&Path>) -> Link {
    let name = if ca_file.is_some() { "HTTPS answer" } else { "HTTP answer" }.to_owned();
    let Some(edge) = edge else {
        return Link { name, state: State::Unknown, detail: "no edge known; give --edge IP:PORT".to_owned() };
    };
    match probe::http(fqdn, edge, ca_file).await {
        Ok((code, headers)) => {
            // The edge names the node on what it passes through; its own pages have no such header.
            let by = if headers.is_empty() { ", a page of the edge itself" } else { "" };
            let headers: String = headers.iter().map(|(name, value)| format!(", {name}: {value}")).collect();
            let sound = code < 500 && (code < 400 || by.is_empty());
            let state = if sound { State::Ok } else { State::Broken };
            Link { name, state, detail: format!("{code} from {edge}{by}{headers}") }
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
