//! Configuration: defaults < file < environment < flags.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use figment::{
    Figment, Provider,
    providers::{Env, Format, Serialized, Toml},
    value::Dict,
};
use serde::{Serialize, de::DeserializeOwned};

/// Flags that every process has. Flatten it into the process's own arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// Read settings from this TOML file (flags and environment win over it)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the configuration, say what is wrong, and exit
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration in force as TOML and exit
    #[arg(long)]
    pub dump_config: bool,
}

impl ConfigArgs {
    /// Answers `--dump-config` or `--check-config` on standard output; false: neither was asked for, so the process is to run.
    ///
    /// `check` looks at what loading the settings cannot see, for example whether a program is installed.
    ///
    /// # Errors
    /// Those of `dump` and `check`, and a standard output that cannot be written.
    pub fn answer(
        &self,
        dump: impl FnOnce() -> anyhow::Result<String>,
        check: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        self.answer_to(&mut io::stdout(), dump, check)
    }

    fn answer_to(
        &self,
        out: &mut impl Write,
        dump: impl FnOnce() -> anyhow::Result<String>,
        check: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        if self.dump_config {
            out.write_all(dump()?.as_bytes())?;
        } else if self.check_config {
            check()?;
            writeln!(out, "the configuration is sound")?;
        }
        Ok(self.dump_config || self.check_config)
    }
}

/// The configuration cannot be used; the message names the setting and where it came from.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--config` names a file that is not there.
    #[error("--config {0}: no such file")]
    NoFile(PathBuf),
    /// A setting is unknown or has a wrong value.
    #[error("{0}")]
    Setting(#[from] Box<figment::Error>),
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Reading them.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// One that makes no sense, or that this machine cannot follow.
    #[error("{setting}: {problem}")]
    Invalid {
        /// Which.
        setting: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl SettingsError {
    /// Names the setting, what is wrong with it, and what to do.
    #[must_use]
    pub fn invalid(setting: &'static str, problem: impl Into<String>) -> Self {
        Self::Invalid { setting, problem: problem.into() }
    }
}

/// The layers above the defaults, from which parts of the configuration are taken, each with settings of its own.
///
/// Environment variables are `{env_prefix}{SETTING}`, nested settings with `__` between: `HOSTING_EDGE_DATA_DIR`.
/// Lists are written `[a,b]`.
#[derive(Debug)]
pub struct Layers {
    figment: Figment,
    known: BTreeSet<String>,
}

impl Layers {
    /// Reads the layers. `flags` serialises only what was given (`skip_serializing_if = "Option::is_none"`).
    ///
    /// # Errors
    /// A missing file.
    pub fn new(env_prefix: &str, file: Option<&Path>, flags: impl Serialize) -> Result<Self, ConfigError> {
        let mut layers = Figment::new();
        if let Some(path) = file {
            if !path.is_file() {
                return Err(ConfigError::NoFile(path.to_owned()));
            }
            layers = layers.merge(Toml::file_exact(path));
        }
        let figment = layers.merge(Env::prefixed(env_prefix).split("__")).merge(Serialized::globals(flags));
        Ok(Self { figment, known: BTreeSet::new() })
    }

    /// Takes the settings of one part: `T`'s own, above its defaults.
    ///
    /// # Errors
    /// A value of the wrong type.
    pub fn part<T: Serialize + DeserializeOwned + Default>(&mut self) -> Result<T, ConfigError> {
        self.part_above(T::default())
    }

    /// The same, with defaults that are not the type's own.
    ///
    /// # Errors
    /// A value of the wrong type.
    pub fn part_above<T: Serialize + DeserializeOwned>(&mut self, defaults: T) -> Result<T, ConfigError> {
        let fault = |error| ConfigError::Setting(Box::new(error));
        let defaults = Figment::from(Serialized::defaults(defaults));
        self.known.extend(defaults.data().map_err(fault)?.into_values().flat_map(Dict::into_keys));
        defaults.merge(&self.figment).extract().map_err(fault)
    }

    /// Every part was taken.
    ///
    /// # Errors
    /// A setting that no part has.
    pub fn finish(self) -> Result<(), ConfigError> {
        let fault = |error| ConfigError::Setting(Box::new(error));
        let given = self.figment.data().map_err(fault)?;
        match given.into_values().flat_map(Dict::into_keys).find(|key| !self.known.contains(key)) {
            None => Ok(()),
            Some(key) => {
                let message = format!("unknown setting `{key}`; --dump-config prints all that there are");
                let mut error = figment::Error::from(message);
                error.metadata = self.figment.find_metadata(&key).cloned();
                Err(fault(error))
            }
        }
    }
}

/// Merges the layers into settings that are all of one part, as [`Layers`] does.
///
/// # Errors
/// A missing file, an unknown setting, a value of the wrong type.
pub fn load<T: Serialize + DeserializeOwned + Default>(
    env_prefix: &str,
    file: Option<&Path>,
    flags: impl Serialize,
) -> Result<T, ConfigError> {
    let mut layers = Layers::new(env_prefix, file, flags)?;
    let settings = layers.part()?;
    layers.finish()?;
    Ok(settings)
}

/// The configuration in force, as a TOML file that `--config` reads back.
///
/// # Errors
/// A value that TOML cannot hold.
pub fn dump<T: Serialize>(settings: &T) -> Result<String, toml::ser::Error> {
    toml::to_string_pretty(settings)
}

/// [`dump`] of settings that are of several parts.
///
/// # Errors
/// A value that TOML cannot hold.
pub fn dump_parts(first: &impl Serialize, second: &impl Serialize) -> Result<String, toml::ser::Error> {
    #[derive(Serialize)]
    struct Both<'a, A, B> {
        #[serde(flatten)]
        first: &'a A,
        #[serde(flatten)]
        second: &'a B,
    }
    dump(&Both { first, second })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        name: String,
        limit: u32,
        listen: Vec<String>,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self { name: "default".into(), limit: 1, listen: vec!["[::]:80".into()] }
        }
    }

    #[derive(Serialize)]
    struct Flags {
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    }

    #[test]
    fn a_dump_or_a_check_is_answered_instead_of_running() {
        let answer = |dump_config, check_config, sound: bool| {
            let mut out = Vec::new();
            let args = ConfigArgs { config: None, check_config, dump_config };
            let dump = || Ok("limit = 1\n".to_owned());
            let check = || if sound { Ok(()) } else { Err(anyhow::anyhow!("no nginx")) };
            let answered = args.answer_to(&mut out, dump, check).map_err(|error| error.to_string());
            (answered, String::from_utf8(out).unwrap())
        };
        assert_eq!(answer(false, false, false), (Ok(false), String::new()));
        assert_eq!(answer(false, true, true), (Ok(true), "the configuration is sound\n".to_owned()));
        assert_eq!(answer(false, true, false), (Err("no nginx".to_owned()), String::new()));
        assert_eq!(answer(true, true, false), (Ok(true), "limit = 1\n".to_owned()));
    }

    #[test]
    fn a_later_layer_wins_and_a_typo_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("settings.toml");
        std::fs::write(&file, "name = \"file\"\nlimit = 2\n").unwrap();
        let loaded: Settings = load("SCAFFOLD_TEST_", Some(&file), Flags { limit: Some(3) }).unwrap();
        assert_eq!(loaded, Settings { name: "file".into(), limit: 3, listen: vec!["[::]:80".into()] });

        std::fs::write(&file, "nmae = \"file\"\n").unwrap();
        let error = load::<Settings>("SCAFFOLD_TEST_", Some(&file), Flags { limit: None }).unwrap_err();
        assert!(error.to_string().contains("nmae"), "{error}");

        #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        struct Part {
            workers: u32,
        }
        std::fs::write(&file, "workers = 5\nlimit = 2\n").unwrap();
        let no_flags = Flags { limit: None };
        let mut layers = Layers::new("SCAFFOLD_TEST_", Some(&file), &no_flags).unwrap();
        assert_eq!(layers.part::<Part>().unwrap(), Part { workers: 5 });
        let error = layers.finish().unwrap_err().to_string();
        assert!(error.contains("`limit`") && error.contains("settings.toml"), "{error}");

        std::fs::write(&file, "workers = \"many\"\n").unwrap();
        let mut layers = Layers::new("SCAFFOLD_TEST_", Some(&file), &no_flags).unwrap();
        let error = layers.part::<Part>().unwrap_err().to_string();
        assert!(error.contains("workers") && error.contains("settings.toml"), "{error}");

        let missing = dir.path().join("absent.toml");
        assert!(load::<Settings>("SCAFFOLD_TEST_", Some(&missing), Flags { limit: None }).is_err());
    }
}
