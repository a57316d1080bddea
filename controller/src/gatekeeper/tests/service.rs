//! Which nodes are looked at, and when.

use super::*;

/// How often the fleet was asked who is in service, once it was asked for news `more` times.
async fn asked_for_service(lab: &Lab, more: usize) -> usize {
    let (asked, service) = (&lab.puppets.asked, &lab.puppets.service);
    let (before, service_before) = (asked.load(Ordering::SeqCst), service.load(Ordering::SeqCst));
    let began = Instant::now();
    while asked.load(Ordering::SeqCst) < before + more {
        assert!(began.elapsed() < Duration::from_secs(20), "no round");
        lab.change(|_| {});
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    service.load(Ordering::SeqCst) - service_before
}

async fn until_out(lab: &Lab, node: &str, out: bool) {
    let began = Instant::now();
    while lab.get(node).await.unwrap().flag("out_of_service") != out {
        assert!(began.elapsed() < Duration::from_secs(20), "{node}: out of service is not {out}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_asks_who_is_in_service_when_that_changed() {
    let lab = Lab::start().await;
    lab.change(|puppets| *puppets.told.lock().unwrap() = Some(News::default()));
    // What the last nodes' creation made it look at is over.
    asked_for_service(&lab, 5).await;
    assert_eq!(asked_for_service(&lab, 20).await, 0, "nothing is open, nobody turned");
    lab.change(|puppets| {
        puppets.out.lock().unwrap().insert("web2".into());
        puppets.told.lock().unwrap().as_mut().unwrap().everything = true;
    });
    until_out(&lab, "web2", true).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_nobody_told_of_is_found_in_time() {
    let lab = Lab::with(Paces { slow: Duration::from_millis(20), ..PACES }).await;
    lab.change(|puppets| *puppets.told.lock().unwrap() = Some(News::default()));
    asked_for_service(&lab, 5).await;
    for out in [true, false] {
        lab.change(|puppets| {
            let mut silent = puppets.out.lock().unwrap();
            if out {
                silent.insert("web2".to_owned())
            } else {
                silent.remove("web2")
            };
        });
        until_out(&lab, "web2", out).await;
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_spared_at_the_start_and_did_not_come_is_found_when_that_time_is_over() {
    let lab = Lab::start().await;
    let (store, puppets) = (lab.store.clone(), lab.puppets.clone());
    lab.stop.cancel();
    puppets.out.lock().unwrap().insert("web2".into());
    // Nodes that are known before this one starts, and no news.
    tokio::time::sleep(Duration::from_millis(5)).await;
    *puppets.told.lock().unwrap() = Some(News::default());
    let (changes, source, stop) = (watch::Sender::new(0), puppets.clone(), CancellationToken::new());
    let (began, grace) = (Instant::now(), Duration::from_millis(1_500));
    let paces = Paces { grace, ..PACES };
    let news = Box::new(move || source.news());
    let next = Gatekeeper::with(store, puppets, changes.subscribe(), news, paces, Bell::default(), metrics());
    let task = tokio::spawn(next.run(stop.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let spared = !lab.get("web2").await.unwrap().flag("out_of_service");
    assert!(spared || began.elapsed() >= grace, "not spared");
    until_out(&lab, "web2", true).await;
    stop.cancel();
    task.await.unwrap().unwrap();
    lab.end().await;
}
