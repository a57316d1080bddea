//! What was deleted and kept goes when its time is over, a page at a time, and nothing else does.

use hosting_jobs::kinds;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_planner::{create, delete};
use hosting_resource::{Kind, Status};
use hosting_store::{JobState, NewJob, Origin};
use serde_json::{Value, json};

use crate::harness::{Bench, config, deps, pass, run, write};

const DAY: i64 = 24 * 3_600_000;

pub(crate) async fn post(bench: &Bench, kind: Kind, parent: Option<&str>, body: Value) -> String {
    let mut tx = bench.store.read().await.unwrap();
    let parent = match parent {
        Some(parent) => hosting_planner::World::resource(&mut tx, parent).await.unwrap(),
        None => None,
    };
    drop(tx);
    let mut entropy = |bytes: &mut [u8]| rand::fill(bytes);
    let creation = kind.def().create(parent.as_ref(), body.as_object().unwrap(), &mut entropy).unwrap();
    let written =
        bench.store.write(Origin::default(), move |tx| Box::pin(async move { create(tx, creation).await }));
    written.await.unwrap().value.first().unwrap().id.clone()
}

async fn deleted(bench: &Bench, kind: Kind, id: &str) {
    let id = id.to_owned();
    let written =
        bench.store.write(Origin::default(), move |tx| Box::pin(async move { delete(tx, kind, &id).await }));
    written.await.unwrap();
}

async fn count(bench: &Bench, status: Status) -> u64 {
    let counts = bench.store.read().await.unwrap().status_counts(Kind::Subscription, None).await.unwrap();
    counts.iter().find(|(of, _)| *of == status).map_or(0, |(_, count)| *count)
}

fn ends(due_at: i64) -> NewJob {
    NewJob {
        kind: "kept_deletions".into(),
        subject: "kept_deletions".into(),
        lane: "kind/kept_deletions".into(),
        brand: None,
        params: json!({}),
        due_at,
        attempt_limit: 3,
        waits: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_goes_when_its_time_is_over() {
    let bench = Bench::new().await;
    let region = post(&bench, Kind::Region, None, json!({"name": "eu"})).await;
    let cluster = post(&bench, Kind::Cluster, Some(&region), json!({"name": "c"})).await;
    let shard = post(&bench, Kind::Shard, Some(&cluster), json!({"name": "web-1", "role": "web"})).await;
    let brand = json!({
        "id": "acme", "name": "acme", "base_hostname": "acme.example", "primary_ns": "ns1.acme.example",
        "secondary_ns": "ns2.acme.example", "hostmaster_email": "h@acme.example", "undelete_days": 3,
    });
    post(&bench, Kind::Brand, None, brand).await;
    let subscriptions: Vec<Value> =
        (0..106).map(|n| json!({"id": format!("s{n:03}"), "name": format!("n{n}")})).collect();
    let body = json!({
        "brand_id": "acme", "customer_id": "c1", "region_id": region, "cluster_id": cluster, "shard_id": shard,
        "subscriptions": subscriptions,
    });
    post(&bench, Kind::Tenant, None, body).await;
    for n in 0..105 {
        deleted(&bench, Kind::Subscription, &format!("acme~s{n:03}")).await;
    }
    pass(2 * DAY);
    deleted(&bench, Kind::Subscription, "acme~s105").await;
    assert_eq!(count(&bench, Status::Deleted).await, 106);
    pass(3 * DAY / 2);
    let deps = deps(&bench.store, CallbackRules::default(), 0);
    let id = write(&bench.store, |tx| Box::pin(async move { tx.enqueue_job(ends(0)).await })).await.unwrap();
    let runner = run(&bench.store, &bench.bell, kinds::all(&deps), config());
    let job = bench.until(&id, &[JobState::Done, JobState::Failed]).await;
    assert_eq!((job.state, job.progress.as_deref()), (JobState::Done, Some("100 deletions begun")));
    assert_eq!(job.steps[0].result, json!({"begun": 105}));
    assert_eq!((count(&bench, Status::Deleting).await, count(&bench, Status::Deleted).await), (105, 1));
    // A clock that is set forward makes nothing due: the runner that stands tells it from time that passed.
    pass(400 * DAY);
    let late = bench.store.now();
    let id = write(&bench.store, move |tx| Box::pin(async move { tx.enqueue_job(ends(late)).await }))
        .await
        .unwrap();
    let job = bench.until(&id, &[JobState::Done, JobState::Failed]).await;
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    assert_eq!(count(&bench, Status::Deleted).await, 1);
    runner.end().await;
}
