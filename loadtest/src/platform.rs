//! A running platform, as its clients see it: the API, the edge, the DNS server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::UdpSocket;

/// Longest wait for one effect.
const LIMIT: Duration = Duration::from_secs(60);

/// Longest life of a stream.
const STREAM_LIMIT: Duration = Duration::from_secs(3_600);

/// Between two looks: short beside what is measured, long enough to leave the processor to the platform.
const PAUSE: Duration = Duration::from_millis(1);

/// A tenant's site, and a zone whose names may be bound to it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) tenant: String,
    pub(crate) webroot: String,
    pub(crate) zone: String,
}

/// Processor time that a process has taken.
pub(crate) fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold spaces: what follows it are numbers. utime and stime are fields 14 and 15.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(Duration::from_secs_f64((ticks(11) + ticks(12)) as f64 / per_second as f64))
}

/// A process's memory in bytes: `VmRSS` is what it has now, `VmHWM` the most that it ever had.
pub(crate) fn memory_of(pid: u32, what: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next());
    Ok(kib.with_context(|| format!("process {pid}: no {what}"))?.parse::<u64>()? << 10)
}

/// The REST API, asked with one key.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: String,
    key: String,
    http: reqwest::Client,
}

impl Api {
    /// `base` ends with the version, as in `http://127.0.0.1:8090/api/v1`.
    pub(crate) const fn new(base: String, key: String, http: reqwest::Client) -> Self {
        Self { base, key, http }
    }

    /// One request; what is not a success is an error.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        self.call_in_trace(method, path, body, "").await
    }

    /// As [`Api::call`], with a W3C traceparent; empty: none.
    pub(crate) async fn call_in_trace(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        traceparent: &str,
    ) -> anyhow::Result<Value> {
        let answer = self.send(method, path, body, traceparent).await?;
        Ok(serde_json::from_slice(&answer).unwrap_or_default())
    }

    /// Reads, and makes nothing of the answer.
    pub(crate) async fn read(&self, path: &str) -> anyhow::Result<()> {
        self.send(Method::GET, path, None, "").await?;
        Ok(())
    }

    /// A stream, as it comes.
    pub(crate) async fn stream(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.key);
        Ok(request.timeout(STREAM_LIMIT).send().await?.error_for_status()?)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        traceparent: &str,
    ) -> anyhow::Result<Vec<u8>> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key);
        if !traceparent.is_empty() {
            request = request.header("traceparent", traceparent);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let bytes = answer.bytes().await?;
        if !status.is_success() {
            bail!("{path}: {status} {}", String::from_utf8_lossy(&bytes));
        }
        Ok(bytes.into())
    }

    /// Creates a resource; answers its id.
    pub(crate) async fn create(&self, path: &str, body: Value) -> anyhow::Result<String> {
        let made = self.call(Method::POST, path, Some(body)).await?;
        Ok(made["id"].as_str().with_context(|| format!("{path}: no id"))?.to_owned())
    }
}

/// A running platform, as its clients see it.
pub(crate) struct Platform {
    pub(crate) api: Api,
    edge: SocketAddr,
    http: reqwest::Client,
    dns: UdpSocket,
    /// Process ids by role.
    pids: BTreeMap<String, u32>,
}

impl Platform {
    /// The platform of a running `hostctl up`.
    pub(crate) async fn open(data: &Path) -> anyhow::Result<Self> {
        let file = data.join("up.json");
        let text = std::fs::read(&file)
            .with_context(|| format!("cannot read {}: start the platform with ./up first", file.display()))?;
        let up: Value = serde_json::from_slice(&text)?;
        let field = |name: &str| up[name].as_str().with_context(|| format!("{}: no {name}", file.display()));
        let dns = UdpSocket::bind("127.0.0.1:0").await?;
        dns.connect(field("dns")?).await?;
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?;
        let key = std::fs::read_to_string(field("admin_key_file")?)?.trim().to_owned();
        Ok(Self {
            api: Api::new(format!("{}/api/v1", field("api")?), key, http.clone()),
            edge: field("edge_http")?.parse()?,
            http,
            dns,
            pids: serde_json::from_value(up["pids"].clone()).unwrap_or_default(),
        })
    }

    /// Processor time that a role's process has taken.
    pub(crate) fn cpu(&self, role: &str) -> anyhow::Result<Duration> {
        let pid = self.pids.get(role).with_context(|| format!("up.json names no process {role}"))?;
        cpu_of(*pid)
    }

    /// The memory that a role's process has now, in bytes.
    pub(crate) fn memory(&self, role: &str) -> anyhow::Result<u64> {
        let pid = self.pids.get(role).with_context(|| format!("up.json names no process {role}"))?;
        memory_of(*pid, "VmRSS")
    }

    /// Tenants with a site, each with a zone of its brand.
    pub(crate) async fn targets(&self) -> anyhow::Result<Vec<Target>> {
        let tenants = self.api.call(Method::GET, "/tenants?status=active", None).await?;
        let zones = self.api.call(Method::GET, "/zones", None).await?;
        let mut targets = Vec::new();
        for tenant in tenants["items"].as_array().into_iter().flatten() {
            let id = tenant["id"].as_str().unwrap_or_default();
            let webroots = self.api.call(Method::GET, &format!("/tenants/{id}/webroots"), None).await?;
            let webroot =
                webroots["items"].as_array().and_then(|all| all.first()).and_then(|one| one["id"].as_str());
            let zone = zones["items"].as_array().into_iter().flatten().find(|zone| {
                zone["brand_id"] == tenant["brand_id"] && zone["tenant_id"].as_str().is_none_or(str::is_empty)
            });
            if let (Some(webroot), Some(zone)) = (webroot, zone.and_then(|zone| zone["name"].as_str())) {
                targets.push(Target {
                    tenant: id.to_owned(),
                    webroot: webroot.to_owned(),
                    zone: zone.to_owned(),
                });
            }
        }
        if targets.is_empty() {
            bail!("there is no tenant with a site and a zone of its brand; seed infra/demo.yaml");
        }
        Ok(targets)
    }

    /// Binds a new host name to a target's site; answers its id.
    pub(crate) async fn bind(&self, target: &Target, fqdn: &str) -> anyhow::Result<String> {
        let body = json!({"fqdn": fqdn, "webroot_id": target.webroot});
        self.api.create(&format!("/tenants/{}/fqdns", target.tenant), body).await
    }

    /// Time from `begun` until edge and DNS show the name, or its absence.
    pub(crate) async fn effect(
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
