//! HTTPS records, what edges say of HTTP/3, and what a client finds there.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::svcb::{SvcParamKey, SvcParamValue};
use hickory_proto::rr::{RData, RecordType};
use quinn::crypto::rustls::QuicClientConfig;
use serde_json::json;

use crate::certificates::{fqdn_id, own_certificate};
use crate::harness::{Platform, eventually, machine_lacks_daemons};

const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "bakery.test";

/// One HTTPS record, as a client takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Offer {
    priority: u16,
    alpn: Vec<String>,
    port: Option<u16>,
}

fn offer(priority: u16, alpn: &[&str], port: Option<u16>) -> Offer {
    Offer { priority, alpn: alpn.iter().map(ToString::to_string).collect(), port }
}

/// What the HTTPS records of the name offer; `None` when nobody answers.
async fn offers(platform: &Platform) -> Option<Vec<Offer>> {
    let (code, records) = platform.records(NAME, RecordType::HTTPS).await?;
    assert_eq!(code, ResponseCode::NoError, "the name is there in any case");
    let mut offers = Vec::new();
    for record in records {
        let RData::HTTPS(https) = record.data else { panic!("{record}") };
        assert!(https.0.target_name.is_root(), "the name itself: {}", https.0);
        let mut offer = offer(https.0.svc_priority, &[], None);
        for (key, value) in &https.0.svc_params {
            match (key, value) {
                (SvcParamKey::Alpn, SvcParamValue::Alpn(alpn)) => offer.alpn.clone_from(&alpn.0),
                (SvcParamKey::Port, SvcParamValue::Port(port)) => offer.port = Some(*port),
                (SvcParamKey::NoDefaultAlpn, _) => {}
                other => panic!("{other:?}"),
            }
        }
        offers.push(offer);
    }
    offers.sort();
    Some(offers)
}

/// What the edge says in an answer over TLS.
async fn alt_svc(platform: &Platform, pem: &str) -> Option<String> {
    let https = platform.address("edge_https");
    let client = reqwest::Client::builder()
        .no_proxy()
        .resolve(NAME, https)
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes()).unwrap())
        .build()
        .unwrap();
    let answer = client.get(format!("https://{NAME}:{}/", https.port())).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.headers().get("alt-svc").map(|value| value.to_str().unwrap().to_owned())
}

/// Status and body of GET / over HTTP/3.
async fn asks_http3(address: SocketAddr, pem: &str) -> (u16, String) {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    for root in rustls_pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let mut tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let connecting = endpoint.connect_with(config, address, NAME).unwrap();
    let connection = tokio::time::timeout(Duration::from_secs(10), connecting).await.unwrap().unwrap();
    let (mut driver, mut requests) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
    let driver = tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
    let request = http::Request::get(format!("https://{NAME}/")).body(()).unwrap();
    let mut stream = requests.send_request(request).await.unwrap();
    stream.finish().await.unwrap();
    let status = stream.recv_response().await.unwrap().status().as_u16();
    let mut body = Vec::new();
    while let Some(mut data) = stream.recv_data().await.unwrap() {
        use bytes::Buf;
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    driver.abort();
    (status, String::from_utf8(body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_http3_by_the_record_and_by_the_edge_until_the_cluster_says_that_there_is_none() {
    if machine_lacks_daemons(
        "a_client_finds_http3_by_the_record_and_by_the_edge_until_the_cluster_says_that_there_is_none",
    ) {
        return;
    }
    let platform = Platform::start(&[]).await;
    platform.watches_for(1).await;
    let offered = async |expected: &[Offer]| {
        eventually(&format!("the records offer {expected:?}"), LIMIT, async || {
            (offers(&platform).await? == expected).then_some(())
        })
        .await;
    };
    assert!(platform.is_live(NAME).await);
    assert_eq!(
        offers(&platform).await,
        Some(Vec::new()),
        "nobody is led to a certificate that he cannot verify"
    );

    let body = own_certificate(&[NAME]);
    let pem = body["cert_pem"].as_str().unwrap().to_owned();
    let fqdn = fqdn_id(&platform, "acme-1001", NAME).await;
    let made = platform.post(&format!("/fqdns/{fqdn}/certificates?wait=ready"), body).await;
    offered(&[offer(1, &["h3", "h2"], None)]).await;

    // The edge listens at a port of its own choice here, and the cluster is told which.
    let own = alt_svc(&platform, &pem).await.unwrap();
    let port: u16 = own.strip_prefix("h3=\":").unwrap().split('"').next().unwrap().parse().unwrap();
    let cluster = platform.get("/nodes/edge-1").await["cluster_id"].as_str().unwrap().to_owned();
    let cluster = format!("/clusters/{cluster}");
    let shown = platform.get(&cluster).await;
    assert_eq!((&shown["http3"], &shown["http3_port"]), (&json!(true), &json!(0)));
    let (code, answer) = platform.call("PUT", &cluster, Some(json!({"http3_port": port}))).await;
    assert_eq!((code, &answer["http3_port"]), (200, &json!(port)), "{answer}");
    offered(&[offer(1, &["h3"], Some(port)), offer(2, &["h2"], None)]).await;
    assert_eq!(alt_svc(&platform, &pem).await, Some(own), "both say the same port");

    // A client goes where the record leads: to the name's own addresses.
    let (_, addresses) = platform.dig(NAME).await.unwrap();
    let all = offers(&platform).await.unwrap();
    let found = all.iter().find(|offer| offer.alpn.contains(&"h3".to_owned())).unwrap();
    let address = SocketAddr::from((addresses[0], found.port.unwrap_or(443)));
    let (status, page) = asks_http3(address, &pem).await;
    assert_eq!((status, Some(page)), (200, platform.web(NAME).await.map(|(_, page)| page)));

    let name = shown["name"].as_str().unwrap();
    let set = platform.hostctl().args(["set", "cluster", name, "--set", "http3=false"]).output().unwrap();
    assert!(set.status.success(), "{set:?}");
    assert_eq!(platform.get(&cluster).await["http3"], false);
    offered(&[offer(1, &["h2"], None)]).await;
    eventually("the edge says nothing", LIMIT, async || {
        alt_svc(&platform, &pem).await.is_none().then_some(())
    })
    .await;

    let id = made["id"].as_str().unwrap();
    let (code, gone) = platform.call("DELETE", &format!("/certificates/{id}?wait=ready"), None).await;
    assert_eq!(code, 200, "{gone}");
    assert_eq!(offers(&platform).await, Some(Vec::new()), "it went with the certificate");
    assert!(platform.is_live(NAME).await);
}
