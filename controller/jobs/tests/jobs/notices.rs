//! Incidents told to the place that the operator set.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use hosting_jobs::kinds;
use hosting_jobs::kinds::callback::CallbackRules;
use hosting_jobs::kinds::incident_notice::{self, Trigger};
use hosting_store::{Incident, Job, JobQuery, JobState};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::harness::{Bench, config, deps, pass, run, write};

/// What came, and the URL; each request is answered with the next code, the last one again and again.
async fn sink(codes: &'static [u16]) -> (Arc<Mutex<Vec<Value>>>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?token=secret", listener.local_addr().unwrap());
    let got: Arc<Mutex<Vec<Value>>> = Arc::default();
    let seen = Arc::clone(&got);
    let router = Router::new().fallback(move |body: Bytes| async move {
        let mut seen = seen.lock().unwrap();
        seen.push(serde_json::from_slice(&body).unwrap());
        let code = codes[(seen.len() - 1).min(codes.len() - 1)];
        StatusCode::from_u16(code).unwrap()
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (got, url)
}

async fn told(bench: &Bench, trigger: Trigger) -> bool {
    write(&bench.store, move |tx| {
        Box::pin(async move {
            let incident = Incident {
                id: "inc_1".into(),
                title: "t".into(),
                severity: "critical".into(),
                ..Incident::default()
            };
            let known = tx.beside().incident("inc_1").await?;
            let incident = match known {
                Some(known) => known,
                None => tx.put_incident(incident, None).await?,
            };
            incident_notice::enqueue(tx, &incident, trigger).await
        })
    })
    .await
    .unwrap()
}

async fn set(bench: &Bench, name: &str, value: &str) {
    let change = vec![(name.to_owned(), Some(value.to_owned()))];
    let set = write(&bench.store, move |tx| Box::pin(async move { tx.set_platform_config(&change).await }));
    assert!(set.await.unwrap());
}

async fn ended(bench: &Bench) -> Job {
    for _ in 0..300 {
        let list = JobQuery { limit: 1, ..JobQuery::default() };
        let job = bench.store.read().await.unwrap().job_page(&list).await.unwrap().jobs.remove(0);
        if job.state.is_final() {
            return job;
        }
        if job.state == JobState::Retrying {
            pass(60_000);
            bench.bell.ring();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_is_posted_where_the_operator_says_and_tried_three_times() {
    let bench = Bench::new().await;
    let rules = CallbackRules {
        plain_http: true,
        networks: vec!["127.0.0.0/8".parse().unwrap()],
        ..CallbackRules::default()
    };
    assert!(!told(&bench, Trigger::Critical).await, "nobody is to be told");
    let (good, url) = sink(&[503, 200]).await;
    set(&bench, "webhook.critical.url", &url).await;
    let all = kinds::all(&deps(&bench.store, rules, 90));
    let notices = all.into_iter().filter(|kind| kind.facts().name == "incident_notice").collect();
    let running = run(&bench.store, &bench.bell, notices, config());
    assert!(told(&bench, Trigger::Critical).await);
    bench.bell.ring();
    let job = ended(&bench).await;
    assert_eq!((job.state, good.lock().unwrap().len()), (JobState::Done, 2), "{job:?}");
    assert_eq!(good.lock().unwrap()[1]["event"], "incident.critical");
    assert!(!job.params.to_string().contains("secret"), "{job:?}");

    let (bad, url) = sink(&[500]).await;
    set(&bench, "webhook.escalated.url", &url).await;
    set(&bench, "webhook.escalated.template", "slack").await;
    assert!(told(&bench, Trigger::Escalated).await);
    bench.bell.ring();
    let job = ended(&bench).await;
    assert_eq!((job.state, bad.lock().unwrap().len()), (JobState::Failed, 3), "{job:?}");
    assert!(bad.lock().unwrap()[0]["blocks"].is_array());
    assert!(!job.error.unwrap().contains("secret"));
    running.end().await;
}
