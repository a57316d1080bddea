//! Countries as users write them (ISO 3166-1 alpha-2).

use hosting_intent::countries::UNKNOWN;

use crate::SpecError;
use crate::faults::Faults;
use crate::http_policy::{Access, networks};

/// All officially assigned codes, and `XK` for Kosovo, which files of countries have too.
const CODES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ \
    CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF \
    GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW \
    KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL \
    NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST \
    SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW";

/// Countries that are named one by one; more are counted.
const NAMED: usize = 10;

impl Access {
    /// Checks the countries, and brings them into their one form.
    pub(crate) fn settle_countries(&mut self) -> Result<(), SpecError> {
        let mut faults = Faults::default();
        for (field, list) in [
            ("http.access.allow_countries", &mut self.allow_countries),
            ("http.access.deny_countries", &mut self.deny_countries),
        ] {
            let normal = countries(field, list);
            faults.put(list, normal);
        }
        if let Some(both) = self.allow_countries.iter().find(|one| self.deny_countries.contains(one)) {
            let problem =
                format!("{both} is among http.access.allow_countries too; it can be in one of them");
            faults.fault(SpecError::invalid("http.access.deny_countries", problem));
        }
        faults.end()
    }

    /// Who is let in, in words.
    pub(crate) fn summary(&self) -> Vec<String> {
        let whom = |list: &[String], countries: &[String]| {
            let networks = (!list.is_empty()).then(|| networks(list.len()));
            let countries = (!countries.is_empty()).then(|| match countries.len() {
                0..=NAMED => countries.join(", "),
                count => format!("{count} countries"),
            });
            let all: Vec<String> = networks.into_iter().chain(countries).collect();
            (!all.is_empty()).then(|| all.join(" and "))
        };
        let open = whom(&self.allow, &self.allow_countries).map(|whom| format!("open to {whom} only"));
        let closed = whom(&self.deny, &self.deny_countries).map(|whom| format!("closed to {whom}"));
        open.into_iter().chain(closed).collect()
    }
}

/// A list of countries in its one form: upper case, none twice, in order.
fn countries(field: &str, list: &[String]) -> Result<Vec<String>, SpecError> {
    let mut out = Vec::with_capacity(list.len().min(300));
    for (n, given) in list.iter().enumerate() {
        let country = given.trim().to_ascii_uppercase();
        let is_known = country == UNKNOWN || CODES.split_ascii_whitespace().any(|code| code == country);
        if !is_known {
            let problem = match country.as_str() {
                "UK" => "the United Kingdom is GB".to_owned(),
                "EL" => "Greece is GR".to_owned(),
                "EU" => "the European Union is no country; give its members".to_owned(),
                _ => format!(
                    "{given:?} is no country of ISO 3166-1, such as DE; {UNKNOWN} is what is not known"
                ),
            };
            return Err(SpecError::invalid(format!("{field}[{n}]"), problem));
        }
        out.push(country);
    }
    out.sort();
    out.dedup();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use hosting_intent::countries::{MAX_COUNTRIES, check_country};

    use super::*;

    #[test]
    fn who_is_let_in_is_said_in_words() {
        let access = |allow: &[&str], deny: &[&str], allow_countries: &[&str], deny_countries: &[&str]| {
            let list = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            Access {
                allow: list(allow),
                deny: list(deny),
                allow_countries: list(allow_countries),
                deny_countries: list(deny_countries),
            }
        };
        let said = |access: Access| access.summary().join("; ");
        assert_eq!(
            said(access(&["a", "b"], &[], &["DE", "FR"], &["XX"])),
            "open to 2 networks and DE, FR only; closed to XX"
        );
        assert_eq!(said(access(&[], &["a"], &[], &["DE"; 11])), "closed to one network and 11 countries");
        assert_eq!(said(Access::default()), "");
        let mut both = access(&[], &[], &["de"], &["fr", "DE"]);
        let refused = both.settle_countries().unwrap_err().to_string();
        assert!(refused.contains("http.access.deny_countries: DE is among"), "{refused}");
    }

    #[test]
    fn countries_have_one_form() {
        let list = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
            countries("f", &list).map_err(|error| error.to_string())
        };
        assert_eq!(list(&["fr", " DE ", "XX", "de"]), Ok(vec!["DE".into(), "FR".into(), "XX".into()]));
        for (wrong, told) in
            [("UK", "GB"), ("EU", "members"), ("GER", "ISO 3166-1"), ("", "ISO 3166-1"), ("ZZ", "ISO 3166-1")]
        {
            let problem = list(&["AT", wrong]).unwrap_err();
            assert!(problem.contains("f[1]") && problem.contains(told), "{problem}");
        }
        let all: Vec<&str> = CODES.split_ascii_whitespace().collect();
        assert_eq!(all.len(), 250);
        assert!(all.iter().all(|code| check_country(code).is_ok()) && all.is_sorted());
        assert!(all.len() < MAX_COUNTRIES);
    }
}
