//! QPACK without a dynamic table (RFC 9204 §4.5): reads lists of fields, and writes those of answers.

use hosting_edge_http2::decode_huffman;

use hosting_edge_http2::push_integer;

use crate::integer::take_prefixed;

/// RFC 9204 Appendix A.
#[rustfmt::skip]
const STATIC: [(&[u8], &[u8]); 99] = [
    (b":authority", b""), (b":path", b"/"), (b"age", b"0"), (b"content-disposition", b""), (b"content-length", b"0"),
    (b"cookie", b""), (b"date", b""), (b"etag", b""), (b"if-modified-since", b""), (b"if-none-match", b""),
    (b"last-modified", b""), (b"link", b""), (b"location", b""), (b"referer", b""), (b"set-cookie", b""),
    (b":method", b"CONNECT"), (b":method", b"DELETE"), (b":method", b"GET"), (b":method", b"HEAD"),
    (b":method", b"OPTIONS"), (b":method", b"POST"), (b":method", b"PUT"), (b":scheme", b"http"),
    (b":scheme", b"https"), (b":status", b"103"), (b":status", b"200"), (b":status", b"304"), (b":status", b"404"),
    (b":status", b"503"), (b"accept", b"*/*"), (b"accept", b"application/dns-message"),
    (b"accept-encoding", b"gzip, deflate, br"), (b"accept-ranges", b"bytes"),
    (b"access-control-allow-headers", b"cache-control"), (b"access-control-allow-headers", b"content-type"),
    (b"access-control-allow-origin", b"*"), (b"cache-control", b"max-age=0"), (b"cache-control", b"max-age=2592000"),
    (b"cache-control", b"max-age=604800"), (b"cache-control", b"no-cache"), (b"cache-control", b"no-store"),
    (b"cache-control", b"public, max-age=31536000"), (b"content-encoding", b"br"), (b"content-encoding", b"gzip"),
    (b"content-type", b"application/dns-message"), (b"content-type", b"application/javascript"),
    (b"content-type", b"application/json"), (b"content-type", b"application/x-www-form-urlencoded"),
    (b"content-type", b"image/gif"), (b"content-type", b"image/jpeg"), (b"content-type", b"image/png"),
    (b"content-type", b"text/css"), (b"content-type", b"text/html; charset=utf-8"), (b"content-type", b"text/plain"),
    (b"content-type", b"text/plain;charset=utf-8"), (b"range", b"bytes=0-"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"strict-transport-security", b"max-age=31536000; includesubdomains"),
    (b"strict-transport-security", b"max-age=31536000; includesubdomains; preload"), (b"vary", b"accept-encoding"),
    (b"vary", b"origin"), (b"x-content-type-options", b"nosniff"), (b"x-xss-protection", b"1; mode=block"),
    (b":status", b"100"), (b":status", b"204"), (b":status", b"206"), (b":status", b"302"), (b":status", b"400"),
    (b":status", b"403"), (b":status", b"421"), (b":status", b"425"), (b":status", b"500"), (b"accept-language", b""),
    (b"access-control-allow-credentials", b"FALSE"), (b"access-control-allow-credentials", b"TRUE"),
    (b"access-control-allow-headers", b"*"), (b"access-control-allow-methods", b"get"),
    (b"access-control-allow-methods", b"get, post, options"), (b"access-control-allow-methods", b"options"),
    (b"access-control-expose-headers", b"content-length"), (b"access-control-request-headers", b"content-type"),
    (b"access-control-request-method", b"get"), (b"access-control-request-method", b"post"), (b"alt-svc", b"clear"),
    (b"authorization", b""), (b"content-security-policy", b"script-src 'none'; object-src 'none'; base-uri 'none'"),
    (b"early-data", b"1"), (b"expect-ct", b""), (b"forwarded", b""), (b"if-range", b""), (b"origin", b""),
    (b"purpose", b"prefetch"), (b"server", b""), (b"timing-allow-origin", b"*"), (b"upgrade-insecure-requests", b"1"),
    (b"user-agent", b""), (b"x-forwarded-for", b""), (b"x-frame-options", b"deny"),
    (b"x-frame-options", b"sameorigin"),];

/// The list is not QPACK, or refers to a table that was never announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotQpack;

/// Gives each field of a list to `sink`.
pub(crate) fn decode(mut list: &[u8], mut sink: impl FnMut(&[u8], &[u8])) -> Result<(), NotQpack> {
    // Nothing was ever put into a table, so nothing of it can be required, and the base can be but 0 (RFC 9204 §4.5.1).
    if take_prefixed(&mut list, 8) != Some(0) {
        return Err(NotQpack);
    }
    let is_negative = list.first().is_some_and(|byte| byte & 0x80 != 0);
    if take_prefixed(&mut list, 7).is_none() || is_negative {
        return Err(NotQpack);
    }
    let (mut name_scratch, mut value_scratch) = (Vec::new(), Vec::new());
    while let Some(first) = list.first().copied() {
        match first {
            // Indexed, static.
            0b1100_0000.. => {
                let (name, value) = field(take_prefixed(&mut list, 6))?;
                sink(name, value);
            }
            // Literal with the name of a static one.
            0b0101_0000..=0b0101_1111 | 0b0111_0000..=0b0111_1111 => {
                let (name, _) = field(take_prefixed(&mut list, 4))?;
                sink(name, string(&mut list, 7, &mut value_scratch)?);
            }
            // Literal.
            0b0010_0000..=0b0011_1111 => {
                let name = string(&mut list, 3, &mut name_scratch)?;
                sink(name, string(&mut list, 7, &mut value_scratch)?);
            }
            // Of the dynamic table.
            _ => return Err(NotQpack),
        }
    }
    Ok(())
}

fn field(index: Option<usize>) -> Result<(&'static [u8], &'static [u8]), NotQpack> {
    index.and_then(|index| STATIC.get(index)).copied().ok_or(NotQpack)
}

/// Takes a string whose length has a prefix of so many bits; the bit before says whether it is Huffman coded.
fn string<'a, 'l: 'a>(
    list: &mut &'l [u8],
    prefix: u8,
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8], NotQpack> {
    let is_coded = list.first().is_some_and(|byte| byte & (1 << prefix) != 0);
    let length = take_prefixed(list, prefix).ok_or(NotQpack)?;
    let (sent, rest) = list.split_at_checked(length).ok_or(NotQpack)?;
    *list = rest;
    if !is_coded {
        return Ok(sent);
    }
    scratch.clear();
    decode_huffman(sent, scratch).map_err(|_| NotQpack)?;
    Ok(scratch)
}

/// Begins a list.
pub(crate) fn push_prefix(list: &mut Vec<u8>) {
    list.extend_from_slice(&[0, 0]);
}

/// Appends `:status`.
pub(crate) fn push_status(list: &mut Vec<u8>, status: u16) {
    let index = match status {
        100 => 63,
        200 => 25,
        204 => 64,
        206 => 65,
        302 => 66,
        304 => 26,
        400 => 67,
        403 => 68,
        404 => 27,
        421 => 69,
        500 => 71,
        503 => 28,
        _ => {
            push_integer(list, 4, 0b0101_0000, 24);
            return push_string(list, 7, 0, status.to_string().as_bytes());
        }
    };
    push_integer(list, 6, 0b1100_0000, index);
}

/// Appends a field. Its name is written in lower case (RFC 9114 §4.2).
pub(crate) fn push_field(list: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    // What most answers have; by length first.
    let index = match name.len() {
        3 if is(b"age") => 2,
        4 if is(b"date") => 6,
        4 if is(b"etag") => 7,
        4 if is(b"link") => 11,
        4 if is(b"vary") => 59,
        6 if is(b"server") => 92,
        7 if is(b"alt-svc") => 83,
        8 if is(b"location") => 12,
        10 if is(b"set-cookie") => 14,
        12 if is(b"content-type") => 53,
        13 if is(b"accept-ranges") => 32,
        13 if is(b"last-modified") => 10,
        13 if is(b"cache-control") => 36,
        14 if is(b"content-length") => 4,
        16 if is(b"content-encoding") => 42,
        25 if is(b"strict-transport-security") => 56,
        _ => {
            let begin = list.len();
            push_string(list, 3, 0b0010_0000, name);
            let written = list.len() - name.len().min(list.len() - begin);
            if let Some(name) = list.get_mut(written..) {
                name.make_ascii_lowercase();
            }
            return push_string(list, 7, 0, value);
        }
    };
    push_integer(list, 4, 0b0101_0000, index);
    push_string(list, 7, 0, value);
}

fn push_string(list: &mut Vec<u8>, prefix: u8, first: u8, text: &[u8]) {
    push_integer(list, prefix, first, text.len());
    list.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn read(list: &[u8]) -> Result<Fields, NotQpack> {
        let mut fields = Vec::new();
        decode(list, |name, value| fields.push((name.to_vec(), value.to_vec())))?;
        Ok(fields)
    }

    fn of(fields: &[(&str, &str)]) -> Fields {
        fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn every_form_of_a_field_is_read() {
        // RFC 9204 §B.1.
        let list = b"\0\0\x51\x0b/index.html";
        assert_eq!(read(list), Ok(of(&[(":path", "/index.html")])));
        // Indexed; a literal of each kind; both strings coded (RFC 7541 §C.4.3).
        let list = b"\0\0\xd1\xff\x23\x7f\x04\x01x\x21x\x01y\x3f\x01\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf";
        let fields = [
            (":method", "GET"),
            ("x-frame-options", "sameorigin"),
            ("content-security-policy", "x"),
            ("x", "y"),
            ("custom-key", "custom-value"),
        ];
        let mut fields = of(&fields);
        fields[2].0 = STATIC[19].0.to_vec();
        assert_eq!(read(list), Ok(fields));
        assert_eq!(read(b"\0\0"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_not_qpack_or_needs_a_table_is_refused() {
        for list in [
            &b""[..],
            b"\0",
            b"\x01\0\xd1",
            b"\0\x80\xd1",
            b"\0\0\x80",
            b"\0\0\x10",
            b"\0\0\x00\x01x",
            b"\0\0\x40\x01x",
            b"\0\0\xff\x24",
            b"\0\0\xff",
            b"\0\0\x51\x0b/index",
            b"\0\0\x51",
            b"\0\0\x21",
            b"\0\0\x51\x81\xff\xff",
            b"\0\0\x51\xff\xff\xff\xff\xff\xff\x0f",
        ] {
            assert_eq!(read(list), Err(NotQpack), "{list:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_names_are_in_lower_case() {
        let mut list = Vec::new();
        push_prefix(&mut list);
        let mut fields = Vec::new();
        for status in [100, 200, 204, 206, 302, 304, 400, 403, 404, 421, 500, 503, 418, 599] {
            push_status(&mut list, status);
            fields.push((b":status".to_vec(), status.to_string().into_bytes()));
        }
        let names = [
            "Age",
            "DATE",
            "etag",
            "link",
            "vary",
            "server",
            "alt-svc",
            "location",
            "Set-Cookie",
            "content-type",
            "accept-ranges",
            "last-modified",
            "cache-control",
            "content-length",
            "content-encoding",
            "strict-transport-security",
            "X-Shard",
            "x",
            "an-even-longer-name-than-most",
        ];
        for name in names {
            push_field(&mut list, name.as_bytes(), b"\xe9 v");
            fields.push((name.to_ascii_lowercase().into_bytes(), b"\xe9 v".to_vec()));
        }
        assert_eq!(read(&list), Ok(fields));
    }

    proptest! {
        #[test]
        fn no_bytes_bring_the_decoder_down(list in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&list);
            let _ = read(&[&[0, 0][..], &list].concat());
        }
    }
}
