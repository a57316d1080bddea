//! The API's address: one form of it, and what is wrong with the others.

use std::net::IpAddr;

use reqwest::Url;

/// Where the API's paths begin. An address that people copy from a file or a browser may end in it.
const API_PATH: &str = "/api/v1";

/// The API's address in its one form: `http` or `https`, a host, perhaps a port and a path; no slash at its end.
///
/// # Errors
/// What is wrong with it and how to write it, as the end of a sentence that begins with the address.
pub(crate) fn parse(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let Some((_, rest)) = text.split_once("://") else {
        let host = text.trim_start_matches('/');
        let port = if host.contains(':') { "" } else { ":8090" };
        return Err(format!("has no scheme; write http://{host}{port} or https://{host}"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let mut url = Url::parse(text).map_err(|error| {
        if authority.matches(':').count() > 1 || authority.contains(['[', ']']) {
            return "is no address; an IPv6 address stands in brackets, as in http://[2001:db8::1]:8090"
                .to_owned();
        }
        match error.to_string().as_str() {
            "invalid port number" => {
                "must have a port from 1 to 65535, as in http://127.0.0.1:8090".to_owned()
            }
            "empty host" => "names no host; write one, as in http://127.0.0.1:8090".to_owned(),
            other => format!("is no address ({other}); write one like http://127.0.0.1:8090"),
        }
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http:// or https://".to_owned());
    }
    if url.port() == Some(0) {
        return Err("must have a port from 1 to 65535, as in http://127.0.0.1:8090".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must name no user; the API key goes into a file for --key-file".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must end before any ? or #".to_owned());
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix(API_PATH).unwrap_or(path).trim_end_matches('/').to_owned();
    if format!("{path}/").contains(&format!("{API_PATH}/")) {
        return Err(format!("names one of the API's routes; end it before {API_PATH}"));
    }
    url.set_path(&path);
    Ok(url)
}

/// The address as a message may show it: what stands before an `@` may be a password.
pub(crate) fn shown(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => text.to_owned(),
    }
}

/// A host name as it is stored and compared: lower case, A-labels, no trailing dot.
pub(crate) fn host(name: &str) -> String {
    let name = name.trim_end_matches('.').to_lowercase();
    if name.is_ascii() {
        return name;
    }
    let url = Url::parse(&format!("http://{name}/")).ok();
    url.as_ref().and_then(Url::host_str).map_or(name, str::to_owned)
}

/// Whether the address is this machine's own, which no proxy can reach.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Percent-encodes one path segment or query value.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        parse(text).unwrap().as_str().trim_end_matches('/').to_owned()
    }

    #[test]
    fn every_spelling_of_an_address_has_one_form() {
        for (given, wanted) in [
            ("http://127.0.0.1:8090", "http://127.0.0.1:8090"),
            (" http://127.0.0.1:8090/ ", "http://127.0.0.1:8090"),
            ("http://127.0.0.1:8090/api/v1", "http://127.0.0.1:8090"),
            ("http://127.0.0.1:8090/api/v1/", "http://127.0.0.1:8090"),
            ("HTTPS://API.example.com:443", "https://api.example.com"),
            ("https://example.com/hosting/api/v1", "https://example.com/hosting"),
            ("http://[::1]:8090", "http://[::1]:8090"),
        ] {
            assert_eq!(canonical(given), wanted, "{given}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_with_the_remedy() {
        for (given, part) in [
            ("127.0.0.1:8090", "http://127.0.0.1:8090"),
            ("localhost", "http://localhost:8090"),
            ("localhost:8090", "http://localhost:8090"),
            ("//host/x", "no scheme"),
            ("http://", "names no host"),
            ("http://[::1", "brackets"),
            ("http://::1:8090", "brackets"),
            ("http://2001:db8::1", "brackets"),
            ("http://host:port", "1 to 65535"),
            ("http://host:70000", "1 to 65535"),
            ("http://host:0", "1 to 65535"),
            ("http://host:-1", "1 to 65535"),
            ("ftp://127.0.0.1:1", "http:// or https://"),
            ("http://user:secret@host", "--key-file"),
            ("http://host/?a=b", "before any ?"),
            ("http://host/api/v1/zones", "before /api/v1"),
        ] {
            let error = parse(given).unwrap_err();
            assert!(error.contains(part), "{given}: {error}");
        }
        assert_eq!(shown("http://user:secret@host/x"), "…@host/x");
    }

    #[test]
    fn host_names_have_one_form() {
        for (given, wanted) in [
            ("Bakery.TEST.", "bakery.test"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example.", "xn--bcher-kva.example"),
            ("_acme.a_b.example", "_acme.a_b.example"),
            ("*.example", "*.example"),
            ("", ""),
        ] {
            assert_eq!(host(given), wanted);
        }
    }

    #[test]
    fn loopback_in_every_spelling() {
        for own in [
            "127.0.0.1",
            "127.8.9.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "localhost",
            "a.localhost",
            "LOCALHOST.",
        ] {
            assert!(is_loopback(&parse(&format!("http://{own}:1")).unwrap()), "{own}");
        }
        for far in ["10.0.0.1", "[2001:db8::1]", "localhost.example.com", "notlocalhost"] {
            assert!(!is_loopback(&parse(&format!("http://{far}:1")).unwrap()), "{far}");
        }
    }

    #[test]
    fn path_segments_cannot_break_out() {
        assert_eq!(encode("a/../b?c=d e"), "a%2F..%2Fb%3Fc%3Dd%20e");
        assert_eq!(encode("t_ab-1.x~"), "t_ab-1.x~");
    }
}
