//! Configuration: defaults < file < environment < flags.

use std::path::{Path, PathBuf};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
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

/// Merges the layers. `flags` serialises only what was given (`skip_serializing_if = "Option::is_none"`).
///
/// Environment variables are `{env_prefix}{SETTING}`, nested settings with `__` between: `HOSTING_EDGE_DATA_DIR`.
/// Lists are written `[a,b]`. `T` should carry `#[serde(deny_unknown_fields)]`, so that a misspelt setting is an error.
///
/// # Errors
/// A missing file, an unknown setting, a value of the wrong type.
pub fn load<T: Serialize + DeserializeOwned + Default>(
    env_prefix: &str,
    file: Option<&Path>,
    flags: impl Serialize,
) -> Result<T, ConfigError> {
    let mut layers = Figment::from(Serialized::defaults(T::default()));
    if let Some(path) = file {
        if !path.is_file() {
            return Err(ConfigError::NoFile(path.to_owned()));
        }
        layers = layers.merge(Toml::file_exact(path));
    }
    layers
        .merge(Env::prefixed(env_prefix).split("__"))
        .merge(Serialized::globals(flags))
        .extract()
        .map_err(|error| ConfigError::Setting(Box::new(error)))
}

/// The configuration in force, as a TOML file that `--config` reads back.
///
/// # Errors
/// A value that TOML cannot hold.
pub fn dump<T: Serialize>(settings: &T) -> Result<String, toml::ser::Error> {
    toml::to_string_pretty(settings)
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
    fn a_later_layer_wins_and_a_typo_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("settings.toml");
        std::fs::write(&file, "name = \"file\"\nlimit = 2\n").unwrap();
        let loaded: Settings = load("SCAFFOLD_TEST_", Some(&file), Flags { limit: Some(3) }).unwrap();
        assert_eq!(loaded, Settings { name: "file".into(), limit: 3, listen: vec!["[::]:80".into()] });

        std::fs::write(&file, "nmae = \"file\"\n").unwrap();
        let error = load::<Settings>("SCAFFOLD_TEST_", Some(&file), Flags { limit: None }).unwrap_err();
        assert!(error.to_string().contains("nmae"), "{error}");

        let missing = dir.path().join("absent.toml");
        assert!(load::<Settings>("SCAFFOLD_TEST_", Some(&missing), Flags { limit: None }).is_err());
    }
}
