//! Whether CAA records let an authority certify a name (RFC 8659), with an account and a way of validation (RFC 8657). Pure: whoever calls
//! finds the records, those of the name itself or of the nearest name above that has any (RFC 8659 §3).

/// A CAA record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaaRecord {
    /// Whoever does not know the tag must not certify.
    pub is_critical: bool,
    /// The property, in any case.
    pub tag: String,
    /// What it says.
    pub value: String,
}

/// Who wants to certify, and how.
#[derive(Debug, Clone, Copy)]
pub struct Certifier<'c> {
    /// What the authority calls itself in CAA records; empty: nobody knows, and nothing is judged.
    pub identities: &'c [String],
    /// The URL of the account (RFC 8657 §3).
    pub account: &'c str,
    /// How the authority looks, e.g. `http-01` (RFC 8657 §4).
    pub method: &'c str,
    /// The name is a wildcard.
    pub is_wildcard: bool,
}

impl Certifier<'_> {
    /// Whether records let it.
    ///
    /// # Errors
    /// Why not, and what would.
    pub fn may(&self, records: &[CaaRecord]) -> Result<(), String> {
        if self.identities.is_empty() {
            return Ok(());
        }
        let is = |record: &&CaaRecord, tag: &str| record.tag.eq_ignore_ascii_case(tag);
        const KNOWN: [&str; 5] = ["issue", "issuewild", "iodef", "contactemail", "contactphone"];
        let unknown = records.iter().find(|record| {
            record.is_critical && !KNOWN.iter().any(|known| record.tag.eq_ignore_ascii_case(known))
        });
        if let Some(unknown) = unknown {
            return Err(format!(
                "a critical CAA record has the tag {:?}, which no authority knows",
                unknown.tag
            ));
        }
        let tag = if self.is_wildcard && records.iter().any(|record| is(&record, "issuewild")) {
            "issuewild"
        } else {
            "issue"
        };
        let mut said: Vec<&CaaRecord> = records.iter().filter(|record| is(record, tag)).collect();
        if said.is_empty() {
            return Ok(());
        }
        said.sort_by(|one, other| one.value.cmp(&other.value));
        if said.iter().any(|record| self.is_let_by(&record.value)) {
            return Ok(());
        }
        let values: Vec<String> = said.iter().map(|record| format!("{tag} {:?}", record.value)).collect();
        let own = self.identities.first().map_or("", String::as_str);
        Err(format!("the CAA records allow others alone ({}); add: 0 {tag} {own:?}", values.join(", ")))
    }

    fn is_let_by(&self, value: &str) -> bool {
        let mut parts = value.split(';').map(str::trim);
        let domain = parts.next().unwrap_or_default().trim_end_matches('.');
        if !self.identities.iter().any(|identity| identity.eq_ignore_ascii_case(domain)) {
            return false;
        }
        let parameters: Vec<(&str, &str)> = parts
            .filter_map(|part| part.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        let all = |name: &str| {
            parameters
                .iter()
                .filter(|(one, _)| one.eq_ignore_ascii_case(name))
                .map(|(_, value)| *value)
                .collect::<Vec<_>>()
        };
        let accounts = all("accounturi");
        let methods = all("validationmethods");
        // One that is given twice is met by nobody (RFC 8657 §3, §4).
        let account_fits = accounts.is_empty() || accounts == [self.account];
        let method_fits = methods.is_empty()
            || (methods.len() == 1
                && methods.iter().flat_map(|list| list.split(',')).any(|one| one.trim() == self.method));
        account_fits && method_fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(all: &[(&str, &str)]) -> Vec<CaaRecord> {
        let record = |(tag, value): &(&str, &str)| {
            let (is_critical, tag) = tag.strip_prefix('!').map_or((false, *tag), |tag| (true, tag));
            CaaRecord { is_critical, tag: tag.to_owned(), value: (*value).to_owned() }
        };
        all.iter().map(record).collect()
    }

    #[test]
    fn records_are_read_as_authorities_read_them() {
        let identities = ["ca.example".to_owned(), "ca2.example".to_owned()];
        let certifier = Certifier {
            identities: &identities,
            account: "https://ca.example/acct/1",
            method: "http-01",
            is_wildcard: false,
        };
        let wildcard = Certifier { is_wildcard: true, ..certifier };
        for (all, plain, wild) in [
            (&[][..], true, true),
            (&[("issue", "ca.example")], true, true),
            (&[("ISSUE", " CA2.example. ")], true, true),
            (&[("issue", "other.example")], false, false),
            (&[("issue", ";")], false, false),
            (&[("issue", "other.example"), ("issue", "ca.example")], true, true),
            (&[("issue", "ca.example"), ("issuewild", ";")], true, false),
            (&[("issue", ";"), ("issuewild", "ca.example")], false, true),
            (&[("issuewild", "other.example")], true, false),
            (&[("iodef", "mailto:a@b.example")], true, true),
            (&[("!tbs", "unknown"), ("issue", "ca.example")], false, false),
            (&[("tbs", "unknown")], true, true),
            (&[("issue", "ca.example; accounturi=https://ca.example/acct/1")], true, true),
            (&[("issue", "ca.example; accounturi=https://ca.example/acct/2")], false, false),
            (&[("issue", "ca.example; validationmethods=dns-01,http-01")], true, true),
            (&[("issue", "ca.example;validationmethods=dns-01")], false, false),
            (&[("issue", "ca.example; validationmethods=dns-01; validationmethods=http-01")], false, false),
            (&[("issue", "ca.example; policy=ev")], true, true),
        ] {
            let all = records(all);
            assert_eq!(certifier.may(&all).is_ok(), plain, "{all:?}");
            assert_eq!(wildcard.may(&all).is_ok(), wild, "wildcard {all:?}");
        }
        let why = certifier.may(&records(&[("issue", "other.example")])).unwrap_err();
        assert!(
            why.contains(r#"issue "other.example""#) && why.contains(r#"add: 0 issue "ca.example""#),
            "{why}"
        );
        let unknown = Certifier { identities: &[], ..certifier };
        assert!(unknown.may(&records(&[("issue", ";")])).is_ok());
    }
}
