//! What the fleet says, and who did what.

use std::collections::BTreeSet;

use hosting_intent::{Key, Kind as IntentKind};
use hosting_planner::Draft;
use hosting_planner::gates::{self, Evidence, Report, Reports};
use hosting_proto::feed::exception::Type;
use hosting_proto::feed::key_report::Phase;
use hosting_proto::feed::{self, Exception, KeyReport, ReportRequest, ReportedKey};
use hosting_store::{
    AuditEntry, AuditQuery, AuditSort, Forgotten, KeyRange, NodeReport, Order, Origin, ReportChange,
    Watermark,
};
use serde_json::json;

use crate::harness::{Bench, applied, at, intents, put, route, set, tenant, write};

fn mark(node: &str, audience: &str, applied: u64) -> Watermark {
    Watermark {
        node: node.into(),
        audience: at(audience),
        epoch: "e".into(),
        applied,
        durable: applied / 2,
        seen_at: 5,
        controller: String::new(),
        connected: true,
        in_service: true,
        build: "1".into(),
        served: vec![0, 255, applied as u8],
    }
}

fn exception(kind: Type, key: &str, reason: &str) -> Exception {
    Exception {
        r#type: kind.into(),
        kind: route(key).kind,
        key: key.into(),
        revision: 3,
        reason: reason.into(),
    }
}

fn all(revision: u64, reports: Vec<KeyReport>) -> NodeReport {
    let all_of = KeyRange::of(&ReportRequest { full: true, ..ReportRequest::default() });
    NodeReport { revision, all_of, reports, gone: Vec::new() }
}

fn report(key: &str, phase: Phase, message: &str) -> KeyReport {
    KeyReport {
        kind: Key::new(IntentKind::Webroot, "").kind,
        key: key.into(),
        phase: phase.into(),
        revision: 4,
        message: message.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watermarks_and_exceptions_replace_what_was() {
    let bench = Bench::new().await;
    let store = &bench.store;
    store
        .save_watermarks(&[mark("n2", "edge/a", 9), mark("n1", "edge/a", 7), mark("n1", "node/n1", 8)], true)
        .await
        .unwrap();
    // A node whose disk was lost goes back; of two for one subscriber the last counts.
    store.save_watermarks(&[mark("n1", "edge/a", 5), mark("n1", "edge/a", 2)], true).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let saved = |mark: Watermark| Watermark { controller: store.controller().to_owned(), ..mark };
    assert_eq!(
        tx.watermarks(&at("edge/a")).await.unwrap(),
        [mark("n1", "edge/a", 2), mark("n2", "edge/a", 9)].map(saved)
    );
    assert_eq!(tx.subscribers(None, 100).await.unwrap().len(), 3);
    assert_eq!(tx.head(), 0, "status is no revision");
    drop(tx);

    let long = "é".repeat(2_000);
    let all = [exception(Type::Rejected, "a", &long), exception(Type::Held, "b", "brake")];
    store.set_exceptions("n1", &at("edge/a"), &all).await.unwrap();
    store.set_exceptions("n2", &at("edge/a"), &all[..1]).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let about = tx.exceptions_about(&at("edge/a"), &route("a")).await.unwrap();
    assert_eq!(
        about.iter().map(|one| (one.node.as_str(), one.kind)).collect::<Vec<_>>(),
        [("n1", Type::Rejected), ("n2", Type::Rejected)]
    );
    assert_eq!(about[0].reason.len(), 1_024);
    assert_eq!(tx.exceptions("n1", &at("edge/a")).await.unwrap().len(), 2);
    drop(tx);
    store.set_exceptions("n1", &at("edge/a"), &[]).await.unwrap();
    assert_eq!(store.read().await.unwrap().all_exceptions(10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_merge_and_a_full_one_sweeps() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let many: Vec<_> = (0..1_200).map(|n| report(&format!("web_{n}"), Phase::Converging, "")).collect();
    store.save_reports("n1", all(10, many)).await.unwrap();
    store.save_reports("n2", all(10, vec![report("web_1", Phase::Ready, "")])).await.unwrap();
    let failed = vec![report("web_1", Phase::Failed, "no php")];
    store
        .save_reports("n1", NodeReport { revision: 11, reports: failed, ..NodeReport::default() })
        .await
        .unwrap();
    let key = Key::new(IntentKind::Webroot, "web_1");
    let mut tx = store.read().await.unwrap();
    let about = |key: &Key| ["n1", "n2", "n3"].map(|node| (node.to_owned(), key.clone()));
    let seen = |phase, message: &str| Report { phase, revision: 4, message: message.into() };
    let [n1, n2, _] = about(&key);
    let wanted = Reports::from([
        (n1.clone(), seen(gates::Phase::Failed, "no php")),
        (n2.clone(), seen(gates::Phase::Ready, "")),
    ]);
    assert_eq!(tx.reports(&about(&key)).await.unwrap(), wanted);
    assert_eq!(tx.reports_of("n1", None, 5_000).await.unwrap().len(), 1_200);
    assert_eq!(tx.last_pass("n1").await.unwrap().unwrap().revision, 11);
    assert!(tx.last_pass("n3").await.unwrap().is_none());
    drop(tx);

    let full = [report("web_1", Phase::Ready, ""), report("web_x", Phase::Orphan, "kept")];
    store.save_reports("n1", all(12, full.to_vec())).await.unwrap();
    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.reports_of("n1", None, 5_000).await.unwrap().len(), 2);
    assert_eq!(tx.reports_of("n2", None, 5_000).await.unwrap().len(), 1, "another node's stay");
    assert_eq!(tx.reports_in(Phase::Orphan, 10).await.unwrap()[0].key.name, "web_x");
    assert_eq!(tx.reports(&[n1]).await.unwrap().values().next().unwrap().phase, gates::Phase::Ready);
    drop(tx);

    store.save_watermarks(&[mark("n1", "node/n1", 1)], true).await.unwrap();
    let forgotten =
        write(store, |tx| Box::pin(async move { Ok(tx.forget_node("n1").await?) })).await.unwrap();
    assert_eq!(forgotten.value, Forgotten { audiences: 1, exceptions: 0, reports: 2 });
    let left = store.read().await.unwrap().reports(&about(&key)).await.unwrap();
    assert_eq!(left.into_keys().collect::<Vec<_>>(), [n2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cannot_fill_the_store_with_keys_of_its_own() {
    let bench = Bench::new().await;
    let store = &bench.store;
    for n in 0..5 {
        applied(store, intents([set("node/n1", &format!("told_{n}"), "unit", b"x")])).await;
    }
    let about = |key: String, revision| KeyReport {
        kind: route("").kind,
        key,
        phase: 2,
        revision,
        message: String::new(),
    };
    let told: Vec<_> = (0..5).map(|n| about(format!("told_{n}"), 3)).collect();
    let strays = |from: u32, count: u32| {
        (from..from + count).map(|n| about(format!("stray_{n}"), 0)).collect::<Vec<_>>()
    };
    let epoch = store.read().await.unwrap().epoch().to_owned();
    // As the feed does it: what is believed is saved.
    let request = |epoch: &str, full, reports: &[KeyReport]| ReportRequest {
        epoch: epoch.into(),
        revision: 1,
        full,
        reports: reports.to_vec(),
        ..ReportRequest::default()
    };
    let believed =
        async |request: ReportRequest| store.read().await.unwrap().believable("n1", &request).await.unwrap();
    let send = async |full: bool, reports: Vec<KeyReport>| {
        let kept = believed(request(&epoch, full, &reports)).await.unwrap();
        let count = kept.reports.len();
        store.save_reports("n1", kept).await.unwrap();
        count
    };
    assert_eq!(send(true, [told.clone(), strays(0, 9_000)].concat()).await, 9_005);
    assert_eq!(send(false, strays(9_000, 3_000)).await, 1_000);
    assert_eq!(
        send(false, [told.clone(), strays(20_000, 10)].concat()).await,
        5,
        "what it was told of has room always"
    );
    assert_eq!(send(false, strays(0, 10)).await, 10, "and so has what is there already");
    assert_eq!(store.read().await.unwrap().reports_of("n1", None, 20_000).await.unwrap().len(), 10_005);
    assert_eq!(send(true, strays(50_000, 12_000)).await, 10_000, "a full report replaces all");
    assert_eq!(store.read().await.unwrap().reports_of("n1", None, 20_000).await.unwrap().len(), 10_000);

    // In pages: what lies outside of the page keeps its room.
    let page = |after: Option<u32>, upto: Option<u32>, reports: &[KeyReport]| {
        let key = |n: u32| ReportedKey { kind: route("").kind, key: format!("stray_{n}") };
        ReportRequest {
            all_of: Some(feed::KeyRange { after: after.map(key), upto: upto.map(key) }),
            ..request(&epoch, false, reports)
        }
    };
    let kept = believed(page(Some(50_000), Some(50_010), &strays(50_001, 10))).await.unwrap();
    assert_eq!(kept.reports.len(), 10, "in place of those that were there");
    let kept = believed(page(Some(70_000), None, &strays(80_000, 10))).await.unwrap();
    assert_eq!(kept.reports.len(), 0, "nothing there makes room");

    let mut tx = store.read().await.unwrap();
    assert_eq!(tx.believable("n1", &request("another", false, &told)).await.unwrap(), None);
    let future = request(&epoch, false, &[about("told_1".into(), 6)]);
    assert!(tx.believable("n1", &future).await.unwrap().unwrap().reports.is_empty(), "of the future");
    assert_eq!(
        tx.believable("n2", &request(&epoch, false, &told)).await.unwrap().unwrap().reports.len(),
        5,
        "told of nothing: they are strays"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_says_what_is_gone_alone_in_a_page_or_by_leaving_it_out_of_everything() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let epoch = store.read().await.unwrap().epoch().to_owned();
    let key = |name: &str| ReportedKey { kind: IntentKind::Webroot as u32, key: name.into() };
    let send = async |request: ReportRequest| {
        let request = ReportRequest { epoch: epoch.clone(), ..request };
        let nodes: &[&str] = if request.full { &["n1", "n2"] } else { &["n1"] };
        for node in nodes {
            let kept = store.read().await.unwrap().believable(node, &request).await.unwrap().unwrap();
            store.save_reports(node, kept).await.unwrap();
        }
        let mut tx = store.read().await.unwrap();
        assert_eq!(tx.reports_of("n2", None, 10).await.unwrap().len(), 4, "another node's stay");
        let rows = tx.reports_of("n1", None, 10).await.unwrap();
        rows.into_iter().map(|row| (row.key.name, row.phase)).collect::<Vec<_>>()
    };
    let seen = |names: &[&str]| -> Vec<KeyReport> {
        names
            .iter()
            .map(|name| KeyReport { revision: 0, ..report(name, Phase::Ready, "it's \"here\"\u{1}") })
            .collect()
    };
    let of = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), Phase::Ready)).collect::<Vec<_>>();

    let everything = ReportRequest { full: true, reports: seen(&["a", "b", "c", "d"]), ..Default::default() };
    assert_eq!(send(everything).await, of(&["a", "b", "c", "d"]));
    let request = ReportRequest { gone: vec![key("b"), key("never there")], ..Default::default() };
    assert_eq!(send(request).await, of(&["a", "c", "d"]));
    // Wanted anew before it was said that it is gone.
    let request = ReportRequest { gone: vec![key("c")], reports: seen(&["c"]), ..Default::default() };
    assert_eq!(send(request).await, of(&["a", "c", "d"]));
    let range = |after: Option<&str>, upto: Option<&str>| {
        Some(feed::KeyRange { after: after.map(key), upto: upto.map(key) })
    };
    let request =
        ReportRequest { all_of: range(None, Some("b")), reports: seen(&["b"]), ..Default::default() };
    assert_eq!(send(request).await, of(&["b", "c", "d"]));
    let request = ReportRequest { all_of: range(Some("b"), Some("c")), ..Default::default() };
    assert_eq!(send(request).await, of(&["b", "d"]));
    let request =
        ReportRequest { all_of: range(Some("b"), None), reports: seen(&["x"]), ..Default::default() };
    assert_eq!(send(request).await, of(&["b", "x"]));
    let request = ReportRequest { all_of: range(Some("x"), Some("a")), ..Default::default() };
    assert_eq!(send(request).await, of(&["b", "x"]), "a range that ends before it begins holds nothing");

    let mut tx = store.read().await.unwrap();
    let row = tx.reports_of("n1", None, 1).await.unwrap().remove(0);
    assert_eq!((row.key.name.as_str(), row.message.as_str()), ("b", "it's \"here\"\u{1}"));
}

/// A node that comes back says everything again: that changes, and writes, what is another thing than before.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_changes_what_it_says_otherwise_and_nothing_else() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let name = |n: usize| format!("web_{n:04}");
    let said = |numbers: std::ops::Range<usize>, phase| {
        numbers.map(|n| report(&name(n), phase, "")).collect::<Vec<_>>()
    };
    let keys = |numbers: &[usize]| {
        numbers.iter().map(|n| Key::new(IntentKind::Webroot, name(*n))).collect::<BTreeSet<_>>()
    };
    let save = async |report: NodeReport| store.save_reports("n1", report).await.unwrap();
    let many = all(10, said(0..1_300, Phase::Ready));
    assert_eq!(save(many.clone()).await, ReportChange::everything(), "more than are named");
    let before = store.read().await.unwrap().reports_of("n1", None, 5_000).await.unwrap();
    assert_eq!(save(many.clone()).await.keys, keys(&[]));
    let mut other = many;
    other.reports.retain(|one| one.key != name(700) && one.key != name(1_299));
    other.reports.push(report(&name(3), Phase::Failed, "no php"));
    other.reports.push(report(&name(9_000), Phase::Ready, ""));
    assert_eq!(save(other).await.keys, keys(&[3, 700, 1_299, 9_000]));
    let after = store.read().await.unwrap().reports_of("n1", None, 5_000).await.unwrap();
    assert_eq!(after.len(), 1_299);
    let stays = |rows: &[hosting_store::ReportRow]| {
        let rows = rows.iter().filter(|row| !keys(&[3, 700, 1_299, 9_000]).contains(&row.key));
        rows.map(|row| (row.key.clone(), row.phase)).collect::<Vec<_>>()
    };
    assert_eq!(stays(&after), stays(&before));
    let news = NodeReport {
        reports: said(4..6, Phase::Failed),
        gone: keys(&[5, 6, 7_777]).into_iter().collect(),
        ..NodeReport::default()
    };
    assert_eq!(save(news).await.keys, keys(&[4, 5, 6]), "5 is there again");
    assert_eq!(store.read().await.unwrap().reports_of("n1", None, 5_000).await.unwrap().len(), 1_298);
}

fn entry(method: &str, kind: &str, status: u16) -> AuditEntry {
    AuditEntry {
        method: method.into(),
        path: format!("/api/v1/{kind}s/x"),
        resource_type: kind.into(),
        resource_id: Some("x".into()),
        status_code: status,
        body: Some(json!({"name": "n"})),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_rows_stand_and_fall_with_their_mutation() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let origin = || Origin { traceparent: "00-abc".into(), actor: Some("key_1".into()), ..Origin::default() };
    let ok: Result<_, hosting_store::WriteError<hosting_planner::ApplyError>> = store
        .write(origin(), |tx| {
            Box::pin(async move {
                tx.audit(entry("POST", "tenant", 202));
                tx.apply(put([tenant("t_a")])).await
            })
        })
        .await;
    ok.unwrap();
    let refused = write(store, |tx| {
        Box::pin(async move {
            tx.audit(entry("DELETE", "ghost", 202));
            tx.apply(crate::harness::remove(&["t_a"])).await?;
            Err::<(), _>(hosting_planner::ApplyError::TooLarge(1))
        })
    })
    .await;
    assert!(refused.is_err());
    store.audit(origin(), entry("PATCH", "tenant", 403)).await.unwrap();
    let mut large = entry("PUT", "brand", 400);
    large.body = Some(json!("x".repeat(100_000)));
    store.audit(Origin::default(), large).await.unwrap();

    let mut tx = store.read().await.unwrap();
    let all = tx.audit_page(&AuditQuery::default()).await.unwrap();
    assert!(all.next.is_none());
    let rows: Vec<_> = all.rows.iter().map(|row| (row.entry.method.as_str(), row.revision)).collect();
    assert_eq!(rows, [("PUT", None), ("PATCH", None), ("POST", Some(1))]);
    assert_eq!(all.rows[2].entry, entry("POST", "tenant", 202));
    assert_eq!((all.rows[2].actor.as_deref(), all.rows[2].traceparent.as_str()), (Some("key_1"), "00-abc"));
    assert_eq!(all.rows[0].entry.body, Some(json!("100002 bytes, not kept")));
    let found = async |tx: &mut hosting_store::ReadTx, query: AuditQuery| -> Vec<String> {
        tx.audit_page(&query).await.unwrap().rows.into_iter().map(|row| row.entry.method).collect()
    };
    let search = AuditQuery { search: Some("ten".into()), ..AuditQuery::default() };
    assert_eq!(found(&mut tx, search).await, ["PATCH", "POST"]);
    let method = AuditQuery { method: Some("PUT".into()), ..AuditQuery::default() };
    assert_eq!(found(&mut tx, method).await, ["PUT"]);
    let early = AuditQuery { until: Some(1), ..AuditQuery::default() };
    assert!(found(&mut tx, early).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_audit_log_is_filtered_by_its_pages_have_what_fits() {
    let bench = Bench::new().await;
    let store = &bench.store;
    // The one that is looked for has more rows before and behind it than a page looks at.
    let rows = (0..4_300).map(|n| {
        let mut entry = entry(["POST", "PUT", "DELETE"][n % 3], ["zones", "tenants"][n % 2], 200);
        entry.resource_id = Some(if n == 2_100 { "the-one".to_owned() } else { format!("r{}", n % 7) });
        if n == 2_100 {
            entry.method = "PATCH".to_owned();
        }
        store.audit(Origin::default(), entry)
    });
    futures::future::try_join_all(rows).await.unwrap();
    let collect = async |mut query: AuditQuery| {
        let (mut seen, mut pages) = (Vec::new(), 0);
        loop {
            let page = store.read().await.unwrap().audit_page(&query).await.unwrap();
            assert!(page.rows.len() <= query.limit as usize);
            seen.extend(page.rows);
            pages += 1;
            query.after = page.next;
            if query.after.is_none() {
                return (seen, pages);
            }
        }
    };
    let (all, _) = collect(AuditQuery { limit: 1_000, ..AuditQuery::default() }).await;
    assert_eq!(all.len(), 4_300);
    let text = |given: &str| Some(given.to_owned());
    let middle = all[2_000].at;
    let queries = [
        AuditQuery { search: text("atc"), ..AuditQuery::default() },
        AuditQuery { method: text("PATCH"), search: text("zones"), ..AuditQuery::default() },
        AuditQuery { resource_type: text("zones"), method: text("PATCH"), ..AuditQuery::default() },
        AuditQuery { resource_id: text("the-one"), method: text("PATCH"), ..AuditQuery::default() },
        AuditQuery { resource_id: text("r3"), resource_type: text("zones"), ..AuditQuery::default() },
        AuditQuery { from: Some(middle), ..AuditQuery::default() },
        AuditQuery { until: Some(middle), method: text("PUT"), ..AuditQuery::default() },
        AuditQuery { from: Some(middle), until: Some(middle + 1), ..AuditQuery::default() },
    ];
    for query in queries {
        let fits = |row: &&hosting_store::AuditRow| {
            let same =
                |given: &Option<String>, value: &str| given.as_deref().is_none_or(|given| given == value);
            let AuditEntry { method, resource_type, resource_id, .. } = &row.entry;
            same(&query.method, method)
                && same(&query.resource_type, resource_type)
                && same(&query.resource_id, resource_id.as_deref().unwrap())
                && query.from.is_none_or(|from| row.at >= from)
                && query.until.is_none_or(|until| row.at < until)
                && query.search.as_ref().is_none_or(|search| {
                    method.to_lowercase().contains(search) || resource_type.contains(search)
                })
        };
        let mut wanted: Vec<u64> = all.iter().filter(fits).map(|row| row.seq).collect();
        wanted.sort_unstable();
        for (sort, order) in [
            (AuditSort::Written, Order::Asc),
            (AuditSort::Written, Order::Desc),
            (AuditSort::Method, Order::Asc),
            (AuditSort::ResourceType, Order::Desc),
        ] {
            let (seen, _) = collect(AuditQuery { sort, order, limit: 500, ..query.clone() }).await;
            let mut seqs: Vec<u64> = seen.iter().map(|row| row.seq).collect();
            if sort == AuditSort::Written {
                assert!(seqs.is_sorted_by(|a, b| (a < b) == (order == Order::Asc)), "{query:?}");
            }
            seqs.sort_unstable();
            assert_eq!(seqs, wanted, "{sort:?} {order:?} {query:?}");
        }
    }
    let rare = AuditQuery { search: text("atc"), limit: 500, ..AuditQuery::default() };
    assert_eq!(collect(rare).await.1, 3, "a page looks at two thousand rows");
}

/// Each row is linked to the one before, across groups, after the oldest were dropped, and when all were.
#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_a_chain() {
    use hosting_resource::audit_chain::{ChainedRow, link};
    let bench = Bench::new().await;
    let store = &bench.store;
    let write = async |from: usize, upto: usize| {
        let all = (from..upto).map(|n| {
            let entry = AuditEntry { body: Some(json!({"n": n, "a": 0.1})), ..entry("POST", "tenant", 200) };
            store.audit(Origin { actor: Some(format!("key-{n}")), ..Origin::default() }, entry)
        });
        futures::future::try_join_all(all).await.unwrap();
    };
    // Answers the links of all rows, each computed from the row itself and the link before.
    let follow = async |mut before: Vec<u8>| {
        let query = AuditQuery { order: Order::Asc, limit: 1_000, ..AuditQuery::default() };
        let page = store.read().await.unwrap().audit_page(&query).await.unwrap();
        let mut links = Vec::new();
        for row in &page.rows {
            let created_at = hosting_resource::timestamp(row.at);
            let body = row.entry.body.as_ref().map(ToString::to_string);
            let chained = ChainedRow {
                id: &row.id,
                created_at: &created_at,
                api_key_id: row.actor.as_deref(),
                method: &row.entry.method,
                path: &row.entry.path,
                resource_type: &row.entry.resource_type,
                resource_id: row.entry.resource_id.as_deref(),
                status_code: row.entry.status_code,
                request_body: body.as_deref(),
                revision: row.revision,
            };
            before = link(&before, &chained).to_vec();
            assert_eq!(row.link, before, "{row:?}");
            links.push(before.clone());
        }
        links
    };
    write(0, 30).await;
    write(30, 31).await;
    assert_eq!(follow(Vec::new()).await.len(), 31);
    let links = follow(Vec::new()).await;
    assert!(store.prune_audit(store.now() + 1).await.unwrap() == 31);
    write(31, 35).await;
    assert_eq!(follow(links.last().unwrap().clone()).await.len(), 4, "it goes on behind what is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_pages_and_ends() {
    let bench = Bench::new().await;
    let store = &bench.store;
    for n in 0..11 {
        store.audit(Origin::default(), entry(["POST", "PUT", "DELETE"][n % 3], "tenant", 200)).await.unwrap();
    }
    for sort in [AuditSort::Written, AuditSort::Method, AuditSort::ResourceType] {
        for order in [Order::Asc, Order::Desc] {
            let mut query = AuditQuery { sort, order, limit: 3, ..AuditQuery::default() };
            let mut seen = Vec::new();
            loop {
                let page = store.read().await.unwrap().audit_page(&query).await.unwrap();
                seen.extend(page.rows.into_iter().map(|row| (row.entry.method, row.seq)));
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
                // More come in meanwhile.
                if seen.len() < 6 && order == Order::Desc && sort == AuditSort::Written {
                    store.audit(Origin::default(), entry("POST", "tenant", 200)).await.unwrap();
                }
            }
            let mut wanted = seen.clone();
            match sort {
                AuditSort::Method => wanted.sort(),
                AuditSort::Written | AuditSort::ResourceType => wanted.sort_by_key(|row| row.1),
            }
            if order == Order::Desc {
                wanted.reverse();
            }
            wanted.dedup();
            assert_eq!(seen, wanted, "{sort:?} {order:?}");
            assert!(seen.len() >= 11, "{sort:?} {order:?} {}", seen.len());
        }
    }
    assert_eq!(store.prune_audit(0).await.unwrap(), 0);
    assert!(store.prune_audit(store.now() + 1).await.unwrap() >= 11);
    assert_eq!(applied(store, put([tenant("t_a")])).await, 1);
}
