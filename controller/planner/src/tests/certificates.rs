//! Certificates, and with them secrets on their way to the readers of an audience.

use super::*;
use crate::{Admitted, admit_reader, expel_reader, replan};

struct Site {
    lab: Lab,
    edge: String,
    fqdn: Resource,
}

fn body(names: &[&str], years: i64) -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params =
        rcgen::CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.not_before = rcgen::date_time_ymd(1969, 1, 1);
    params.not_after = rcgen::date_time_ymd(i32::try_from(1970 + years).unwrap(), 1, 1);
    json!({"cert_pem": params.self_signed(&key).unwrap().pem(), "key_pem": key.serialize_pem()})
}

impl Site {
    async fn new() -> Self {
        let mut lab = Lab::new().await;
        let tenant = lab.tenant("acme", "c1").await;
        let fqdn = lab.fqdn(&tenant, "www.example.com", None).await.unwrap();
        lab.settle().await;
        let edge = format!("edge/{}", lab.cluster);
        Self { lab, edge, fqdn }
    }

    async fn upload(&mut self, years: i64) -> Result<Resource, PlanError> {
        let fqdn = self.fqdn.id.clone();
        self.lab.post(Kind::Certificate, Some(&fqdn), body(&["www.example.com"], years)).await
    }

    async fn admit(&mut self, node: &str, key: u8) -> Admitted {
        let admitted = admit_reader(&mut self.lab.store, &at(&self.edge), node, &[key; 32]).await;
        self.lab.end(admitted).unwrap()
    }

    fn intent(&self, id: &str) -> Option<m::Certificate> {
        match self.lab.intent(&self.edge, IntentKind::Certificate, id) {
            Some(Intent::Certificate(certificate)) => Some(certificate),
            _ => None,
        }
    }

    fn version(&self, id: &str) -> u32 {
        self.intent(id).unwrap().key.unwrap().version
    }

    /// Version and reader of each share that the edges are told of.
    fn shares(&self) -> Vec<(u32, u8)> {
        let keys = self.lab.store.rows().filter(|row| row.audience == at(&self.edge)).map(|row| &row.key);
        let keys = keys.filter(|key| key.known_kind() == Some(IntentKind::AudienceKey));
        keys.map(|key| hosting_intent::audience_key_of(&key.name).unwrap())
            .map(|(version, reader)| (version, reader[0]))
            .collect()
    }
}

#[tokio::test]
async fn a_secret_comes_with_the_key_that_opens_it_and_planning_it_again_changes_nothing() {
    let mut site = Site::new().await;
    assert_eq!(site.admit("edge1", 1).await, Admitted::NothingSealed);
    assert_eq!(site.shares(), [], "nobody needs a key yet");
    let certificate = site.upload(100).await.unwrap();
    assert!(!certificate.has_unsealed_secret() && certificate.has_secret());
    assert_eq!((site.version(&certificate.id), site.shares()), (1, vec![(1, 1)]));
    let told: Vec<u64> =
        site.lab.store.rows().filter(|row| row.audience == at(&site.edge)).map(|row| row.revision).collect();
    let newest = site.lab.store.head;
    assert_eq!(told.iter().filter(|revision| **revision == newest).count(), 2, "in one revision");
    // Of the key nothing is anywhere but where the store keeps it.
    let text = format!("{:?} {:?}", site.lab.store.resources, site.lab.store.intents);
    assert!(!text.contains("PRIVATE KEY"));

    let logged = site.lab.store.log.len();
    let unit = Unit::Of(Kind::Certificate, certificate.id.clone());
    let again = replan([unit], &mut site.lab.store, hosting_intent::Cause::Planner).await;
    site.lab.end(again).unwrap();
    assert_eq!(site.lab.store.log.len(), logged);
    // Who comes later is told as well, and what is sealed stays.
    assert_eq!(site.admit("edge2", 2).await, Admitted::Added);
    assert_eq!(site.admit("edge2", 2).await, Admitted::Known);
    assert_eq!((site.version(&certificate.id), site.shares()), (1, vec![(1, 1), (1, 2)]));
    site.lab.settle().await;
    assert_eq!(site.lab.status(&certificate.id), Some(Status::Active));
    site.lab.assert_planned().await;
}

#[tokio::test]
async fn who_leaves_is_told_nothing_more_and_everything_is_sealed_anew() {
    let mut site = Site::new().await;
    site.lab.node("edge2", &["lb"], false, "192.0.2.2").await;
    site.admit("edge1", 1).await;
    site.admit("edge2", 2).await;
    let mut all = Vec::new();
    for n in 0..130 {
        let name = format!("h{n}.example.com");
        let tenant = site.lab.get(&site.fqdn.id).unwrap().parent.clone().unwrap();
        let tenant = site.lab.get(&tenant).unwrap().clone();
        let fqdn = site.lab.fqdn(&tenant, &name, None).await.unwrap();
        let made = site.lab.post(Kind::Certificate, Some(&fqdn.id), body(&[&name], 100)).await.unwrap();
        all.push(made.id);
    }
    site.lab.settle().await;
    let routes = site.lab.store.log.len();
    site.lab.delete("edge2").await.unwrap();
    assert_eq!(site.shares(), [(1, 1), (2, 1)], "at once");
    // More than one step of a walk, which reads what holds secrets alone.
    site.lab.settle().await;
    assert!(all.iter().all(|id| site.version(id) == 2));
    let changed = site.lab.store.log[routes..].iter().filter(|row| row.change.audience == at(&site.edge));
    let kinds: BTreeSet<_> = changed.map(|row| row.change.key.known_kind().unwrap()).collect();
    let expected =
        [IntentKind::ShardPool, IntentKind::AudienceKey, IntentKind::Certificate, IntentKind::EdgeCount];
    assert!(kinds.iter().all(|kind| expected.contains(kind)), "{kinds:?}");
    site.lab.assert_planned().await;

    // Another role is as good as gone; another machine in its place too, before it has even come.
    site.lab.put("edge1", json!({"roles": ["dns"]})).await.unwrap();
    site.lab.settle().await;
    assert_eq!((site.version(&all[0]), site.shares()), (3, vec![]));
    site.lab.put("edge1", json!({"roles": ["lb"]})).await.unwrap();
    site.admit("edge1", 3).await;
    let audience = at(&site.edge);
    let expelled = expel_reader(&mut site.lab.store, "edge1", [audience]).await;
    site.lab.end(expelled).unwrap();
    site.lab.settle().await;
    assert_eq!((site.version(&all[129]), site.shares()), (4, vec![]));
    assert_eq!(site.admit("edge1", 4).await, Admitted::Added);
    // The same node with another key pair was replaced by somebody who did not say so.
    assert_eq!(site.admit("edge1", 5).await, Admitted::Replaced);
    site.lab.settle().await;
    assert_eq!(site.version(&all[64]), 5);
    assert!(site.shares().iter().all(|(_, reader)| *reader == 5));
    site.lab.assert_planned().await;
}

#[tokio::test]
async fn the_certificate_that_ends_last_is_the_active_one() {
    let mut site = Site::new().await;
    let active = |site: &Site, id: &str| site.lab.get(id).unwrap().flag("active");
    let short = site.upload(10).await.unwrap();
    assert!(active(&site, &short.id));
    let long = site.upload(20).await.unwrap();
    assert_eq!((active(&site, &short.id), active(&site, &long.id)), (false, true));
    let middle = site.upload(15).await.unwrap();
    assert!(!active(&site, &middle.id) && active(&site, &long.id));
    site.lab.delete(&long.id).await.unwrap();
    assert_eq!((active(&site, &short.id), active(&site, &middle.id)), (false, true));
    assert!(site.intent(&long.id).is_none() && site.intent(&middle.id).is_some());
    site.lab.settle().await;
    assert_eq!(site.lab.get(&long.id), None);
    let expired = site.upload(0).await.unwrap_err().to_string();
    assert_eq!(expired, "validation error: cert_pem: has expired");
    // They go with the name.
    let fqdn = site.fqdn.id.clone();
    site.lab.delete(&fqdn).await.unwrap();
    site.lab.settle().await;
    assert!(site.lab.store.resources.values().all(|one| one.kind != Kind::Certificate));
    site.lab.assert_planned().await;
}

/// Whoever finds an HTTPS record asks by HTTPS: it is there while edges show a certificate of the name.
#[tokio::test]
async fn name_servers_speak_of_https_while_edges_show_a_certificate() {
    let mut lab = Lab::new().await;
    let tenant = lab.tenant("acme", "c1").await;
    lab.zone(&tenant, "example.com").await.unwrap();
    let webroot = lab.webroot(&tenant).await;
    let fqdn = lab.fqdn(&tenant, "www.example.com", Some(&webroot)).await.unwrap();
    lab.fqdn(&tenant, "other.example.com", Some(&webroot)).await.unwrap();
    lab.settle().await;
    let says = |lab: &Lab, name: &str| {
        let set = lab.rr_set(&format!("example.com/{name}.example.com/A")).unwrap();
        assert!(matches!(set.data, Some(m::rr_set::Data::AddressSet(_))));
        set.https
    };
    assert!(!says(&lab, "www") && !says(&lab, "other"));
    let upload = async |lab: &mut Lab, years| {
        lab.post(Kind::Certificate, Some(&fqdn.id), body(&["www.example.com"], years)).await.unwrap()
    };
    let first = upload(&mut lab, 10).await;
    let serial = lab.serial("example.com");
    lab.drain().await;
    assert!(!says(&lab, "www"), "the edges do not have it yet");
    let verdict = lab.look(&first.id, &Everybody::of(&lab.store)).await;
    assert_eq!(verdict.open, [crate::gates::Gate::Shown]);
    lab.settle().await;
    assert!(says(&lab, "www") && !says(&lab, "other"));
    assert_eq!((lab.serial("example.com"), lab.status(&first.id)), (serial + 1, Some(Status::Active)));
    lab.assert_planned().await;

    // Another one changes nothing, and neither does the end of the first.
    let logged = lab.store.log.len();
    let second = upload(&mut lab, 20).await;
    lab.settle().await;
    lab.delete(&first.id).await.unwrap();
    lab.settle().await;
    assert!(says(&lab, "www") && lab.get(&first.id).is_none());
    let for_names = lab.store.log[logged..].iter().filter(|row| row.change.audience == at("dns/default"));
    assert_eq!(for_names.count(), 0);

    // It ends with the last one, which is gone when no name server speaks of it any more.
    lab.delete(&second.id).await.unwrap();
    assert!(!says(&lab, "www"));
    let withdrawn = lab.get(&second.id).unwrap().progress().withdrawn.unwrap();
    assert!(withdrawn.contains_key("dns/default"), "{withdrawn:?}");
    lab.settle().await;
    assert_eq!(lab.get(&second.id), None);
    // And with the addresses, when a person's take their place.
    upload(&mut lab, 30).await;
    lab.settle().await;
    assert!(says(&lab, "www"));
    let zone = lab.store.resources.values().find(|one| one.kind == Kind::Zone).unwrap().id.clone();
    let own = json!({"type": "A", "name": "www", "content": "192.0.2.7"});
    let own = lab.post(Kind::ZoneRecord, Some(&zone), own).await.unwrap();
    assert!(!lab.rr_set("example.com/www.example.com/A").unwrap().https);
    lab.delete(&own.id).await.unwrap();
    lab.settle().await;
    assert!(says(&lab, "www"));
    lab.delete(&fqdn.id).await.unwrap();
    lab.settle().await;
    assert_eq!(lab.rr_set("example.com/www.example.com/A"), None);
    lab.assert_planned().await;
}

#[tokio::test]
async fn a_secret_that_does_not_open_leaves_what_is_there() {
    let mut site = Site::new().await;
    let certificate = site.upload(100).await.unwrap();
    let before = site.intent(&certificate.id).unwrap();
    let stored = site.lab.store.resources.get_mut(&certificate.id).unwrap();
    stored.spec["key"]["$secret"]["sealed"] = json!("nonsense");
    let unit = Unit::Of(Kind::Certificate, certificate.id.clone());
    let failed = replan([unit], &mut site.lab.store, hosting_intent::Cause::Planner).await;
    let error = site.lab.end(failed).unwrap_err().to_string();
    assert!(error.contains("the secret at key does not open; set it again"), "{error}");
    assert_eq!(site.intent(&certificate.id), Some(before));
    // Nothing is put whose secret has not been sealed.
    let mut creation = Kind::Certificate
        .def()
        .create(
            site.lab.get(&site.fqdn.id),
            body(&["www.example.com"], 50).as_object().unwrap(),
            &mut |bytes: &mut [u8]| bytes.fill(9),
        )
        .unwrap();
    creation.resources[0].plain = hosting_resource::PlainSecrets::default();
    let refused = create(&mut site.lab.store, creation).await;
    let error = site.lab.end(refused).unwrap_err().to_string();
    assert!(error.contains("is not sealed"), "{error}");
}

#[tokio::test]
async fn a_ticket_key_that_does_not_open_costs_the_cluster_nothing_else() {
    let mut lab = Lab::new().await;
    lab.settle().await;
    let (cluster, edge) = (lab.cluster.clone(), format!("edge/{}", lab.cluster));
    let fresh = |n: u8| crate::FreshTicketKey {
        name: format!("{n:032x}"),
        key: hosting_resource::PlainText::new(format!("{n:064x}")),
    };
    let made =
        crate::rotate_ticket_keys(&mut lab.store, &cluster.as_str().into(), [fresh(1), fresh(2)]).await;
    assert_eq!(lab.end(made).unwrap(), 2);
    let told = |lab: &Lab| match lab.intent(&edge, IntentKind::TicketKeys, "tickets") {
        Some(Intent::TicketKeys(keys)) => keys.keys.iter().map(|key| key.name[15]).collect(),
        _ => Vec::new(),
    };
    assert_eq!(told(&lab), [1, 2]);
    // The first is of a data key that this store has not.
    let mut broken = lab.store.resources[&cluster].clone();
    broken.state["ticket_keys"][0]["key"]["sealed"] = json!("elsewhere");
    lab.store.resources.insert(cluster.clone(), broken);
    let unit = Unit::Of(Kind::Cluster, cluster.clone());
    let again = replan([unit], &mut lab.store, hosting_intent::Cause::Planner).await;
    lab.end(again).unwrap();
    assert_eq!(told(&lab), [2]);
    assert!(lab.intent(&edge, IntentKind::EdgeSettings, "settings").is_some());
}
