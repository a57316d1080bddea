//! A tenant's folders.

use std::fmt;

use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Claim, DataId, Driver, EntryKind, Host, HostError, Key, Place, Plan, Rest,
};
use hosting_intent::Kind;

use super::{Marker, TENANT, in_the_way, marked, marker};
use crate::web::{layout::tenant_logs, render::php::error_log};

/// Drives tenants' folders.
#[derive(Debug, Default)]
pub struct Tenant;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSpec {
    /// Which life of the id this is.
    pub incarnation: u64,
}

/// What is there.
#[derive(Debug)]
pub struct TenantSeen {
    marker: Marker,
    /// Our own folders that are missing or have the wrong mode or owner.
    wrong: Vec<(Place, Access)>,
    home: bool,
    folder: bool,
    /// The file that PHP reports errors to.
    log: bool,
}

/// One change.
#[derive(Debug, Clone)]
pub enum TenantStep {
    /// Mark the folder as this incarnation's.
    Claim(DataId),
    /// A folder of ours.
    Dir(Place, Access),
    /// The tenant's own home.
    Home(Place),
    /// The file that PHP reports errors to: only the agent can make it, and the tenant's sites share it.
    Log(Place),
}

impl fmt::Display for TenantStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(data) => write!(f, "mark {} as incarnation {}", data.home(), data.incarnation),
            Self::Dir(place, _) | Self::Home(place) | Self::Log(place) => write!(f, "make {place}"),
        }
    }
}

impl Tenant {
    /// A driver.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

pub(crate) fn data(id: &str, incarnation: u64) -> DataId {
    DataId { kind: TENANT, id: id.to_owned(), tenant: id.to_owned(), incarnation }
}

/// The folders that no tenant may replace: the root of its chroot and what leads to its sites.
fn own_dirs(id: &str) -> [(Place, Access); 4] {
    let folder = data(id, 0).home();
    [
        (folder.clone(), Access::agent(0o755)),
        (folder.child("webroots"), Access::agent(0o751)),
        (folder.child("tmp"), Access::agent(0o1777)),
        // Sites write to files in it that the agent made, and cannot put links in their place.
        (tenant_logs(id), Access::agent(0o751)),
    ]
}

const LOG: Access = Access::site(0o640);

#[async_trait]
impl Driver for Tenant {
    type Spec = TenantSpec;
    type Observed = TenantSeen;
    type Step = TenantStep;
    const KIND: &'static str = "tenant";

    fn needs(&self, _: &str, _: &TenantSpec) -> Vec<Key> {
        Vec::new()
    }

    fn holds(&self, _: &str, _: &TenantSpec) -> Vec<Claim> {
        Vec::new()
    }

    fn held(&self, _: &str, _: &TenantSeen) -> Vec<Claim> {
        Vec::new()
    }

    fn origin(&self, name: &str) -> Option<hosting_intent::Key> {
        Some(hosting_intent::Key::new(Kind::Tenant, name))
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        marked(host, "tenant-").await
    }

    async fn observe(
        &self,
        name: &str,
        _: Option<&TenantSpec>,
        host: &dyn Host,
    ) -> Result<TenantSeen, HostError> {
        let folder = data(name, 0).home();
        let mut wrong = Vec::new();
        for (place, access) in own_dirs(name) {
            let right = host
                .entry(&place)
                .await?
                .is_some_and(|entry| entry.kind == EntryKind::Dir && entry.has(access));
            if !right {
                wrong.push((place, access));
            }
        }
        let exists = host.entry(&folder).await?.is_some();
        let home = exists && host.entry(&folder.child("home")).await?.is_some();
        let log = host.entry(&error_log(name)).await?.is_some_and(|entry| entry.kind == EntryKind::File);
        Ok(TenantSeen { marker: marker(host, &data(name, 0)).await?, wrong, home, folder: exists, log })
    }

    fn plan(&self, name: &str, want: Option<&TenantSpec>, seen: &TenantSeen) -> Plan<TenantStep> {
        let Some(spec) = want else {
            return Plan::Rest(match seen.marker {
                Marker::None => Rest::Gone,
                Marker::Incarnation(incarnation) => Rest::Kept(format!(
                    "incarnation {incarnation} is wanted by nobody; its files in {} are kept{}",
                    data(name, incarnation).home(),
                    if seen.folder { "" } else { " (there are none)" }
                )),
                Marker::Damaged => Rest::Kept("its marker is damaged; its files are kept".to_owned()),
            });
        };
        let data = data(name, spec.incarnation);
        if let Some(why) = in_the_way(seen.marker, &data) {
            return Plan::Rest(Rest::Blocked(why));
        }
        let mut steps = Vec::new();
        if seen.marker == Marker::None {
            steps.push(TenantStep::Claim(data.clone()));
        }
        steps.extend(seen.wrong.iter().map(|(place, access)| TenantStep::Dir(place.clone(), *access)));
        if !seen.home {
            steps.push(TenantStep::Home(data.home().child("home")));
        }
        if !seen.log {
            steps.push(TenantStep::Log(error_log(name)));
        }
        if steps.is_empty() { Plan::Rest(Rest::Ready(String::new())) } else { Plan::Do(steps) }
    }

    async fn step(&self, _: &str, step: &TenantStep, host: &dyn Host) -> Result<(), HostError> {
        match step {
            TenantStep::Claim(data) => host.claim(data).await,
            TenantStep::Dir(place, access) => host.make_dir(place, *access).await,
            TenantStep::Home(place) => host.offer_dir(place, Access::site(0o700)).await,
            TenantStep::Log(place) => match host.entry(place).await? {
                Some(_) => Ok(()),
                None => host.write(place, b"", LOG).await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use hosting_agent_engine::{Root, block_on, driver_laws, fake::FakeHost, laws::Scenario};

    use super::*;

    driver_laws!(
        tenants_keep_the_laws,
        Tenant::new,
        Scenario::<Tenant> {
            name: "t_a".into(),
            specs: vec![TenantSpec { incarnation: 7 }],
            before: hosting_agent_engine::fake::Snapshot::default(),
            // Logs are kept with the tenant.
            is_data: |place| matches!(place.root, Root::Storage | Root::Logs),
        }
    );

    #[test]
    fn another_incarnation_is_left_alone() {
        let host = FakeHost::new();
        super::super::tests::settle(&Tenant, "t_a", &TenantSpec { incarnation: 7 }, &host);
        let before = host.snapshot();
        let wanted = TenantSpec { incarnation: 8 };
        let seen = block_on(Tenant.observe("t_a", Some(&wanted), &host)).unwrap();
        let Plan::Rest(Rest::Blocked(why)) = Tenant.plan("t_a", Some(&wanted), &seen) else {
            panic!("{seen:?}")
        };
        assert!(why.contains("incarnation 7"), "{why}");
        assert_eq!(host.snapshot(), before);
    }
}
