//! What clients written for the API rely on, asked of the whole platform: codes, bodies and words of the REST API, what
//! they lead to at the edge, in DNS and on the nodes, and what scripts get from `hostctl`.

mod hostctl;
mod infrastructure;
mod names;
mod sites;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Platform, eventually};

const LIMIT: Duration = Duration::from_secs(15);

/// A caller with a key of its own.
struct Client<'a> {
    platform: &'a Platform,
    key: String,
    http: reqwest::Client,
}

impl<'a> Client<'a> {
    fn admin(platform: &'a Platform) -> Self {
        Self::new(platform, platform.admin_key())
    }

    fn new(platform: &'a Platform, key: String) -> Self {
        Self { platform, key, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    /// A new key with these scopes and brands.
    async fn with_key(&self, scopes: &[&str], brands: &[&str]) -> Client<'a> {
        let body = json!({"name": "a client", "scopes": scopes, "brands": brands});
        let made = self.ok(201, "POST", "/api-keys", body).await;
        Client::new(self.platform, made["key"].as_str().unwrap().to_owned())
    }

    /// Code and body; the body of an empty answer is null. Whatever fails says so in `error`.
    async fn send(&self, method: &str, path: &str, body: Option<String>) -> (u16, Value) {
        let url = format!("{}/api/v1{path}", self.platform.summary["api"].as_str().unwrap());
        let mut request = self
            .http
            .request(method.parse().unwrap(), url)
            .header("authorization", format!("Bearer {}", self.key))
            .header("content-type", "application/json")
            .timeout(Duration::from_secs(60));
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = request.send().await.unwrap();
        let code = answer.status().as_u16();
        let bytes = answer.bytes().await.unwrap();
        let body: Value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("{method} {path}: no JSON: {bytes:?}"))
        };
        if code >= 400 {
            let text = body["error"].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{method} {path}: {code} without an error: {body}");
        }
        (code, body)
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send(method, path, (!body.is_null()).then(|| body.to_string())).await
    }

    /// The body of an answer with exactly this code.
    async fn ok(&self, wanted: u16, method: &str, path: &str, body: Value) -> Value {
        let (code, answer) = self.call(method, path, body.clone()).await;
        assert_eq!(code, wanted, "{method} {path} {body}: {answer}");
        answer
    }

    async fn get(&self, path: &str) -> Value {
        self.ok(200, "GET", path, Value::Null).await
    }

    /// The text of an error with exactly this code.
    async fn refused(&self, wanted: u16, method: &str, path: &str, body: Value) -> String {
        self.ok(wanted, method, path, body).await["error"].as_str().unwrap().to_owned()
    }

    async fn items(&self, path: &str) -> Vec<Value> {
        let body = self.get(path).await;
        assert!(body["has_more"].is_boolean(), "{path}: {body}");
        body["items"].as_array().unwrap_or_else(|| panic!("{path}: {body}")).clone()
    }

    /// Polls as clients do, until the resource has this status.
    async fn until(&self, path: &str, status: &str) -> Value {
        eventually(&format!("{path} is {status}"), LIMIT, async || {
            let body = self.get(path).await;
            (body["status"] == status).then_some(body)
        })
        .await
    }

    /// Polls until there is no such resource any more.
    async fn until_gone(&self, path: &str) {
        eventually(&format!("{path} is gone"), LIMIT, async || {
            (self.call("GET", path, Value::Null).await.0 == 404).then_some(())
        })
        .await;
    }

    /// What follows a 202: the workflow of the creation.
    async fn created(&self, kind: &str, body: &Value) {
        let path = format!("/workflows/create-{kind}-{}/await", id(body));
        assert_eq!(self.get(&path).await, json!({"status": "completed"}), "{path}");
    }

    /// Region, cluster and web shard that `up` made.
    async fn place(&self) -> (String, String, String) {
        let region = id(&self.items("/regions").await[0]);
        let cluster = id(&self.items(&format!("/regions/{region}/clusters")).await[0]);
        let shards = self.items(&format!("/clusters/{cluster}/shards")).await;
        let shard = id(shards.iter().find(|shard| shard["role"] == "web").unwrap());
        (region, cluster, shard)
    }

    /// A brand with a zone of its own, for names under `base`.
    async fn brand(&self, name: &str, base: &str) -> Value {
        let body = json!({
            "id": name,
            "name": name,
            "base_hostname": base,
            "primary_ns": format!("ns1.{base}"),
            "secondary_ns": format!("ns2.{base}"),
            "hostmaster_email": format!("host.master@{base}"),
        });
        self.ok(201, "POST", "/brands", body).await
    }

    /// The body of a tenant of `brand` where `up` put its nodes.
    async fn tenant_body(&self, brand: &str, customer: &str) -> Value {
        let (region, cluster, shard) = self.place().await;
        json!({
            "brand_id": brand,
            "customer_id": customer,
            "region_id": region,
            "cluster_id": cluster,
            "shard_id": shard,
        })
    }
}

fn id(body: &Value) -> String {
    body["id"].as_str().unwrap_or_else(|| panic!("no id in {body}")).to_owned()
}

/// `body` has these fields with these values, and maybe more.
#[track_caller]
fn has(body: &Value, wanted: Value) {
    for (field, value) in wanted.as_object().unwrap() {
        assert_eq!(&body[field], value, "{field} in {body}");
    }
}

/// What a tenant has on the node.
fn folder_of(platform: &Platform, tenant: &str) -> PathBuf {
    Path::new(platform.summary["storage"].as_str().unwrap()).join(tenant)
}

/// Puts a file into a site, as its owner does.
fn write(platform: &Platform, tenant: &str, webroot: &str, file: &str, text: &str) {
    let file = folder_of(platform, tenant).join("webroots").join(webroot).join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// What a resolver learns.
struct Answer {
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
}

impl Answer {
    /// The data of the answer, as a zone file has it, sorted.
    fn data(&self) -> Vec<String> {
        let mut data: Vec<String> = self.answers.iter().map(|record| record.data.to_string()).collect();
        data.sort();
        data
    }

    fn soa_serial(&self) -> u32 {
        let serial = |record: &Record| match &record.data {
            RData::SOA(soa) => Some(soa.serial),
            _ => None,
        };
        self.answers.iter().find_map(serial).unwrap()
    }
}

/// Asks over UDP, and over TCP when the answer does not fit.
async fn ask(platform: &Platform, name: &str, record_type: RecordType) -> Answer {
    let server: SocketAddr = platform.summary["dns"].as_str().unwrap().parse().unwrap();
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), record_type));
    let bytes = question.to_vec().unwrap();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    let mut buffer = vec![0; 4096];
    let length = loop {
        socket.send(&bytes).await.unwrap();
        let received = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut buffer)).await;
        if let Ok(length) = received {
            break length.unwrap();
        }
    };
    let mut message = Message::from_vec(&buffer[..length]).unwrap();
    if message.metadata.truncation {
        let mut stream = tokio::net::TcpStream::connect(server).await.unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut whole = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut whole).await.unwrap();
        message = Message::from_vec(&whole).unwrap();
    }
    assert_eq!(message.metadata.id, question.metadata.id);
    Answer {
        code: message.metadata.response_code,
        answers: message.answers,
        authorities: message.authorities,
    }
}

/// Asks until the data are these.
async fn until_dns(platform: &Platform, name: &str, record_type: RecordType, wanted: &[&str]) {
    let mut last = Vec::new();
    for _ in 0..300 {
        last = ask(platform, name, record_type).await.data();
        if last == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} {record_type}: {last:?}, not {wanted:?}");
}
