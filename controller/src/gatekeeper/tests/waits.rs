//! Jobs that wait for resources learn how these settled, whoever saw it first.

use hosting_store::{JobWait, NewJob};

use super::*;

impl Lab {
    /// A job that waits for resources, enqueued by itself: nothing of a change says whom it concerns.
    async fn job(&self, waits: &[&str]) -> String {
        let new = NewJob {
            kind: "test".into(),
            subject: "test".into(),
            lane: waits.join(" "),
            brand: None,
            params: Value::Null,
            due_at: i64::MAX,
            attempt_limit: 1,
            waits: waits.iter().map(|id| (*id).to_owned()).collect(),
        };
        let made = self
            .store
            .write(Origin::default(), |tx| Box::pin(async move { tx.enqueue_job(new).await }))
            .await;
        made.unwrap().value
    }

    /// Waits until the job is due; how its resources settled.
    async fn due(&self, job: &str) -> Vec<(String, Option<String>)> {
        let began = Instant::now();
        loop {
            let mut tx = self.store.read().await.unwrap();
            let found = tx.job(job).await.unwrap().unwrap();
            if found.next_at.is_some_and(|at| at <= self.store.now()) {
                let waits = tx.job_waits(job).await.unwrap();
                return waits
                    .into_iter()
                    .map(|JobWait { resource, status, .. }| (resource, status))
                    .collect();
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{found:?}");
            drop(tx);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn active(id: &str) -> (String, Option<String>) {
    (id.to_owned(), Some("active".to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_due_when_all_that_it_waits_for_has_settled() {
    let lab = Lab::start().await;
    lab.change(|puppets| {
        puppets.stuck.lock().unwrap().insert("edge1".into());
    });
    let webroot = lab.webroot().await;
    let fqdn = lab.fqdn("www.example.com", &webroot).await;
    let job = lab.job(&[&webroot, &fqdn]).await;
    lab.until(&webroot, Some(Status::Active)).await;
    lab.until(&fqdn, Some(Status::Provisioning)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let found = lab.store.read().await.unwrap().job(&job).await.unwrap().unwrap();
    assert_eq!(found.next_at, Some(i64::MAX), "the edge has not applied it");
    lab.change(|puppets| puppets.stuck.lock().unwrap().clear());
    let mut settled = lab.due(&job).await;
    settled.sort();
    let mut expected = vec![active(&webroot), active(&fqdn)];
    expected.sort();
    assert_eq!(settled, expected);

    // Gone, with what lies in it.
    lab.delete(Kind::Fqdn, &fqdn).await;
    let job = lab.job(&[&fqdn]).await;
    assert_eq!(lab.due(&job).await, [(fqdn, Some("deleted".to_owned()))]);
    lab.end().await;
}

/// What settled long ago, and is concerned by no change, is found by the slow look. One resource that failed is enough.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_tells_of_is_found_by_the_slow_look() {
    let lab = Lab::with(Paces { grace: Duration::ZERO, slow: Duration::from_millis(50) }).await;
    let webroot = lab.webroot().await;
    lab.change(|puppets| {
        puppets.broken.lock().unwrap().insert(webroot.clone());
    });
    lab.until(&webroot, Some(Status::Failed)).await;
    lab.change(|puppets| *puppets.told.lock().unwrap() = Some(News::default()));
    lab.until_it_rests().await;
    let job = lab.job(&["nowhere", &webroot]).await;
    let mut settled = lab.due(&job).await;
    settled.sort();
    let gone = ("nowhere".to_owned(), Some("deleted".to_owned()));
    assert!(settled.contains(&(webroot, Some("failed".to_owned()))), "{settled:?}");
    assert!(settled.contains(&gone) || settled.iter().any(|(_, status)| status.is_none()), "{settled:?}");
    lab.end().await;
}
