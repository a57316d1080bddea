//! A site on the nodes of its tenant's shard, and the routes of its service host names.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use hosting_intent::message::{self as m, env_value::Value};
use hosting_intent::{Audience, Key, Kind as IntentKind};
pub(crate) use hosting_resource::kinds::webroot::Webroot;
use hosting_resource::kinds::webroot::env::{self, EnvValue};
use hosting_resource::kinds::webroot::stored_php_pool;
use hosting_resource::kinds::zone_record::AutoRecord;
use hosting_resource::{Doc, Document, Kind, Status};

use super::{Changed, Deletion, Facts, GoesWith, Planned, Retires, Tie, fqdn, subscription, tenant};
use crate::auto_records::{self, NameSource};
use crate::fields::service_names;
use crate::gates::{Gate, Look};
use crate::overlay::Overlay;
use crate::plan::Plan;
use crate::unit::{Aspect, By, Pages};
use crate::{DesiredIntent, PlanError, Unit, World, read, readers};

/// The sites of a tenant.
pub(crate) const TENANT_SITES: Pages = Pages {
    name: "tenant_sites",
    over: Kind::Webroot,
    by: By::Parent,
    aspect: Aspect::Machines,
    is_wide: false,
};

/// The service host names of a tenant's sites.
pub(crate) const TENANT_SERVICES: Pages = Pages {
    name: "tenant_services",
    over: Kind::Webroot,
    by: By::Parent,
    aspect: Aspect::ServiceNames,
    is_wide: false,
};

#[async_trait]
impl Planned for Webroot {
    const FACTS: Facts = Facts {
        gated: true,
        deletion: Deletion::Gradual,
        goes_with: &[
            GoesWith { with: Kind::Tenant, by: Tie::Child },
            GoesWith { with: Kind::Subscription, by: Tie::Referrer("subscription_id") },
        ],
        retires: Some(Retires { intent: IntentKind::Webroot, after_children: false }),
        keeps: true,
        walks: &[TENANT_SITES, TENANT_SERVICES],
        ..Facts::PLAIN
    };

    fn units(webroot: &Doc<Self>) -> Vec<Unit> {
        let mut units = vec![Unit::Of(Self::KIND, webroot.id.clone()), Unit::Retire(webroot.id.clone())];
        units.extend(auto_records::units(&webroot.state.auto_records));
        units
    }

    fn touched(change: &Changed<'_, Self>, units: &mut BTreeSet<Unit>) {
        let Some(webroot) = change.both().next() else { return };
        units.insert(Unit::Of(Self::KIND, webroot.id.clone()));
        if change.lives_or_dies() {
            units.insert(Unit::Retire(webroot.id.clone()));
        }
        if !change.born_or_gone() && change.differs(|webroot| webroot.state.site_ready) {
            units.insert(fqdn::WEBROOT_FQDNS.of(&webroot.id, change.cause));
        }
        if change.differs(|webroot| webroot.state.routed) || change.lives_or_dies() {
            units.extend(change.both().flat_map(|webroot| auto_records::units(&webroot.state.auto_records)));
        }
    }

    async fn derive(webroot: &Doc<Self>, world: &mut dyn World) -> Result<Vec<DesiredIntent>, PlanError> {
        let Some(tenant) = read::tenant_of(world, webroot).await? else { return Ok(Vec::new()) };
        let Some(shard) = read::shard_of(world, &tenant).await? else { return Ok(Vec::new()) };
        let (id, spec) = (webroot.id.as_str(), &webroot.spec);
        let version = if spec.runtime == "static" { "" } else { spec.runtime_version.as_str() };
        let mut message = m::Webroot {
            tenant_id: tenant.id.clone(),
            runtime: spec.runtime.clone(),
            runtime_version: version.to_owned(),
            public_folder: spec.public_folder.trim_matches('/').to_owned(),
            shard_name: shard.spec.name.clone(),
            php: (spec.runtime == "php").then(|| pool(webroot)),
            incarnation: webroot.created_revision,
            tenant_uid: tenant.state.uid,
            env: BTreeMap::new(),
        };
        let mut wanted = Vec::new();
        for node in read::nodes_of_shard(world, &shard.typed_id()).await? {
            if spec.runtime == "php" {
                message.env = env_for(webroot, &Audience::node(&node.id)?, world).await?;
            }
            wanted.push(DesiredIntent::new(Audience::node(&node.id)?, IntentKind::Webroot, id, &message));
        }
        if webroot.state.site_ready && !tenant.spec.cluster_id.is_empty() {
            let route = m::Route {
                tenant_id: tenant.id.clone(),
                webroot_id: id.to_owned(),
                shard_id: shard.id.clone(),
                ..m::Route::default()
            };
            for name in Self::names(webroot, &tenant, world).await? {
                let audience = Audience::edge(&tenant.spec.cluster_id)?;
                wanted.push(DesiredIntent::new(audience, IntentKind::Route, name, &route));
            }
        }
        Ok(wanted)
    }

    async fn settle(
        webroot: &mut Doc<Self>,
        _: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        webroot.spec.subscription_id =
            subscription::stored_id(&webroot.spec.subscription_id, webroot.brand.as_deref(), draft).await?;
        Ok(())
    }

    async fn check(
        webroot: &Doc<Self>,
        before: Option<&Doc<Self>>,
        draft: &mut Overlay<'_>,
    ) -> Result<(), PlanError> {
        let id = &webroot.spec.subscription_id;
        if before.is_none_or(|before| before.spec.subscription_id != *id) {
            let subscription = read::live(draft, "subscription_id", id).await?;
            read::same_tenant("subscription_id", &subscription, webroot)?;
        }
        Ok(())
    }

    async fn sync(webroot: &mut Doc<Self>, plan: &mut Plan<'_>) -> Result<bool, PlanError> {
        auto_records::sync(webroot, plan).await
    }

    async fn data_nodes(webroot: &Doc<Self>, world: &mut dyn World) -> Result<BTreeSet<String>, PlanError> {
        match read::tenant_of(world, webroot).await? {
            Some(tenant) => tenant::Tenant::data_nodes(&tenant, world).await,
            None => Ok(BTreeSet::new()),
        }
    }

    async fn revisit(
        mut webroot: Doc<Self>,
        aspect: Aspect,
        _: &str,
        plan: &mut Plan<'_>,
    ) -> Result<(), PlanError> {
        if aspect != Aspect::Machines {
            Self::sync(&mut webroot, plan).await?;
        }
        plan.replan([Unit::Of(Self::KIND, webroot.id.clone())]).await
    }

    fn conditions(webroot: &Doc<Self>, look: &mut Look<'_>) {
        let ready = webroot.state.site_ready;
        look.site(IntentKind::Webroot);
        if look.is_met("site") && !ready {
            look.gate(Gate::SiteReady);
        }
        if webroot.spec.service_hostname_enabled {
            look.route_then_dns(ready, webroot.state.routed, !webroot.state.auto_records.is_empty());
        }
    }

    fn open(webroot: &mut Doc<Self>, gate: Gate) {
        match gate {
            Gate::SiteReady => webroot.state.site_ready = true,
            Gate::Routed => webroot.state.routed = true,
            // Only a certificate has it.
            Gate::Shown => {}
        }
    }

    fn is_routed(webroot: &Doc<Self>) -> bool {
        webroot.state.routed
    }
}

#[async_trait]
impl NameSource for Webroot {
    const SOURCE_TYPE: &'static str = "service-hostname";

    fn records(state: &mut Self::State) -> &mut Vec<AutoRecord> {
        &mut state.auto_records
    }

    /// `{webroot}.{tenant}.{base host name of the brand}`, if it is enabled.
    async fn names(
        webroot: &Doc<Self>,
        tenant: &Doc<tenant::Tenant>,
        world: &mut dyn World,
    ) -> Result<Vec<String>, PlanError> {
        if !webroot.spec.service_hostname_enabled {
            return Ok(Vec::new());
        }
        let brand = read::brand_of(world, tenant).await?;
        let names = brand
            .map_or_else(Vec::new, |brand| service_names(&webroot.id, &tenant.id, &brand.spec.base_hostname));
        // A base name so long that the result is no name any more gives none, rather than a row that nobody accepts.
        Ok(names.into_iter().filter(|name| hosting_intent::name::check_host(name).is_ok()).collect())
    }

    /// Other service host names have other routes: none of them is known to be there yet.
    fn follow(webroot: &mut Doc<Self>, names: &[String]) -> bool {
        if webroot.state.service_names == names {
            return false;
        }
        webroot.state.service_names = names.to_vec();
        webroot.state.routed = false;
        if webroot.status == Status::Active {
            webroot.status = Status::Converging;
        }
        true
    }
}

/// The site's environment, its secrets sealed for one node.
async fn env_for(
    webroot: &Doc<Webroot>,
    audience: &Audience,
    world: &mut dyn World,
) -> Result<BTreeMap<String, m::EnvValue>, PlanError> {
    let key = Key::new(IntentKind::Webroot, webroot.id.as_str());
    let mut env = BTreeMap::new();
    for (name, value) in &webroot.spec.env {
        let field = format!("env/{name}");
        let at = (audience, &key, field.as_str());
        let value = match value {
            EnvValue::Secret(secret) => {
                let path = env::path_of(name);
                Value::Sealed(readers::sealed_for(world, at, webroot, &path, secret).await?)
            }
            EnvValue::Plain(text) => match env::vault_sealed(text) {
                Some(sealed) => {
                    let place = env::vault_place(webroot.tenant.as_deref().unwrap_or_default());
                    Value::Sealed(readers::sealed_from(world, at, &webroot.id, &place, &sealed).await?)
                }
                None => Value::Plain(text.clone()),
            },
        };
        env.insert(name.clone(), m::EnvValue { value: Some(value) });
    }
    Ok(env)
}

fn pool(webroot: &Doc<Webroot>) -> m::PhpPool {
    let pool = stored_php_pool(&webroot.spec.runtime_config);
    let waiting = pool.processes.waiting();
    m::PhpPool {
        max_children: pool.processes.max_children(),
        start_servers: waiting.map_or(0, |waiting| waiting.start),
        min_spare_servers: waiting.map_or(0, |waiting| waiting.min_spare),
        max_spare_servers: waiting.map_or(0, |waiting| waiting.max_spare),
        max_requests: pool.processes.max_requests(),
        values: pool.settings.values().clone(),
        admin_values: pool.settings.admin_values().clone(),
        request_seconds: pool.settings.request_seconds(),
    }
}
