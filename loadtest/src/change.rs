//! `loadtest change`: how long a change takes from the request that commits it to its effect, seen from outside.
//!
//! The clock starts before the request is sent, so the figures hold the API and the commit as well. The effect is polled
//! each millisecond over a kept connection to the edge and a socket to the DNS server.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use serde_json::{Value, json};
use tabled::{builder::Builder, settings::Style};
use tokio::net::UdpSocket;

use crate::figures::{Figures, print};

/// Longest wait for one effect.
const LIMIT: Duration = Duration::from_secs(30);

/// Between two looks: short beside what is measured, long enough to leave the processor to the platform.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data folder of a running `hostctl up`
    #[arg(long, default_value = "var")]
    data: PathBuf,
    /// How many names are added, then deleted
    #[arg(long, default_value_t = 200)]
    count: u32,
}

struct Platform {
    api: String,
    key: String,
    edge: SocketAddr,
    http: reqwest::Client,
    dns: UdpSocket,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let platform = Platform::open(args).await?;
    let (tenant, webroot, zone) = platform.target().await?;
    let run = std::process::id();
    let mut figures: [Figures; 4] = Default::default();
    let mut ids = Vec::new();
    for index in 0..args.count {
        let fqdn = format!("change-{run}-{index}.{zone}");
        let body = json!({"fqdn": fqdn, "webroot_id": webroot});
        let begun = Instant::now();
        let made =
            platform.call(reqwest::Method::POST, &format!("/tenants/{tenant}/fqdns"), Some(body)).await?;
        let (edge, dns) = platform.effect(&fqdn, true, begun).await?;
        figures[0].add(edge);
        figures[1].add(dns);
        ids.push((fqdn, made["id"].as_str().context("no id")?.to_owned()));
    }
    for (fqdn, id) in ids {
        let begun = Instant::now();
        platform.call(reqwest::Method::DELETE, &format!("/fqdns/{id}"), None).await?;
        let (edge, dns) = platform.effect(&fqdn, false, begun).await?;
        figures[2].add(edge);
        figures[3].add(dns);
    }
    let names = ["add, edge", "add, dns", "delete, edge", "delete, dns"];
    let mut table = Builder::default();
    table.push_record(["change, effect", "count", "p50 ms", "p99 ms", "max ms"]);
    for (name, one) in names.iter().zip(&figures) {
        table.push_record(one.row(name));
    }
    print(&table.build().with(Style::blank()).to_string());
    let object: serde_json::Map<String, Value> =
        names.iter().zip(&figures).map(|(name, one)| (name.replace(", ", "_"), one.json())).collect();
    print(&json!({"benchmark": "change", "figures": object}).to_string());
    Ok(())
}

impl Platform {
    async fn open(args: &Args) -> anyhow::Result<Self> {
        let file = args.data.join("up.json");
        let text = std::fs::read(&file)
            .with_context(|| format!("cannot read {}: start the platform with ./up first", file.display()))?;
        let up: Value = serde_json::from_slice(&text)?;
        let field = |name: &str| up[name].as_str().with_context(|| format!("{}: no {name}", file.display()));
        let dns = UdpSocket::bind("127.0.0.1:0").await?;
        dns.connect(field("dns")?).await?;
        Ok(Self {
            api: format!("{}/api/v1", field("api")?),
            key: std::fs::read_to_string(field("admin_key_file")?)?.trim().to_owned(),
            edge: field("edge_http")?.parse()?,
            http: reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?,
            dns,
        })
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.api)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("{path}: {status} {text}");
        }
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// A tenant with a site, and a zone of its brand: (tenant id, webroot id, zone name).
    async fn target(&self) -> anyhow::Result<(String, String, String)> {
        let tenants = self.call(reqwest::Method::GET, "/tenants?status=active", None).await?;
        let zones = self.call(reqwest::Method::GET, "/zones", None).await?;
        for tenant in tenants["items"].as_array().into_iter().flatten() {
            let id = tenant["id"].as_str().unwrap_or_default();
            let webroots = self.call(reqwest::Method::GET, &format!("/tenants/{id}/webroots"), None).await?;
            let webroot =
                webroots["items"].as_array().and_then(|all| all.first()).and_then(|one| one["id"].as_str());
            let zone = zones["items"].as_array().into_iter().flatten().find(|zone| {
                zone["brand_id"] == tenant["brand_id"] && zone["tenant_id"].as_str().is_none_or(str::is_empty)
            });
            if let (Some(webroot), Some(zone)) = (webroot, zone.and_then(|zone| zone["name"].as_str())) {
                return Ok((id.to_owned(), webroot.to_owned(), zone.to_owned()));
            }
        }
        bail!("there is no tenant with a site and a zone of its brand; seed infra/demo.yaml")
    }

    /// Time from `begun` until edge and DNS show the name, or its absence.
    async fn effect(
        &self,
        fqdn: &str,
        present: bool,
        begun: Instant,
    ) -> anyhow::Result<(Duration, Duration)> {
        let edge = async {
            loop {
                if (self.web(fqdn).await? == 200) == present {
                    return anyhow::Ok(begun.elapsed());
                }
                if begun.elapsed() > LIMIT {
                    bail!("{fqdn}: no effect at the edge after {LIMIT:?}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let dns = async {
            loop {
                if self.resolves(fqdn).await? == present {
                    return anyhow::Ok(begun.elapsed());
                }
                if begun.elapsed() > LIMIT {
                    bail!("{fqdn}: no effect in DNS after {LIMIT:?}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::try_join!(edge, dns)
    }

    async fn web(&self, fqdn: &str) -> anyhow::Result<u16> {
        let request = self.http.get(format!("http://{}/", self.edge)).header("host", fqdn);
        let answer = request.send().await?;
        let code = answer.status().as_u16();
        // Read to the end, so that the connection is kept.
        answer.bytes().await?;
        Ok(code)
    }

    async fn resolves(&self, fqdn: &str) -> anyhow::Result<bool> {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(format!("{fqdn}."))?, RecordType::A));
        self.dns.send(&question.to_vec()?).await?;
        let mut buffer = [0; 4096];
        loop {
            let received = tokio::time::timeout(Duration::from_secs(2), self.dns.recv(&mut buffer)).await;
            let Ok(length) = received else { return Ok(false) };
            let answer = Message::from_vec(buffer.get(..length?).unwrap_or_default())?;
            if answer.metadata.id == question.metadata.id {
                return Ok(!answer.answers.is_empty());
            }
        }
    }
}
