//! What is wrong with items, all of it told at once, before anything is sent.

use std::fmt::Write as _;

use hosting_resource::SpecError;

use super::files::Place;
use crate::output::UsageError;

/// Faults that are told in full.
const LISTED: usize = 20;

/// What is wrong with an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) place: Place,
    /// The item as a person would call it: `zone-record www A`.
    pub(super) what: String,
    /// The field; empty when it is about the item as a whole.
    pub(super) field: String,
    pub(super) reason: String,
    /// What to do; empty when the reason says it.
    pub(super) remedy: String,
}

/// Collects faults.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one, unless it is there already.
    pub(super) fn add(&mut self, fault: Fault) {
        if !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what a check of a body found.
    pub(super) fn add_error(&mut self, place: &Place, what: &str, error: SpecError) {
        let (field, reason) = match error {
            SpecError::Several(all) => {
                all.into_iter().for_each(|one| self.add_error(place, what, one));
                return;
            }
            SpecError::Invalid { field, problem } => (format!("spec.{field}"), problem),
            SpecError::NotServed { field, detail } => (format!("spec.{field}"), detail),
            SpecError::Malformed { problem } => match problem.split_once(": ") {
                Some((field, problem)) if field != "." => (format!("spec.{field}"), problem.to_owned()),
                Some(_) | None => ("spec".to_owned(), problem),
            },
            SpecError::Forbidden(reason) => (String::new(), reason.to_owned()),
        };
        let (place, what) = (place.clone(), what.to_owned());
        self.add(Fault { place, what, field, reason, remedy: String::new() });
    }

    /// # Errors
    /// Wrong usage with all that was found.
    pub(super) fn end(mut self) -> Result<(), UsageError> {
        self.0.sort_by(|a, b| a.place.cmp(&b.place));
        let mut text = String::new();
        for fault in self.0.iter().take(LISTED) {
            let Fault { place, what, field, reason, remedy } = fault;
            let about = [what.as_str(), field.as_str()].into_iter().filter(|part| !part.is_empty());
            let about: Vec<&str> = about.collect();
            let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
            let _ = write!(text, "\n  {place}: {}: {reason}{remedy}", about.join(": "));
        }
        let more = self.0.len().saturating_sub(LISTED);
        if more > 0 {
            let _ = write!(text, "\n  and {more} more");
        }
        if self.0.is_empty() { Ok(()) } else { Err(UsageError(format!("nothing was sent:{text}"))) }
    }
}
