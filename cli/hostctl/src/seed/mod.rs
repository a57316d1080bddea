//! `hostctl seed`: brands, zones, tenants and their sites from a file. What is there is left alone, so that seeding twice
//! changes nothing.

mod fixture;
mod manifest;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};

pub(crate) use self::manifest::Manifest;
use self::manifest::{Tenant, Webroot};
use crate::{
    api::{Api, ApiError, encode},
    args::{Connection, SeedArgs},
    cluster::Maker,
    format::Format,
    output,
    probe::Site,
    summary::Summary,
};

/// What the file led to.
#[derive(Debug, Default)]
pub(crate) struct Seeded {
    /// What was not there before, as `kind name`.
    pub created: Vec<String>,
    pub sites: Vec<Site>,
}

pub(crate) async fn run(args: SeedArgs, connection: &Connection, format: Format) -> anyhow::Result<()> {
    let manifest = Manifest::read(&args.file, &BTreeMap::new())?;
    let api = Api::connect_with(connection, manifest.api_url.as_deref(), manifest.api_key.as_deref())?;
    let storage = args.storage.clone().or_else(|| Summary::read(connection.data_dir()).map(|up| up.storage));
    let args = SeedArgs { storage, ..args };
    let seeded = apply(&api, &args, &manifest, None).await?;
    if format.is_for_programs() {
        let sites: Vec<&str> = seeded.sites.iter().map(|site| site.fqdn.as_str()).collect();
        output::data(format, &json!({"created": seeded.created, "sites": sites}));
    } else if seeded.created.is_empty() {
        output::line("nothing to create: everything is there");
    } else {
        seeded.created.iter().for_each(|what| output::line(format!("created {what}")));
    }
    Ok(())
}

/// Applies the manifest, but for what the platform does not serve yet: of that each thing is named in a warning.
pub(crate) async fn apply(
    api: &Api,
    args: &SeedArgs,
    manifest: &Manifest,
    cluster: Option<&str>,
) -> anyhow::Result<Seeded> {
    for what in manifest.not_served() {
        output::warning(what);
    }
    let place = Place::find(api, manifest, cluster).await?;
    let folder = args.file.parent().unwrap_or(Path::new(".")).to_owned();
    let mut seeded = Seeded::default();
    let mut seeder = Seeder { api, args, place, folder, seeded: &mut seeded };

    let mut brands = BTreeMap::new();
    for brand in &manifest.brands {
        let id = seeder.brand(brand).await?;
        brands.insert(brand.name.clone(), id);
    }
    // Zones before sites, so that names get their records at once; a tenant's zone needs the tenant first.
    let mut tenants = BTreeMap::new();
    for tenant in &manifest.tenants {
        let brand = seeder
            .brand_named(&mut brands, &tenant.brand)
            .await
            .with_context(|| format!("tenant {}", tenant.name))?;
        let found = seeder.tenant(tenant, &brand).await?;
        tenants.insert(tenant.name.clone(), found);
    }
    for zone in &manifest.zones {
        let brand = seeder
            .brand_named(&mut brands, &zone.brand)
            .await
            .with_context(|| format!("zone {}", zone.name))?;
        let tenant =
            match &zone.tenant {
                Some(name) => Some(tenants.get(name).with_context(|| {
                    format!("zone {}: there is no tenant {name:?} in the file", zone.name)
                })?),
                None => None,
            };
        seeder.zone(zone, &brand, tenant).await?;
    }
    for tenant in &manifest.tenants {
        if let Some(found) = tenants.get(&tenant.name) {
            for webroot in &tenant.webroots {
                seeder.webroot(tenant, found, webroot).await?;
            }
        }
    }
    Ok(seeded)
}

/// Region, cluster and shards that names in the file mean.
struct Place {
    region: String,
    cluster: String,
    clusters: BTreeMap<String, String>,
    shards: BTreeMap<String, String>,
}

impl Place {
    async fn find(api: &Api, manifest: &Manifest, cluster: Option<&str>) -> anyhow::Result<Self> {
        let regions = api.list("/regions").await?;
        let region = pick(&regions, "region", manifest.region.as_deref())?;
        let clusters = api.list(&format!("/regions/{}/clusters", encode(&region))).await?;
        let cluster = match cluster {
            Some(id) => id.to_owned(),
            None => pick(&clusters, "cluster", manifest.cluster.as_deref())?,
        };
        let shards = by_name(&api.list(&format!("/clusters/{}/shards", encode(&cluster))).await?);
        Ok(Self { region, cluster, clusters: by_name(&clusters), shards })
    }
}

/// Name to id.
fn by_name(found: &[Value]) -> BTreeMap<String, String> {
    found.iter().map(|one| (text(one, "name"), text(one, "id"))).collect()
}

/// The named one, or the only one.
fn pick(found: &[Value], kind: &str, name: Option<&str>) -> anyhow::Result<String> {
    let one = match name {
        Some(name) => found
            .iter()
            .find(|one| one["name"] == name)
            .with_context(|| format!("there is no {kind} {name:?}; make it with `hostctl cluster apply`"))?,
        None => match found {
            [only] => only,
            [] => bail!("there is no {kind}; make one with `hostctl cluster apply`"),
            _ => bail!("there are {} {kind}s; name one with `{kind}:` in the file", found.len()),
        },
    };
    Ok(text(one, "id"))
}

/// A tenant that is there now.
struct Found {
    id: String,
    subscriptions: BTreeMap<String, String>,
    /// Switched off, so that its sites answer with a page that says so.
    suspended: bool,
}

struct Seeder<'a> {
    api: &'a Api,
    args: &'a SeedArgs,
    place: Place,
    folder: PathBuf,
    seeded: &'a mut Seeded,
}

impl Seeder<'_> {
    fn maker(&mut self) -> Maker<'_> {
        Maker { api: self.api, created: &mut self.seeded.created }
    }

    /// The id of a brand of the file, or of one that was there before.
    async fn brand_named(&self, known: &mut BTreeMap<String, String>, name: &str) -> anyhow::Result<String> {
        if let Some(id) = known.get(name) {
            return Ok(id.clone());
        }
        let found = self.api.list(&format!("/brands?search={}", encode(name))).await?;
        let one = found
            .iter()
            .find(|one| one["name"] == name)
            .with_context(|| format!("there is no brand {name:?}, neither in the file nor in the API"))?;
        let id = text(one, "id");
        known.insert(name.to_owned(), id.clone());
        Ok(id)
    }

    async fn brand(&mut self, brand: &manifest::Brand) -> anyhow::Result<String> {
        let mut body = json!({
            "name": brand.name,
            "base_hostname": brand.base_hostname,
            "primary_ns": brand.primary_ns,
            "secondary_ns": brand.secondary_ns,
            "hostmaster_email": brand.hostmaster_email,
        });
        let optional = [
            ("id", &brand.id),
            ("mail_hostname", &brand.mail_hostname),
            ("spf_includes", &brand.spf_includes),
            ("dkim_selector", &brand.dkim_selector),
            ("dkim_public_key", &brand.dkim_public_key),
            ("dmarc_policy", &brand.dmarc_policy),
        ];
        for (field, value) in optional {
            if let Some(value) = value {
                body[field] = json!(value);
            }
        }
        let id = self.maker().find_or_create("brand", "/brands", "name", &brand.name, body).await?;
        if !brand.allowed_clusters.is_empty() {
            let path = format!("/brands/{}/clusters", encode(&id));
            let present = self.api.get(&path).await?;
            let wanted = brand
                .allowed_clusters
                .iter()
                .map(|name| {
                    self.place
                        .clusters
                        .get(name)
                        .with_context(|| format!("brand {}: there is no cluster {name:?}", brand.name))
                })
                .collect::<anyhow::Result<Vec<_>>>()?;
            if present["cluster_ids"] != json!(wanted) {
                self.api.put(&path, &json!({"cluster_ids": wanted})).await?;
            }
        }
        Ok(id)
    }

    async fn tenant(&mut self, tenant: &Tenant, brand: &str) -> anyhow::Result<Found> {
        let what = || format!("tenant {}", tenant.name);
        let shard = match &tenant.shard {
            Some(name) => self
                .place
                .shards
                .get(name)
                .with_context(|| format!("{}: there is no shard {name:?} in the cluster", what()))?
                .clone(),
            None => bail!("{}: `shard` is missing", what()),
        };
        let customer = encode(&tenant.customer_id);
        let present = self.api.list(&format!("/tenants?customer_id={customer}")).await?;
        let found = present.iter().find(|one| one["brand_id"] == brand && one["status"] != "deleting");
        let suspended = found.is_some_and(|one| one["status"] == "suspended");
        let id = match found {
            Some(one) => text(one, "id"),
            None => {
                let body = json!({
                    "brand_id": brand,
                    "customer_id": tenant.customer_id,
                    "region_id": self.place.region,
                    "cluster_id": self.place.cluster,
                    "shard_id": shard,
                });
                let made = self.api.post("/tenants", &body).await.with_context(what)?;
                self.seeded.created.push(what());
                text(&made, "id")
            }
        };
        let path = format!("/tenants/{}/subscriptions", encode(&id));
        let mut wanted = tenant.subscriptions.clone();
        if wanted.is_empty() {
            let id = format!("{}-default", tenant.customer_id);
            wanted.push(manifest::Subscription { id: Some(id), name: "default".to_owned() });
        }
        let mut subscriptions = BTreeMap::new();
        for one in &wanted {
            let own = one.id.clone().unwrap_or_else(|| format!("{}-{}", tenant.customer_id, one.name));
            let body = json!({"id": own, "name": one.name});
            let id = self
                .maker()
                .find_or_create("subscription", &path, "name", &one.name, body)
                .await
                .with_context(what)?;
            subscriptions.insert(one.name.clone(), id);
        }
        Ok(Found { id, subscriptions, suspended })
    }

    async fn zone(
        &mut self,
        zone: &manifest::Zone,
        brand: &str,
        tenant: Option<&Found>,
    ) -> anyhow::Result<()> {
        let what = || format!("zone {}", zone.name);
        let present =
            self.api.list(&format!("/zones?name={}", encode(&zone.name))).await.with_context(what)?;
        let id = match present.iter().find(|one| one["status"] != "deleting") {
            Some(one) => text(one, "id"),
            None => {
                let mut body = json!({"name": zone.name, "brand_id": brand, "region_id": self.place.region});
                if let Some(tenant) = tenant {
                    body["tenant_id"] = json!(tenant.id);
                    body["subscription_id"] =
                        json!(subscription(tenant, zone.subscription.as_deref(), what)?);
                }
                // Its own records may be what a warning lacks: those are told when the records are there.
                let made = self.api.post("/zones", &body).await.with_context(what)?;
                self.seeded.created.push(what());
                text(&made, "id")
            }
        };
        self.records(zone, &id).await.with_context(what)
    }

    async fn records(&mut self, zone: &manifest::Zone, id: &str) -> anyhow::Result<()> {
        let path = format!("/zones/{}/records", encode(id));
        let present = if zone.records.is_empty() { Vec::new() } else { self.api.list(&path).await? };
        for record in &zone.records {
            let absolute =
                if record.name == "@" { zone.name.clone() } else { format!("{}.{}", record.name, zone.name) };
            if !record.is_given() {
                output::warning(format!("record {absolute}: {} is no content, left out", record.content));
                continue;
            }
            let kind = record.kind()?;
            let is_it = |one: &&Value| {
                one["type"] == kind
                    && (one["name"] == record.name.as_str() || one["name"] == absolute.as_str())
            };
            if present.iter().filter(|one| one["status"] != "deleting").any(|one| is_it(&one)) {
                continue;
            }
            let mut body = json!({"type": kind, "name": record.name, "content": record.content});
            if let Some(ttl) = record.ttl {
                body["ttl"] = json!(ttl);
            }
            if let Some(priority) = record.priority {
                body["priority"] = json!(priority);
            }
            let what = format!("record {absolute} {kind}");
            self.api.post(&path, &body).await.with_context(|| what.clone())?;
            self.seeded.created.push(what);
        }
        let whole = self.api.get(&format!("/zones/{}", encode(id))).await?;
        output::warnings(&whole);
        Ok(())
    }

    async fn webroot(&mut self, tenant: &Tenant, found: &Found, webroot: &Webroot) -> anyhow::Result<()> {
        let first = webroot.fqdns.first().map(|one| one.fqdn.clone());
        let what =
            || format!("site {} of tenant {}", first.as_deref().unwrap_or("without a name"), tenant.name);
        let fqdns = format!("/tenants/{}/fqdns", encode(&found.id));
        let present = self.api.list(&fqdns).await?;
        let bound = webroot
            .fqdns
            .iter()
            .find_map(|name| present.iter().find(|one| one["fqdn"] == name.fqdn.as_str()))
            .and_then(|one| one["webroot_id"].as_str());
        let path = format!("/tenants/{}/webroots", encode(&found.id));
        let subscription = subscription(found, webroot.subscription.as_deref(), what)?;
        let mut known = bound.map(str::to_owned);
        if webroot.fqdns.is_empty() {
            let all = self.api.list(&path).await?;
            known = all.iter().find(|one| webroot.is_like(one, &subscription)).map(|one| text(one, "id"));
        }
        let id = match known {
            Some(id) => id,
            None => match self.api.post(&path, &webroot.body(&subscription)).await {
                Ok(made) => {
                    output::warnings(&made);
                    self.seeded.created.push(what());
                    text(&made, "id")
                }
                // A runtime, say, of which the API itself says that it comes later.
                Err(ApiError::Answer { status: 501, message }) => {
                    output::warning(format!("{}: {message}, left out", what()));
                    return Ok(());
                }
                Err(error) => return Err(error).with_context(what),
            },
        };
        self.until_active(&format!("/webroots/{}", encode(&id)), &what()).await?;
        if let Some(fixture) = &webroot.fixture {
            let storage = self.args.storage.as_ref().with_context(|| {
                format!("{}: a fixture needs --storage, the nodes' storage folder", what())
            })?;
            let folder = storage.join(&found.id).join("webroots").join(&id);
            fixture::put(&self.folder.join(&fixture.tarball), &folder).with_context(what)?;
        }
        for name in &webroot.fqdns {
            if !present.iter().any(|one| one["fqdn"] == name.fqdn.as_str()) {
                let body = json!({"fqdn": name.fqdn, "webroot_id": id, "ssl_enabled": name.ssl_enabled});
                output::warnings(&self.api.post(&fqdns, &body).await.with_context(what)?);
                self.seeded.created.push(format!("fqdn {}", name.fqdn));
            }
            self.seeded.sites.push(Site {
                fqdn: name.fqdn.clone(),
                brand: tenant.brand.clone(),
                runtime: format!("{} {}", webroot.runtime, webroot.runtime_version).trim().to_owned(),
                suspended: found.suspended,
            });
        }
        Ok(())
    }

    async fn until_active(&self, path: &str, what: &str) -> anyhow::Result<()> {
        let until = Instant::now() + self.args.timeout;
        loop {
            let one = self.api.get(path).await.with_context(|| what.to_owned())?;
            match one["status"].as_str().unwrap_or_default() {
                "active" | "suspended" => return Ok(()),
                "failed" => bail!("{what} failed: {}", text(&one, "status_message")),
                status if Instant::now() > until => {
                    bail!(
                        "{what} is still {status} after {} s: {}",
                        self.args.timeout.as_secs(),
                        one["conditions"]
                    )
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// The id of the named subscription, or of the tenant's first.
fn subscription(found: &Found, name: Option<&str>, what: impl Fn() -> String) -> anyhow::Result<String> {
    match name {
        Some(name) => found
            .subscriptions
            .get(name)
            .cloned()
            .with_context(|| format!("{}: the tenant has no subscription {name:?}", what())),
        None => found
            .subscriptions
            .values()
            .next()
            .cloned()
            .with_context(|| format!("{}: the tenant has no subscription", what())),
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}
