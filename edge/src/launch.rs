//! `--take-over --detach`: starts the new process, waits until it serves, and leaves it alone.
//!
//! For who has to know how it went: a service manager, a script. The new process goes on when this one has ended.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// What a process that took over says on its standard output when it serves.
const SERVING: &[u8] = b"serving\n";

/// Runs this program once more, without `--detach`.
///
/// # Errors
/// The new process ended before it served; its own words are on standard error.
pub fn launch() -> anyhow::Result<()> {
    let program = env::current_exe().context("which program this is")?;
    let mut child = Command::new(&program)
        .args(env::args_os().skip(1).filter(|argument| argument != "--detach"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What is typed at the terminal of this process is not meant for that one.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let mut said = [0; SERVING.len()];
    let told = child.stdout.take().map(|mut output| output.read_exact(&mut said));
    if matches!(told, Some(Ok(()))) && said == SERVING {
        return Ok(());
    }
    let status = child.wait().context("the new process")?;
    bail!("the new process ended before it served ({status}); the edge that runs goes on")
}

/// Tells who launched this process, if anybody did.
pub(crate) fn tell_serving() {
    // Without anybody who reads there is nobody to tell.
    let _ = io::stdout().write_all(SERVING);
}
