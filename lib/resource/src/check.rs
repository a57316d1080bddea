//! The validation vocabulary: what names, addresses and texts may look like, and their normal forms.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use idna::AsciiDenyList;
use ipnet::IpNet;

use crate::SpecError;

type Checked<T = ()> = Result<T, SpecError>;

/// Text of 1 to `max` characters without control characters.
pub(crate) fn text(field: &str, value: &str, max: usize) -> Checked {
    if value.is_empty() {
        return Err(SpecError::invalid(field, "is required"));
    }
    optional_text(field, value, max)
}

/// Text of 0 to `max` characters without control characters.
pub(crate) fn optional_text(field: &str, value: &str, max: usize) -> Checked {
    if value.chars().count() > max {
        return Err(SpecError::invalid(field, format!("must have at most {max} characters")));
    }
    if value.chars().any(char::is_control) {
        return Err(SpecError::invalid(field, "must not contain control characters"));
    }
    Ok(())
}

/// `^[a-z][a-z0-9_-]{0,62}$`
pub(crate) fn slug(field: &str, value: &str) -> Checked {
    let fits = value.len() <= 63
        && value.starts_with(|c: char| c.is_ascii_lowercase())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if fits {
        Ok(())
    } else {
        Err(SpecError::invalid(
            field,
            format!("{value:?} must be 1 to 63 of a-z 0-9 _ - and begin with a letter"),
        ))
    }
}

/// Ids that a caller may choose and that reach paths and unit names: 1 to 64 of `A-Z a-z 0-9 _ -`.
pub(crate) fn id(field: &str, value: &str) -> Checked {
    let fits = (1..=64).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits {
        Ok(())
    } else {
        Err(SpecError::invalid(field, format!("{value:?} must be 1 to 64 of A-Z a-z 0-9 _ -")))
    }
}

/// Ids from another system (a CRM): 1 to 128 of `A-Z a-z 0-9 . _ : -`.
pub(crate) fn foreign_id(field: &str, value: &str) -> Checked {
    let fits = (1..=128).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
        && value.bytes().any(|b| b.is_ascii_alphanumeric());
    if fits {
        Ok(())
    } else {
        Err(SpecError::invalid(field, format!("{value:?} must be 1 to 128 of A-Z a-z 0-9 . _ : -")))
    }
}

/// A reference: any id; whether it exists is known only in the transaction.
pub(crate) fn reference(field: &str, value: &str) -> Checked {
    if value.is_empty() {
        return Err(SpecError::invalid(field, "is required"));
    }
    // The id of a brand's, with the brand in front.
    match value.split_once(crate::ids::IN_BRAND) {
        Some((brand, own)) => id(field, brand).and_then(|()| foreign_id(field, own)),
        None => foreign_id(field, value),
    }
}

fn labels(field: &str, name: &str) -> Checked {
    let wrong = |problem: String| Err(SpecError::invalid(field, format!("{name:?}: {problem}")));
    if name.is_empty() {
        return wrong("the name is empty".to_owned());
    }
    if name.len() > 253 {
        return wrong("a name has at most 253 bytes".to_owned());
    }
    for label in name.split('.') {
        if !(1..=63).contains(&label.len()) {
            return wrong("a label has 1 to 63 bytes".to_owned());
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return wrong("a label consists of letters, digits, '-' and '_'".to_owned());
        }
        if label.starts_with('-') || label.ends_with('-') {
            return wrong("a label does not begin or end with '-'".to_owned());
        }
    }
    Ok(())
}

/// A host name of one label or more, underscores allowed: lower case, no trailing dot, A-labels.
pub(crate) fn host(field: &str, value: &str) -> Checked<String> {
    let name = value.strip_suffix('.').unwrap_or(value);
    let name = if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii_cow(name.as_bytes(), AsciiDenyList::EMPTY)
            .map_err(|_| SpecError::invalid(field, format!("{value:?} is no valid international name")))?
            .into_owned()
    };
    labels(field, &name)?;
    Ok(name)
}

/// A fully qualified host name (RFC 1123 §2.1): two labels or more, the last one beginning with a letter, no wildcard,
/// no underscore. Lower case, no trailing dot, A-labels (RFC 5891).
pub(crate) fn fqdn(field: &str, value: &str) -> Checked<String> {
    if value.is_empty() {
        return Err(SpecError::invalid(field, "is required"));
    }
    let name = value.strip_suffix('.').unwrap_or(value);
    let name = idna::domain_to_ascii_cow(name.as_bytes(), AsciiDenyList::STD3)
        .map_err(|_| SpecError::invalid(field, format!("{value:?} is no valid domain name")))?
        .into_owned();
    labels(field, &name)?;
    if name.contains('_') {
        return Err(SpecError::invalid(field, format!("{value:?}: a host name has no '_'")));
    }
    let last = match name.rsplit_once('.') {
        Some((_, last)) => last,
        None => {
            return Err(SpecError::invalid(
                field,
                format!("{value:?} must have two labels at least, e.g. www.example.com"),
            ));
        }
    };
    if !last.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(SpecError::invalid(field, format!("{value:?}: the last label must begin with a letter")));
    }
    Ok(name)
}

/// A fully qualified host name, or `*.` before one: all hosts one label below it that have no name of their own.
pub(crate) fn fqdn_or_wildcard(field: &str, value: &str) -> Checked<String> {
    match value.strip_prefix("*.") {
        Some(above) => fqdn(field, above).map(|above| format!("*.{above}")),
        None => fqdn(field, value),
    }
}

/// A mail address whose domain is a host name; the domain becomes lower case.
pub(crate) fn email(field: &str, value: &str) -> Checked<String> {
    let wrong = || SpecError::invalid(field, format!("{value:?} is no mail address"));
    let (local, domain) = value.rsplit_once('@').ok_or_else(wrong)?;
    let sound = (1..=63).contains(&local.len())
        && local.bytes().all(|b| b.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&b))
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..");
    if !sound {
        return Err(wrong());
    }
    let domain = host(field, domain).map_err(|_| wrong())?;
    Ok(format!("{local}@{domain}"))
}

/// An IPv4 address in its normal form.
pub(crate) fn ipv4(field: &str, value: &str) -> Checked<String> {
    value
        .parse::<Ipv4Addr>()
        .map(|address| address.to_string())
        .map_err(|_| SpecError::invalid(field, format!("{value:?} is no IPv4 address")))
}

/// An IPv6 address in its normal form (RFC 5952).
pub(crate) fn ipv6(field: &str, value: &str) -> Checked<String> {
    value
        .parse::<Ipv6Addr>()
        .map(|address| address.to_string())
        .map_err(|_| SpecError::invalid(field, format!("{value:?} is no IPv6 address")))
}

/// Networks in the form that is kept: one address is a network of its own, bits behind the prefix are zero, none stands twice.
pub(crate) fn networks(field: &str, given: &[String], most: usize) -> Checked<Vec<String>> {
    if given.len() > most {
        return Err(SpecError::invalid(field, format!("at most {most} can be given")));
    }
    let mut networks = Vec::new();
    for (n, text) in given.iter().enumerate() {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
            SpecError::invalid(
                format!("{field}[{n}]"),
                format!("{text:?} must be a network such as 192.0.2.0/24 or 2001:db8::/48, or one address"),
            )
        })?;
        networks.push(network.trunc().to_string());
    }
    distinct(&mut networks);
    Ok(networks)
}

/// A folder below a site's own, as [`hosting_intent::folder::check`] has it; slashes at the end are dropped.
pub(crate) fn folder(field: &str, value: &str) -> Checked<String> {
    let path = match value.trim_end_matches('/') {
        "" if !value.is_empty() => value,
        path => path,
    };
    hosting_intent::folder::check(path).map_err(|why| SpecError::invalid(field, why))?;
    Ok(path.to_owned())
}

/// One of a closed list of words.
pub(crate) fn one_of(field: &str, value: &str, words: &[&str]) -> Checked {
    if words.contains(&value) {
        Ok(())
    } else {
        Err(SpecError::invalid(field, format!("{value:?} must be one of {}", words.join(", "))))
    }
}

/// A number between two bounds, both included.
pub(crate) fn between<N: PartialOrd + std::fmt::Display>(field: &str, value: N, low: N, high: N) -> Checked {
    if value >= low && value <= high {
        Ok(())
    } else {
        Err(SpecError::invalid(field, format!("{value} must be between {low} and {high}")))
    }
}

/// Each value once, in the order in which they were given: clients compare lists with what they sent.
pub(crate) fn distinct<T: Clone + Ord>(list: &mut Vec<T>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|value| seen.insert(value.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        for good in ["a", "web-1", "a_b-9", &"a".repeat(63)] {
            assert_eq!(slug("name", good), Ok(()), "{good}");
        }
        for bad in ["", "1a", "-a", "Web", "a b", "ä", &"a".repeat(64)] {
            assert!(slug("name", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fqdns_get_one_normal_form() {
        let good = [
            ("www.example.com", "www.example.com"),
            ("WWW.Example.COM.", "www.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("1.2.0.192.in-addr.arpa", "1.2.0.192.in-addr.arpa"),
        ];
        for (given, wanted) in good {
            assert_eq!(fqdn("fqdn", given).as_deref(), Ok(wanted), "{given}");
        }
        assert_eq!(fqdn_or_wildcard("fqdn", "*.BÜCHER.example").as_deref(), Ok("*.xn--bcher-kva.example"));
        for bad in ["*", "*.", "*.com", "*.*.example", "a.*.example", "*a.example"] {
            assert!(fqdn_or_wildcard("fqdn", bad).is_err(), "{bad}");
        }
        let long = format!("{}.example", ["abcdefghi"; 26].join("."));
        let bad = [
            "",
            ".",
            "localhost",
            "*.example.com",
            "a..example",
            "-a.example",
            "a-.example",
            "a_b.example",
            "192.0.2.1",
            "a.example..",
            "a b.example",
            "a/b.example",
            "xn--a.example",
            "a.example\n",
            &long,
        ];
        for given in bad {
            assert!(fqdn("fqdn", given).is_err(), "{given:?}");
        }
    }

    #[test]
    fn mail_addresses() {
        assert_eq!(email("m", "Host.Master@Example.com").as_deref(), Ok("Host.Master@example.com"));
        for bad in
            ["", "a", "@example.com", "a@", "a b@example.com", ".a@example.com", "a@-x.example", "a@b@c.d\r"]
        {
            assert!(email("m", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn folders_stay_inside() {
        assert_eq!(folder("f", "public/").as_deref(), Ok("public"));
        assert_eq!(folder("f", "").as_deref(), Ok(""));
        for bad in [
            "..", "...", "a/../b", "./a", "a;b", "a b", "a//b", "${x}", "a\"b", "/public", "/public/", "/",
            "//",
        ] {
            assert!(folder("f", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids() {
        assert!(id("id", "web-1_A").is_ok());
        assert!(id("id", "a/b").is_err());
        assert!(id("id", "").is_err());
        assert!(foreign_id("id", "crm:4711.a").is_ok());
        assert!(foreign_id("id", "..").is_err());
    }
}
