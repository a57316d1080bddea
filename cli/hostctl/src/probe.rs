//! Asking the running platform from outside, as a visitor would.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::net::UdpSocket;

use crate::api::root_cause;

/// How long a site may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A seeded site.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub fqdn: String,
    pub brand: String,
    pub runtime: String,
    /// Switched off on purpose: its page says so, with 503.
    pub suspended: bool,
}

/// Where a visitor would arrive.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub dns: SocketAddr,
    pub ca_file: PathBuf,
    /// What the sites' A and AAAA records must say.
    pub addresses: Vec<IpAddr>,
}

/// Whether the process at this admin address is ready; if not, why.
pub(crate) async fn readiness(admin: SocketAddr) -> Result<(), String> {
    let client = client(None).map_err(|error| error.to_string())?;
    let answer = client
        .get(format!("http://{admin}/readyz"))
        .timeout(Duration::from_secs(2))
        .send()
        .await
        .map_err(|_| "no answer on its admin port".to_owned())?;
    if answer.status().is_success() {
        return Ok(());
    }
    Err(answer.text().await.unwrap_or_default())
}

/// A site that does not answer as it should.
#[derive(Debug)]
pub(crate) struct Silent {
    pub fqdn: String,
    pub why: String,
}

/// Waits until every site that is not suspended answers 200 over HTTP and HTTPS and DNS gives an address of the platform.
/// Those that do not within the limit are returned. `waiting` hears what is missing.
pub(crate) async fn until_all_answer(
    sites: &[Site],
    targets: &Targets,
    limit: Duration,
    waiting: impl Fn(&str),
) -> Vec<Silent> {
    let until = Instant::now() + limit;
    let mut silent = Vec::new();
    for site in sites.iter().filter(|site| !site.suspended) {
        while let Err(error) = probe(site, targets).await {
            let why = format!("{error:#}");
            if Instant::now() > until {
                silent.push(Silent { fqdn: site.fqdn.clone(), why });
                break;
            }
            waiting(&format!("{}: {why}", site.fqdn));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    silent
}

async fn probe(site: &Site, targets: &Targets) -> anyhow::Result<()> {
    let name = &site.fqdn;
    let (code, _) = http(name, targets.http, None).await?;
    if code != 200 {
        bail!("HTTP answers {code}");
    }
    let (code, _) = http(name, targets.https, Some(&targets.ca_file)).await?;
    if code != 200 {
        bail!("HTTPS answers {code}");
    }
    let is_v4 = targets.addresses.iter().any(IpAddr::is_ipv4);
    let record_type = if is_v4 { RecordType::A } else { RecordType::AAAA };
    let answer = dns(targets.dns, name, record_type).await?;
    let ours = answer.data.iter().any(|data| {
        let said = match data {
            RData::A(address) => IpAddr::V4(address.0),
            RData::AAAA(address) => IpAddr::V6(address.0),
            _ => return false,
        };
        targets.addresses.contains(&said)
    });
    if !ours {
        bail!("DNS answers {} without an address of the platform", answer.code);
    }
    Ok(())
}

/// GET / of a site at a given address; HTTPS when there is a CA file. The status and the response headers of interest.
pub(crate) async fn http(
    fqdn: &str,
    address: SocketAddr,
    ca_file: Option<&Path>,
) -> anyhow::Result<(u16, Vec<(String, String)>)> {
    let scheme = if ca_file.is_some() { "https" } else { "http" };
    let builder = match ca_file {
        Some(file) => {
            let pem = std::fs::read(file)
                .with_context(|| format!("cannot read the development CA {}", file.display()))?;
            client_builder().tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?)
        }
        None => client_builder(),
    };
    let answer = builder
        .resolve(fqdn, address)
        .redirect(reqwest::redirect::Policy::none())
        .build()?
        .get(format!("{scheme}://{fqdn}:{}/", address.port()))
        .timeout(PATIENCE)
        .send()
        .await
        .map_err(|error| {
            anyhow::anyhow!("{scheme}://{fqdn} at {address}: {}", root_cause(&error, PATIENCE))
        })?;
    let headers = ["x-shard", "x-served-by"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), answer.headers().get(*name)?.to_str().ok()?.to_owned())))
        .collect();
    Ok((answer.status().as_u16(), headers))
}

/// A DNS answer, as far as it matters here.
#[derive(Debug)]
pub(crate) struct DnsAnswer {
    pub code: ResponseCode,
    pub authoritative: bool,
    pub data: Vec<RData>,
}

/// One question over UDP.
pub(crate) async fn dns(
    server: SocketAddr,
    name: &str,
    record_type: RecordType,
) -> anyhow::Result<DnsAnswer> {
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.')))
        .with_context(|| format!("{name:?} is no DNS name"))?;
    let mut question = Message::query();
    question.add_query(Query::query(name, record_type));
    let local: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    let bytes = question.to_vec()?;
    let mut buffer = vec![0; 4096];
    for _ in 0..3 {
        socket.send(&bytes).await.with_context(|| format!("DNS server {server}"))?;
        let received = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await;
        let Ok(length) = received else { continue };
        let length = length.with_context(|| format!("DNS server {server}"))?;
        let answer = Message::from_vec(buffer.get(..length).unwrap_or_default())
            .with_context(|| format!("DNS server {server} sends no DNS"))?;
        if answer.metadata.id == question.metadata.id {
            return Ok(DnsAnswer {
                code: answer.metadata.response_code,
                authoritative: answer.metadata.authoritative,
                data: answer.answers.iter().map(|record| record.data.clone()).collect(),
            });
        }
    }
    bail!("DNS server {server} does not answer")
}

fn client(ca: Option<&[u8]>) -> anyhow::Result<reqwest::Client> {
    let builder = match ca {
        Some(pem) => client_builder().tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?),
        None => client_builder(),
    };
    Ok(builder.build()?)
}

fn client_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(2))
}
