//! Looks at names with a real name server and a real web server on loopback.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse;
use hosting_jobs::kinds::ownership::{Looker, OwnershipRules};
use hosting_planner::Claim;
use hosting_resource::ownership::{Challenge, Ownership, Proof};

use crate::loopback_dns::LoopbackDns;

const NAME: &str = "www.shop.example";

fn claim(name: &str, is_zone: bool) -> Claim {
    Claim {
        name: name.into(),
        is_zone,
        challenge: Challenge::of("id-1", name),
        ownership: Ownership::asked(0),
        addresses: vec!["192.0.2.1".into()],
        name_servers: vec!["ns1.acme.example".into(), "ns2.acme.example".into()],
        may_be_delegated: true,
    }
}

async fn looker(http_port: u16) -> (LoopbackDns, Looker) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dns = LoopbackDns::start().await;
    let rules = OwnershipRules {
        resolvers: vec![dns.address],
        networks: vec!["127.0.0.0/8".parse().unwrap()],
        dns_port: dns.address.port(),
        http_port,
    };
    let looker = Looker::new(&rules).unwrap();
    (dns, looker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_txt_record_shows_a_name_and_only_with_its_own_token() {
    let (dns, looker) = looker(9).await;
    let claim = claim(NAME, false);
    let record = "_hosting-challenge.www.shop.example";
    let look = looker.look(&claim).await;
    assert_eq!((look.found, look.is_sure), (None, true), "{look:?}");
    assert!(look.message.contains("there is no TXT record _hosting-challenge.www.shop.example"), "{look:?}");
    dns.text(record, &["v=spf1 -all", &Challenge::of("id-2", NAME).token]);
    let look = looker.look(&claim).await;
    assert!(look.found.is_none() && look.message.contains("says something else"), "{look:?}");
    // Seen at the next look: nothing is kept from the one before.
    dns.text(record, &["v=spf1 -all", &claim.challenge.token]);
    assert_eq!(looker.look(&claim).await.found, Some(Proof::Txt));
    dns.break_down(&[record]);
    let look = looker.look(&claim).await;
    assert_eq!((look.found, look.is_sure), (None, false), "a server that fails says nothing: {look:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_shows_a_name_and_an_echo_or_a_private_address_does_not() {
    let body = Arc::new(Mutex::new(String::new()));
    let shown = Arc::clone(&body);
    let answer = move |uri: Uri| {
        let shown = shown.lock().unwrap().clone();
        async move {
            match shown.as_str() {
                "echo" => (StatusCode::OK, format!("not found: {uri}")).into_response(),
                "redirect" => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
                "endless" => "x".repeat(1 << 20).into_response(),
                other => other.to_owned().into_response(),
            }
        }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    let (dns, looker) = looker(port).await;
    let claim = claim(NAME, false);
    dns.address(NAME, "127.0.0.1");
    for (answered, said) in [
        ("echo", "says something else"),
        ("redirect", "302 Found instead of the file"),
        ("endless", "says something else"),
        ("", "says something else"),
    ] {
        answered.clone_into(&mut body.lock().unwrap());
        let look = looker.look(&claim).await;
        assert!(look.found.is_none() && look.message.contains(said), "{answered}: {look:?}");
    }
    *body.lock().unwrap() = format!("{}\n", claim.challenge.token);
    assert_eq!(looker.look(&claim).await.found, Some(Proof::Http));
    // Networks that are not the public Internet are not connected to, whatever a name says.
    let closed = Looker::new(&OwnershipRules {
        resolvers: vec![dns.address],
        http_port: port,
        ..OwnershipRules::default()
    });
    let look = closed.unwrap().look(&claim).await;
    assert!(look.found.is_none() && look.message.contains("not the public Internet"), "{look:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_here_keeps_what_was_shown_and_shows_nothing_by_itself() {
    let (dns, looker) = looker(9).await;
    let mut claim = claim(NAME, false);
    dns.address(NAME, "192.0.2.1");
    assert_eq!(looker.look(&claim).await.found, None);
    claim.ownership.proof = Some(Proof::Http);
    assert_eq!(looker.look(&claim).await.found, Some(Proof::Http));
    dns.address(NAME, "192.0.2.2");
    assert_eq!(looker.look(&claim).await.found, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zone_above_is_asked_for_a_delegation_to_our_name_servers() {
    let (dns, looker) = looker(9).await;
    let mut claim = claim("shop.example", true);
    dns.name_servers("example", &["a.nic.example"]);
    dns.address("a.nic.example", "127.0.0.1");
    let look = looker.look(&claim).await;
    assert_eq!((look.found, look.is_sure), (None, true), "{look:?}");
    assert!(look.message.ends_with("the zone is not delegated"), "{look:?}");
    dns.delegate("shop.example", &["ns1.elsewhere.example"]);
    let look = looker.look(&claim).await;
    assert!(look.message.ends_with("the zone is delegated to ns1.elsewhere.example"), "{look:?}");
    // The resolver fails for what lies in the zone, as our servers do not answer for it yet: the zone above is asked all the same.
    dns.delegate("shop.example", &["ns2.elsewhere.example", "NS2.acme.example"]);
    let look = looker.look(&claim).await;
    assert_eq!(
        (look.found, look.message.as_str()),
        (Some(Proof::Delegation), "the zone is delegated to ns2.acme.example")
    );
    claim.may_be_delegated = false;
    let look = looker.look(&claim).await;
    assert!(look.found.is_none() && look.message.contains("another tenant had the zone before"), "{look:?}");
    claim.may_be_delegated = true;
    dns.break_down(&["example"]);
    let look = looker.look(&claim).await;
    assert_eq!((look.found, look.is_sure), (None, false), "{look:?}");
}
