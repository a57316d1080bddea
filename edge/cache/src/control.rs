//! Cache directives, as both requests and responses have them (RFC 9111 §5.2, RFC 5861, RFC 9213).

use crate::seconds;

/// What `Cache-Control`, or a field like it, says. Times in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<u64>,
    pub(crate) s_maxage: Option<u64>,
    pub(crate) min_fresh: Option<u64>,
    pub(crate) max_stale: Option<u64>,
    pub(crate) stale_while_revalidate: Option<u64>,
    pub(crate) stale_if_error: Option<u64>,
}

impl Control {
    /// Reads the values of all fields of the name. Of a directive that stands there twice the smaller number counts, and a number that
    /// is none is 0: the more cautious reading of both.
    pub(crate) fn read<'a>(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut control = Self::default();
        for value in values {
            let mut rest = value;
            while !rest.is_empty() {
                let end = end_of_item(rest);
                control.take(rest.get(..end).unwrap_or_default());
                rest = rest.get(end + 1..).unwrap_or_default();
            }
        }
        control
    }

    fn take(&mut self, item: &[u8]) {
        let equals = item.iter().position(|byte| *byte == b'=').unwrap_or(item.len());
        let name = item.get(..equals).unwrap_or_default().trim_ascii();
        let given = item.get(equals + 1..).map(unquoted);
        let number = || given.and_then(seconds).unwrap_or_default();
        let least =
            |known: &mut Option<u64>, number: u64| *known = Some(known.map_or(number, |n| n.min(number)));
        match name.to_ascii_lowercase().as_slice() {
            b"no-store" => self.no_store = true,
            // With the names of fields it speaks of these alone; the whole is the cautious reading.
            b"no-cache" => self.no_cache = true,
            b"private" => self.private = true,
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => least(&mut self.max_age, number()),
            b"s-maxage" => least(&mut self.s_maxage, number()),
            b"min-fresh" => self.min_fresh = Some(self.min_fresh.unwrap_or_default().max(number())),
            // Without a number: however stale.
            b"max-stale" => least(&mut self.max_stale, given.map_or(u64::MAX, |_| number())),
            b"stale-while-revalidate" => least(&mut self.stale_while_revalidate, number()),
            b"stale-if-error" => least(&mut self.stale_if_error, number()),
            _ => {}
        }
    }
}

/// Where the next comma is that stands in no quotes.
fn end_of_item(list: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    let end = list.iter().position(|byte| {
        let is_escaped = std::mem::take(&mut escaped);
        match byte {
            b'"' if !is_escaped => quoted = !quoted,
            b'\\' if quoted && !is_escaped => escaped = true,
            _ => {}
        }
        *byte == b',' && !quoted
    });
    end.unwrap_or(list.len())
}

fn unquoted(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Control {
        Control::read(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn directives_are_read_in_every_spelling_and_the_cautious_reading_counts() {
        let found = read(&["Max-Age=60 , S-MAXAGE=\"30\",public", "must-revalidate, stale-if-error=5"]);
        let wanted = Control {
            max_age: Some(60),
            s_maxage: Some(30),
            public: true,
            must_revalidate: true,
            stale_if_error: Some(5),
            ..Control::default()
        };
        assert_eq!(found, wanted);
        for (value, age) in [
            ("max-age=5, max-age=9", 5),
            ("max-age=", 0),
            ("max-age", 0),
            ("max-age=-1", 0),
            ("max-age=1.5", 0),
            ("max-age=99999999999999999999", 1 << 31),
        ] {
            assert_eq!(read(&[value]).max_age, Some(age), "{value}");
        }
        let quoted = read(&["private=\"a, no-store\", x=\"\\\", no-store\", no-cache=\"set-cookie\""]);
        assert_eq!(quoted, Control { private: true, no_cache: true, ..Control::default() });
        assert_eq!(read(&["max-stale"]).max_stale, Some(u64::MAX));
        assert_eq!(read(&["max-stale=x"]).max_stale, Some(0));
        assert_eq!(read(&["", ",,", "no-storex, xno-store, unknown=1"]), Control::default());
    }
}
