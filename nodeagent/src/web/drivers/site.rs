//! A site: its folder and its nginx server block, static or in front of a PHP pool.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use hosting_agent_engine::{
    Access, Answer, Claim, DataId, Driver, Host, HostError, Key, Place, Plan, Rest, Root,
};
use hosting_intent::Kind;

use super::{
    Marker, PhpFpm, Tenant, WEBROOT, await_answer, http_probe, in_the_way, marked, marker, nginx_key, pieces,
};
use crate::web::{
    layout::{Layout, NGINX, site_file},
    render::nginx::{Rendered, site},
};

/// Drives sites.
pub struct Site {
    layout: Arc<Layout>,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSpec {
    /// Which life of the id this is.
    pub incarnation: u64,
    /// Its server block.
    pub site: crate::web::render::nginx::Site,
}

/// What is there.
#[derive(Debug)]
pub struct SiteSeen {
    marker: Marker,
    /// The tenant that the marker names.
    tenant: String,
    /// The webroot, or anything in its place.
    folder: bool,
    /// The document root and the folder of sessions, or anything in their places.
    folders: bool,
    config: Option<Vec<u8>>,
    wanted: Option<Result<Rendered, String>>,
    answer: Answer,
}

/// One change.
#[derive(Debug, Clone)]
pub enum SiteStep {
    /// Mark the folder as this incarnation's.
    Claim(DataId),
    /// The folders from the webroot to the document root and to the folder of sessions.
    Folders(Vec<Place>),
    /// Test the server block, put it in place and make nginx take it in.
    Install(String),
    /// Take in what is on disk.
    Reload,
    /// Until nginx answers by it.
    Await(String),
    /// Remove the server block.
    Remove,
}

impl fmt::Display for SiteStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(data) => write!(f, "mark {} as incarnation {}", data.home(), data.incarnation),
            Self::Folders(_) => f.write_str("make the site's folders"),
            Self::Install(_) => f.write_str("install the site"),
            Self::Reload => f.write_str("reload nginx"),
            Self::Await(_) => f.write_str("wait for the site"),
            Self::Remove => f.write_str("remove the site"),
        }
    }
}

impl Site {
    /// With the node's set-up.
    #[must_use]
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { layout }
    }
}

pub(crate) fn data(id: &str, tenant: &str, incarnation: u64) -> DataId {
    DataId { kind: WEBROOT, id: id.to_owned(), tenant: tenant.to_owned(), incarnation }
}

/// The webroot, the document root and the folder of sessions, each after those above it.
fn folders(id: &str, spec: &crate::web::render::nginx::Site) -> Vec<Place> {
    let home = data(id, &spec.tenant, 0).home();
    let mut all = vec![home.clone()];
    let sessions = spec.php.as_ref().and_then(|php| php.settings.session_folder());
    let sessions = sessions.into_iter().map(|path| path.split('/').map(ToOwned::to_owned).collect());
    for parts in std::iter::once(spec.public_folder.clone()).chain(sessions) {
        let mut place = home.clone();
        for part in parts {
            place = place.child(part);
            all.push(place.clone());
        }
    }
    all
}

/// nginx compares server names without case.
fn name_claim(id: &str) -> Claim {
    Claim(format!("server name {}", id.to_ascii_lowercase()))
}

#[async_trait]
impl Driver for Site {
    type Spec = SiteSpec;
    type Observed = SiteSeen;
    type Step = SiteStep;
    const KIND: &'static str = "webroot";

    fn needs(&self, name: &str, spec: &SiteSpec) -> Vec<Key> {
        let mut needs = vec![nginx_key(), Key::new(Tenant::KIND, spec.site.tenant.clone())];
        if spec.site.php.is_some() && !spec.site.suspended {
            needs.push(Key::new(PhpFpm::KIND, name));
        }
        needs
    }

    fn holds(&self, name: &str, _: &SiteSpec) -> Vec<Claim> {
        vec![name_claim(name)]
    }

    fn held(&self, name: &str, seen: &SiteSeen) -> Vec<Claim> {
        seen.config.iter().map(|_| name_claim(name)).collect()
    }

    fn origin(&self, name: &str) -> Option<hosting_intent::Key> {
        Some(hosting_intent::Key::new(Kind::Webroot, name))
    }

    async fn list(&self, host: &dyn Host) -> Result<Vec<String>, HostError> {
        let mut names = pieces(host, &Place::new(Root::Config, ["nginx", "sites"])).await?;
        names.extend(marked(host, "webroot-").await?);
        Ok(names)
    }

    async fn observe(
        &self,
        name: &str,
        want: Option<&SiteSpec>,
        host: &dyn Host,
    ) -> Result<SiteSeen, HostError> {
        let text = host.read(&data(name, "", 0).marker()).await?;
        let tenant = text
            .as_deref()
            .and_then(DataId::read_marker)
            .map(|(_, tenant)| tenant)
            .filter(|tenant| !tenant.is_empty())
            .or_else(|| want.map(|spec| spec.site.tenant.clone()))
            .unwrap_or_default();
        let folder = !tenant.is_empty() && host.entry(&data(name, &tenant, 0).home()).await?.is_some();
        let mut all_there = true;
        for place in want.map(|spec| folders(name, &spec.site)).unwrap_or_default() {
            // An error on the way down is a link of the tenant's own: it is in the place, and nginx decides.
            all_there &= !matches!(host.entry(&place).await, Ok(None));
        }
        let config = host.read(&site_file(name)).await?;
        let wanted = want.map(|spec| site(&self.layout, &spec.site).map_err(|error| error.to_string()));
        let answer = match &wanted {
            Some(Ok(rendered)) if config.is_some() => {
                host.probe(&http_probe(&self.layout, name, &rendered.fingerprint), Duration::ZERO).await
            }
            Some(_) | None => Answer::Silent(String::new()),
        };
        let marker = marker(host, &data(name, "", 0)).await?;
        Ok(SiteSeen { marker, tenant, folder, folders: all_there, config, wanted, answer })
    }

    fn plan(&self, name: &str, want: Option<&SiteSpec>, seen: &SiteSeen) -> Plan<SiteStep> {
        let (Some(spec), Some(wanted)) = (want, &seen.wanted) else {
            if seen.config.is_some() {
                return Plan::Do(vec![SiteStep::Remove]);
            }
            return Plan::Rest(match seen.marker {
                Marker::None => Rest::Gone,
                Marker::Incarnation(incarnation) => Rest::Kept(format!(
                    "incarnation {incarnation} is wanted by nobody; its files in {} are kept{}",
                    data(name, &seen.tenant, incarnation).home(),
                    if seen.folder { "" } else { " (there are none)" }
                )),
                Marker::Damaged => Rest::Kept("its marker is damaged; its files are kept".to_owned()),
            });
        };
        let data = data(name, &spec.site.tenant, spec.incarnation);
        if let Some(why) = in_the_way(seen.marker, &data) {
            return Plan::Rest(Rest::Blocked(why));
        }
        if seen.tenant != spec.site.tenant {
            return Plan::Rest(Rest::Blocked(format!("its files on disk belong to tenant {}", seen.tenant)));
        }
        let rendered = match wanted {
            Ok(rendered) => rendered,
            Err(why) => return Plan::Rest(Rest::Refused(why.clone())),
        };
        let mut steps = Vec::new();
        if seen.marker == Marker::None {
            steps.push(SiteStep::Claim(data));
        }
        if !seen.folder || !seen.folders {
            steps.push(SiteStep::Folders(folders(name, &spec.site)));
        }
        if seen.config.as_deref() != Some(rendered.text.as_bytes()) {
            steps.push(SiteStep::Install(rendered.text.clone()));
            steps.push(SiteStep::Await(rendered.fingerprint.clone()));
        } else if !matches!(seen.answer, Answer::Expected | Answer::Busy) {
            steps.push(SiteStep::Reload);
            steps.push(SiteStep::Await(rendered.fingerprint.clone()));
        }
        if !steps.is_empty() {
            return Plan::Do(steps);
        }
        Plan::Rest(Rest::Ready(if spec.site.suspended { "suspended".to_owned() } else { String::new() }))
    }

    async fn step(&self, name: &str, step: &SiteStep, host: &dyn Host) -> Result<(), HostError> {
        match step {
            SiteStep::Claim(data) => host.claim(data).await,
            SiteStep::Folders(all) => {
                for place in all {
                    host.offer_dir(place, Access::site(0o755)).await?;
                }
                Ok(())
            }
            SiteStep::Install(text) => host.install(NGINX, &site_file(name), Some(text.as_bytes())).await,
            SiteStep::Reload => host.reload(NGINX).await,
            SiteStep::Await(fingerprint) => {
                await_answer(host, NGINX, &http_probe(&self.layout, name, fingerprint)).await
            }
            SiteStep::Remove => host.install(NGINX, &site_file(name), None).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use hosting_agent_engine::{
        block_on, driver_laws,
        fake::{FakeHost, FakeNode},
        laws::Scenario,
    };

    use super::{
        super::tests::{layout, settle},
        super::*,
        *,
    };

    fn spec(php: bool, public_folder: &[&str], suspended: bool) -> SiteSpec {
        SiteSpec {
            incarnation: 3,
            site: crate::web::render::nginx::Site {
                id: "web_a".into(),
                tenant: "t_a".into(),
                public_folder: public_folder.iter().map(|part| (*part).to_owned()).collect(),
                shard: "shard-1".into(),
                php: php.then(|| crate::web::render::nginx::Php {
                    settings: hosting_intent::php::Settings::new(
                        &[("session.save_path".to_owned(), "var/sessions".to_owned())].into(),
                        &std::collections::BTreeMap::new(),
                        60,
                    )
                    .unwrap(),
                }),
                suspended,
            },
        }
    }

    fn prepared(host: &FakeHost) {
        settle(&NginxHost::new(layout()), "host", &NginxSpec::default(), host);
        settle(&Tenant, "t_a", &TenantSpec { incarnation: 1 }, host);
    }

    driver_laws!(
        sites_keep_the_laws,
        || Site::new(layout()),
        Scenario::<Site> {
            name: "web_a".into(),
            specs: vec![
                spec(false, &[], false),
                spec(false, &["public"], false),
                spec(true, &["public", "html"], false),
                spec(true, &["public", "html"], true),
            ],
            before: {
                let host = FakeHost::new();
                prepared(&host);
                host.snapshot()
            },
            is_data: |place| place.root == Root::Storage,
        }
    );

    #[test]
    fn a_link_that_the_tenant_put_in_the_way_is_left_and_not_followed() {
        let host = FakeHost::new();
        prepared(&host);
        let driver = Site::new(layout());
        settle(&driver, "web_a", &spec(false, &[], false), &host);
        let public = data("web_a", "t_a", 3).home().child("public");
        host.put(&public, FakeNode::Symlink("/etc".into()));
        settle(&driver, "web_a", &spec(false, &["public", "deep"], false), &host);
        let nodes = host.snapshot().nodes;
        assert_eq!(nodes.get(&public), Some(&FakeNode::Symlink("/etc".into())));
        assert!(!nodes.contains_key(&public.child("deep")));
    }

    #[test]
    fn a_server_block_that_nginx_refuses_leaves_the_last_good_one_in_force() {
        let host = FakeHost::new();
        prepared(&host);
        let driver = Site::new(layout());
        let good = spec(false, &[], false);
        settle(&driver, "web_a", &good, &host);
        let before = host.snapshot();
        host.refuse(b"broken-folder");
        let bad = spec(false, &["broken-folder"], false);
        let seen = block_on(driver.observe("web_a", Some(&bad), &host)).unwrap();
        let Plan::Do(steps) = driver.plan("web_a", Some(&bad), &seen) else { panic!() };
        let install = steps.iter().find(|step| matches!(step, SiteStep::Install(_))).unwrap();
        let error = block_on(driver.step("web_a", install, &host)).unwrap_err();
        assert!(error.to_string().contains("nginx refuses"), "{error}");
        assert_eq!(host.snapshot().nodes.get(&site_file("web_a")), before.nodes.get(&site_file("web_a")));
        let Rendered { fingerprint, .. } = site(&layout(), &good.site).unwrap();
        assert!(host.serves(NGINX, &fingerprint));
    }
}
