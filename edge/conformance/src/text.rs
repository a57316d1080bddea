//! Bytes as text that can stand in the table, and back.

use anyhow::{Context, bail};

/// Printable ASCII as it is; every other byte, and the backslash, as an escape.
#[must_use]
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            b'\t' => out.push_str("\\t"),
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    // A long value says nothing that its beginning does not.
    if out.len() > 300 {
        out.truncate(200);
        out.push_str(&format!("…{} bytes", bytes.len()));
    }
    out
}

/// The bytes that a text of the table stands for: `\r`, `\n`, `\t`, `\\` and `\xNN`, and `{N*text}` for N times the text.
pub(crate) fn unescape(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some((count, repeated, behind)) = repetition(rest) {
            out.extend(unescape(repeated)?.repeat(count));
            rest = behind;
            continue;
        }
        rest = rest.get(first.len_utf8()..).unwrap_or_default();
        if first != '\\' {
            out.extend_from_slice(first.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let code = rest.chars().next().context("a text ends in a backslash")?;
        rest = rest.get(code.len_utf8()..).unwrap_or_default();
        match code {
            'r' => out.push(b'\r'),
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            '\\' => out.push(b'\\'),
            'x' => {
                let digits = rest.get(..2).context("an escape breaks off")?;
                out.push(u8::from_str_radix(digits, 16)?);
                rest = rest.get(2..).unwrap_or_default();
            }
            _ => bail!("there is no escape \\{code}"),
        }
    }
    Ok(out)
}

/// `{N*text}` at the beginning: N, the text, and what follows.
fn repetition(text: &str) -> Option<(usize, &str, &str)> {
    let (count, rest) = text.strip_prefix('{')?.split_once('*')?;
    let (repeated, behind) = rest.split_once('}')?;
    Some((count.parse().ok()?, repeated, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_for_their_bytes() {
        assert_eq!(unescape(r"a\r\n\t\\\x00\xff{3*b\x01}{x}").unwrap(), b"a\r\n\t\\\0\xffb\x01b\x01b\x01{x}");
        assert!(unescape("\\").is_err() && unescape("\\q").is_err() && unescape("\\x0").is_err());
        assert_eq!(escape(b"a\r\n\t\\\0\xff"), r"a\r\n\t\\\x00\xff");
    }
}
