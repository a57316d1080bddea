//! The end of customers' data: the only driver that destroys any, and only the incarnation that an intent names.

use std::fmt;

use super::{Marker, PhpFpm, Site, marker};
use crate::layout::tenant_logs;
use async_trait::async_trait;
use hosting_agent_engine::{Claim, DataId, DataKind, Driver, Host, HostError, Key, Place, Plan, Rest, Root};

/// Destroys data. A key's name is that of the intent: `webroot/{id}` or `tenant/{id}`.
#[derive(Debug, Default)]
pub struct Retire;

/// What to destroy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetireSpec {
    /// Exactly this.
    pub data: DataId,
    /// What still needs it, by the same view: then nothing is destroyed.
    pub wanted_by: Option<String>,
}

/// What is there.
#[derive(Debug)]
pub struct RetireSeen {
    marker: Marker,
    folder: bool,
    trash: Vec<Place>,
    removing: bool,
    logs: bool,
}

/// One change.
#[derive(Debug, Clone)]
pub enum RetireStep {
    /// Out of the way, with its marker.
    Discard(DataId),
    /// The logs of a tenant.
    Logs(Place),
    /// What is out of the way.
    Purge(Place),
}

impl fmt::Display for RetireStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discard(data) => write!(f, "retire {} of incarnation {}", data.home(), data.incarnation),
            Self::Logs(place) | Self::Purge(place) => write!(f, "remove {place}"),
        }
    }
}

fn trash() -> Place {
    Place::new(Root::Storage, [".hosting", "trash"])
}

/// Kind and id of a key's name.
fn split(name: &str) -> Option<(DataKind, &str)> {
    let (kind, id) = name.split_once('/')?;
    [DataKind::Tenant, DataKind::Webroot]
        .into_iter()
        .find(|known| known.as_str() == kind)
        .map(|kind| (kind, id))
}

/// The key's name that a folder in the trash belongs to: `{kind}-{id}-{incarnation}`.
fn trash_key(folder: &str) -> Option<String> {
    let (kind, rest) = folder.split_once('-')?;
    let (id, incarnation) = rest.rsplit_once('-')?;
    incarnation.parse::<u64>().ok()?;
    let name = format!("{kind}/{id}");
    split(&name).is_some().then_some(name)
}

#[async_trait]
impl Driver for Retire {
    type Spec = RetireSpec;
    type Observed = RetireSeen;
    type Step = RetireStep;
    const KIND: &'static str = "retire";

    fn needs(&self, _: &str, _: &RetireSpec) -> Vec<Key> {
        Vec::new()
    }

    fn after(&self, _: &str, spec: &RetireSpec) -> Vec<Key> {
        match spec.data.kind {
            DataKind::Tenant => vec![Key::new(super::Tenant::KIND, spec.data.id.clone())],
            DataKind::Webroot => {
                vec![Key::new(PhpFpm::KIND, &spec.data.id), Key::new(Site::KIND, &spec.data.id)]
            }
        }
    }

    fn holds(&self, _: &str, _: &RetireSpec) -> Vec<Claim> {
        Vec::new()
    }

    fn held(&self, _: &str, _: &RetireSeen) -> Vec<Claim> {
        Vec::new()
    }

    fn origin(&self, _: &str) -> Option<hosting_intent::Key> {
        None
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        let folders = host.names(&trash()).await?;
        Ok(folders.iter().filter_map(|folder| trash_key(folder)).collect())
    }

    async fn observe(
        &self,
        name: &str,
        want: Option<&RetireSpec>,
        host: &dyn Host,
    ) -> Result<RetireSeen, HostError> {
        // Every incarnation's trash: it only ever got there by a retire.
        let folders = host.names(&trash()).await?;
        let trash: Vec<Place> = folders
            .iter()
            .filter(|folder| trash_key(folder).as_deref() == Some(name))
            .map(|folder| trash().child(folder.clone()))
            .collect();
        let mut removing = false;
        for place in &trash {
            removing |= host.is_removing(place).await;
        }
        let Some(spec) = want else {
            return Ok(RetireSeen { marker: Marker::None, folder: false, trash, removing, logs: false });
        };
        let logs = tenant_logs(&spec.data.id);
        Ok(RetireSeen {
            marker: marker(host, &spec.data).await?,
            folder: host.entry(&spec.data.home()).await?.is_some(),
            logs: spec.data.kind == DataKind::Tenant
                && host.entry(&logs).await?.is_some()
                && !host.is_removing(&logs).await,
            removing,
            trash,
        })
    }

    fn plan(&self, _: &str, want: Option<&RetireSpec>, seen: &RetireSeen) -> Plan<RetireStep> {
        let mut steps = Vec::new();
        let mut rest = Rest::Gone;
        if let Some(spec) = want {
            if let Some(by) = &spec.wanted_by {
                return Plan::Rest(Rest::Blocked(format!("still wanted by {by}; nothing is destroyed")));
            }
            rest = Rest::Retired;
            match seen.marker {
                Marker::Incarnation(found) if found == spec.data.incarnation => {
                    if seen.logs {
                        steps.push(RetireStep::Logs(tenant_logs(&spec.data.id)));
                    }
                    steps.push(RetireStep::Discard(spec.data.clone()));
                    steps.push(RetireStep::Purge(spec.data.trash()));
                    return Plan::Do(steps);
                }
                // Another life of the id: none of its business.
                Marker::Incarnation(_) => {}
                Marker::Damaged => {
                    rest = Rest::Refused(format!(
                        "{} cannot be read, so nothing is destroyed; remove {} by hand",
                        spec.data.marker(),
                        spec.data.home()
                    ));
                }
                Marker::None if seen.folder => {
                    rest = Rest::Refused(format!(
                        "{} has no incarnation marker, so it is not destroyed; remove it by hand",
                        spec.data.home()
                    ));
                }
                Marker::None if seen.logs => steps.push(RetireStep::Logs(tenant_logs(&spec.data.id))),
                Marker::None => {}
            }
        }
        if seen.removing {
            return Plan::Rest(Rest::Blocked("the data is being destroyed".to_owned()));
        }
        steps.extend(seen.trash.iter().cloned().map(RetireStep::Purge));
        if steps.is_empty() { Plan::Rest(rest) } else { Plan::Do(steps) }
    }

    async fn step(&self, _: &str, step: &RetireStep, host: &dyn Host) -> Result<(), HostError> {
        match step {
            RetireStep::Discard(data) => match host.discard(data).await {
                // Done before, by us or by another node of the shard.
                Err(HostError::Incarnation { found: 0, .. }) => Ok(()),
                other => other,
            },
            RetireStep::Logs(place) | RetireStep::Purge(place) => host.remove_tree(place).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use hosting_agent_engine::{
        Access, block_on, driver_laws,
        fake::{FakeHost, FakeNode},
        laws::Scenario,
    };

    use super::{
        super::{site::data as site_data, tenant::data as tenant_data, tests::settle},
        *,
    };
    use crate::drivers::{Tenant, TenantSpec};

    fn with_data(host: &FakeHost) {
        settle(&Tenant, "t_a", &TenantSpec { incarnation: 4 }, host);
        let site = site_data("web_a", "t_a", 9);
        block_on(host.claim(&site)).unwrap();
        host.put(&site.home().child("index.html"), FakeNode::File(b"mine".to_vec(), Access::site(0o644)));
    }

    fn spec(data: DataId) -> RetireSpec {
        RetireSpec { data, wanted_by: None }
    }

    driver_laws!(
        retiring_a_site_keeps_the_laws,
        || Retire,
        Scenario::<Retire> {
            name: "webroot/web_a".into(),
            specs: vec![spec(site_data("web_a", "t_a", 9))],
            before: {
                let host = FakeHost::new();
                with_data(&host);
                host.snapshot()
            },
            is_data: |_| false,
        }
    );

    driver_laws!(
        retiring_a_tenant_keeps_the_laws,
        || Retire,
        Scenario::<Retire> {
            name: "tenant/t_a".into(),
            specs: vec![spec(tenant_data("t_a", 4))],
            before: {
                let host = FakeHost::new();
                with_data(&host);
                host.snapshot()
            },
            is_data: |_| false,
        }
    );

    fn rest(spec: &RetireSpec, name: &str, host: &FakeHost) -> Rest {
        let driver = Retire;
        settle(&driver, name, spec, host);
        let seen = block_on(driver.observe(name, Some(spec), host)).unwrap();
        match driver.plan(name, Some(spec), &seen) {
            Plan::Rest(rest) => rest,
            Plan::Do(steps) => panic!("{steps:?}"),
        }
    }

    #[test]
    fn only_the_named_incarnation_goes() {
        let host = FakeHost::new();
        with_data(&host);
        let before = host.snapshot();
        for other in [8, 10] {
            assert_eq!(rest(&spec(site_data("web_a", "t_a", other)), "webroot/web_a", &host), Rest::Retired);
            assert_eq!(host.snapshot(), before, "incarnation {other}");
        }
        assert_eq!(rest(&spec(site_data("web_a", "t_a", 9)), "webroot/web_a", &host), Rest::Retired);
        let nodes = host.snapshot().nodes;
        assert!(!nodes.keys().any(|place| place.to_string().contains("web_a")), "{nodes:?}");
        assert!(nodes.contains_key(&tenant_data("t_a", 4).home()));
    }

    #[test]
    fn what_is_still_wanted_or_unmarked_is_not_destroyed() {
        let host = FakeHost::new();
        with_data(&host);
        let before = host.snapshot();
        let contradiction =
            RetireSpec { data: site_data("web_a", "t_a", 9), wanted_by: Some("webroot/web_a".into()) };
        assert!(matches!(rest(&contradiction, "webroot/web_a", &host), Rest::Blocked(_)));
        assert_eq!(host.snapshot(), before);
        host.take(&site_data("web_a", "t_a", 9).marker());
        let unmarked = rest(&spec(site_data("web_a", "t_a", 9)), "webroot/web_a", &host);
        assert!(
            matches!(&unmarked, Rest::Refused(why) if why.contains("no incarnation marker")),
            "{unmarked:?}"
        );
        assert!(host.snapshot().nodes.contains_key(&site_data("web_a", "t_a", 9).home().child("index.html")));
    }

    #[test]
    fn trash_names_are_read_back() {
        assert_eq!(trash_key("webroot-web-x_1-12").as_deref(), Some("webroot/web-x_1"));
        assert_eq!(trash_key("webroot-web_1-x"), None);
        assert_eq!(trash_key("other-web_1-1"), None);
    }
}
