//! In which country an address is: a file in MaxMind's format that the operator supplies and replaces.
//!
//! It is read into memory, not mapped: a mapped file that is cut short while it is read ends the process.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hosting_edge_map::{Country, UNKNOWN_COUNTRY};
use jiff::Timestamp;
use maxminddb::{PathElement, Reader};

use crate::metrics::Metrics;
use crate::replaced_file::ReplacedFile;

/// Largest file that is read: those with cities have some 100 MiB.
const MAX_BYTES: u64 = 512 * 1024 * 1024;
/// Networks that are looked at for a country, before a file is taken for one without.
const NETWORKS: usize = 10_000;

/// Where a country stands in the records of MaxMind, DB-IP and IP2Location, and in those of IPinfo.
const PLACES: [&[PathElement<'static>]; 2] =
    [&[PathElement::Key("country"), PathElement::Key("iso_code")], &[PathElement::Key("country_code")]];

type Data = Reader<Vec<u8>>;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("has {0} bytes; at most {MAX_BYTES} are read")]
    TooLarge(u64),
    #[error("is no sound file in MaxMind's format (.mmdb): {0}")]
    Unsound(#[from] maxminddb::MaxMindDbError),
    #[error("has no countries in its first {NETWORKS} networks; one of countries or of cities is needed")]
    NoCountries,
}

/// The countries of addresses.
#[derive(Debug)]
pub(crate) struct Countries {
    /// `None`: the operator supplies none.
    file: Option<ReplacedFile>,
    data: ArcSwapOption<Data>,
    metrics: Metrics,
}

impl Countries {
    /// Reads the file, if there is to be one. One that cannot be used is told of, and looked at again.
    pub(crate) fn load(file: Option<PathBuf>, metrics: Metrics) -> Arc<Self> {
        let file = file.map(ReplacedFile::new);
        let countries = Arc::new(Self { file, data: ArcSwapOption::empty(), metrics });
        countries.take();
        countries
    }

    /// The country of an address.
    pub(crate) fn of(&self, address: IpAddr) -> Country {
        let data = self.data.load();
        data.as_ref().and_then(|data| country(data, address)).unwrap_or(UNKNOWN_COUNTRY)
    }

    /// What there is, in words.
    pub(crate) fn said(&self) -> String {
        match (self.data.load().as_ref(), &self.file) {
            (Some(data), _) => {
                let built = i64::try_from(data.metadata().build_epoch).unwrap_or(i64::MAX);
                let built = Timestamp::from_second(built).map(|time| time.to_string()).unwrap_or_default();
                format!("{} of {built}", data.metadata().database_type)
            }
            (None, Some(_)) => {
                "countries_file cannot be used, see the log: no address has a known country (XX)".to_owned()
            }
            (None, None) => "no countries_file is set: no address has a known country (XX)".to_owned(),
        }
    }

    /// Takes the file whenever it is another one. Never ends.
    pub(crate) async fn follow(self: Arc<Self>) {
        let Some(file) = &self.file else { return std::future::pending().await };
        let countries = Arc::clone(&self);
        file.follow(move || countries.take()).await;
    }

    fn take(&self) {
        let Some(file) = self.file.as_ref().map(ReplacedFile::path) else { return };
        let path = file.display();
        match read(file) {
            Ok(data) => {
                let (kind, built) = (&data.metadata().database_type, data.metadata().build_epoch);
                tracing::info!(%path, kind, built, "countries_file is in use");
                self.metrics.countries_built.set(i64::try_from(built).unwrap_or(i64::MAX));
                self.data.store(Some(Arc::new(data)));
            }
            Err(error) => {
                self.metrics.countries_refused.inc();
                if self.data.load().is_some() {
                    tracing::error!(%path, %error, "countries_file is not used; the one before stays in use. Put a sound one in its place");
                } else {
                    tracing::error!(%path, %error, "countries_file is not used, and no address has a known country. Put a sound one in its place");
                }
            }
        }
    }
}

/// Reads a file and looks whether it can be used.
pub(crate) fn read(path: &Path) -> Result<Data, FileError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if bytes > MAX_BYTES {
        return Err(FileError::TooLarge(bytes));
    }
    let mut all = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
    file.take(MAX_BYTES).read_to_end(&mut all)?;
    let data = Reader::from_source(all)?;
    data.verify()?;
    let networks = data.networks(maxminddb::WithinOptions::default())?.take(NETWORKS);
    for network in networks {
        if of_record(&network?).is_some() {
            return Ok(data);
        }
    }
    Err(FileError::NoCountries)
}

/// `None`: it is not known, or the file knows no addresses of this family.
fn country(data: &Data, address: IpAddr) -> Option<Country> {
    of_record(&data.lookup(address.to_canonical()).ok()?)
}

fn of_record(record: &maxminddb::LookupResult<'_, Vec<u8>>) -> Option<Country> {
    // Where there is none, and where something else stands there, it is not known.
    let text = PLACES.iter().find_map(|place| record.decode_path::<&str>(place).ok().flatten())?;
    let country: Country = text.as_bytes().try_into().ok()?;
    country.iter().all(u8::is_ascii_uppercase).then_some(country)
}
