//! Environment variables of sites, and the vault of their tenants.

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::TestApi;

const CANARY: &str = "canary-51c0-of-a-variable";

fn items(body: &Value) -> Value {
    body["items"].clone()
}

#[tokio::test]
async fn variables_are_set_kept_and_removed_and_secrets_never_shown() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let path = format!("/webroots/{}/env-vars", ids.webroot);
    assert_eq!(test.get(&path).await.ok(200), json!({"items": []}));
    let vars = json!({"vars": [{"name": "DEBUG", "value": "1"}, {"name": "DB_PASSWORD", "value": CANARY, "secret": true}]});
    let made = test.put(&path, vars.clone()).await;
    let shown = json!([
        {"name": "DB_PASSWORD", "value": "***", "is_secret": true},
        {"name": "DEBUG", "value": "1", "is_secret": false},
    ]);
    assert_eq!((made.status, items(&made.body)), (202, shown.clone()));
    assert_eq!(items(&test.get(&path).await.ok(200)), shown);
    let generation = test.get(&format!("/webroots/{}", ids.webroot)).await.body["generation"].clone();

    // What was read and is sent back changes nothing; the secret stays.
    let same = json!({"vars": [{"name": "DB_PASSWORD", "value": "***", "secret": true}, {"name": "DEBUG", "value": "1"}]});
    assert_eq!(test.put(&path, same).await.status, 202);
    assert_eq!(test.get(&format!("/webroots/{}", ids.webroot)).await.body["generation"], generation);
    // A change of the site leaves them alone.
    test.put(&format!("/webroots/{}", ids.webroot), json!({"public_folder": "htdocs"})).await.ok(202);
    assert_eq!(items(&test.get(&path).await.ok(200)), shown);

    assert_eq!(test.delete(&format!("{path}/DEBUG")).await.status, 202);
    assert_eq!(test.delete(&format!("{path}/DEBUG")).await.status, 404);
    assert_eq!(items(&test.get(&path).await.ok(200)).as_array().unwrap().len(), 1);
    for (vars, field) in [
        (
            json!([{"name": "A", "value": CANARY, "secret": true}, {"name": "A", "value": "x"}]),
            "vars[1].name",
        ),
        (json!([{"name": "A B", "value": CANARY, "secret": true}]), "vars[0].name"),
        (json!([{"name": "NEW", "secret": true}]), "vars[0].value"),
        (json!([{"name": "V", "value": "vault:v1:nonsense"}]), "vars"),
    ] {
        let refused = test.put(&path, json!({"vars": vars})).await;
        assert!(refused.status == 400 && refused.error().contains(field), "{refused:?}");
        assert!(!refused.error().contains(CANARY));
    }
    // With the site itself, in one request.
    let site = json!({"runtime": "static", "runtime_version": "1", "env_vars": [{"name": "A", "value": CANARY, "secret": true}]});
    let made = test.post(&format!("/tenants/{}/webroots", ids.tenant), site).await;
    assert_eq!(made.status, 202, "{made:?}");
    let listed = test.get(&format!("/webroots/{}/env-vars", made.id())).await.ok(200);
    assert_eq!(items(&listed), json!([{"name": "A", "value": "***", "is_secret": true}]));

    for path in ["/audit-logs?limit=200", &format!("/webroots/{}", made.id()), &path] {
        let answer = test.get(path).await.body.to_string();
        assert!(!answer.contains(CANARY) && !answer.contains("$secret"), "GET {path}: {answer}");
    }
    let store = format!(
        "{:?}",
        test.store.read().await.unwrap().resources(&[ids.webroot.clone(), made.id()]).await.unwrap()
    );
    assert!(store.contains("$secret") && !store.contains(CANARY), "{store}");
}

#[tokio::test]
async fn a_vault_opens_its_tenants_own_tokens() {
    let test = TestApi::with_fleet().await;
    let ids = test.brand("first").await;
    let others = test.brand("second").await;
    let seal = async |webroot: &str, text: &str| {
        let path = format!("/webroots/{webroot}/vault/encrypt");
        test.post(&path, json!({"plaintext": text})).await
    };
    let token = seal(&ids.webroot, CANARY).await.ok(200)["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("vault:v1:"));
    let head = test.store.read().await.unwrap().head();
    assert_ne!(seal(&ids.webroot, CANARY).await.ok(200)["token"], token.as_str());
    let open = async |webroot: &str, token: &str| {
        test.post(&format!("/webroots/{webroot}/vault/decrypt"), json!({"token": token})).await
    };
    assert_eq!(open(&ids.webroot, &token).await.ok(200), json!({"plaintext": CANARY}));
    assert_eq!(test.store.read().await.unwrap().head(), head, "nothing is kept of it");
    let (begin, rest) = token.split_at(40);
    let bent = format!("{begin}{}{}", if rest.starts_with('B') { 'C' } else { 'B' }, &rest[1..]);
    for (webroot, token) in [
        (&others.webroot, token.as_str()),
        (&ids.webroot, &bent),
        (&ids.webroot, "vault:v1:"),
        (&ids.webroot, "x"),
    ] {
        let refused = open(webroot, token).await;
        assert_eq!(
            (refused.status, refused.error()),
            (400, "validation error: token: invalid vault token: decryption failed")
        );
    }
    assert_eq!(seal(&ids.webroot, &"x".repeat(32 * 1024)).await.status, 200);
    // A token stands for its text in a variable of the tenant, and of no other.
    let set = async |webroot: &str| {
        let vars = json!({"vars": [{"name": "KEY", "value": token}]});
        test.call(Method::PUT, &format!("/webroots/{webroot}/env-vars"), Some(&test.admin), Some(vars)).await
    };
    assert_eq!(set(&ids.webroot).await.status, 202);
    assert_eq!(set(&others.webroot).await.status, 400);
    let rows = test.get("/audit-logs?limit=200").await.body.to_string();
    assert!(!rows.contains(CANARY) && rows.contains("/vault/decrypt"), "{rows}");
}
