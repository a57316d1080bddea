//! The authorization matrix of what is told as it happens: every kind against every right to read, over server-sent events, gRPC and webhooks.

use axum::http::Method;
use hosting_proto::intent_api::WatchRequest;
use hosting_resource::{Kind, Tier};
use serde_json::{Value, json};
use tonic::Code;

use crate::grpc::{by, client};
use crate::harness::TestApi;

/// What is answered to who wants to hear of a kind and may read another one.
fn wanted(kind: Kind, read: Kind) -> Result<(), String> {
    if kind.info().scope != read.info().scope {
        Err(format!("insufficient scope: requires {}:read", kind.info().scope))
    } else if kind.info().tier == Tier::Admin {
        Err("platform admin access required".to_owned())
    } else {
        Ok(())
    }
}

/// The scopes that kinds are read by, each once.
fn readable() -> Vec<Kind> {
    let mut seen = std::collections::BTreeSet::new();
    Kind::ALL.iter().copied().filter(|kind| seen.insert(kind.info().scope)).collect()
}

#[tokio::test]
async fn every_kind_is_heard_of_by_who_may_read_it_and_nobody_else() {
    let test = TestApi::with_fleet().await;
    test.brand("acme").await;
    let mut intents = client(&test);
    let (mut heard, mut refused) = (0, 0);
    for read in readable() {
        let scope = format!("{}:read", read.info().scope);
        let (_, key) = test.key(&["events:read", "webhooks:write", &scope], &["acme"]).await;
        let (_, elsewhere) = test.key(&[&scope], &["acme"]).await;
        for kind in Kind::ALL.iter().copied() {
            let path = format!("/events?kind={kind}");
            let what = format!("{kind} with {scope}");
            let stream = test.call(Method::GET, &path, Some(&key), None).await;
            let watch = WatchRequest { kinds: vec![kind.name().to_owned()], ..WatchRequest::default() };
            let grpc = intents.watch(by(&key, watch.clone())).await;
            let hook = json!({"name": "h", "brand_id": "acme", "url": "https://crm.example/hook", "kinds": [kind.name()]});
            let hook = test.call(Method::POST, "/webhooks", Some(&key), Some(hook)).await;
            match wanted(kind, read) {
                Ok(()) => {
                    assert_eq!(stream.status, 200, "{what}: {stream:?}");
                    assert!(grpc.is_ok(), "{what}: {grpc:?}");
                    assert_eq!(hook.status, 201, "{what}: {hook:?}");
                    heard += 1;
                }
                Err(why) => {
                    assert_eq!((stream.status, stream.error()), (403, why.as_str()), "{what}");
                    let status = grpc.unwrap_err();
                    assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status:?}");
                    let is_named = kind.info().tier == Tier::Admin && hook.status == 400;
                    assert!(
                        is_named || (hook.status, hook.error()) == (403, why.as_str()),
                        "{what}: {hook:?}"
                    );
                    refused += 1;
                }
            }
            // To hear of things at all is a right of its own.
            let mute = test.call(Method::GET, &path, Some(&elsewhere), None).await;
            assert_eq!(
                (mute.status, mute.error()),
                (403, "insufficient scope: requires events:read"),
                "{what}"
            );
            let mute = intents.watch(by(&elsewhere, watch)).await.unwrap_err();
            assert_eq!(mute.code(), Code::PermissionDenied, "{what}: {mute:?}");
        }
    }
    assert!(heard >= 9 && refused > 100, "{heard} {refused}");
}

/// Another brand, or another brand's tenant, is as one that there is not: nothing is heard, or it is refused alike.
#[tokio::test]
async fn whose_it_is_decides_in_every_stream() {
    let test = TestApi::with_fleet().await;
    let ours = test.brand("ours").await;
    test.brand("theirs").await;
    let (_, key) = test.key(&["*:*"], &["theirs"]).await;
    let mut intents = client(&test);
    for (field, foreign, missing) in
        [("brand_id", "ours", "no-such-brand"), ("tenant_id", ours.tenant.as_str(), "t_0000000000")]
    {
        let mut answers = Vec::new();
        for id in [foreign, missing] {
            let stream = test.call(Method::GET, &format!("/events?{field}={id}"), Some(&key), None).await;
            let mut watch = WatchRequest::default();
            match field {
                "brand_id" => watch.brand_id = id.to_owned(),
                _ => watch.tenant_id = id.to_owned(),
            }
            let grpc = intents.watch(by(&key, watch)).await.map(|_| ()).map_err(|status| status.code());
            let mut hook = json!({"name": "h", "brand_id": "theirs", "url": "https://crm.example/hook", "kinds": ["zone"]});
            hook[field] = json!(id);
            let hook = test.call(Method::POST, "/webhooks", Some(&key), Some(hook)).await;
            let error = hook.body.get("error").and_then(Value::as_str).unwrap_or_default().replace(id, "ID");
            answers.push((stream.status, grpc, hook.status, error));
        }
        assert_eq!(answers[0], answers[1], "{field}");
    }
}
