//! Signed heads of the audit chain (ADR 28): whether each is signed by the key that may, follows from the one before, and speaks of the rows
//! that are there.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use hosting_resource::audit_head::AuditHead;
use serde_json::Value;

/// Heads from all places that there are, and what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Heads {
    by_number: BTreeMap<u64, AuditHead>,
    /// Numbers by the row that they are about.
    by_row: BTreeMap<String, Vec<u64>>,
    seen: BTreeSet<u64>,
    /// When the first row was written.
    first_row: Option<String>,
    broken: Option<String>,
}

impl Heads {
    /// Takes a head over. Two that differ under one number are two histories.
    pub(super) fn take(&mut self, head: AuditHead) {
        match self.by_number.get(&head.number) {
            Some(known) if *known == head => {}
            Some(_) => self.break_at(format!("there are two heads with the number {}", head.number)),
            None => {
                self.by_row.entry(head.row_id.clone()).or_default().push(head.number);
                self.by_number.insert(head.number, head);
            }
        }
    }

    /// Compares a row of the log with the heads that are about it.
    pub(super) fn row(&mut self, id: &str, created_at: &str, link: &str) {
        self.first_row.get_or_insert_with(|| created_at.to_owned());
        let numbers = self.by_row.get(id).cloned().unwrap_or_default();
        for number in numbers {
            self.seen.insert(number);
            if self.by_number[&number].link != link {
                self.break_at(format!(
                    "row {id} has another link than head {number} says: the log was rewritten"
                ));
            }
        }
    }

    /// The verdict, once all rows were seen: how many heads hold. `key`: a public key that was noted outside.
    pub(super) fn verdict(mut self, key: Option<&str>) -> Result<usize, String> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        let mut before: Option<&AuditHead> = None;
        let mut keys = BTreeSet::new();
        for (number, head) in &self.by_number {
            if !is_signed(head) {
                return Err(format!("head {number} is not signed by its key"));
            }
            keys.extend([head.key.to_ascii_lowercase(), head.next_key().to_ascii_lowercase()]);
            if let Some(before) = before {
                let is_next = before.number.checked_add(1) == Some(*number);
                if is_next && head.previous != before.digest() {
                    return Err(format!("head {number} does not follow from head {}", before.number));
                }
                if head.key != before.next_key() && is_next {
                    return Err(format!(
                        "head {number} is signed by another key, and head {} does not say so",
                        before.number
                    ));
                }
            }
            before = Some(head);
            let is_older = self.first_row.as_ref().is_none_or(|first| head.at < *first);
            if !self.seen.contains(number) && !head.row_id.is_empty() && !is_older {
                return Err(format!("head {number} is about row {}, which is not there", head.row_id));
            }
        }
        match key.map(str::to_ascii_lowercase) {
            Some(key) if !keys.contains(&key) => {
                Err("none of the heads is signed by the key that was given, or by one that followed it"
                    .to_owned())
            }
            _ => Ok(self.by_number.len()),
        }
    }

    fn break_at(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }
}

fn is_signed(head: &AuditHead) -> bool {
    let (Ok(key), Ok(signature)) = (hex::decode(&head.key), hex::decode(&head.signature)) else {
        return false;
    };
    UnparsedPublicKey::new(&ED25519, key).verify(head.signed_text().as_bytes(), &signature).is_ok()
}

/// The head in a line of an export, of a list of heads, or of the controller's log; `None`: there is none.
pub(super) fn in_line(line: &str) -> Option<AuditHead> {
    if let Ok(value) = serde_json::from_str::<Value>(line) {
        let logged = value["fields"]["head"].as_str().or(value["head"].as_str());
        let value = match logged.map(serde_json::from_str::<Value>) {
            Some(Ok(logged)) => logged,
            Some(Err(_)) | None => value.get("audit_head").cloned().unwrap_or(value),
        };
        return serde_json::from_value(value).ok();
    }
    // A line of text: the head is the object in it.
    let begin = line.find("={").map(|equals| equals + 1)?;
    serde_json::Deserializer::from_str(&line[begin..]).into_iter::<AuditHead>().next()?.ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn key() -> (Ed25519KeyPair, String) {
        let key = Ed25519KeyPair::generate().unwrap();
        let public = hex::encode(key.public_key().as_ref());
        (key, public)
    }

    fn head(
        key: &(Ed25519KeyPair, String),
        before: Option<&AuditHead>,
        row: u64,
        successor: Option<&str>,
    ) -> AuditHead {
        let mut head = AuditHead {
            number: before.map_or(1, |before| before.number + 1),
            at: format!("2026-11-29T10:00:{row:02}.000Z"),
            cell: "c".into(),
            revision: row,
            row_id: format!("row-{row}"),
            link: format!("link-{row}"),
            previous: before.map(AuditHead::digest).unwrap_or_default(),
            key: key.1.clone(),
            successor: successor.map(str::to_owned),
            signature: String::new(),
        };
        head.signature = hex::encode(key.0.sign(head.signed_text().as_bytes()));
        head
    }

    /// Rows from `first` on, each with its link as it is, or as it was made anew.
    fn verdict(heads: &[AuditHead], first: u64, rewritten: bool, key: Option<&str>) -> Result<usize, String> {
        let mut all = Heads::default();
        heads.iter().cloned().for_each(|head| all.take(head));
        for row in first..10 {
            let link = if rewritten && row < 9 { format!("other-{row}") } else { format!("link-{row}") };
            all.row(&format!("row-{row}"), &format!("2026-11-29T10:00:{row:02}.000Z"), &link);
        }
        all.verdict(key)
    }

    #[test]
    fn heads_that_follow_one_another_hold_and_a_key_is_replaced_by_its_own_word() {
        let (old, new) = (key(), key());
        let one = head(&old, None, 2, None);
        let two = head(&old, Some(&one), 4, Some(&new.1));
        let three = head(&new, Some(&two), 6, None);
        let all = [one.clone(), two.clone(), three.clone()];
        assert_eq!(verdict(&all, 0, false, Some(&old.1)), Ok(3));
        assert_eq!(verdict(&all, 0, false, Some(&new.1.to_uppercase())), Ok(3));
        assert_eq!(verdict(&all, 3, false, None), Ok(3), "its row is gone by its age");
        assert!(verdict(&all, 0, false, Some(&key().1)).unwrap_err().contains("key"));
        // One that nobody announced.
        let stranger = key();
        let forged = head(&stranger, Some(&two), 6, None);
        assert!(
            verdict(&[one.clone(), two.clone(), forged], 0, false, None).unwrap_err().contains("another key")
        );
        let altered = AuditHead { revision: 99, ..two.clone() };
        assert!(verdict(&[one.clone(), altered, three], 0, false, None).unwrap_err().contains("not signed"));
        let elsewhere = head(&old, None, 4, None);
        let elsewhere = AuditHead { number: 2, ..elsewhere };
        assert!(verdict(&[one, elsewhere], 0, false, None).is_err());
    }

    /// Whoever rewrites the rows and makes all links anew cannot have any earlier head fit.
    #[test]
    fn a_log_that_was_rewritten_is_found_by_any_earlier_head() {
        let key = key();
        let mut heads: Vec<AuditHead> = Vec::new();
        for row in [1, 3, 5, 8] {
            heads.push(head(&key, heads.last(), row, None));
        }
        assert_eq!(verdict(&heads, 0, false, None), Ok(4));
        for earlier in &heads {
            let found = verdict(std::slice::from_ref(earlier), 0, true, None);
            assert!(found.unwrap_err().contains("rewritten"), "{earlier:?}");
        }
        // Rows taken out, or a second history under the same number.
        let mut all = Heads::default();
        all.take(heads[2].clone());
        all.row("row-0", "2026-11-29T10:00:00.000Z", "link-0");
        assert!(all.verdict(None).unwrap_err().contains("not there"));
        let other = head(&key, Some(&heads[0]), 4, None);
        assert!(verdict(&[heads[1].clone(), other], 0, false, None).unwrap_err().contains("two heads"));
    }

    #[test]
    fn heads_are_found_in_exports_and_in_logs() {
        let made = head(&key(), None, 2, None);
        let text = serde_json::to_string(&made).unwrap();
        let as_json =
            serde_json::json!({"level": "INFO", "fields": {"message": "a head", "head": text}}).to_string();
        for line in [
            text.clone(),
            format!(r#"{{"audit_head":{text}}}"#),
            as_json,
            format!("2026-11-29T10:00:00Z  INFO hosting_jobs: a head of the audit log is signed head={text}"),
        ] {
            assert_eq!(in_line(&line).as_ref(), Some(&made), "{line}");
        }
        for none in ["", "{}", r#"{"id":"row-1","link":"aa"}"#, "something else"] {
            assert_eq!(in_line(none), None, "{none}");
        }
    }
}
