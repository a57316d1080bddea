//! The end of customers' data: the only driver that destroys any, and only the incarnation that an intent names.

use std::fmt;

use async_trait::async_trait;
use hosting_agent_engine::{Claim, DataId, DataKind, Driver, Host, HostError, Key, Place, Plan, Rest, Root};
use hosting_intent::{Kind, message as m};

use super::{Marker, marker};

/// A kind of data that may be destroyed, and what goes with it.
#[derive(Debug, Clone, Copy)]
pub struct Destroyable {
    /// The kind of data.
    pub kind: DataKind,
    /// The kind of the intent that made it, as a retire names it.
    pub intent: Kind,
    /// What uses the data of an id, and goes before it.
    pub users: fn(&str) -> Vec<Key>,
    /// Where the logs of an id lie, if it has a folder of them.
    pub logs: fn(&str) -> Option<Place>,
}

/// Destroys data of the kinds that a role has. A key's name is that of the intent, for example `webroot/{id}`.
#[derive(Debug)]
pub struct Retire {
    kinds: &'static [Destroyable],
}

impl Retire {
    /// A driver for these kinds of data; what is of another kind is left alone.
    #[must_use]
    pub const fn new(kinds: &'static [Destroyable]) -> Self {
        Self { kinds }
    }

    fn known(&self, kind: DataKind) -> Option<&'static Destroyable> {
        self.kinds.iter().find(|known| known.kind == kind)
    }

    fn logs(&self, data: &DataId) -> Option<Place> {
        self.known(data.kind).and_then(|known| (known.logs)(&data.id))
    }

    /// Kind and id of a key's name.
    fn split<'a>(&self, name: &'a str) -> Option<(DataKind, &'a str)> {
        let (kind, id) = name.split_once('/')?;
        self.kinds.iter().find(|known| known.kind.as_str() == kind).map(|known| (known.kind, id))
    }

    /// The key's name that a folder in the trash belongs to: `{kind}-{id}-{incarnation}`.
    fn trash_key(&self, folder: &str) -> Option<String> {
        let (kind, rest) = folder.split_once('-')?;
        let (id, incarnation) = rest.rsplit_once('-')?;
        incarnation.parse::<u64>().ok()?;
        let name = format!("{kind}/{id}");
        self.split(&name).is_some().then_some(name)
    }
}

/// What to destroy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetireSpec {
    /// Exactly this.
    pub data: DataId,
    /// What still needs it, by the same view: then nothing is destroyed.
    pub wanted_by: Option<String>,
}

impl RetireSpec {
    /// What an intent that passed its check asks for, if the role keeps data of that kind. `wanted_by` tells from the view
    /// what still needs the data.
    #[must_use]
    pub fn of(
        retire: &m::Retire,
        kinds: &[Destroyable],
        wanted_by: impl FnOnce(&DataId) -> Option<String>,
    ) -> Option<Self> {
        let kind = kinds.iter().find(|known| known.intent == retire.kind())?.kind;
        let tenant = if kind.holds_others() { &retire.key } else { &retire.tenant_id };
        let data =
            DataId { kind, id: retire.key.clone(), tenant: tenant.clone(), incarnation: retire.incarnation };
        Some(Self { wanted_by: wanted_by(&data), data })
    }
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
        self.known(spec.data.kind).map(|known| (known.users)(&spec.data.id)).unwrap_or_default()
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
        Ok(folders.iter().filter_map(|folder| self.trash_key(folder)).collect())
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
            .filter(|folder| self.trash_key(folder).as_deref() == Some(name))
            .map(|folder| trash().child(folder.clone()))
            .collect();
        let mut removing = false;
        for place in &trash {
            removing |= host.is_removing(place).await;
        }
        let Some(spec) = want else {
            return Ok(RetireSeen { marker: Marker::None, folder: false, trash, removing, logs: false });
        };
        let logs = match self.logs(&spec.data) {
            Some(logs) => host.entry(&logs).await?.is_some() && !host.is_removing(&logs).await,
            None => false,
        };
        Ok(RetireSeen {
            marker: marker(host, &spec.data).await?,
            folder: host.entry(&spec.data.home()).await?.is_some(),
            logs,
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
                    steps.extend(self.logs(&spec.data).filter(|_| seen.logs).map(RetireStep::Logs));
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
                Marker::None => {
                    steps.extend(self.logs(&spec.data).filter(|_| seen.logs).map(RetireStep::Logs));
                }
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

    use super::*;
    use crate::web::drivers::{DATA, Tenant, TenantSpec, site_data, tenant_data, tests::settle};

    const RETIRE: Retire = Retire::new(DATA);

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
        || RETIRE,
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
        || RETIRE,
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
        let driver = RETIRE;
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
        assert_eq!(RETIRE.trash_key("webroot-web-x_1-12").as_deref(), Some("webroot/web-x_1"));
        assert_eq!(RETIRE.trash_key("webroot-web_1-x"), None);
        assert_eq!(RETIRE.trash_key("other-web_1-1"), None);
    }
}
