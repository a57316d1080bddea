//! Says what happens: a spinner for people, a line a step for logs.

use std::time::{Duration, Instant};

use console::Style;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// How long a step may take before what it waits for is shown.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a log, where no spinner turns, is told that something still goes on.
const STILL: Duration = Duration::from_secs(30);

/// One step at a time.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    text: String,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { bar: None, begun: Instant::now(), text: String::new() }
    }

    /// Ends the step before it, which went well.
    pub(crate) fn step(&mut self, text: impl Into<String>) {
        self.done();
        self.text = text.into();
        self.begun = Instant::now();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if bar.is_hidden() {
            return;
        }
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(self.text.clone());
        bar.enable_steady_tick(Duration::from_millis(100));
        self.bar = Some(bar);
    }

    /// What the step waits for; shown on a terminal once it takes long.
    pub(crate) fn waits_for(&self, what: &str) {
        if let Some(bar) = &self.bar
            && self.begun.elapsed() > PATIENCE
        {
            bar.set_message(format!("{}: {what}", self.text));
        }
    }

    /// Does `work`; where there is no terminal a line now and then says that it is still being waited for.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(STILL) => {
                    if self.bar.is_none() {
                        output::note(format!("  still {} ({} s)", self.text, self.begun.elapsed().as_secs()));
                    }
                }
            }
        }
    }

    pub(crate) fn done(&mut self) {
        self.clear();
        if !self.text.is_empty() {
            let ok = Style::new().for_stderr().green().apply_to("ok");
            output::note(format!("  {ok} {} ({:.1} s)", self.text, self.begun.elapsed().as_secs_f64()));
            self.text.clear();
        }
    }

    pub(crate) fn failed(&mut self) {
        self.clear();
        if !self.text.is_empty() {
            let failed = Style::new().for_stderr().red().bold().apply_to("failed");
            output::note(format!("  {failed} {}", self.text));
            self.text.clear();
        }
    }

    /// Takes the spinner away, so that something else can be printed.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
