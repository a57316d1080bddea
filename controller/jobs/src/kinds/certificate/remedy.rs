//! What a person is to change when an authority did not certify a name. Pure.

use hosting_acme::NameProblem;
use hosting_resource::issuance::IssuanceProblem;

/// The problem of a name, with what mends it. `addresses`: where the name is to lead.
pub(super) fn problem_of(problem: &NameProblem, name: &str, addresses: &[String]) -> IssuanceProblem {
    let NameProblem { code, message, .. } = problem;
    let lead = leading(name, addresses);
    let remedy = match code.as_str() {
        "dns" => format!("the name must be found in the domain name system: {lead}"),
        "connection" | "unauthorized" | "incorrectResponse" | "tls" => {
            format!("all addresses of the name must be those of this platform: {lead}")
        }
        "caa" => {
            "change the CAA records of the name, or of the domain above it, so that they allow the authority"
                .to_owned()
        }
        "rejectedIdentifier" | "unsupportedIdentifier" => {
            "the authority does not certify this name; bring a certificate of another one".to_owned()
        }
        _ => String::new(),
    };
    IssuanceProblem { code: snake(code), message: message.clone(), remedy }
}

/// The records that make a name lead here.
pub(super) fn leading(name: &str, addresses: &[String]) -> String {
    let record = |address: &String| {
        let kind = if address.contains(':') { "AAAA" } else { "A" };
        format!("{name} {kind} {address}")
    };
    let records: Vec<String> = addresses.iter().map(record).collect();
    if records.is_empty() {
        "its cluster has no address yet".to_owned()
    } else {
        format!("create {}", records.join(", "))
    }
}

/// As the API spells codes.
fn snake(code: &str) -> String {
    let mut spelt = String::new();
    for char in code.chars() {
        if char.is_ascii_uppercase() && !spelt.is_empty() {
            spelt.push('_');
        }
        spelt.push(char.to_ascii_lowercase());
    }
    spelt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_to_create_is_named() {
        let problem =
            |code: &str| NameProblem { name: "a.example".into(), code: code.into(), message: "why".into() };
        let addresses = ["198.51.100.1".to_owned(), "2001:db8::1".to_owned()];
        let dns = problem_of(&problem("dns"), "a.example", &addresses);
        assert!(
            dns.remedy.ends_with("create a.example A 198.51.100.1, a.example AAAA 2001:db8::1"),
            "{dns:?}"
        );
        assert_eq!(
            problem_of(&problem("incorrectResponse"), "a.example", &addresses).code,
            "incorrect_response"
        );
        assert!(problem_of(&problem("connection"), "a.example", &[]).remedy.contains("no address yet"));
        assert_eq!(problem_of(&problem("whatever"), "a.example", &addresses).remedy, "");
    }
}
