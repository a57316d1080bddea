//! Which crawlers are known: those that the build knows, or those of a file, which is read again when it changes. A new file that cannot be used
//! changes nothing, and is said.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use hosting_edge_map::{Agent, Agents, Crawler};
use hosting_intent::crawlers::check_agent;
use hosting_intent::message::CrawlerClass;
use ipnet::IpNet;
use serde::Deserialize;

use crate::metrics::{CrawlerMetrics, gauge};
use crate::replaced_file::ReplacedFile;

/// The file's form, with crawlers whose networks nobody has looked up.
const BUILT_IN: &str = include_str!("crawlers.json");

/// Largest file, in bytes.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
const MOST_CRAWLERS: usize = 2_000;
const MOST_NETWORKS: usize = 200_000;
/// Shortest and longest part of a `User-Agent`, in bytes: fewer would be in those of browsers.
const PART_BYTES: (usize, usize) = (4, 100);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    crawlers: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    class: Class,
    user_agents: Vec<String>,
    #[serde(default)]
    networks: Vec<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Class {
    Search,
    Ai,
    Seo,
    Monitor,
    Other,
}

impl From<Class> for CrawlerClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Search => Self::Search,
            Class::Ai => Self::Ai,
            Class::Seo => Self::Seo,
            Class::Monitor => Self::Monitor,
            Class::Other => Self::Other,
        }
    }
}

/// The crawlers that are known now.
#[derive(Debug)]
pub(crate) struct CrawlerList {
    agents: ArcSwap<Agents>,
    /// `None`: those of the build.
    file: Option<ReplacedFile>,
    metrics: CrawlerMetrics,
}

impl CrawlerList {
    pub(crate) fn new(file: Option<PathBuf>, metrics: CrawlerMetrics) -> Self {
        let built_in = parse(BUILT_IN).unwrap_or_else(|error| {
            tracing::error!(%error, "no crawlers are known by the build");
            Agents::default()
        });
        let file = file.map(ReplacedFile::new);
        let list = Self { agents: ArcSwap::from_pointee(built_in), file, metrics };
        list.show();
        list.take();
        list
    }

    /// The crawler that a request is of.
    pub(crate) fn of(&self, user_agent: &[u8], address: IpAddr) -> Option<Crawler> {
        self.agents.load().of(user_agent, address)
    }

    pub(crate) const fn metrics(&self) -> &CrawlerMetrics {
        &self.metrics
    }

    /// Takes the file whenever it is another one. Never ends.
    pub(crate) async fn follow(self: &Arc<Self>) {
        let Some(file) = &self.file else { return std::future::pending().await };
        let list = Arc::clone(self);
        file.follow(move || list.take()).await;
    }

    /// Reads the file.
    fn take(&self) {
        let Some(file) = self.file.as_ref().map(ReplacedFile::path) else { return };
        match read(file) {
            Ok(agents) => {
                self.agents.store(Arc::new(agents));
                self.metrics.file_refused.set(0);
                tracing::info!(file = %file.display(), crawlers = self.agents.load().len(), "crawlers read");
            }
            Err(error) => {
                self.metrics.file_refused.set(1);
                tracing::error!(
                    error = format!("{error:#}"),
                    "crawlers_file: the crawlers that were known before stay; mend the file, and it is read at once"
                );
            }
        }
        self.show();
    }

    fn show(&self) {
        self.metrics.known.set(gauge(self.agents.load().len()));
    }
}

/// Reads a file of crawlers.
///
/// # Errors
/// Where in the file what is wrong.
pub(crate) fn read(file: &Path) -> anyhow::Result<Agents> {
    let text = || {
        let mut text = String::new();
        File::open(file)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MOST_BYTES {
            bail!("more than {MOST_BYTES} bytes");
        }
        parse(&text)
    };
    text().with_context(|| file.display().to_string())
}

fn parse(text: &str) -> anyhow::Result<Agents> {
    let List { crawlers } = serde_json::from_str(text)?;
    if crawlers.len() > MOST_CRAWLERS {
        bail!("crawlers: {} of them; at most {MOST_CRAWLERS}", crawlers.len());
    }
    let (mut names, mut parts, mut networks) = (HashSet::new(), HashSet::new(), 0);
    let mut agents = Vec::with_capacity(crawlers.len());
    for (n, listed) in crawlers.into_iter().enumerate() {
        let agent = agent(listed).with_context(|| format!("crawlers[{n}]"))?;
        networks += agent.networks.len();
        if networks > MOST_NETWORKS {
            bail!("crawlers[{n}].networks: more than {MOST_NETWORKS} networks in all");
        }
        if !names.insert(agent.name.clone()) {
            bail!("crawlers[{n}].name: {} stands there twice", agent.name);
        }
        for part in &agent.user_agents {
            if !parts.insert(part.to_ascii_lowercase()) {
                bail!("crawlers[{n}].user_agents: {part:?} is that of a crawler before it");
            }
        }
        agents.push(agent);
    }
    Ok(Agents::new(&agents)?)
}

fn agent(listed: Listed) -> anyhow::Result<Agent> {
    let Listed { name, class, user_agents, networks } = listed;
    check_agent(&name).map_err(anyhow::Error::msg).context("name")?;
    if user_agents.is_empty() {
        bail!("user_agents: at least one is required, by which its requests are known");
    }
    let (least, most) = PART_BYTES;
    for part in &user_agents {
        let is_visible = part.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if !(least..=most).contains(&part.len()) || !is_visible || part.trim() != part {
            bail!("user_agents: {part:?} must have {least} to {most} visible characters");
        }
    }
    let network = |text: String| {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| text.parse::<IpNet>());
        let network = network.map_err(|_| {
            anyhow::anyhow!("networks: {text:?} is no network such as 192.0.2.0/24, and no address")
        })?;
        Ok(network.trunc().to_string())
    };
    let networks = networks.into_iter().map(network).collect::<anyhow::Result<_>>()?;
    Ok(Agent { name, class: class.into(), user_agents, networks })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hosting_edge_map::Proof;
    use hosting_scaffold::admin;

    use super::*;
    use crate::metrics::Metrics;

    const LIST: &str = r#"{"crawlers": [{"name": "a", "class": "seo", "user_agents": ["A-Bot"], "networks": ["192.0.2.7", "2001:db8::1/32"]}]}"#;

    #[test]
    fn the_crawlers_of_the_build_are_known() {
        let agents = parse(BUILT_IN).unwrap();
        let of =
            |user_agent: &[u8]| agents.of(user_agent, [192, 0, 2, 1].into()).map(|one| one.agent.to_string());
        let known = b"Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)";
        assert_eq!(of(known).as_deref(), Some("gptbot"));
        for browser in [
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36 Edg/141.0",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
            "curl/8.5.0",
        ] {
            assert_eq!(of(browser.as_bytes()), None, "{browser}");
        }
        assert_eq!(agents.of(known, [192, 0, 2, 1].into()).unwrap().proof, Proof::Unknown);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_place() {
        assert!(parse(LIST).is_ok());
        for (from, to, wanted) in [
            ("}]}", "}]", "EOF"),
            ("\"a\"", "\"A\"", "crawlers[0]: name: "),
            ("seo", "web", "unknown variant `web`"),
            ("\"class\"", "\"clas\"", "unknown field `clas`"),
            ("[\"A-Bot\"]", "[]", "user_agents: at least one"),
            ("A-Bot", "Bot", "user_agents: \"Bot\" must have"),
            ("A-Bot\"", "A-Bot\", \"a-bot\"", "is that of a crawler before it"),
            ("192.0.2.7", "here", "networks: \"here\" is no network"),
        ] {
            let broken = LIST.replacen(from, to, 1);
            let said = format!("{:#}", parse(&broken).unwrap_err());
            assert!(said.contains(wanted), "{broken}: {said}");
        }
        let twice = r#"{"crawlers": [{"name": "a", "class": "ai", "user_agents": ["abcd"]}, {"name": "a", "class": "ai", "user_agents": ["efgh"]}]}"#;
        assert!(
            format!("{:#}", parse(twice).unwrap_err()).contains("crawlers[1].name: a stands there twice")
        );
    }

    #[test]
    fn a_file_that_is_replaced_is_read_again_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("crawlers.json");
        let metrics = Metrics::new(&admin::Metrics::new()).crawlers;
        // It is not there: those of the build are known.
        let list = CrawlerList::new(Some(file.clone()), metrics);
        let is_known = |name: &str| list.of(name.as_bytes(), [192, 0, 2, 7].into()).map(|one| one.proof);
        let put = |text: &str| {
            let new = dir.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, &file).unwrap();
            list.take();
        };
        assert_eq!(
            (is_known("GPTBot"), is_known("A-Bot"), list.metrics.file_refused.get()),
            (Some(Proof::Unknown), None, 1)
        );
        put(LIST);
        assert_eq!(
            (is_known("GPTBot"), is_known("A-Bot"), list.metrics.file_refused.get()),
            (None, Some(Proof::Verified), 0)
        );
        assert_eq!(list.metrics.known.get(), 1);
        put("{");
        assert_eq!((is_known("A-Bot"), list.metrics.file_refused.get()), (Some(Proof::Verified), 1));
        put(&LIST.replace("192.0.2.7", "192.0.2.8"));
        assert_eq!((is_known("A-Bot"), list.metrics.file_refused.get()), (Some(Proof::Impostor), 0));
        fs::remove_file(&file).unwrap();
        list.take();
        assert_eq!((is_known("A-Bot"), list.metrics.file_refused.get()), (Some(Proof::Impostor), 1));
    }
}
