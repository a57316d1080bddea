//! Texts of others, made fit for a terminal, a log and a row.

/// Whether a terminal or a log would take the character for more than a letter: control characters (C0, C1), what breaks
/// lines, and what turns the direction of the text around.
#[must_use]
pub fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text in one line without active characters; of one that is longer than `limit` bytes as much as fits into them, and `…`.
#[must_use]
pub fn one_line(text: &str, limit: usize) -> String {
    let kept = text.get(..text.floor_char_boundary(limit)).unwrap_or_default();
    let mut line = kept.replace(is_active, " ");
    if kept.len() < text.len() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_and_no_longer_than_the_limit() {
        assert_eq!(one_line("a\r\nb\u{202e}c\u{9b}d", 100), "a  b c d");
        assert_eq!(one_line("ääää", 8), "ääää");
        assert_eq!(one_line("ääää", 7), "äää…");
        assert_eq!(one_line("", 0), "");
    }
}
