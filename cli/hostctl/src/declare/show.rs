//! The steps as people and programs read them.

use serde_json::{Value, json};

use super::steps::{Step, Verb};
use crate::output::{self, cell};

/// Longest value that a line shows, in characters.
const LONGEST: usize = 80;

/// Prints what would be done, a line for each step.
pub(super) fn lines(steps: &[Step]) {
    for step in steps {
        let text = line(step);
        output::line(match step.verb {
            Verb::Create => output::good(&text),
            Verb::Change => output::doubtful(&text),
            Verb::Delete => output::bad(&text),
        });
    }
}

/// `~ zone-record www.bakery.test A  ttl: 300 -> 60`.
fn line(step: &Step) -> String {
    let sign = match step.verb {
        Verb::Create => '+',
        Verb::Change => '~',
        Verb::Delete => '-',
    };
    let lies_in = step.lies_in.as_ref().map(|place| format!("  in {place}")).unwrap_or_default();
    let fields: Vec<String> = step
        .fields
        .iter()
        .map(|one| match &one.values {
            Some((before, after)) => format!("{}: {} -> {}", one.field, short(before), short(after)),
            None => format!("{}: (not shown)", one.field),
        })
        .collect();
    let fields = if fields.is_empty() { String::new() } else { format!("  {}", fields.join(", ")) };
    format!("{sign} {}{lies_in}{fields}", step.what())
}

fn short(value: &Value) -> String {
    let text = if value.is_null() { "none".to_owned() } else { cell(value) };
    let text: String = text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    if text.chars().count() <= LONGEST {
        return text;
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{start}…")
}

/// How many of each: `2 to create, 1 to change`.
pub(super) fn summary(steps: &[Step]) -> String {
    counted(steps.iter(), ["to create", "to change", "to delete"])
}

/// The same of what was done: `2 created, 1 changed`.
pub(super) fn done<'s>(steps: impl Iterator<Item = &'s Step>) -> String {
    counted(steps, ["created", "changed", "deleted"])
}

fn counted<'s>(steps: impl Iterator<Item = &'s Step>, words: [&str; 3]) -> String {
    let mut counts = [0_usize; 3];
    for step in steps {
        let place = match step.verb {
            Verb::Create => 0,
            Verb::Change => 1,
            Verb::Delete => 2,
        };
        counts[place] += 1;
    }
    let parts: Vec<String> = counts
        .into_iter()
        .zip(words)
        .filter(|(count, _)| *count > 0)
        .map(|(count, words)| format!("{count} {words}"))
        .collect();
    parts.join(", ")
}

/// A step for programs.
pub(super) fn json(step: &Step) -> Value {
    let fields: Vec<Value> = step
        .fields
        .iter()
        .map(|one| match &one.values {
            Some((before, after)) => json!({"field": one.field, "before": before, "after": after}),
            None => json!({"field": one.field, "secret": true}),
        })
        .collect();
    json!({
        "change": step.verb.as_str(),
        "kind": step.info.kind.name(),
        "id": step.id,
        "label": step.label,
        "in": step.lies_in,
        "file": step.place.as_ref().map(|place| place.file.clone()),
        "line": step.place.as_ref().map(|place| place.line),
        "fields": fields,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declare::steps::Shown;
    use crate::kinds::kind;

    #[test]
    fn a_step_is_a_line() {
        let step = |verb, fields: Vec<Shown>| Step {
            verb,
            info: kind("zone-record").unwrap(),
            id: None,
            label: "www.bakery.test A".to_owned(),
            lies_in: Some("bakery.test".to_owned()),
            place: None,
            fields,
            ops: Vec::new(),
        };
        let ttl = Shown { field: "ttl".to_owned(), values: Some((json!(300), json!(60))) };
        let secret = Shown { field: "key".to_owned(), values: None };
        assert_eq!(line(&step(Verb::Create, vec![])), "+ zone-record www.bakery.test A  in bakery.test");
        assert_eq!(
            line(&step(Verb::Change, vec![ttl, secret])),
            "~ zone-record www.bakery.test A  in bakery.test  ttl: 300 -> 60, key: (not shown)"
        );
        let steps = [step(Verb::Delete, vec![]), step(Verb::Create, vec![]), step(Verb::Delete, vec![])];
        assert_eq!(summary(&steps), "1 to create, 2 to delete");
        assert_eq!(done(steps.iter().skip(1)), "1 created, 1 deleted");
        assert!(short(&json!("x".repeat(200))).ends_with('…') && short(&json!("a\u{1b}b")) == "a b");
    }
}
