//! What the domain name system says of a claim, asked of the resolvers that the operator names. Nothing is kept from one look to the
//! next.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hosting_acme::caa::CaaRecord;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::OwnershipRules;

/// One question to one server.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Name servers of the zone above that are asked for a delegation.
const SERVERS: usize = 4;

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kinds) enum Answer<T> {
    /// These.
    Found(Vec<T>),
    /// That there is nothing.
    Nothing,
    /// Nothing: the servers failed. For people.
    Failed(String),
}

/// A client of the domain name system.
#[derive(Clone)]
pub(in crate::kinds) struct Dns {
    resolver: TokioResolver,
    rules: OwnershipRules,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").field("rules", &self.rules).finish_non_exhaustive()
    }
}

fn tuned(options: &mut ResolverOpts, recursion_desired: bool) {
    options.timeout = TIMEOUT;
    options.attempts = 2;
    options.cache_size = 0;
    options.edns0 = true;
    options.try_tcp_on_error = true;
    options.use_hosts_file = ResolveHosts::Never;
    options.recursion_desired = recursion_desired;
}

fn server(address: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

fn resolver(servers: &[SocketAddr], recursion_desired: bool) -> Result<TokioResolver, NetError> {
    let servers = servers.iter().copied().map(server).collect();
    let config = ResolverConfig::from_name_servers(servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    tuned(builder.options_mut(), recursion_desired);
    builder.build()
}

impl Dns {
    /// Without resolvers in the rules the system's are asked.
    pub(in crate::kinds) fn new(rules: &OwnershipRules) -> Result<Self, String> {
        let resolver = if rules.resolvers.is_empty() {
            TokioResolver::builder_tokio().and_then(|mut builder| {
                tuned(builder.options_mut(), true);
                builder.build()
            })
        } else {
            resolver(&rules.resolvers, true)
        };
        let resolver = resolver.map_err(|error| error.to_string())?;
        Ok(Self { resolver, rules: rules.clone() })
    }

    /// The texts of a name, each with its strings joined (RFC 7208 §3.3 does the same).
    pub(in crate::kinds) async fn texts(&self, name: &str) -> Answer<String> {
        let text = |record: &Record| {
            let RData::TXT(text) = &record.data else { return None };
            let bytes: Vec<u8> = text.txt_data.iter().flat_map(|part| part.iter().copied()).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        self.records(name, RecordType::TXT, text).await
    }

    /// The addresses of a name, of both families.
    pub(in crate::kinds) async fn addresses(&self, name: &str) -> Answer<IpAddr> {
        let address = |record: &Record| {
            if let RData::A(four) = &record.data {
                return Some(IpAddr::V4(four.0));
            }
            let RData::AAAA(six) = &record.data else { return None };
            Some(IpAddr::V6(six.0))
        };
        let four = self.records(name, RecordType::A, address).await;
        let six = self.records(name, RecordType::AAAA, address).await;
        match (four, six) {
            (Answer::Found(mut all), Answer::Found(six)) => {
                all.extend(six);
                Answer::Found(all)
            }
            (Answer::Found(all), _) | (_, Answer::Found(all)) => Answer::Found(all),
            (Answer::Failed(why), _) | (_, Answer::Failed(why)) => Answer::Failed(why),
            (Answer::Nothing, Answer::Nothing) => Answer::Nothing,
        }
    }

    /// The CAA records that count for a name: its own, or those of the nearest name above that has any (RFC 8659 §3).
    pub(in crate::kinds) async fn caa(&self, name: &str) -> Answer<CaaRecord> {
        let record = |record: &Record| {
            let RData::CAA(caa) = &record.data else { return None };
            let value = String::from_utf8_lossy(&caa.value).into_owned();
            Some(CaaRecord { is_critical: caa.issuer_critical, tag: caa.tag.clone(), value })
        };
        let mut at = name;
        loop {
            match self.records(at, RecordType::CAA, record).await {
                Answer::Nothing => {}
                answer @ (Answer::Found(_) | Answer::Failed(_)) => return answer,
            }
            let Some((_, above)) = at.split_once('.') else { return Answer::Nothing };
            at = above;
        }
    }

    async fn records<T>(
        &self,
        name: &str,
        record_type: RecordType,
        read: impl Fn(&Record) -> Option<T>,
    ) -> Answer<T> {
        match self.resolver.lookup(format!("{name}."), record_type).await {
            Ok(lookup) => {
                let found: Vec<T> = lookup.answers().iter().filter_map(read).collect();
                if found.is_empty() { Answer::Nothing } else { Answer::Found(found) }
            }
            Err(error) if error.is_no_records_found() => Answer::Nothing,
            Err(error) => Answer::Failed(format!("{name} {record_type}: {error}")),
        }
    }

    /// The name servers that the zone above delegates a zone to. They are asked of that zone's own servers: those that it is delegated to
    /// do not answer for it yet, so no resolver finds its way there.
    pub(super) async fn delegation(&self, zone: &str) -> Answer<String> {
        let mut above = zone;
        let servers = loop {
            let Some((_, rest)) = above.split_once('.') else { return Answer::Nothing };
            above = rest;
            match self.records(above, RecordType::NS, name_server).await {
                Answer::Found(servers) => break servers,
                Answer::Nothing => {}
                Answer::Failed(why) => return Answer::Failed(why),
            }
        };
        let mut failed = format!("none of the name servers of {above} can be asked");
        for server in servers.iter().take(SERVERS) {
            match self.addresses(server).await {
                Answer::Found(addresses) => {
                    let Some(address) = addresses.into_iter().find(|address| self.rules.allows(*address))
                    else {
                        continue;
                    };
                    match self.referral(zone, SocketAddr::new(address, self.rules.dns_port)).await {
                        Answer::Failed(why) => failed = format!("{server}: {why}"),
                        answer @ (Answer::Found(_) | Answer::Nothing) => return answer,
                    }
                }
                Answer::Nothing => {}
                Answer::Failed(why) => failed = why,
            }
        }
        Answer::Failed(failed)
    }

    /// What one server of the zone above refers to.
    async fn referral(&self, zone: &str, server: SocketAddr) -> Answer<String> {
        let resolver = match resolver(&[server], false) {
            Ok(resolver) => resolver,
            Err(error) => return Answer::Failed(error.to_string()),
        };
        let of_zone =
            |record: &&Record| record.name.to_ascii().trim_end_matches('.').eq_ignore_ascii_case(zone);
        let found: Vec<String> = match resolver.lookup(format!("{zone}."), RecordType::NS).await {
            // A server of both zones answers, one of the zone above alone refers, in the authority section (RFC 1034 §4.3.2).
            Ok(lookup) => {
                let all = lookup.answers().iter().chain(lookup.authorities());
                all.filter(of_zone).filter_map(name_server).collect()
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { ns, .. }))) => {
                let referred = ns.iter().flat_map(|all| all.iter()).map(|one| &one.ns);
                referred.filter(of_zone).filter_map(name_server).collect()
            }
            Err(error) => return Answer::Failed(error.to_string()),
        };
        if found.is_empty() { Answer::Nothing } else { Answer::Found(found) }
    }
}

/// Lower case, no trailing dot.
fn name_server(record: &Record) -> Option<String> {
    let RData::NS(name) = &record.data else { return None };
    Some(name.0.to_ascii().trim_end_matches('.').to_ascii_lowercase())
}

/// For the connection to a web server: an address that may not be connected to is left out as it is resolved.
impl Resolve for Dns {
    fn resolve(&self, name: Name) -> Resolving {
        let dns = self.clone();
        Box::pin(async move {
            let addresses = match dns.addresses(name.as_str()).await {
                Answer::Found(addresses) => addresses,
                Answer::Nothing => return Err("the name has no address".into()),
                Answer::Failed(why) => return Err(why.into()),
            };
            let allowed: Vec<SocketAddr> = addresses
                .into_iter()
                .filter(|address| dns.rules.allows(*address))
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            if allowed.is_empty() {
                return Err("the name leads to addresses that are not the public Internet".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
