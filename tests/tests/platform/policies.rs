//! What is done with requests before a site sees them, from the API to what a visitor gets.

use serde_json::json;

use crate::certificates::{fqdn_id, own_certificate};
use crate::harness::{Platform, machine_lacks_daemons};

#[tokio::test]
async fn a_policy_is_served_when_the_api_says_so_and_explained() {
    if machine_lacks_daemons("a_policy_is_served_when_the_api_says_so_and_explained") {
        return;
    }
    let platform = Platform::start(&["--no-restart"]).await;
    let (tenant, _) = platform.site("acme-1001").await;
    let id = fqdn_id(&platform, "acme-1001", "bakery.test").await;
    let fqdn = format!("/fqdns/{id}?wait=served");
    let set = async |path: &str, http: serde_json::Value| {
        let (code, answer) = platform.call("PUT", path, Some(json!({"http": http}))).await;
        assert!(code == 200 || code == 202, "{code} {answer}");
        answer
    };
    let status = async |path: &str| platform.page("bakery.test", path).await.map(|(code, _)| code);
    assert_eq!(status("").await, Some(200));

    let shown =
        set(&fqdn, json!({"redirects": [{"from": "/old/*", "to": "/*"}], "https_redirect": true})).await;
    assert_eq!(shown["http"]["redirects"][0]["code"], 301, "{shown}");
    assert_eq!((status("old/page").await, status("").await), (Some(301), Some(200)));
    let pem = own_certificate(&["bakery.test"]);
    let certificates = format!("/fqdns/{id}/certificates?wait=served");
    let (code, answer) = platform.call("POST", &certificates, Some(pem)).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(status("").await, Some(301), "there is a certificate to lead to");

    // What the tenant says holds where the name says nothing.
    set(&fqdn, json!({"https_redirect": false})).await;
    let tenants = format!("/tenants/{tenant}?wait=served");
    set(&tenants, json!({"https_redirect": true, "maintenance": {"enabled": true}})).await;
    let (code, page) = platform.page("bakery.test", "").await.unwrap();
    assert!(code == 503 && page.contains("being worked on"), "{code} {page}");
    let explained = platform.hostctl().args(["explain", "bakery.test", "--json"]).output().unwrap();
    let explained: serde_json::Value = serde_json::from_slice(&explained.stdout).unwrap();
    let links = explained["links"].as_array().unwrap();
    let policy = links.iter().find(|link| link["name"] == "policy").unwrap_or_else(|| panic!("{explained}"));
    assert_eq!(policy["state"], "warning");
    assert!(policy["detail"].as_str().unwrap().starts_with("at rest"), "{policy}");
    set(&tenants, json!(null)).await;
    assert_eq!(status("").await, Some(200));

    // Nothing of what is refused is kept.
    let wrong = json!({"http": {"access": {"deny": ["everybody"]}, "redirects": [{"from": "a", "to": "b"}]}});
    let (code, refused) = platform.call("PUT", &fqdn, Some(wrong)).await;
    let said = refused.to_string();
    assert!(
        code == 400 && said.contains("http.access.deny[0]") && said.contains("http.redirects[0].from"),
        "{said}"
    );
    assert_eq!(platform.get(&format!("/fqdns/{id}")).await["http"], json!({"https_redirect": false}));
}
