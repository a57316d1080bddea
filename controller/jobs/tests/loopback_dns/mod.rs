//! A name server on loopback that is resolver and servers of all zones at once: it answers what a test says, over UDP, and
//! where a zone is delegated it fails with recursion and refers without.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, NS, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

#[derive(Default)]
struct Zones {
    records: BTreeMap<(String, RecordType), Vec<RData>>,
    /// By zone: asked without recursion, the server refers there; asked with recursion, it fails, as nobody answers there yet.
    delegated: BTreeMap<String, Vec<String>>,
    /// Names of which nothing can be said.
    broken: Vec<String>,
}

/// The server; it ends with the test.
#[derive(Clone)]
pub(crate) struct LoopbackDns {
    pub(crate) address: SocketAddr,
    zones: Arc<Mutex<Zones>>,
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

impl LoopbackDns {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let dns = Self { address: socket.local_addr().unwrap(), zones: Arc::default() };
        let zones = Arc::clone(&dns.zones);
        tokio::spawn(async move {
            let mut buffer = [0; 4_096];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
                let answer = answer(&question, &zones.lock().unwrap());
                let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
            }
        });
        dns
    }

    fn set(&self, of: &str, record_type: RecordType, data: Vec<RData>) {
        self.zones.lock().unwrap().records.insert((of.to_owned(), record_type), data);
    }

    pub(crate) fn text(&self, of: &str, texts: &[&str]) {
        let data = texts.iter().map(|text| RData::TXT(TXT::new(vec![(*text).to_owned()])));
        self.set(of, RecordType::TXT, data.collect());
    }

    pub(crate) fn address(&self, of: &str, address: &str) {
        self.set(of, RecordType::A, vec![RData::A(A(address.parse().unwrap()))]);
    }

    pub(crate) fn name_servers(&self, of: &str, servers: &[&str]) {
        self.set(of, RecordType::NS, servers.iter().map(|server| RData::NS(NS(name(server)))).collect());
    }

    pub(crate) fn delegate(&self, zone: &str, servers: &[&str]) {
        let servers = servers.iter().map(|server| (*server).to_owned()).collect();
        self.zones.lock().unwrap().delegated.insert(zone.to_owned(), servers);
    }

    #[allow(dead_code, reason = "not every test binary does")]
    pub(crate) fn break_down(&self, names: &[&str]) {
        self.zones.lock().unwrap().broken = names.iter().map(|name| (*name).to_owned()).collect();
    }
}

fn answer(question: &Message, zones: &Zones) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    let Some(query) = question.queries.first() else { return answer };
    answer.add_query(query.clone());
    let asked = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let below = |zone: &String| asked == *zone || asked.ends_with(&format!(".{zone}"));
    if zones.broken.contains(&asked) {
        answer.metadata.response_code = ResponseCode::ServFail;
        return answer;
    }
    if let Some((zone, servers)) = zones.delegated.iter().find(|(zone, _)| below(zone)) {
        if question.metadata.recursion_desired {
            answer.metadata.response_code = ResponseCode::ServFail;
        } else {
            let referral =
                servers.iter().map(|server| Record::from_rdata(name(zone), 60, RData::NS(NS(name(server)))));
            answer.add_authorities(referral.collect::<Vec<_>>());
        }
        return answer;
    }
    match zones.records.get(&(asked.clone(), query.query_type())) {
        Some(data) => {
            let records = data.iter().map(|data| Record::from_rdata(query.name().clone(), 60, data.clone()));
            answer.add_answers(records.collect::<Vec<_>>());
        }
        None if zones
            .records
            .keys()
            .any(|(name, _)| *name == asked || name.ends_with(&format!(".{asked}"))) => {}
        None => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    answer
}
