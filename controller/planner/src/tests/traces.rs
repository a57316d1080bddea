//! The trace of a request, in everything that comes of it.

use hosting_intent::Cause;

use super::*;
use crate::{Change, Draft, retry, suspend};

const A: &str = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00000000000000a1-01";
const B: &str = "00-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-00000000000000b1-01";
const C: &str = "00-cccccccccccccccccccccccccccccccc-00000000000000c1-01";

impl Lab {
    fn by(&mut self, traceparent: &str) -> &mut Self {
        self.store.traceparent = traceparent.to_owned();
        self
    }

    /// The traces of all changes of a key since `since`, in order.
    fn traces(&self, since: u64, kind: IntentKind, name: &str) -> Vec<&str> {
        let key = Key::new(kind, name);
        let log = self.store.log.iter().filter(|row| row.revision > since && row.change.key == key);
        log.map(|row| row.traceparent.as_str()).collect()
    }

    fn trace(&self, id: &str) -> &str {
        self.get(id).unwrap().state.get("traceparent").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A tenant that has settled, in a store where nothing waits.
async fn lab() -> (Lab, Resource) {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.zone(&tenant, "shop.example").await.unwrap();
    lab.settle().await;
    (lab, tenant)
}

#[tokio::test]
async fn what_waited_for_a_gate_is_in_the_trace_of_its_own_request() {
    let (mut lab, tenant) = lab().await;
    let since = lab.store.head;
    let webroot = lab.by(A).webroot(&tenant).await;
    let fqdn = lab.by(B).fqdn(&tenant, "www.shop.example", Some(&webroot)).await.unwrap();
    assert_eq!((lab.trace(&webroot.id), lab.trace(&fqdn.id)), (A, B));
    assert!(lab.route("www.shop.example").is_none(), "it waits for the site");
    lab.settle().await;

    assert_eq!(lab.status(&fqdn.id), Some(Status::Active));
    assert_eq!(lab.traces(since, IntentKind::Webroot, &webroot.id), [A, A], "one for each node");
    // Opened by the webroot, asked for by the name's request.
    assert_eq!(lab.traces(since, IntentKind::Route, "www.shop.example"), [B]);
    assert_eq!(lab.traces(since, IntentKind::RrSet, "shop.example/www.shop.example/A"), [B]);
    // Nothing waits any more, so what happens from now on is no part of these requests.
    assert_eq!((lab.trace(&webroot.id), lab.trace(&fqdn.id)), ("", ""));
    assert!(!lab.get(&fqdn.id).unwrap().state.contains_key("traceparent"));

    let since = lab.store.head;
    lab.by(C).delete(&webroot.id).await.unwrap();
    assert_eq!((lab.trace(&webroot.id), lab.trace(&fqdn.id)), (C, C), "what goes along goes in its trace");
    lab.settle().await;
    assert_eq!(lab.get(&webroot.id), None);
    assert_eq!(lab.traces(since, IntentKind::Route, "www.shop.example"), [C]);
    let retire = format!("webroot/{}", webroot.id);
    assert_eq!(
        lab.traces(since, IntentKind::Retire, &retire),
        [C, C, C, C],
        "told to, and done, at each node"
    );
}

#[tokio::test]
async fn what_came_through_the_queue_is_in_the_trace_of_its_own_request() {
    let (mut lab, tenant) = lab().await;
    let webroot = lab.by(A).webroot(&tenant).await;
    let own = |n: usize| B.replace("b1", &format!("{n:04x}")[2..]);
    for n in 0..120 {
        lab.by(&own(n)).fqdn(&tenant, &format!("n{n}.shop.example"), Some(&webroot)).await.unwrap();
    }
    // So many that they do not fit one transaction wait in the queue; the mutation that plans them is of no request.
    lab.settle_with(&Everybody::default()).await;
    let mut site = lab.get(&webroot.id).unwrap().clone();
    site.state.insert("site_ready".into(), true.into());
    let walk = crate::kinds::fqdn::WEBROOT_FQDNS.of(&webroot.id, Cause::Planner);
    let change = Change { put: vec![site], replan: vec![walk], ..Change::default() };
    lab.store.apply(change).await.unwrap();
    let since = lab.store.commit();
    lab.by("").drain().await;
    for n in 0..120 {
        let name = format!("n{n}.shop.example");
        assert_eq!(lab.traces(since, IntentKind::Route, &name), [own(n)], "{name}");
    }
}

#[tokio::test]
async fn only_a_change_that_waits_is_noted() {
    let (mut lab, tenant) = lab().await;
    let webroot = lab.by(A).webroot(&tenant).await;
    lab.settle().await;
    let before = lab.get(&webroot.id).unwrap().clone();
    let rows = lab.store.log.len();

    // Nothing changes: not a byte.
    let body = Value::Object(before.view());
    let body = json!({
        "runtime": body["runtime"], "runtime_version": body["runtime_version"],
        "subscription_id": body["subscription_id"], "service_hostname_enabled": false,
    });
    lab.by(B).put(&webroot.id, body).await.unwrap();
    assert_eq!(lab.get(&webroot.id), Some(&before));

    // Nothing waits.
    lab.by(B);
    let suspended = suspend(&mut lab.store, &tenant.id, "unpaid").await;
    lab.end(suspended).unwrap();
    assert_eq!(lab.trace(&tenant.id), "");
    assert!(lab.store.log[rows..].iter().all(|row| row.traceparent == B));
    assert_eq!(lab.by(B).post(Kind::Region, None, json!({"name": "us"})).await.unwrap().state.len(), 0);

    // A request without a trace takes the one before away.
    let fqdn = lab.by(A).fqdn(&tenant, "www.shop.example", None).await.unwrap();
    assert_eq!(lab.trace(&fqdn.id), A);
    let view = lab.get(&fqdn.id).unwrap().view();
    assert!(!Value::Object(view).to_string().contains(&A[3..35]), "it is not shown");
    lab.by("").delete(&fqdn.id).await.unwrap();
    assert_eq!(lab.trace(&fqdn.id), "");
}

#[tokio::test]
async fn what_failed_keeps_its_trace_and_retry_gives_it_another() {
    let (mut lab, tenant) = lab().await;
    let webroot = lab.by(A).webroot(&tenant).await;
    let mut fleet = Everybody::of(&lab.store);
    for node in ["web1", "web2"] {
        let report = Report { phase: Phase::Failed, revision: u64::MAX, message: "why".into() };
        fleet.reports.insert((node.into(), Key::new(IntentKind::Webroot, webroot.id.as_str())), report);
    }
    lab.settle_with(&fleet).await;
    assert_eq!((lab.status(&webroot.id), lab.trace(&webroot.id)), (Some(Status::Failed), A));

    let since = lab.store.head;
    lab.by(B);
    let retried = retry(&mut lab.store, Kind::Webroot, &webroot.id).await;
    lab.end(retried).unwrap();
    assert_eq!(lab.trace(&webroot.id), B);
    assert_eq!(
        lab.traces(since, IntentKind::Webroot, &webroot.id),
        [B; 4],
        "withdrawn and wanted at each node"
    );
}
