//! Verdicts, as a table.

use super::*;
use crate::IntentRow;
use crate::fake::resource;
use crate::gates::{Condition, ExceptionKind, Gate, Inputs, Truth, differs, record};

const REVISION: u64 = 10;

fn row(audience: &str, kind: IntentKind, name: &str, value: &impl prost::Message) -> IntentRow {
    IntentRow {
        audience: at(audience),
        key: Key::new(kind, name),
        revision: REVISION,
        owner: "x".into(),
        value: value.encode_to_vec().into(),
        rollout: 0,
    }
}

/// With what the fleet reports of the rows.
fn evaluate(resource: &Resource, inputs: &Inputs, fleet: &Everybody, now: i64) -> Verdict {
    let reports = inputs.rows.iter().filter(|row| row.audience.reports()).filter_map(|row| {
        let node = row.audience.id();
        fleet.report(node, &row.key).map(|report| ((node.to_owned(), row.key.clone()), report))
    });
    let inputs = Inputs { reports: reports.collect(), ..inputs.clone() };
    crate::gates::evaluate(resource, &inputs, fleet, now)
}

fn webroot() -> (Resource, Inputs) {
    let webroot = resource(Kind::Webroot, "web_a", json!({"subscription_id": "s", "runtime": "static"}));
    let site = |node: &str| row(node, IntentKind::Webroot, "web_a", &m::Webroot::default());
    (webroot, Inputs { rows: vec![site("node/a"), site("node/b")], ..Inputs::default() })
}

fn fleet(audiences: &[(&str, &[&str])]) -> Everybody {
    let mut fleet = Everybody::default();
    for (audience, nodes) in audiences {
        fleet.audiences.insert(at(audience), nodes.iter().map(|node| (*node).into()).collect());
    }
    fleet
}

fn report(phase: Phase, revision: u64) -> Report {
    Report { phase, revision, message: "why".into() }
}

fn find<'a>(verdict: &'a Verdict, name: &str) -> &'a Condition {
    verdict.conditions.iter().find(|condition| condition.name == name).unwrap()
}

#[test]
fn a_site_needs_one_node_that_has_it_now() {
    let (webroot, inputs) = webroot();
    let key = Key::new(IntentKind::Webroot, "web_a");
    let nodes = fleet(&[("node/a", &["a"]), ("node/b", &["b"])]);
    // (a's report, b's report, a in service) -> (site, status, lagging)
    type Case = (Option<Report>, Option<Report>, bool, Truth, Status, &'static [&'static str]);
    let cases: Vec<Case> = vec![
        (None, None, true, Truth::Waiting, Status::Provisioning, &["a", "b"]),
        (Some(report(Phase::Ready, REVISION)), None, true, Truth::True, Status::Active, &["b"]),
        (
            Some(report(Phase::Ready, REVISION - 1)),
            None,
            true,
            Truth::Waiting,
            Status::Provisioning,
            &["a", "b"],
        ),
        (
            Some(report(Phase::Ready, REVISION)),
            None,
            false,
            Truth::Waiting,
            Status::Provisioning,
            &["a", "b"],
        ),
        (Some(report(Phase::Failed, REVISION)), None, true, Truth::Waiting, Status::Provisioning, &["b"]),
        (
            Some(report(Phase::Failed, REVISION)),
            Some(report(Phase::Failed, REVISION)),
            true,
            Truth::Failed,
            Status::Failed,
            &[],
        ),
        (
            Some(report(Phase::Failed, REVISION)),
            Some(report(Phase::Ready, REVISION)),
            true,
            Truth::True,
            Status::Active,
            &[],
        ),
        (None, Some(report(Phase::Failed, REVISION)), false, Truth::Failed, Status::Failed, &["a"]),
    ];
    for (n, (a, b, a_in_service, site, status, lagging)) in cases.into_iter().enumerate() {
        let mut fleet = nodes.clone();
        // Without a report of its own a node has none.
        for (node, given) in [("a", a), ("b", b)] {
            let given = given.unwrap_or_else(|| report(Phase::Working, 0));
            fleet.reports.insert((node.into(), key.clone()), given);
        }
        if !a_in_service {
            fleet.out.insert("a".into());
        }
        let verdict = evaluate(&webroot, &inputs, &fleet, 5);
        assert_eq!(find(&verdict, "site").status, site, "case {n}: {verdict:?}");
        let late: Vec<&str> = verdict.lagging.iter().map(String::as_str).collect();
        assert_eq!((verdict.status, late.as_slice()), (status, lagging), "case {n}");
        let opens = if site == Truth::True { vec![Gate::SiteReady] } else { vec![] };
        assert_eq!(verdict.open, opens, "case {n}");
    }
}

#[test]
fn a_site_that_no_node_takes_has_failed() {
    let (webroot, inputs) = webroot();
    let key = Key::new(IntentKind::Webroot, "web_a");
    let mut fleet = fleet(&[("node/a", &["a"]), ("node/b", &["b"])]);
    fleet.out.insert("b".into());
    let mut exception =
        Exception { kind: ExceptionKind::Rejected, revision: REVISION, reason: "runtime: unknown".into() };
    fleet.exceptions.insert(("a".into(), key.clone()), exception.clone());
    let verdict = evaluate(&webroot, &inputs, &fleet, 5);
    assert_eq!(verdict.status, Status::Failed);
    assert_eq!(verdict.message.as_deref(), Some("site: a: runtime: unknown"));
    exception.kind = ExceptionKind::Held;
    fleet.exceptions.insert(("a".into(), key.clone()), exception.clone());
    assert_eq!(find(&evaluate(&webroot, &inputs, &fleet, 5), "site").status, Truth::Waiting);
    // An exception of an older item says nothing about this one.
    exception.revision = REVISION - 1;
    fleet.exceptions.insert(("a".into(), key), exception);
    assert_eq!(evaluate(&webroot, &inputs, &fleet, 5).status, Status::Active);
}

#[test]
fn nobody_in_service_opens_nothing() {
    let (webroot, mut inputs) = webroot();
    let mut nobody = fleet(&[("node/a", &["a"]), ("node/b", &["b"])]);
    nobody.out.extend(["a".to_owned(), "b".to_owned()]);
    let verdict = evaluate(&webroot, &inputs, &nobody, 5);
    assert_eq!((verdict.open.len(), verdict.settled), (0, false));
    assert!(find(&verdict, "site").message.contains("no node of its shard is in service"));
    let verdict = evaluate(&webroot, &inputs, &fleet(&[]), 5);
    assert!(!verdict.settled);
    inputs.rows.clear();
    let verdict = evaluate(&webroot, &inputs, &nobody, 5);
    assert!(find(&verdict, "site").message.contains("no node"));
    // Nor does an edge that is away, nor the lack of any.
    let (fqdn, inputs) = fqdn();
    let mut nobody = fleet(&[("edge/c", &["e1"])]);
    nobody.out.insert("e1".into());
    for (fleet, says) in [(nobody, "no edge is in service"), (fleet(&[]), "there is no edge")] {
        let verdict = evaluate(&fqdn, &inputs, &fleet, 5);
        assert_eq!((verdict.open.len(), verdict.settled), (0, false));
        assert_eq!(
            (find(&verdict, "route").status, find(&verdict, "route").message.as_str()),
            (Truth::Waiting, says)
        );
    }
}

fn fqdn() -> (Resource, Inputs) {
    let mut fqdn = resource(Kind::Fqdn, "f", json!({"fqdn": "www.example.com", "webroot_id": "web_a"}));
    fqdn.state.insert(
        "auto_records".into(),
        json!([{"zone": "z", "name": "www.example.com", "type": "A", "id": "r"}]),
    );
    let route = m::Route { webroot_id: "web_a".into(), ..m::Route::default() };
    let rows = vec![row("edge/c", IntentKind::Route, "www.example.com", &route)];
    (fqdn, Inputs { rows, ..Inputs::default() })
}

#[test]
fn a_name_waits_for_every_edge_and_then_for_every_name_server() {
    let (mut fqdn, mut inputs) = fqdn();
    let mut fleet = fleet(&[("edge/c", &["e1", "e2"]), ("dns/default", &["d1"])]);
    fleet.stuck.insert("e2".into(), REVISION - 1);
    let verdict = evaluate(&fqdn, &inputs, &fleet, 5);
    assert_eq!(
        (find(&verdict, "site").status, find(&verdict, "route").status),
        (Truth::True, Truth::Waiting)
    );
    assert_eq!((verdict.lagging.as_slice(), verdict.open.len()), (["e2".to_owned()].as_slice(), 0));
    assert_eq!(find(&verdict, "route").message, "waits for e2");
    // Out of service it is not waited for, and still named.
    fleet.out.insert("e2".into());
    let verdict = evaluate(&fqdn, &inputs, &fleet, 5);
    assert_eq!(
        (verdict.open.as_slice(), verdict.lagging.as_slice()),
        ([Gate::Routed].as_slice(), ["e2".to_owned()].as_slice())
    );
    assert!(!verdict.settled, "its records are not out yet");
    // The same question has the same answer.
    assert_eq!(evaluate(&fqdn, &inputs, &fleet, 5), verdict);
    fqdn.state.insert("routed".into(), json!(true));
    let set = m::RrSet::default();
    inputs.rows.push(row("dns/default", IntentKind::RrSet, "example.com/www.example.com/A", &set));
    fleet.stuck.insert("d1".into(), REVISION - 1);
    let verdict = evaluate(&fqdn, &inputs, &fleet, 5);
    assert_eq!((find(&verdict, "dns").status, verdict.settled), (Truth::Waiting, false));
    fleet.stuck.insert("d1".into(), REVISION);
    let verdict = evaluate(&fqdn, &inputs, &fleet, 5);
    assert_eq!((verdict.settled, verdict.status, verdict.open.len()), (true, Status::Active, 0));
    // One edge that rejects it is a failure, whatever the others say.
    let key = Key::new(IntentKind::Route, "www.example.com");
    let rejected =
        Exception { kind: ExceptionKind::Rejected, revision: REVISION, reason: "key: too long".into() };
    fleet.exceptions.insert(("e1".into(), key), rejected);
    let verdict = evaluate(&fqdn, &inputs, &fleet, 5);
    assert_eq!(verdict.status, Status::Failed);
    assert!(verdict.message.unwrap().contains("e1 does not take route/www.example.com: key: too long"));
}

#[test]
fn an_old_route_is_not_the_new_site() {
    let (mut fqdn, inputs) = fqdn();
    fqdn.spec.insert("webroot_id".into(), json!("web_b"));
    let fleet = fleet(&[("edge/c", &["e1"])]);
    let verdict = evaluate(&fqdn, &inputs, &fleet, 5);
    assert_eq!((find(&verdict, "site").status, verdict.open.len()), (Truth::Waiting, 0));
}

#[test]
fn statuses_follow() {
    let (mut fqdn, inputs) = fqdn();
    fqdn.state.remove("auto_records");
    let reached = fleet(&[("edge/c", &["e1"])]);
    let mut stuck = reached.clone();
    stuck.stuck.insert("e1".into(), 0);
    let cases = [
        (Status::Pending, Status::Active, Status::Provisioning),
        (Status::Provisioning, Status::Active, Status::Provisioning),
        (Status::Converging, Status::Active, Status::Converging),
        (Status::Active, Status::Active, Status::Active),
        (Status::Failed, Status::Active, Status::Failed),
        (Status::Suspended, Status::Suspended, Status::Suspended),
    ];
    for (from, when_met, when_waiting) in cases {
        fqdn.status = from;
        assert_eq!(evaluate(&fqdn, &inputs, &reached, 5).status, when_met, "{from}");
        assert_eq!(evaluate(&fqdn, &inputs, &stuck, 5).status, when_waiting, "{from}");
    }
}

#[test]
fn conditions_keep_their_date_while_they_stand() {
    let (mut fqdn, inputs) = fqdn();
    fqdn.state.remove("auto_records");
    let mut fleet = fleet(&[("edge/c", &["e1"])]);
    fleet.stuck.insert("e1".into(), 0);
    let waiting = evaluate(&fqdn, &inputs, &fleet, 100);
    assert!(differs(&fqdn, &waiting));
    record(&mut fqdn, &waiting);
    let again = evaluate(&fqdn, &inputs, &fleet, 200);
    assert_eq!(find(&again, "route").since, 100);
    assert!(!differs(&fqdn, &again), "nothing differs");
    fleet.stuck.clear();
    let met = evaluate(&fqdn, &inputs, &fleet, 300);
    assert_eq!((find(&met, "route").since, find(&met, "site").since), (300, 100));
    assert!(differs(&fqdn, &met));
    record(&mut fqdn, &met);
    assert_eq!(fqdn.status, Status::Active);
    assert_eq!(fqdn.state["conditions"]["route"], json!({"status": "true", "since": 300}));
}

#[tokio::test]
async fn with_one_of_two_nodes_gone_a_new_name_still_goes_live() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.zone(&tenant, "example.com").await.unwrap();
    let mut fleet = Everybody::of(&lab.store);
    fleet.out.insert("web2".into());
    let webroot = lab.webroot(&tenant).await;
    let fqdn = lab.fqdn(&tenant, "www.example.com", Some(&webroot)).await.unwrap();
    lab.settle_with(&fleet).await;
    assert_eq!((lab.status(&webroot.id), lab.status(&fqdn.id)), (Some(Status::Active), Some(Status::Active)));
    assert_eq!(lab.look(&webroot.id, &fleet).await.lagging, ["web2"]);
    assert!(lab.rr_set("example.com/www.example.com/A").is_some());
}
