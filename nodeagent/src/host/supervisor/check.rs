//! Configurations are tried out by their service's own test before they take effect.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::Ordering,
    time::Duration,
};

use hosting_agent_engine::{HostError, ServiceSpec};
use tokio::{process::Command, time::timeout};

use super::{PATH, Supervisor, blocking};

/// How long a test of a configuration may take.
const CHECK_TIME: Duration = Duration::from_secs(15);

impl Supervisor {
    /// Whether a service may start although its configuration could not be tested (a full disk holds no draft): from what
    /// is on disk already, which passed the test when it was put there. What serves is left alone.
    pub(super) async fn go_on_untested(
        &self,
        spec: &ServiceSpec,
        error: HostError,
        runs: bool,
    ) -> Result<(), HostError> {
        let is_verdict = matches!(error, HostError::Refused { .. });
        if is_verdict || runs || !self.is_in_place(spec).await? {
            return Err(error);
        }
        tracing::error!(service = spec.name, %error, "started as it was last: its configuration cannot be tested");
        Ok(())
    }

    /// Tests the main configuration with all pieces. A piece that is not accepted by itself is put aside, so that one of
    /// them (changed by hand, or by an upgrade of the service) does not keep the others down. Nothing is put aside unless
    /// the service accepts the same configuration without any piece: else it is not the pieces that are wrong.
    pub(super) async fn check_or_heal(&self, spec: &ServiceSpec) -> Result<(), HostError> {
        if spec.check_args.is_empty() {
            return Ok(());
        }
        let Some(place) = &spec.config.parts else { return self.check(spec, "", "").await };
        let folder = self.inner.roots.text(place);
        let all = format!("*{}", spec.config.suffix);
        let Err(first) = self.check(spec, &folder, &all).await else { return Ok(()) };
        let none = format!(".none/*{}", spec.config.suffix);
        if !matches!(first, HostError::Refused { .. }) || self.check(spec, &folder, &none).await.is_err() {
            return Err(first);
        }
        let (files, listed) = (self.inner.files.clone(), place.clone());
        let names = blocking(move || files.names(&listed)).await?;
        let mut put_aside = 0_usize;
        for name in names.iter().filter(|name| !name.starts_with('.') && name.ends_with(&spec.config.suffix))
        {
            let path = self.inner.roots.text(&place.child(name.clone()));
            let Err(error) = self.check(spec, &folder, name).await else { continue };
            if !matches!(error, HostError::Refused { .. }) {
                return Err(error);
            }
            tracing::error!(service = spec.name, piece = path, %error, "put aside: not accepted by itself");
            let aside = self.inner.roots.text(&place.child(format!(".{name}.bad")));
            fs::rename(&path, aside).map_err(|error| HostError::service(&spec.name, error))?;
            put_aside += 1;
        }
        if put_aside == 0 {
            return Err(first);
        }
        self.check(spec, &folder, &all).await
    }

    /// Runs the service's own test over its main configuration with the pieces `name` of `folder`.
    pub(super) async fn check(&self, spec: &ServiceSpec, folder: &str, name: &str) -> Result<(), HostError> {
        let failed = |problem: String| HostError::service(&spec.name, problem);
        let _permit = self.inner.checks.acquire().await.map_err(|error| failed(error.to_string()))?;
        let number = self.inner.drafts.fetch_add(1, Ordering::Relaxed);
        let draft =
            Draft(self.inner.roots.config.join(".check").join(format!("{}-{number}.main", spec.name)));
        let text = spec.config.text_with(folder, name);
        write_draft(&draft.0, text.as_bytes())
            .map_err(|error| failed(format!("{}: {error}", draft.0.display())))?;
        let main = draft.0.to_string_lossy().into_owned();
        let run = Command::new(&spec.program)
            .args(self.arguments(&spec.check_args, &main))
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(CHECK_TIME, run)
            .await
            .map_err(|_| {
                failed(format!("the test of the configuration took more than {} s", CHECK_TIME.as_secs()))
            })?
            .map_err(|error| failed(format!("cannot run {}: {error}", spec.program)))?;
        if output.status.success() {
            return Ok(());
        }
        let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stdout));
        let said = said.replace(&main, "main");
        Err(HostError::Refused { service: spec.name.as_str().into(), output: complaint(&said).into() })
    }
}

/// A file that goes with its owner.
pub(super) struct Draft(pub(super) PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) fn write_draft(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?.write_all(content)
}

/// The lines of a test's output that say what is wrong.
fn complaint(said: &str) -> String {
    let telling: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| {
            let upper = line.to_ascii_uppercase();
            ["[EMERG]", "[ALERT]", "[CRIT]", "ERROR", "ALERT"].iter().any(|word| upper.contains(word))
        })
        .collect();
    let chosen = if telling.is_empty() { said.trim().to_owned() } else { telling.join("; ") };
    let clean: String = chosen.chars().filter(|c| !c.is_control()).take(400).collect();
    if clean.is_empty() { "its test failed without a word".to_owned() } else { clean }
}
