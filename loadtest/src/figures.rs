//! Medians and tails.

use std::time::Duration;

use serde_json::{Value, json};

/// Samples of one thing, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn add(&mut self, sample: Duration) {
        self.0.push(sample.as_secs_f64() * 1000.0);
    }

    /// The smallest sample that `part` (0–1) of all samples do not exceed; 0 without samples.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (part * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn row(&self, name: &str) -> Vec<String> {
        let cell = |part| format!("{:.1}", self.quantile(part));
        vec![name.to_owned(), self.0.len().to_string(), cell(0.5), cell(0.99), cell(1.0)]
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "count": self.0.len(),
            "p50_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
            "max_ms": self.quantile(1.0),
        })
    }
}

/// A line of the outcome.
pub(crate) fn print(text: &str) {
    use std::io::Write as _;
    // A closed pipe is the reader's choice.
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let mut figures = Figures::default();
        for millis in (1..=200).rev() {
            figures.add(Duration::from_millis(millis));
        }
        assert_eq!(figures.quantile(0.5), 100.0);
        assert_eq!(figures.quantile(0.99), 198.0);
        assert_eq!(figures.quantile(1.0), 200.0);
        assert_eq!(Figures::default().quantile(0.5), 0.0);
    }
}
