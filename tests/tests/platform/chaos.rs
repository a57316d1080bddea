//! Processes die at any moment while the API is changed without pause; afterwards everything must agree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Platform, eventually, machine_lacks_daemons};

/// The same sequence of choices each time; what the machine makes of it is not. `HOSTING_CHAOS_SEED` (a number) takes another.
const SEED: u64 = 0x005e_ed0f_c4a0_5eed;
/// How long processes die.
const STORM: Duration = Duration::from_secs(14);
/// Host names that come and go.
const NAMES: u64 = 12;

/// SplitMix64.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn seed() -> u64 {
    std::env::var("HOSTING_CHAOS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(SEED)
}

/// What the answers so far say of a name.
#[derive(Debug, Clone, PartialEq)]
enum Known {
    /// Created, with its id.
    There(String),
    /// Deleted, or never created.
    Gone,
    /// The last answer was lost, or was none.
    Unclear,
}

/// A caller that does not mind when nobody answers.
struct Caller {
    http: reqwest::Client,
    base: String,
    key: String,
    /// Tenant and webroot.
    sites: Vec<(String, String)>,
    subscription: (String, String),
    known: BTreeMap<String, Known>,
    choices: Choices,
    log: Vec<String>,
}

impl Caller {
    async fn call(&mut self, method: &str, path: &str, body: Option<Value>) -> Option<(u16, Value)> {
        let mut request = self
            .http
            .request(method.parse().unwrap(), format!("{}/api/v1{path}", self.base))
            .bearer_auth(&self.key)
            .timeout(Duration::from_secs(5));
        if let Some(body) = &body {
            request = request.json(body);
        }
        let outcome = async {
            let answer = request.send().await.ok()?;
            let code = answer.status().as_u16();
            let text = answer.text().await.ok()?;
            Some((code, serde_json::from_str(&text).unwrap_or(Value::Null)))
        }
        .await;
        self.log.push(format!("{method} {path} {:?}", outcome.as_ref().map(|(code, _)| code)));
        outcome
    }

    /// One change, chosen by the seed and by what is known.
    async fn change(&mut self) {
        let name = format!("chaos-{}.acme-hosting.test", self.choices.below(NAMES));
        let site = self.choices.below(self.sites.len() as u64) as usize;
        let (tenant, webroot) = self.sites[site].clone();
        match self.choices.below(10) {
            0 => {
                let (other, _) = self.subscription.clone();
                let path = format!("/tenants/{other}/suspend");
                self.call("POST", &path, Some(json!({"reason": "chaos"}))).await;
                self.call("POST", &format!("/tenants/{other}/unsuspend"), None).await;
            }
            1 => {
                // A site that lives a moment only.
                let (tenant, subscription) = self.subscription.clone();
                let body =
                    json!({"subscription_id": subscription, "runtime": "static", "runtime_version": "1"});
                let made = self.call("POST", &format!("/tenants/{tenant}/webroots"), Some(body)).await;
                if let Some((202, site)) = made {
                    let id = site["id"].as_str().unwrap();
                    self.call("DELETE", &format!("/webroots/{id}"), None).await;
                }
            }
            _ => match self.known.get(&name).cloned().unwrap_or(Known::Gone) {
                Known::There(id) => {
                    let outcome = self.call("DELETE", &format!("/fqdns/{id}"), None).await;
                    let now = match outcome {
                        Some((202 | 404, _)) => Known::Gone,
                        Some(_) | None => Known::Unclear,
                    };
                    self.known.insert(name, now);
                }
                Known::Gone | Known::Unclear => {
                    let body = json!({"fqdn": name, "webroot_id": webroot});
                    let outcome = self.call("POST", &format!("/tenants/{tenant}/fqdns"), Some(body)).await;
                    let now = match outcome {
                        Some((202, made)) => Known::There(made["id"].as_str().unwrap().to_owned()),
                        // Somebody has it: we, by a request whose answer was lost.
                        Some(_) | None => Known::Unclear,
                    };
                    self.known.insert(name, now);
                }
            },
        }
    }
}

async fn caller(platform: &Platform) -> Caller {
    let mut sites = Vec::new();
    for customer in ["acme-1001", "acme-1002"] {
        sites.push(platform.site(customer).await);
    }
    let (tenant, _) = platform.site("nordic-7").await;
    let subscription = platform.items(&format!("/tenants/{tenant}/subscriptions")).await[0]["id"].clone();
    Caller {
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        base: platform.summary["api"].as_str().unwrap().to_owned(),
        key: platform.admin_key(),
        sites,
        subscription: (tenant, subscription.as_str().unwrap().to_owned()),
        known: BTreeMap::new(),
        choices: Choices(seed()),
        log: Vec::new(),
    }
}

/// Name to (id, status) of what the API has.
async fn stored(platform: &Platform, sites: &[(String, String)]) -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    for (tenant, _) in sites {
        for fqdn in platform.items(&format!("/tenants/{tenant}/fqdns")).await {
            let text = |field: &str| fqdn[field].as_str().unwrap().to_owned();
            let (name, status) = (text("fqdn"), text("status"));
            // A name may be made anew, by another tenant too, while the row of the one before is still going.
            if status == "deleting" {
                all.entry(name).or_insert((text("id"), status));
            } else {
                all.insert(name, (text("id"), status));
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_agrees_after_processes_died_at_random() {
    if machine_lacks_daemons("everything_agrees_after_processes_died_at_random") {
        return;
    }
    let mut platform = Platform::start(&["--no-restart"]).await;
    let epoch = platform.get("/subscribers").await["epoch"].clone();
    let mut caller = caller(&platform).await;
    let calm = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&calm);
    let changes = tokio::spawn(async move {
        while !over.load(Ordering::Relaxed) {
            caller.change().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        caller
    });

    let mut choices = Choices(!seed());
    let begun = Instant::now();
    let mut deaths = Vec::new();
    while begun.elapsed() < STORM {
        tokio::time::sleep(Duration::from_millis(choices.below(700))).await;
        let roles = ["controller", "edge", "dns", "nodeagent"];
        let first = choices.below(4) as usize;
        let mut dead = vec![roles[first]];
        if choices.below(3) == 0 {
            dead.push(roles[(first + 1 + choices.below(3) as usize) % 4]);
        }
        for role in &dead {
            platform.kill(role).await;
        }
        tokio::time::sleep(Duration::from_millis(choices.below(400))).await;
        for role in &dead {
            platform.restart(role).await;
        }
        deaths.push(dead);
    }
    calm.store(true, Ordering::Relaxed);
    let caller = changes.await.unwrap();
    let story = || format!("seed {}, deaths {deaths:?}\n{}", seed(), caller.log.join("\n"));
    assert!(deaths.len() >= 5, "{} deaths only: {deaths:?}", deaths.len());
    let carried_out = caller.log.iter().filter(|line| line.ends_with("Some(202)")).count();
    assert!(carried_out >= 40, "{carried_out} changes only; {}", story());

    // What was answered is kept.
    let have = stored(&platform, &caller.sites).await;
    for (name, known) in &caller.known {
        match known {
            Known::There(id) => {
                assert!(have.get(name).is_some_and(|(there, _)| there == id), "{name} is lost; {}", story());
            }
            Known::Gone => {
                let stays = have.get(name).is_some_and(|(_, status)| status != "deleting");
                assert!(!stays, "{name} is back; {}", story());
            }
            Known::Unclear => {}
        }
    }

    // And everybody comes to agree with it.
    let (tenant, _) = &caller.subscription;
    let _ = platform.call("POST", &format!("/tenants/{tenant}/unsuspend"), None).await;
    let limit = Duration::from_secs(20);
    let settled = async || {
        let have = stored(&platform, &caller.sites).await;
        have.values().all(|(_, status)| status == "active").then_some(have)
    };
    let have = eventually("every name is active", limit, settled).await;
    for name in caller.known.keys() {
        let agrees = async || {
            let yes = if have.contains_key(name) {
                platform.is_live(name).await
            } else {
                platform.is_gone(name).await
            };
            yes.then_some(())
        };
        eventually(&format!("{name}, stored: {}; {}", have.contains_key(name), story()), limit, agrees).await;
    }
    for name in ["bakery.test", "guestbook.acme-hosting.test"] {
        assert!(platform.is_live(name).await, "{name}; {}", story());
    }
    let fjord = async || {
        platform.web("fjord.nordic-web.test").await.is_some_and(|(code, _)| code == 200).then_some(())
    };
    eventually("fjord is on again", limit, fjord).await;

    let calm = async || {
        let all = platform.get("/subscribers").await;
        assert_eq!(all["epoch"], epoch, "nobody was ahead of the store; {}", story());
        let good = |one: &Value| {
            let empty = |field: &str| one[field].as_array().is_some_and(Vec::is_empty);
            one["applied"] == one["head"]
                && one["durable"] == one["head"]
                && one["in_service"] == true
                && ["rejected", "held", "unsupported"].into_iter().all(empty)
        };
        all["items"].as_array().unwrap().iter().all(good).then_some(())
    };
    eventually("every subscriber has all of it on disk", limit, calm).await;
    let none_half_gone = async || {
        let left = platform.items(&format!("/tenants/{tenant}/webroots")).await;
        left.iter().all(|site| site["status"] == "active").then_some(())
    };
    eventually("no site stays half deleted", limit, none_half_gone).await;
}
