//! A customer's certificate, from the upload to the handshake.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Platform, eventually, machine_lacks_daemons};

const LIMIT: Duration = Duration::from_secs(20);

/// A certificate that signs itself, as a body of POST.
pub(crate) fn own_certificate(names: &[&str]) -> Value {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    json!({"cert_pem": made.cert.pem(), "key_pem": made.signing_key.serialize_pem()})
}

/// The id of a tenant's host name.
pub(crate) async fn fqdn_id(platform: &Platform, customer: &str, name: &str) -> String {
    let (tenant, _) = platform.site(customer).await;
    let names = platform.items(&format!("/tenants/{tenant}/fqdns")).await;
    let found =
        names.iter().find(|one| one["fqdn"] == name).unwrap_or_else(|| panic!("no {name}: {names:?}"));
    found["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_certificate_is_shown_from_its_upload_to_its_deletion_and_without_the_controller() {
    if machine_lacks_daemons(
        "a_certificate_is_shown_from_its_upload_to_its_deletion_and_without_the_controller",
    ) {
        return;
    }
    let mut platform = Platform::start(&["--no-restart"]).await;
    let fqdn = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    let certificates = format!("/fqdns/{fqdn}/certificates");
    let body = own_certificate(&["bakery.test"]);
    let pem = body["cert_pem"].as_str().unwrap().to_owned();
    let is_shown = async |platform: &Platform| {
        platform.web_trusting("bakery.test", pem.as_bytes()).await.is_some_and(|(code, _)| code == 200)
    };
    assert!(!is_shown(&platform).await && platform.secure_web("bakery.test").await.is_some());

    let (code, made) = platform.call("POST", &format!("{certificates}?wait=ready"), Some(body.clone())).await;
    assert_eq!((code, &made["status"], &made["is_active"]), (200, &json!("active"), &json!(true)), "{made}");
    assert!(made["key"]["set_at"].is_string() && made.get("key_pem").is_none(), "{made}");
    assert!(is_shown(&platform).await, "as soon as the answer says so");
    assert_eq!(
        platform.secure_web("bakery.test").await,
        None,
        "the development authority did not sign this one"
    );
    assert_eq!(platform.items(&certificates).await.len(), 1);
    let (code, twice) = platform.call("POST", &certificates, Some(body)).await;
    assert_eq!(code, 409, "{twice}");
    let (code, other) = platform.call("POST", &certificates, Some(own_certificate(&["other.test"]))).await;
    assert_eq!(code, 400, "{other}");
    assert!(
        other["error"].as_str().unwrap().contains("is not for bakery.test, but for other.test"),
        "{other}"
    );

    // What opens the key is beside the ledger.
    platform.kill("controller").await;
    platform.kill("edge").await;
    platform.restart("edge").await;
    assert!(is_shown(&platform).await);
    platform.restart("controller").await;

    // Nobody serves with a key that was not given to it.
    platform.kill("edge").await;
    std::fs::remove_file(platform.data().join("edge/sealing.key")).unwrap();
    platform.restart("edge").await;
    eventually("everything is sealed anew to the new key pair", LIMIT, async || {
        is_shown(&platform).await.then_some(())
    })
    .await;
    let id = made["id"].as_str().unwrap();
    let (code, gone) = platform.call("DELETE", &format!("/certificates/{id}?wait=ready"), None).await;
    assert_eq!(code, 200, "{gone}");
    assert!(!is_shown(&platform).await && platform.secure_web("bakery.test").await.is_some());
    assert_eq!(platform.items(&certificates).await.len(), 0);
}
