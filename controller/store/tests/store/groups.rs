//! Mutations that share a commit do what they would do one after the other, those that are refused among them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures::future::join_all;
use hosting_intent_sync::AudienceHead;
use hosting_planner::{ApplyError, Change, Draft, Unit, World};
use hosting_resource::{Kind, Status};
use hosting_store::{JobQuery, NewJob, Origin, Store, WriteError, WriteTx};
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::oneshot;

use crate::BACKEND;
use crate::databases::Backend;
use crate::harness::{Bench, applied, at, put, resource, route, set, tenant, withdraw};

/// Each takes two databases, and a server of PostgreSQL takes seconds to make.
const CASES: u32 = match BACKEND {
    Backend::Sqlite => 64,
    Backend::Postgres => 6,
};

/// Over all cases: a busy machine may split a group.
static COMMITS: AtomicU64 = AtomicU64::new(0);
static MUTATIONS: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Clone)]
enum Step {
    Site {
        id: u8,
        name: u8,
        customer: u8,
        leaves: bool,
    },
    /// Two sites at once, each with the other's name.
    Swap,
    Name {
        id: u8,
        site: u8,
    },
    Remove(u8),
    RemoveName(u8),
    /// A resource of another kind under a site's id, which has to be gone.
    Reuse(u8),
    /// A site whose name no database takes.
    Unstorable(u8),
    Set {
        key: u8,
        owner: u8,
        value: u8,
    },
    Withdraw {
        key: u8,
        owner: u8,
    },
    Count(u8),
    Queue(u8),
    Dequeue(u8),
    Job,
    Look,
}

#[derive(Debug, Clone)]
struct Mutation {
    steps: Vec<Step>,
    fails: bool,
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let site = (0..4_u8, 0..3_u8, 0..2_u8, prop::bool::weighted(0.2));
    let step = prop_oneof![
        5 => site.prop_map(|(id, name, customer, leaves)| Step::Site { id, name, customer, leaves }),
        1 => Just(Step::Swap),
        3 => (0..4_u8, 0..4_u8).prop_map(|(id, site)| Step::Name { id, site }),
        2 => (0..4_u8).prop_map(Step::Remove),
        2 => (0..4_u8).prop_map(Step::RemoveName),
        2 => (0..4_u8).prop_map(Step::Reuse),
        1 => (0..4_u8).prop_map(Step::Unstorable),
        4 => (0..4_u8, 0..3_u8, 0..3_u8).prop_map(|(key, owner, value)| Step::Set { key, owner, value }),
        3 => (0..4_u8, 0..3_u8).prop_map(|(key, owner)| Step::Withdraw { key, owner }),
        1 => (0..3_u8).prop_map(Step::Count),
        2 => (0..4_u8).prop_map(Step::Queue),
        2 => (0..4_u8).prop_map(Step::Dequeue),
        1 => Just(Step::Job),
        3 => Just(Step::Look),
    ];
    let mutation = (prop::collection::vec(step, 1..5), prop::bool::weighted(0.2));
    let mutation = mutation.prop_map(|(steps, fails)| Mutation { steps, fails });
    prop::collection::vec(mutation, 1..12)
}

fn site(id: u8, name: u8, customer: u8) -> hosting_resource::Resource {
    let spec = json!({"name": format!("n{name}"), "customer_id": format!("c{customer}")});
    let mut site = resource(Kind::Webroot, &format!("web_{id}"), spec);
    site.parent = Some("t_a".to_owned());
    site
}

fn unit(n: u8) -> Unit {
    Unit::Retire(format!("u{n}"))
}

/// What reads say; the same words for a mutation and for a snapshot.
async fn look(world: &mut dyn World) -> Vec<String> {
    let mut seen = Vec::new();
    let ids = |found: Vec<hosting_resource::Resource>| {
        let ids =
            found.into_iter().map(|one| format!("{} {} {:?}", one.id, one.status, one.spec.get("name")));
        ids.collect::<Vec<_>>().join(", ")
    };
    for page in [2, 100] {
        seen.push(ids(world.children(Kind::Webroot, "t_a", "", page).await.unwrap()));
        seen.push(ids(world.list(Kind::Fqdn, "fqdn_0", page).await.unwrap()));
    }
    for id in 0..4 {
        seen.push(format!("{:?}", world.resource(&format!("web_{id}")).await.unwrap()));
        seen.push(ids(world
            .referrers(Kind::Fqdn, "webroot_id", &format!("web_{id}"), "", 10)
            .await
            .unwrap()));
        let intent = world.intent(&at("edge/a"), &route(&format!("k{id}"))).await.unwrap();
        seen.push(format!("{intent:?}"));
    }
    for n in 0..3 {
        let holder = world.holder(Kind::Webroot, "t_a", &format!("n{n}")).await.unwrap();
        seen.push(format!("{:?}", holder.map(|holder| holder.id)));
        seen.push(ids(world
            .with_facet(Kind::Webroot, "customer_id", &format!("c{n}"), "", 10)
            .await
            .unwrap()));
        seen.push(format!("{:?}", world.owned(&format!("o{n}")).await.unwrap()));
        seen.push(format!("{}", world.counter(&format!("counter{n}")).await.unwrap()));
    }
    seen.push(format!("{:?}", world.audience_rows(&at("edge/a"), None, 2).await.unwrap()));
    seen.push(format!("{:?}", world.audience_rows(&at("edge/a"), Some(&route("k0")), 9).await.unwrap()));
    seen.push(format!("{:?}", world.queued(3).await.unwrap()));
    seen
}

async fn step(tx: &mut WriteTx, step: &Step) -> Result<Vec<String>, ApplyError> {
    let change = match step {
        Step::Look => return Ok(look(tx).await),
        Step::Job => {
            let new = NewJob {
                kind: "callback".into(),
                subject: "t_a".into(),
                lane: "t_a".into(),
                brand: None,
                params: json!({}),
                due_at: 0,
                attempt_limit: 1,
                waits: Vec::new(),
            };
            tx.enqueue_job(new).await.map_err(hosting_planner::WorldError::from)?;
            return Ok(Vec::new());
        }
        Step::Site { id, name, customer, leaves } => {
            let mut site = site(*id, *name, *customer);
            if *leaves {
                site.status = Status::Deleting;
            }
            put([site])
        }
        Step::Swap => {
            let one = tx.resource("web_0").await?.and_then(|one| one.spec.get("name").cloned());
            let other = tx.resource("web_1").await?.and_then(|other| other.spec.get("name").cloned());
            let (Some(one), Some(other)) = (one, other) else { return Ok(Vec::new()) };
            let (mut first, mut second) = (site(0, 0, 0), site(1, 0, 0));
            first.spec.insert("name".into(), other);
            second.spec.insert("name".into(), one);
            put([first, second])
        }
        Step::Name { id, site } => {
            let spec = json!({"webroot_id": format!("web_{site}"), "name": format!("f{id}")});
            put([resource(Kind::Fqdn, &format!("fqdn_{id}"), spec)])
        }
        Step::Reuse(id) => put([resource(Kind::Brand, &format!("web_{id}"), json!({"customer_id": "c0"}))]),
        Step::Unstorable(id) => {
            let mut site = site(*id, 0, 0);
            site.spec.insert("customer_id".into(), "a\0b".into());
            put([site])
        }
        Step::Remove(id) => Change { remove: vec![format!("web_{id}")], ..Change::default() },
        Step::RemoveName(id) => Change { remove: vec![format!("fqdn_{id}")], ..Change::default() },
        Step::Set { key, owner, value } => Change {
            intents: vec![set("edge/a", &format!("k{key}"), &format!("o{owner}"), &[*value])],
            ..Change::default()
        },
        Step::Withdraw { key, owner } => Change {
            intents: vec![withdraw("edge/a", &format!("k{key}"), &format!("o{owner}"))],
            ..Change::default()
        },
        Step::Count(n) => {
            let name = format!("counter{n}");
            let next = tx.counter(&name).await? + 1;
            Change { counters: vec![(name, next)], ..Change::default() }
        }
        Step::Queue(n) => Change { replan: vec![unit(*n)], ..Change::default() },
        Step::Dequeue(n) => Change { replanned: vec![unit(*n)], ..Change::default() },
    };
    tx.apply(change).await.map(|()| Vec::new())
}

async fn write(store: &Store, mutation: Mutation) -> String {
    let origin = Origin { traceparent: "00-trace".into(), actor: Some("key_1".into()), ..Origin::default() };
    let written = store
        .write(origin, move |tx| {
            Box::pin(async move {
                let mut seen = Vec::new();
                for one in &mutation.steps {
                    seen.extend(step(tx, one).await?);
                }
                if mutation.fails { Err(ApplyError::TooLarge(0)) } else { Ok(seen) }
            })
        })
        .await;
    match written {
        Ok(committed) => format!("{} {:?} {:?}", committed.revision, committed.audiences, committed.value),
        // Of several users the store names whichever it meets first: those of the same group before those that are committed.
        Err(WriteError::Refused(ApplyError::InUse { id, .. })) => format!("refused: {id} is still used"),
        Err(WriteError::Refused(error)) => format!("refused: {error}"),
        Err(other) => panic!("{other}"),
    }
}

async fn bench() -> Bench {
    let bench = Bench::new().await;
    applied(&bench.store, put([tenant("t_a"), site(0, 0, 0)])).await;
    bench
}

async fn dump(store: &Store) -> Vec<String> {
    let mut tx = store.read().await.unwrap();
    let mut seen = look(&mut tx).await;
    let audience = at("edge/a");
    let head = AudienceHead { epoch: String::new(), ..tx.audience(&audience).await.unwrap() };
    seen.push(format!("{head:?}"));
    seen.push(format!("{:?}", tx.log_since(&audience, 0, 1_000).await.unwrap()));
    for kind in [Kind::Webroot, Kind::Fqdn, Kind::Tenant, Kind::Brand] {
        seen.push(format!("{:?}", tx.status_counts(kind, None).await.unwrap()));
    }
    seen.push(format!("{}", tx.replan_count(1_000).await.unwrap()));
    seen.push(format!("{}", tx.long_logs(3, None, 10).await.unwrap().len()));
    assert!(tx.digest_is_true(&audience).await.unwrap());
    let jobs = tx.job_page(&JobQuery::default()).await.unwrap();
    seen.push(format!("{} jobs", jobs.jobs.len()));
    seen
}

/// All of them in few commits: the first one waits until the others are in the queue.
async fn together(store: &Store, mutations: &[Mutation]) -> Vec<String> {
    let (go, wait) = oneshot::channel::<()>();
    let (started, begun) = oneshot::channel::<()>();
    let held = {
        let store = store.clone();
        tokio::spawn(async move {
            let write = store.write(Origin::default(), move |_| {
                Box::pin(async move {
                    started.send(()).unwrap();
                    wait.await.ok();
                    Ok::<_, ApplyError>(())
                })
            });
            write.await.unwrap();
        })
    };
    begun.await.unwrap();
    let all = join_all(mutations.iter().map(|mutation| write(store, mutation.clone())));
    let release = async {
        while store.stats().queued < mutations.len() as u64 {
            tokio::task::yield_now().await;
        }
        go.send(()).unwrap();
    };
    let (outcomes, ()) = tokio::join!(all, release);
    held.await.unwrap();
    outcomes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_group_is_as_good_as_one_after_the_other(mutations in mutations()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (alone, group) = (bench().await, bench().await);
            let mut expected = Vec::new();
            for mutation in &mutations {
                expected.push(write(&alone.store, mutation.clone()).await);
            }
            let before = group.store.stats().commits;
            for (group, alone) in together(&group.store, &mutations).await.iter().zip(expected) {
                assert_eq!(*group, alone);
            }
            let commits = COMMITS.fetch_add(group.store.stats().commits - before, Relaxed);
            let all = MUTATIONS.fetch_add(mutations.len() as u64, Relaxed);
            assert!(all < 30 || commits < all, "{commits} commits for {all} mutations: they share none");
            for (group, alone) in dump(&group.store).await.iter().zip(dump(&alone.store).await) {
                assert_eq!(*group, alone);
            }
            alone.store.close().await;
            group.store.close().await;
        });
    }
}
