//! `traceparent` and `tracestate` (W3C Trace Context, levels 1 and 2), read strictly: what is not exactly as it should be is not there.

use std::fmt;

/// The form of version 00: `00-` trace `-` span `-` flags.
const LENGTH: usize = 55;
/// Most members of a `tracestate`, and the most bytes of it that are passed on.
const MEMBERS: usize = 32;
const STATE_BYTES: usize = 512;
/// The trace is recorded.
const SAMPLED: u8 = 0x01;
/// The trace's id was drawn by chance (level 2).
const RANDOM: u8 = 0x02;

/// Which request of which trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace: u128,
    /// The span that asks; never 0.
    pub span: u64,
    flags: u8,
}

impl TraceContext {
    /// One with an id that was drawn by chance.
    #[must_use]
    pub const fn new(trace: u128, span: u64, is_sampled: bool) -> Self {
        Self { trace, span, flags: if is_sampled { SAMPLED | RANDOM } else { RANDOM } }
    }

    /// The same trace, asked on by another span.
    #[must_use]
    pub const fn with_span(self, span: u64) -> Self {
        Self { span, ..self }
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub const fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Reads the values of all fields `traceparent` of a request. `None`: there is not exactly one that is sound.
    pub fn parse<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        let version = hex(value.get(..2)?)?;
        match (version, value.get(LENGTH)) {
            (0xff, _) => return None,
            (0, Some(_)) => return None,
            (_, None | Some(b'-')) => {}
            _ => return None,
        }
        if [2, 35, 52].iter().any(|at| value.get(*at) != Some(&b'-')) {
            return None;
        }
        let trace = hex(value.get(3..35)?)?;
        let span = u64::try_from(hex(value.get(36..52)?)?).ok()?;
        let flags = u8::try_from(hex(value.get(53..LENGTH)?)?).ok()?;
        // Bits that are not known yet are not passed on (§4.3).
        let flags = flags & (SAMPLED | RANDOM);
        (trace != 0 && span != 0).then_some(Self { trace, span, flags })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Lower-case hexadecimal digits, and nothing else.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// The values of all fields `tracestate` as one. `None`: there is none, or it is not sound, which leaves `traceparent` as it is.
pub fn trace_state<'a>(values: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut keys: Vec<&str> = Vec::new();
    let mut state = String::new();
    for value in values {
        let text = std::str::from_utf8(value).ok()?;
        for member in text.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            // Empty members are allowed, and say nothing.
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=')?;
            if !is_key(key) || !is_value(value) || keys.contains(&key) || keys.len() == MEMBERS {
                return None;
            }
            keys.push(key);
            if !state.is_empty() {
                state.push(',');
            }
            state.push_str(member);
        }
    }
    (!state.is_empty() && state.len() <= STATE_BYTES).then_some(state)
}

/// A key, which may name a tenant and a system (`tenant@system`).
fn is_key(key: &str) -> bool {
    let is_part = |part: &str, most: usize, may_begin_with_digit: bool| {
        let begins = |byte: &u8| byte.is_ascii_lowercase() || may_begin_with_digit && byte.is_ascii_digit();
        let goes_on = |byte: &u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/')
        };
        let bytes = part.as_bytes();
        (1..=most).contains(&bytes.len()) && bytes.first().is_some_and(begins) && bytes.iter().all(goes_on)
    };
    match key.split_once('@') {
        None => is_part(key, 256, false),
        Some((tenant, system)) => is_part(tenant, 241, true) && is_part(system, 14, false),
    }
}

/// Printable ASCII without `,` and `=`, which does not end in a space.
fn is_value(value: &str) -> bool {
    let is_allowed = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    (1..=256).contains(&value.len()) && value.as_bytes().iter().all(is_allowed) && !value.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parse(value: &str) -> Option<String> {
        TraceContext::parse([value.as_bytes()].into_iter()).map(|context| context.to_string())
    }

    #[test]
    fn what_is_exactly_as_it_should_be_is_read_and_nothing_else() {
        assert_eq!(parse(SOUND).as_deref(), Some(SOUND));
        let context = TraceContext::parse([SOUND.as_bytes()].into_iter()).unwrap();
        assert!(context.is_sampled() && context.span == 0xb7ad_6b71_6920_3331);
        assert_eq!(context.with_span(1).to_string(), SOUND.replace("b7ad6b7169203331", "0000000000000001"));
        for (sound, read) in [
            // Flags that are not known, and versions that are not.
            (SOUND.replace("-01", "-ff"), SOUND.replace("-01", "-03")),
            (SOUND.replace("-01", "-00"), SOUND.replace("-01", "-00")),
            (SOUND.replacen("00", "cc", 1), SOUND.to_owned()),
            (SOUND.replacen("00", "01", 1) + "-what-comes", SOUND.to_owned()),
        ] {
            assert_eq!(parse(&sound), Some(read), "{sound}");
        }
        for unsound in [
            String::new(),
            SOUND.replacen("00", "ff", 1),
            SOUND.to_owned() + "-x",
            SOUND.to_owned() + "x",
            SOUND.replacen("00", "01", 1) + "x",
            SOUND.to_uppercase(),
            SOUND.replace('-', "_"),
            SOUND.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            SOUND.replace("b7ad6b7169203331", &"0".repeat(16)),
            SOUND.replace("-01", "-1"),
            SOUND.replace("-01", "-0x"),
            format!(" {SOUND}"),
        ] {
            assert_eq!(parse(&unsound), None, "{unsound}");
        }
        let twice = [SOUND.as_bytes(); 2].into_iter();
        assert_eq!(TraceContext::parse(twice), None);
        assert!(TraceContext::new(1, 1, true).is_sampled() && !TraceContext::new(1, 1, false).is_sampled());
    }

    #[test]
    fn a_state_is_one_list_or_none() {
        let state = |values: &[&str]| trace_state(values.iter().map(|value| value.as_bytes()));
        assert_eq!(state(&["a=1, b@c=2 3", "", ",0t@s=x"]).as_deref(), Some("a=1,b@c=2 3,0t@s=x"));
        let many = |count: usize| (0..count).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        assert!(state(&[&many(32)]).is_some());
        for unsound in [
            "a",
            "a=",
            "A=1",
            "1a=1",
            "a=1,a=2",
            "a=1=2",
            "a=\u{e4}",
            "a=\t",
            "a@=1",
            "@b=1",
            &many(33),
            &format!("a={}", "x".repeat(257)),
            &format!("a={},b={}", "x".repeat(256), "x".repeat(252)),
        ] {
            assert_eq!(state(&[unsound]), None, "{unsound}");
        }
        assert_eq!(state(&[]), None);
    }
}
