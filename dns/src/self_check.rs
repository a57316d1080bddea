//! The name server asks its own listeners for what it applied, as a resolver would, over UDP and TCP at every address, and compares the
//! answers with those of a zone that holds the one item alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use hosting_dns_zone::{Transport, Writer};
use hosting_intent::message::{self as m, rr_set};
use hosting_intent::{DnsIntent, DnsKind, Key, Kind, rr_set_key};
use hosting_intent_sync::self_check::SelfCheck;
use hosting_scaffold::networks::reachable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long an answer over UDP is waited for; a packet may be lost on a busy machine, so it is asked for again.
const UDP_WAIT: Duration = Duration::from_millis(700);
const UDP_TRIES: usize = 3;
/// How long an address of a cluster may take to take a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// What this resolver takes over UDP (RFC 9715).
const PAYLOAD: u16 = 1_232;
/// Types that may stand where a CNAME does not, because of them.
const BESIDE: [RecordType; 6] =
    [RecordType::A, RecordType::AAAA, RecordType::NS, RecordType::MX, RecordType::TXT, RecordType::SRV];

/// What other items say that decides on an answer. Noted when a batch is applied.
#[derive(Debug, Default)]
pub(crate) struct Context(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    serial_offset: u32,
    /// By cluster. Clusters are few.
    address_sets: HashMap<String, m::AddressSet>,
    /// The same before the last change of each.
    address_sets_before: HashMap<String, m::AddressSet>,
    /// By cluster and type an RRset that shows its addresses.
    shown_by: BTreeMap<(String, &'static str), (Key, m::RrSet)>,
}

impl Context {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, key: &Key, intent: &DnsIntent) {
        match intent {
            DnsIntent::SerialOffset(offset) => self.noted().serial_offset = offset.value,
            DnsIntent::AddressSet(set) => {
                let mut noted = self.noted();
                if let Some(before) = noted.address_sets.insert(key.name.clone(), set.clone()) {
                    noted.address_sets_before.insert(key.name.clone(), before);
                }
            }
            DnsIntent::RrSet(set) => {
                let Some(rr_set::Data::AddressSet(cluster)) = &set.data else {
                    self.forget(key);
                    return;
                };
                let kind = if key.name.ends_with("/AAAA") { "AAAA" } else { "A" };
                self.noted().shown_by.insert((cluster.clone(), kind), (key.clone(), set.clone()));
            }
            DnsIntent::Zone(_) | DnsIntent::TrustRoots(_) | DnsIntent::AudienceKey(_) => {}
        }
    }

    pub(crate) fn forget(&self, key: &Key) {
        let mut noted = self.noted();
        match DnsKind::of(key) {
            Some(DnsKind::AddressSet) => drop(noted.address_sets.remove(&key.name)),
            Some(DnsKind::RrSet) => noted.shown_by.retain(|_, (by, _)| by != key),
            Some(DnsKind::Zone | DnsKind::SerialOffset | DnsKind::TrustRoots | DnsKind::AudienceKey)
            | None => {}
        }
    }
}

/// Makes the check once the listeners' addresses are known.
#[derive(Debug, Clone)]
pub struct SelfCheckMaker(pub(crate) Arc<Context>);

impl SelfCheckMaker {
    /// Of listeners at these addresses.
    #[must_use]
    pub fn at(self, addresses: &[SocketAddr], edge_port: u16) -> DnsSelfCheck {
        DnsSelfCheck::new(addresses, edge_port, self.0)
    }
}

/// Asks a server's listeners.
#[derive(Debug)]
pub struct DnsSelfCheck {
    addresses: Vec<SocketAddr>,
    /// The port at which new addresses of a cluster are asked whether anybody is there; 0: they are not.
    edge_port: u16,
    context: Arc<Context>,
    id: AtomicU16,
}

/// Owner and type, lower case, with TTL and data in wire form: what two answers are compared by.
type Records = BTreeSet<(String, u16, u32, Vec<u8>)>;

/// What an answer says of one name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    code: ResponseCode,
    answers: Records,
    authority: Records,
}

impl Seen {
    fn of(packet: &[u8]) -> Result<Self, String> {
        let message = Message::from_vec(packet).map_err(|error| error.to_string())?;
        Ok(Self {
            code: message.metadata.response_code,
            answers: records(&message.answers)?,
            authority: records(&message.authorities)?,
        })
    }

    /// The records of a name and type, in the answer or, of a delegation, in the authority section.
    fn set(&self, owner: &str, record_type: RecordType) -> Records {
        let number = u16::from(record_type);
        let all = if self.answers.is_empty() { &self.authority } else { &self.answers };
        all.iter().filter(|one| one.0 == owner && one.1 == number).cloned().collect()
    }

    /// What hides a name by the rules of DNS: a delegation at or above it, or an alias in its place.
    fn hides(&self, owner: &str, record_type: RecordType) -> bool {
        let alias = u16::from(RecordType::CNAME);
        let cut = u16::from(RecordType::NS);
        let has_alias = record_type != RecordType::CNAME
            && self.answers.iter().any(|one| one.0 == owner && one.1 == alias);
        // The delegation's own records are not hidden by it.
        let is_below = |cut: &str| {
            (owner == cut && record_type != RecordType::NS) || owner.ends_with(&format!(".{cut}"))
        };
        let referred =
            self.answers.is_empty() && self.authority.iter().any(|one| one.1 == cut && is_below(&one.0));
        has_alias || referred
    }
}

fn records(all: &[Record]) -> Result<Records, String> {
    let one = |record: &Record| {
        let data = {
            use hickory_proto::serialize::binary::BinEncodable;
            record.data.to_bytes().map_err(|error| error.to_string())?
        };
        let owner = record.name.to_lowercase().to_string();
        Ok((owner, u16::from(record.record_type()), record.ttl, data))
    };
    all.iter().map(one).collect()
}

impl DnsSelfCheck {
    /// Of listeners at these addresses.
    fn new(addresses: &[SocketAddr], edge_port: u16, context: Arc<Context>) -> Self {
        let addresses = addresses.iter().copied().map(reachable).collect();
        Self { addresses, edge_port, context, id: AtomicU16::new(1) }
    }

    /// What each listener answers.
    async fn ask(&self, name: &str, record_type: RecordType) -> Result<Vec<(String, Seen)>, String> {
        let query = self.query(name, record_type)?;
        let mut answers = Vec::new();
        for address in &self.addresses {
            let over = format!("udp {address}");
            let answer = udp(*address, &query).await.map_err(|error| format!("{over}: {error}"))?;
            // A truncated answer says nothing; the next one does.
            if !is_truncated(&answer) {
                answers.push((over.clone(), Seen::of(&answer).map_err(|error| format!("{over}: {error}"))?));
            }
            let over = format!("tcp {address}");
            let answer = tcp(*address, &query).await.map_err(|error| format!("{over}: {error}"))?;
            answers.push((over.clone(), Seen::of(&answer).map_err(|error| format!("{over}: {error}"))?));
        }
        Ok(answers)
    }

    fn query(&self, name: &str, record_type: RecordType) -> Result<Vec<u8>, String> {
        let name = Name::from_ascii(format!("{name}.")).map_err(|error| format!("{name}: {error}"))?;
        let mut message =
            Message::new(self.id.fetch_add(1, Ordering::Relaxed), MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name, record_type));
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        message.edns = Some(edns);
        message.to_vec().map_err(|error| error.to_string())
    }

    /// What a zone with these items alone answers.
    fn model(&self, items: &[(Key, DnsIntent)], name: &str, record_type: RecordType) -> Result<Seen, String> {
        let mut writer = Writer::new();
        let applied = writer.apply(items.iter().map(|(key, intent)| (key, intent)), []);
        if let Some((key, rejection)) = applied.rejected.first() {
            return Err(format!("{key}: {rejection}"));
        }
        let query = self.query(name, record_type)?;
        let mut out = vec![0; usize::from(u16::MAX)];
        let answered = writer.zones().answer(&query, Transport::Tcp, &mut out);
        Seen::of(out.get(..answered.len).unwrap_or_default())
    }

    async fn rr_set(&self, key: &Key, set: &m::RrSet) -> Result<(), String> {
        let (zone, owner, record_type) = parts(key)?;
        let mut items = vec![any_zone(zone), (key.clone(), DnsIntent::RrSet(set.clone()))];
        if let Some(rr_set::Data::AddressSet(cluster)) = &set.data
            && let Some(addresses) = self.context.noted().address_sets.get(cluster)
        {
            items.push((Key::new(Kind::AddressSet, cluster), DnsIntent::AddressSet(addresses.clone())));
        }
        let wanted = self.model(&items, owner, record_type)?;
        let place = dotted(owner);
        // At the apex the zone's own name servers stand beside those of the item: what the model's apex adds is not asked for.
        let added = if owner == zone && record_type == RecordType::NS {
            self.model(&[any_zone(zone)], owner, record_type)?.set(&place, record_type)
        } else {
            Records::new()
        };
        let wanted: Records = wanted.set(&place, record_type).difference(&added).cloned().collect();
        for (over, seen) in self.ask(owner, record_type).await? {
            let found = seen.set(&place, record_type);
            let serves = if owner == zone && record_type == RecordType::NS {
                wanted.iter().all(|one| found.iter().any(|other| (&one.0, &one.3) == (&other.0, &other.3)))
            } else {
                found == wanted
            };
            if !serves
                && !seen.hides(&place, record_type)
                && !self.is_hidden(zone, owner, record_type).await?
            {
                return Err(format!(
                    "{over} answers {owner} {record_type} with {}",
                    told(&seen, &place, record_type)
                ));
            }
        }
        if set.https { self.implied(zone, owner, &items).await } else { Ok(()) }
    }

    /// The HTTPS records that addresses bring along. One that the zone has of its own stands in their place, and is an item by itself.
    async fn implied(&self, zone: &str, owner: &str, items: &[(Key, DnsIntent)]) -> Result<(), String> {
        let (place, https) = (dotted(owner), RecordType::HTTPS);
        if self.model(items, owner, https)?.set(&place, https).is_empty() {
            return Ok(());
        }
        for (over, seen) in self.ask(owner, https).await? {
            if seen.set(&place, https).is_empty()
                && !seen.hides(&place, https)
                && !self.is_hidden(zone, owner, https).await?
            {
                return Err(format!("{over} answers {owner} HTTPS with {}", told(&seen, &place, https)));
            }
        }
        Ok(())
    }

    /// Whether a zone below, or other data in the place of an alias, answers for a name.
    async fn is_hidden(&self, zone: &str, owner: &str, record_type: RecordType) -> Result<bool, String> {
        if record_type == RecordType::CNAME {
            for beside in BESIDE {
                for (_, seen) in self.ask(owner, beside).await? {
                    if !seen.set(&dotted(owner), beside).is_empty() {
                        return Ok(true);
                    }
                }
            }
        }
        for above in between(zone, owner) {
            for (_, seen) in self.ask(above, RecordType::SOA).await? {
                if !seen.answers.is_empty() && !seen.set(&dotted(above), RecordType::SOA).is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn no_rr_set(&self, key: &Key) -> Result<(), String> {
        let (zone, owner, record_type) = parts(key)?;
        if owner == zone && record_type == RecordType::NS {
            // The zone's own stay.
            return Ok(());
        }
        if record_type == RecordType::HTTPS {
            // What the addresses of the owner bring along comes in its place.
            return Ok(());
        }
        let place = dotted(owner);
        for (over, seen) in self.ask(owner, record_type).await? {
            let found = seen.set(&place, record_type);
            if found.is_empty() || seen.answers.is_empty() {
                continue;
            }
            if !self.is_wild(zone, owner, record_type, &found).await?
                && !self.is_hidden(zone, owner, record_type).await?
            {
                return Err(format!("{over} still answers {owner} {record_type}"));
            }
        }
        Ok(())
    }

    /// Whether a wildcard above a name gives the same.
    async fn is_wild(
        &self,
        zone: &str,
        owner: &str,
        record_type: RecordType,
        found: &Records,
    ) -> Result<bool, String> {
        let data =
            |records: &Records| records.iter().map(|one| (one.2, one.3.clone())).collect::<BTreeSet<_>>();
        for above in between(zone, owner).skip(1).chain(std::iter::once(zone)) {
            let wild = format!("*.{above}");
            for (_, seen) in self.ask(&wild, record_type).await? {
                let given = seen.set(&dotted(&wild), record_type);
                if !given.is_empty() && data(&given) == data(found) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    async fn zone(&self, key: &Key, settings: &m::Zone) -> Result<(), String> {
        let offset = m::SerialOffset { value: self.context.noted().serial_offset };
        let items = [
            (key.clone(), DnsIntent::Zone(settings.clone())),
            (Key::new(Kind::SerialOffset, "serial"), DnsIntent::SerialOffset(offset)),
        ];
        let place = dotted(&key.name);
        let wanted = self.model(&items, &key.name, RecordType::SOA)?.set(&place, RecordType::SOA);
        for (over, seen) in self.ask(&key.name, RecordType::SOA).await? {
            if seen.answers.is_empty() || seen.set(&place, RecordType::SOA) != wanted {
                return Err(format!(
                    "{over} answers {} SOA with {}",
                    key.name,
                    told(&seen, &place, RecordType::SOA)
                ));
            }
        }
        Ok(())
    }

    async fn no_zone(&self, key: &Key) -> Result<(), String> {
        for (over, seen) in self.ask(&key.name, RecordType::SOA).await? {
            if !seen.answers.is_empty() && !seen.set(&dotted(&key.name), RecordType::SOA).is_empty() {
                return Err(format!("{over} still has the zone {}", key.name));
            }
        }
        Ok(())
    }

    /// The addresses of a cluster, by an RRset of each type that has them.
    async fn address_set(&self, key: &Key) -> Result<(), String> {
        for kind in ["A", "AAAA"] {
            let shown_by = self.context.noted().shown_by.get(&(key.name.clone(), kind)).cloned();
            if let Some((by, set)) = shown_by {
                self.rr_set(&by, &set).await?;
            }
        }
        self.somebody_is_there(&key.name).await
    }

    /// Somebody takes connections at each new address of a cluster. When nobody does at any that was there before, this machine may be
    /// one that cannot reach them, and nothing is said.
    async fn somebody_is_there(&self, cluster: &str) -> Result<(), String> {
        if self.edge_port == 0 {
            return Ok(());
        }
        let (now, before) = {
            let noted = self.context.noted();
            let of =
                |sets: &HashMap<String, m::AddressSet>| sets.get(cluster).map(addresses).unwrap_or_default();
            (of(&noted.address_sets), of(&noted.address_sets_before))
        };
        let mut silent = Vec::new();
        for address in now.difference(&before) {
            if let Err(error) = self.takes_connections(*address).await {
                silent.push(format!("{address} port {}: {error}", self.edge_port));
            }
        }
        if silent.is_empty() {
            return Ok(());
        }
        for address in before {
            if self.takes_connections(address).await.is_ok() {
                return Err(format!("{}, while {address} answers", silent.join(", ")));
            }
        }
        Ok(())
    }

    async fn takes_connections(&self, address: IpAddr) -> Result<(), String> {
        let connect = TcpStream::connect(SocketAddr::new(address, self.edge_port));
        match tokio::time::timeout(CONNECT_WAIT, connect).await {
            Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err(format!("no connection within {} s", CONNECT_WAIT.as_secs())),
        }
    }
}

#[async_trait]
impl SelfCheck<DnsIntent> for DnsSelfCheck {
    async fn check(&self, key: &Key, wanted: Option<&DnsIntent>) -> Result<(), String> {
        match (wanted, DnsKind::of(key)) {
            (Some(DnsIntent::Zone(settings)), _) => self.zone(key, settings).await,
            (Some(DnsIntent::RrSet(set)), _) => self.rr_set(key, set).await,
            (Some(DnsIntent::AddressSet(_)), _) | (None, Some(DnsKind::AddressSet)) => {
                self.address_set(key).await
            }
            (None, Some(DnsKind::Zone)) => self.no_zone(key).await,
            (None, Some(DnsKind::RrSet)) => self.no_rr_set(key).await,
            // A serial shows in each zone's SOA, and is asked for with the next one that changes.
            (Some(DnsIntent::SerialOffset(_) | DnsIntent::TrustRoots(_) | DnsIntent::AudienceKey(_)), _)
            | (None, Some(DnsKind::SerialOffset | DnsKind::TrustRoots | DnsKind::AudienceKey) | None) => {
                Ok(())
            }
        }
    }
}

fn addresses(set: &m::AddressSet) -> BTreeSet<IpAddr> {
    set.ipv4.iter().chain(&set.ipv6).filter_map(|address| address.parse().ok()).collect()
}

fn parts(key: &Key) -> Result<(&str, &str, RecordType), String> {
    let (zone, owner, record_type) = rr_set_key(&key.name).map_err(|error| error.to_string())?;
    let record_type = record_type.parse().map_err(|_| format!("{record_type}: no record type"))?;
    Ok((zone, owner, record_type))
}

/// The names from `owner` up to, and without, `zone`.
fn between<'a>(zone: &str, owner: &'a str) -> impl Iterator<Item = &'a str> {
    let zone = zone.to_owned();
    std::iter::successors(Some(owner), |name| name.split_once('.').map(|(_, above)| above))
        .take_while(move |name| **name != *zone)
}

/// A name as the codec spells it.
fn dotted(name: &str) -> String {
    format!("{}.", name.to_ascii_lowercase())
}

/// What was answered, for operators.
fn told(seen: &Seen, place: &str, record_type: RecordType) -> String {
    match seen.set(place, record_type).len() {
        0 => format!("{} and no such record", seen.code),
        count => format!("{count} records that are not those"),
    }
}

/// A zone that an RRset can lie in; what its apex says does not matter.
fn any_zone(name: &str) -> (Key, DnsIntent) {
    let settings = m::Zone {
        zone_id: "zone_self_check".into(),
        primary_ns: "ns.invalid".into(),
        nameservers: vec!["ns.invalid".into()],
        hostmaster: "hostmaster@invalid.invalid".into(),
        serial: 1,
        refresh: 3_600,
        retry: 600,
        expire: 86_400,
        minimum: 300,
        ttl: 3_600,
    };
    (Key::new(Kind::Zone, name), DnsIntent::Zone(settings))
}

fn is_truncated(packet: &[u8]) -> bool {
    packet.get(2).is_some_and(|flags| flags & 0b10 != 0)
}

async fn udp(address: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let here =
        if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((here, 0)).await?;
    socket.connect(address).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    for _ in 0..UDP_TRIES {
        socket.send(query).await?;
        if let Ok(received) = tokio::time::timeout(UDP_WAIT, socket.recv(&mut answer)).await {
            answer.truncate(received?);
            return Ok(answer);
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer"))
}

async fn tcp(address: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
