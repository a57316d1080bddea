//! Answers compressed on their way: which, in which coding, and the bytes.

use std::io::Write;

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use flate2::write::GzEncoder;
use hosting_edge_http1::{AnswerHead, Request};
use tokio::sync::OwnedSemaphorePermit;
use zstd::stream::raw::CParameter;

/// Shorter bodies are not worth it: a packet is a packet.
const SHORTEST: u64 = 512;

/// What is good enough for a text that is made anew for each request, and quick.
const GZIP_LEVEL: u32 = 5;
const BROTLI_QUALITY: i32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// Of brotli and zstd, how far back they look: 256 KiB, which bounds the memory of each answer.
const WINDOW_LOG: u32 = 18;

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    Zstd,
    Brotli,
    Gzip,
}

impl Coding {
    /// The quickest for its size first.
    const BEST_FIRST: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    pub(crate) const fn name(self) -> &'static [u8] {
        match self {
            Self::Zstd => b"zstd",
            Self::Brotli => b"br",
            Self::Gzip => b"gzip",
        }
    }
}

/// What an answer that may be compressed becomes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// `None`: not for this client. The answer says all the same that it depends on what clients take.
    pub(crate) coding: Option<Coding>,
    /// The weak entity tag of what is compressed: its bytes are others than those that the strong one is for (RFC 9110 §8.8.3).
    etag: Option<Vec<u8>>,
    says_vary: bool,
}

impl Plan {
    /// `None`: the answer stays as it is.
    pub(crate) fn of(head: &AnswerHead<'_>, request: &Request) -> Option<Self> {
        if !head.has_body
            || matches!(head.status, 204 | 206 | 304)
            || head.length.is_some_and(|length| length < SHORTEST)
        {
            return None;
        }
        let value = |wanted: &[u8]| {
            let mut fields = head.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            fields.next().map(|(_, value)| *value)
        };
        // Digests are of the bytes as they are (RFC 9530).
        let fixed: [&[u8]; 6] = [
            b"content-encoding",
            b"content-range",
            b"content-digest",
            b"repr-digest",
            b"digest",
            b"content-md5",
        ];
        if fixed.iter().any(|name| value(name).is_some()) || !is_text(value(b"content-type")?) {
            return None;
        }
        if value(b"cache-control").is_some_and(|control| lists(control, b"no-transform")) {
            return None;
        }
        let accepted =
            request.head().fields().filter(|(name, _)| name.eq_ignore_ascii_case(b"accept-encoding"));
        let coding = choose(accepted.map(|(_, value)| value));
        let varies = head.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"vary"));
        let says_vary =
            !varies.into_iter().any(|(_, vary)| lists(vary, b"*") || lists(vary, b"accept-encoding"));
        let strong = value(b"etag").filter(|etag| coding.is_some() && etag.starts_with(b"\""));
        Some(Self { coding, etag: strong.map(|etag| [b"W/", etag].concat()), says_vary })
    }

    /// Makes the head that of what is sent.
    pub(crate) fn apply<'a>(&'a self, head: &mut AnswerHead<'a>) {
        if self.says_vary {
            head.fields.push((b"vary", b"accept-encoding"));
        }
        let Some(coding) = self.coding else { return };
        head.length = None;
        // A part of what is compressed is not to be had.
        head.fields.retain(|(name, _)| !name.eq_ignore_ascii_case(b"accept-ranges"));
        head.fields.push((b"content-encoding", coding.name()));
        for (name, value) in &mut head.fields {
            if let Some(etag) = self.etag.as_deref().filter(|_| name.eq_ignore_ascii_case(b"etag")) {
                *value = etag;
            }
        }
    }
}

/// Whether a list of words has this one.
fn lists(list: &[u8], word: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(word))
}

/// Whether what is of this type becomes much shorter. Streams of events do not: each has to be sent at once.
fn is_text(content_type: &[u8]) -> bool {
    let kind = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let kind = kind.to_ascii_lowercase();
    if kind == b"text/event-stream" {
        return false;
    }
    let known: [&[u8]; 12] = [
        b"application/javascript",
        b"application/x-javascript",
        b"application/json",
        b"application/xml",
        b"application/wasm",
        b"application/rtf",
        b"application/vnd.ms-fontobject",
        b"font/ttf",
        b"font/otf",
        b"image/svg+xml",
        b"image/bmp",
        b"image/x-icon",
    ];
    kind.starts_with(b"text/")
        || kind.ends_with(b"+json")
        || kind.ends_with(b"+xml")
        || known.contains(&&*kind)
}

/// The best coding that a client takes (RFC 9110 §12.5.3): of those with the highest weight the first of ours.
pub(crate) fn choose<'a>(accepted: impl Iterator<Item = &'a [u8]>) -> Option<Coding> {
    // In thousandths; `None`: not named.
    let (mut weights, mut others) = ([None; Coding::BEST_FIRST.len()], None);
    for item in accepted.flat_map(|value| value.split(|byte| *byte == b',')) {
        let mut parts = item.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")));
        let weight = weight.map_or(1_000, thousandths);
        if name == b"*" {
            others = Some(weight);
        }
        for (coding, known) in Coding::BEST_FIRST.iter().zip(&mut weights) {
            if name.eq_ignore_ascii_case(coding.name())
                || (*coding == Coding::Gzip && name.eq_ignore_ascii_case(b"x-gzip"))
            {
                *known = Some(weight);
            }
        }
    }
    let weighed = Coding::BEST_FIRST.into_iter().zip(weights);
    let taken = weighed
        .filter_map(|(coding, weight)| Some((coding, weight.or(others).filter(|weight| *weight > 0)?)));
    // Of several that are alike `max_by_key` gives the last.
    taken.collect::<Vec<_>>().into_iter().rev().max_by_key(|(_, weight)| *weight).map(|(coding, _)| coding)
}

/// A weight such as `0.85`; one that cannot be read is 0, so that nobody gets what he may not take.
fn thousandths(weight: &[u8]) -> u32 {
    let weight = std::str::from_utf8(weight).ok().and_then(|text| text.parse::<f32>().ok());
    weight.filter(|weight| (0.0..=1.0).contains(weight)).map_or(0, |weight| (weight * 1_000.0) as u32)
}

enum Inner {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::Encoder<'static, Vec<u8>>),
    /// At its end, with what is left.
    Finished(Vec<u8>),
}

/// Compresses one answer.
pub(crate) struct Encoder {
    inner: Inner,
    /// Bytes at the front of what is ready that the client has.
    taken: usize,
    /// Something was written since the last flush.
    is_dirty: bool,
    /// One of those that may be at work at once.
    _place: OwnedSemaphorePermit,
}

impl Encoder {
    /// `None`: the library has no memory.
    pub(crate) fn new(coding: Coding, place: OwnedSemaphorePermit) -> Option<Self> {
        let inner = match coding {
            Coding::Gzip => Inner::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
            Coding::Brotli => {
                let params = BrotliEncoderParams {
                    quality: BROTLI_QUALITY,
                    lgwin: WINDOW_LOG as i32,
                    ..BrotliEncoderParams::default()
                };
                Inner::Brotli(Box::new(CompressorWriter::with_params(Vec::new(), 4_096, &params)))
            }
            Coding::Zstd => {
                let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL).ok()?;
                encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG)).ok()?;
                Inner::Zstd(encoder)
            }
        };
        Some(Self { inner, taken: 0, is_dirty: false, _place: place })
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match &mut self.inner {
            Inner::Gzip(encoder) => encoder.get_mut(),
            Inner::Brotli(encoder) => encoder.get_mut(),
            Inner::Zstd(encoder) => encoder.get_mut(),
            Inner::Finished(out) => out,
        }
    }

    /// Takes a piece of the body. What is ready should be gone first, so that it does not pile up.
    pub(crate) fn write(&mut self, data: &[u8]) {
        self.is_dirty = true;
        // Writing to a Vec does not fail.
        let _ = match &mut self.inner {
            Inner::Gzip(encoder) => encoder.write_all(data),
            Inner::Brotli(encoder) => encoder.write_all(data),
            Inner::Zstd(encoder) => encoder.write_all(data),
            Inner::Finished(_) => Ok(()),
        };
    }

    /// Makes all that was written ready: more may be long in coming. Whether there is something to send by it.
    pub(crate) fn flush(&mut self) -> bool {
        if !std::mem::take(&mut self.is_dirty) {
            return false;
        }
        let _ = match &mut self.inner {
            Inner::Gzip(encoder) => encoder.flush(),
            Inner::Brotli(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
            Inner::Finished(_) => Ok(()),
        };
        !self.ready().is_empty()
    }

    /// The body is at its end; what is ready then is the rest. `false`: it cannot be ended, so what was sent is not whole.
    pub(crate) fn finish(&mut self) -> bool {
        let rest = match std::mem::replace(&mut self.inner, Inner::Finished(Vec::new())) {
            Inner::Gzip(encoder) => encoder.finish().ok(),
            Inner::Brotli(encoder) => Some(encoder.into_inner()),
            Inner::Zstd(encoder) => encoder.finish().ok(),
            Inner::Finished(out) => Some(out),
        };
        let is_whole = rest.is_some();
        self.inner = Inner::Finished(rest.unwrap_or_default());
        is_whole
    }

    /// Bytes for the client.
    pub(crate) fn ready(&mut self) -> &[u8] {
        let taken = self.taken;
        self.out().get(taken..).unwrap_or_default()
    }

    /// The client took so many of them.
    pub(crate) fn took(&mut self, count: usize) {
        self.taken += count;
        if self.taken >= self.out().len() {
            self.out().clear();
            self.taken = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::Arc;

    use hosting_edge_http1::RequestHead;
    use tokio::sync::Semaphore;

    use super::*;

    fn chosen(values: &[&str]) -> Option<&'static str> {
        choose(values.iter().map(|value| value.as_bytes()))
            .map(|coding| std::str::from_utf8(coding.name()).unwrap())
    }

    #[test]
    fn the_best_that_a_client_takes() {
        assert_eq!(chosen(&["gzip, deflate, br, zstd"]), Some("zstd"));
        assert_eq!(chosen(&["gzip, deflate, br"]), Some("br"));
        assert_eq!(chosen(&["deflate", "GZIP"]), Some("gzip"));
        assert_eq!(chosen(&["x-gzip"]), Some("gzip"));
        assert_eq!(chosen(&["zstd;q=0.5, br;q=0.9, gzip; q=1.0"]), Some("gzip"));
        assert_eq!(chosen(&["zstd;q=0, *;q=0.1"]), Some("br"));
        assert_eq!(chosen(&["*"]), Some("zstd"));
        for none in [
            &[][..],
            &[""],
            &["identity"],
            &["gzip;q=0"],
            &["gzip;q=x"],
            &["gzip;q=2"],
            &["*;q=0"],
            &["deflate"],
        ] {
            assert_eq!(chosen(none), None, "{none:?}");
        }
    }

    fn request(accept: &str) -> Request {
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: {accept}\r\n\r\n");
        Request::new(RequestHead::parse(head.into_bytes().into()).unwrap()).unwrap()
    }

    type Fields = &'static [(&'static str, &'static str)];

    fn head(status: u16, fields: Fields, length: Option<u64>) -> AnswerHead<'static> {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        AnswerHead { status, reason: b"", fields, length, has_body: true }
    }

    #[test]
    fn what_is_compressed_and_what_is_not() {
        let plan = |status, fields, length| Plan::of(&head(status, fields, length), &request("gzip"));
        let html: Fields = &[("content-type", "text/html; charset=utf-8")];
        for (fields, length) in [
            (html, None),
            (html, Some(512)),
            (&[("Content-Type", "APPLICATION/JSON")], None),
            (&[("content-type", "application/problem+json")], None),
            (&[("content-type", "image/svg+xml")], Some(100_000)),
        ] as [(Fields, Option<u64>); 5]
        {
            assert_eq!(plan(200, fields, length).unwrap().coding, Some(Coding::Gzip), "{fields:?}");
        }
        assert!(plan(404, html, None).is_some());
        let not: [(u16, Fields, Option<u64>); 10] = [
            (200, html, Some(511)),
            (206, html, None),
            (200, &[], None),
            (200, &[("content-type", "image/png")], None),
            (200, &[("content-type", "text/event-stream")], None),
            (200, &[("content-type", "application/zip")], None),
            (200, &[("content-type", "text/html"), ("content-encoding", "br")], None),
            (200, &[("content-type", "text/html"), ("cache-control", "public, no-transform")], None),
            (200, &[("content-type", "text/html"), ("repr-digest", "sha-256=:x:")], None),
            (200, &[("content-type", "text/html"), ("content-range", "bytes 0-1/9")], None),
        ];
        for (status, fields, length) in not {
            assert_eq!(plan(status, fields, length), None, "{status} {fields:?}");
        }
        let without_body = AnswerHead { has_body: false, ..head(200, html, None) };
        assert_eq!(Plan::of(&without_body, &request("gzip")), None);
    }

    fn applied(accept: &str, fields: Fields) -> (Vec<String>, Option<u64>) {
        let mut head = head(200, fields, Some(1_000));
        let plan = Plan::of(&head, &request(accept)).unwrap();
        let mut sent = AnswerHead { fields: std::mem::take(&mut head.fields), ..head };
        plan.apply(&mut sent);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let fields =
            sent.fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect();
        (fields, sent.length)
    }

    #[test]
    fn the_head_is_that_of_what_is_sent() {
        let (fields, length) = applied(
            "br",
            &[
                ("content-type", "text/css"),
                ("ETag", "\"abc\""),
                ("accept-ranges", "bytes"),
                ("vary", "cookie"),
            ],
        );
        assert_eq!(
            fields,
            [
                "content-type: text/css",
                "ETag: W/\"abc\"",
                "vary: cookie",
                "vary: accept-encoding",
                "content-encoding: br"
            ]
        );
        assert_eq!(length, None);
        // For a client that takes none the answer is the same but for what it depends on.
        let (fields, length) = applied("identity", &[("content-type", "text/css"), ("etag", "\"abc\"")]);
        assert_eq!(fields, ["content-type: text/css", "etag: \"abc\"", "vary: accept-encoding"]);
        assert_eq!(length, Some(1_000));
        let (fields, _) = applied(
            "gzip",
            &[("content-type", "text/css"), ("etag", "W/\"x\""), ("vary", "Accept-Encoding")],
        );
        assert_eq!(
            fields,
            ["content-type: text/css", "etag: W/\"x\"", "vary: Accept-Encoding", "content-encoding: gzip"]
        );
    }

    fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        // What is cut off gives what there is.
        let _ = match coding {
            Coding::Gzip => flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out),
            Coding::Brotli => brotli::Decompressor::new(bytes, 4_096).read_to_end(&mut out),
            Coding::Zstd => zstd::Decoder::new(bytes).unwrap().read_to_end(&mut out),
        };
        out
    }

    #[test]
    fn what_comes_out_is_what_went_in_and_each_flush_shows_all_of_it() {
        let text: Vec<u8> =
            (0..200_000_u32).flat_map(|n| format!("line {} of many\n", n % 977).into_bytes()).collect();
        let places = Arc::new(Semaphore::new(1));
        for coding in Coding::BEST_FIRST {
            let place = Arc::clone(&places).try_acquire_owned().unwrap();
            let mut encoder = Encoder::new(coding, place).unwrap();
            assert_eq!(places.available_permits(), 0);
            let (mut sent, mut largest) = (Vec::new(), 0);
            let mut take = |encoder: &mut Encoder| {
                // In pieces, as clients take them.
                while !encoder.ready().is_empty() {
                    let piece = encoder.ready().len().min(1_000);
                    sent.extend_from_slice(&encoder.ready()[..piece]);
                    encoder.took(piece);
                }
                sent.clone()
            };
            for (n, piece) in text.chunks(32_768).enumerate() {
                encoder.write(piece);
                largest = largest.max(encoder.ready().len());
                take(&mut encoder);
                if n == 3 {
                    assert!(encoder.flush() && !encoder.flush());
                    let so_far = take(&mut encoder);
                    assert_eq!(decoded(coding, &so_far).len(), 4 * 32_768, "{coding:?}");
                }
            }
            assert!(encoder.finish());
            let sent = take(&mut encoder);
            assert_eq!(decoded(coding, &sent), text, "{coding:?}");
            assert!(
                sent.len() < text.len() / 10 && largest < 100_000,
                "{coding:?}: {} {largest}",
                sent.len()
            );
            drop(encoder);
            assert_eq!(places.available_permits(), 1);
        }
    }
}
