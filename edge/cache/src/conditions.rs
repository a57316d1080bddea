//! What a client gets of a stored response: all, nothing new, or a part (RFC 9110 §13, §14).

use std::ops::Range;

use crate::{Asked, Stored, date};

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// All of it.
    Whole,
    /// That it has it: 304.
    NotModified,
    /// A part: 206.
    Part(Part),
    /// That there is no such part: 416.
    NoPart,
}

/// Bytes of a body.
pub type Part = Range<usize>;

impl Stored {
    /// Answers conditions and ranges.
    #[must_use]
    pub fn reply(&self, asked: &Asked<'_>) -> Reply {
        if self.status() != 200 {
            return Reply::Whole;
        }
        if self.is_known(asked) {
            return Reply::NotModified;
        }
        match asked.value(b"range").filter(|_| !asked.is_head() && self.is_same(asked)) {
            Some(range) => part(range, self.body().len()),
            None => Reply::Whole,
        }
    }

    /// The client has it (RFC 9110 §13.1.2, §13.1.3).
    fn is_known(&self, asked: &Asked<'_>) -> bool {
        let mut tags = asked.values(b"if-none-match").peekable();
        if tags.peek().is_some() {
            let own = self.field(b"etag").map(opaque);
            return tags
                .flat_map(|list| list.split(|byte| *byte == b','))
                .map(<[u8]>::trim_ascii)
                .any(|tag| tag == b"*" || own.is_some_and(|own| opaque(tag) == own));
        }
        let since = asked.value(b"if-modified-since").and_then(date);
        let changed = self.field(b"last-modified").or_else(|| self.field(b"date")).and_then(date);
        since.zip(changed).is_some_and(|(since, changed)| changed <= since)
    }

    /// The client's parts are of this one, if it says of which (RFC 9110 §13.1.5).
    fn is_same(&self, asked: &Asked<'_>) -> bool {
        let Some(wanted) = asked.value(b"if-range") else { return true };
        if wanted.starts_with(b"\"") {
            return self.field(b"etag") == Some(wanted);
        }
        // A weak tag says nothing about bytes.
        !wanted.starts_with(b"W/") && self.field(b"last-modified") == Some(wanted)
    }
}

/// An entity tag for a weak comparison.
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// One range of bytes; of several, and of what is none, the whole is given.
fn part(range: &[u8], length: usize) -> Reply {
    let read = || {
        let text = std::str::from_utf8(range).ok()?.trim();
        let (unit, spec) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = spec.trim().split_once('-')?;
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
            true => Some(text.parse::<usize>().unwrap_or(usize::MAX)),
            false => None,
        };
        match (first, last) {
            ("", last) => Some((length.saturating_sub(number(last)?), length, number(last)? > 0)),
            (first, "") => Some((number(first)?, length, true)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then(|| (first, last.saturating_add(1).min(length), true))
            }
        }
    };
    match read() {
        None => Reply::Whole,
        Some((first, end, true)) if first < end => Reply::Part(first..end),
        Some(_) => Reply::NoPart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_help::{NOW, at, pairs, policy};
    use crate::{Came, Purges, Store, Verdict, check};

    type Text<'a> = &'a [(&'a str, &'a str)];

    fn reply(stored: Text<'_>, status: u16, request: Text<'_>) -> Reply {
        let policy = policy();
        let store = Store::new(1_000_000, 100);
        let fields = [pairs(stored), pairs(&[("cache-control", "max-age=60")])].concat();
        let came = Came { status, reason: b"", fields: &fields, length: Some(10), asked_at: NOW, at: NOW };
        let first = Asked::new(b"GET", b"/", std::iter::empty(), &policy, false).unwrap();
        let Verdict::Store(terms) = check(&first, &came, &policy) else { panic!("{stored:?}") };
        let key = crate::Key::new("t", "w", false, b"a.example", b"/");
        let stamp = Purges::default().stamp();
        let mut draft = store.draft("t", key, &first, &came, terms, stamp, &policy).unwrap();
        assert!(draft.push(b"0123456789"));
        let (stored, _) = draft.finish().unwrap();
        let asked = Asked::new(b"GET", b"/", pairs(request).into_iter(), &policy, false).unwrap();
        stored.reply(&asked)
    }

    #[test]
    fn conditions_are_answered() {
        let (old, older) = (at(-100), at(-200));
        let tagged: Text<'_> = &[("etag", "\"a\""), ("last-modified", &old)];
        for (request, wanted) in [
            (&[][..], Reply::Whole),
            (&[("if-none-match", "\"a\"")], Reply::NotModified),
            (&[("if-none-match", "W/\"a\"")], Reply::NotModified),
            (&[("if-none-match", "\"b\", \"a\"")], Reply::NotModified),
            (&[("if-none-match", "*")], Reply::NotModified),
            (&[("if-none-match", "\"b\"")], Reply::Whole),
            (&[("if-none-match", "\"b\""), ("if-modified-since", &old)], Reply::Whole),
            (&[("if-modified-since", &old)], Reply::NotModified),
            (&[("if-modified-since", &older)], Reply::Whole),
            (&[("if-modified-since", "yesterday")], Reply::Whole),
        ] as [(Text<'_>, Reply); 10]
        {
            assert_eq!(reply(tagged, 200, request), wanted, "{request:?}");
        }
        assert_eq!(reply(tagged, 404, &[("if-none-match", "\"a\"")]), Reply::Whole);
    }

    #[test]
    fn parts_are_cut_out() {
        for (range, wanted) in [
            ("bytes=0-3", Reply::Part(0..4)),
            ("Bytes=9-9", Reply::Part(9..10)),
            ("bytes=5-", Reply::Part(5..10)),
            ("bytes=5-999999999999999999999", Reply::Part(5..10)),
            ("bytes=-3", Reply::Part(7..10)),
            ("bytes=-30", Reply::Part(0..10)),
            ("bytes=10-", Reply::NoPart),
            ("bytes=-0", Reply::NoPart),
            ("bytes=4-3", Reply::Whole),
            ("bytes=0-1,3-4", Reply::Whole),
            ("lines=0-1", Reply::Whole),
            ("bytes=a-b", Reply::Whole),
            ("bytes=-", Reply::Whole),
            ("0-1", Reply::Whole),
        ] {
            assert_eq!(reply(&[], 200, &[("range", range)]), wanted, "{range}");
        }
        let old = at(-100);
        let tagged: Text<'_> = &[("etag", "\"a\""), ("last-modified", &old)];
        for (if_range, is_part) in
            [("\"a\"", true), ("\"b\"", false), ("W/\"a\"", false), (&old, true), (&at(-99), false)]
        {
            let found = reply(tagged, 200, &[("range", "bytes=0-0"), ("if-range", if_range)]);
            assert_eq!(found == Reply::Part(0..1), is_part, "{if_range}");
        }
        assert_eq!(reply(&[], 404, &[("range", "bytes=0-0")]), Reply::Whole);
    }
}
