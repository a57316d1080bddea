//! The pages that edges answer with in the place of a site: what they are called, and what may stand in those of a brand.

/// The pages by their words. An edge may have others, of a newer build.
pub const PAGES: &[&str] = &[
    "bad_gateway",
    "bad_request",
    "body_too_large",
    "browsers_only",
    "busy",
    "crawler",
    "forbidden",
    "gateway_timeout",
    "header_too_large",
    "maintenance",
    "no_site",
    "not_stored",
    "request_timeout",
    "suspended",
    "too_many_requests",
    "unauthorized",
    "unavailable",
];
/// The word for all pages that are not named.
pub const DEFAULT: &str = "default";
/// Longest word, in bytes.
const MAX_WORD_BYTES: usize = 32;
/// Largest page, in bytes.
pub const MAX_HTML_BYTES: usize = 16 * 1_024;
/// Largest pages of a brand together, in bytes.
pub const MAX_PAGES_BYTES: usize = 128 * 1_024;
/// What stands between `{{` and `}}` in a page for what is only known when it is served: the status code, its name, what there is to say, the
/// host that was asked for, and the number by which the access log knows the request.
pub const PLACES: &[&str] = &["status", "title", "message", "host", "request_id"];

/// Checks the form of a page's word, which a newer build may know.
///
/// # Errors
/// What is wrong with it.
pub fn check_word(word: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if word.is_empty() || word.len() > MAX_WORD_BYTES || !word.bytes().all(fits) {
        return Err(format!("{word:?} must be 1 to {MAX_WORD_BYTES} characters out of a to z, 0 to 9 and _"));
    }
    Ok(())
}

/// A piece of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Sent as it is.
    Text(&'a str),
    /// One of [`PLACES`].
    Place(&'a str),
}

/// The pieces of a page, in their order.
///
/// # Errors
/// A place without an end, or one that is not known.
pub fn pieces(html: &str) -> Result<Vec<Piece<'_>>, String> {
    let (mut pieces, mut rest) = (Vec::new(), html);
    while let Some((text, behind)) = rest.split_once("{{") {
        let (name, after) = behind.split_once("}}").ok_or_else(|| "a {{ is not followed by }}".to_owned())?;
        let place = PLACES
            .iter()
            .find(|place| **place == name.trim())
            .ok_or_else(|| format!("{{{{{name}}}}} stands for nothing; one of {}", PLACES.join(", ")))?;
        pieces.extend((!text.is_empty()).then_some(Piece::Text(text)));
        pieces.push(Piece::Place(place));
        rest = after;
    }
    pieces.extend((!rest.is_empty()).then_some(Piece::Text(rest)));
    Ok(pieces)
}

/// Checks a page.
///
/// # Errors
/// What is wrong with it.
pub fn check_html(html: &str) -> Result<(), String> {
    if html.trim().is_empty() || html.len() > MAX_HTML_BYTES {
        return Err(format!("must be 1 to {MAX_HTML_BYTES} bytes of HTML"));
    }
    pieces(html).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_falls_into_pieces() {
        use Piece::{Place, Text};
        for (html, wanted) in [
            ("", vec![]),
            ("<p>a</p>", vec![Text("<p>a</p>")]),
            ("{{title}}", vec![Place("title")]),
            ("a{{ host }}{{status}}b}}{", vec![Text("a"), Place("host"), Place("status"), Text("b}}{")]),
        ] {
            assert_eq!(pieces(html), Ok(wanted), "{html}");
        }
        for (html, problem) in [("a {{host", "not followed"), ("{{hosts}}", "{{hosts}} stands for nothing")] {
            assert!(pieces(html).unwrap_err().contains(problem), "{html}");
        }
    }

    #[test]
    fn a_page_is_checked() {
        assert_eq!(check_html("<p>{{message}}</p>"), Ok(()));
        for bad in ["", " \n", "{{x}}", &"a".repeat(MAX_HTML_BYTES + 1)] {
            assert!(check_html(bad).is_err(), "{bad:?}");
        }
        assert!(PAGES.iter().chain([&DEFAULT]).all(|word| check_word(word).is_ok()) && PAGES.is_sorted());
        for bad in ["", "Suspended", "no site", "a-b", &"a".repeat(33)] {
            assert!(check_word(bad).is_err(), "{bad:?}");
        }
    }
}
