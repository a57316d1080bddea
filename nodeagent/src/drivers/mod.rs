//! What the drivers of every role have in common: markers on disk, waiting for a service, and the end of data.

mod retire;

use std::time::{Duration, Instant};

use hosting_agent_engine::{Answer, DataId, Host, HostError, Probe, ServiceState};

pub use retire::{Destroyable, Retire, RetireSpec};

/// How long a service may take to answer by a configuration that it was just told of.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at whether it still lives.
const SLICE: Duration = Duration::from_millis(100);

/// What a marker on disk says of one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    None,
    Incarnation(u64),
    Damaged,
}

pub(crate) async fn marker(host: &dyn Host, data: &DataId) -> Result<Marker, HostError> {
    Ok(match host.read(&data.marker()).await? {
        None => Marker::None,
        Some(text) => match DataId::read_marker(&text) {
            Some((incarnation, _)) => Marker::Incarnation(incarnation),
            None => Marker::Damaged,
        },
    })
}

/// What stands in the way of using a folder as `data`; `None`: nothing.
pub(crate) fn in_the_way(marker: Marker, data: &DataId) -> Option<String> {
    match marker {
        Marker::None => None,
        Marker::Incarnation(found) if found == data.incarnation => None,
        Marker::Incarnation(found) => Some(format!(
            "{} of incarnation {found} is still in {}; waits until it is retired",
            data.marker_name(),
            data.home()
        )),
        Marker::Damaged => Some(format!("{} cannot be read; restore or remove it by hand", data.marker())),
    }
}

/// Ids that have a marker of a kind.
pub(crate) async fn marked(host: &dyn Host, prefix: &str) -> Result<Vec<String>, HostError> {
    let names = host.names(&DataId::markers()).await?;
    Ok(names.iter().filter_map(|name| name.strip_prefix(prefix)).map(ToOwned::to_owned).collect())
}

/// Names in a folder of configuration pieces.
pub(crate) async fn pieces(
    host: &dyn Host,
    folder: &hosting_agent_engine::Place,
) -> Result<Vec<String>, HostError> {
    let names = host.names(folder).await?;
    Ok(names
        .iter()
        .filter(|name| !name.starts_with('.'))
        .filter_map(|name| name.strip_suffix(".conf"))
        .map(ToOwned::to_owned)
        .collect())
}

/// Waits until the configuration in force is the one on disk. A service that ends meanwhile is not waited for: why it ended
/// says more than that it does not answer.
pub(crate) async fn await_answer(host: &dyn Host, service: &str, probe: &Probe) -> Result<(), HostError> {
    let (mut said, mut ended) = (String::new(), None);
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match host.probe(probe, SLICE).await {
            Answer::Expected | Answer::Busy => return Ok(()),
            Answer::Other(what) | Answer::Silent(what) => said = what,
        }
        match host.service(service).await? {
            ServiceState::Down(why) => return Err(HostError::service(service, why)),
            ServiceState::Stopped | ServiceState::Retiring(_) => {
                return Err(HostError::service(service, "it is not running"));
            }
            ServiceState::Running { last_end, .. } => ended = last_end,
        }
    }
    if let Some(why) = ended {
        return Err(HostError::service(service, why));
    }
    let why = format!("does not answer by its new configuration after {} s: {said}", PATIENCE.as_secs());
    Err(HostError::service(service, why))
}
