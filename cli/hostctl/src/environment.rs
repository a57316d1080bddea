//! The environment, then the `.env` file of the folder that hostctl is called in.

/// Where a variable's value came from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Source {
    Process,
    File,
}

/// A variable's value; the process's own wins. An empty one counts as absent.
pub(crate) fn variable(name: &str) -> Option<String> {
    lookup(name).map(|(value, _)| value)
}

/// As [`variable`], with where it stands.
pub(crate) fn lookup(name: &str) -> Option<(String, Source)> {
    let own = std::env::var(name).ok().map(|value| (value, Source::Process));
    let file = || std::fs::read_to_string(".env").ok().and_then(|text| in_file(&text, name));
    own.or_else(|| file().map(|value| (value, Source::File))).filter(|(value, _)| !value.is_empty())
}

/// `NAME=VALUE` lines: `export` before the name, quotes around the value and lines with `#` are allowed; the last one wins.
fn in_file(text: &str, name: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let (key, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
            (!line.starts_with('#') && key.trim() == name).then(|| unquoted(value.trim()).to_owned())
        })
        .next_back()
}

fn unquoted(value: &str) -> &str {
    ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_file() {
        let text = "# A=0\nA=1\nexport B = \"two words\"\nC='x=y'\nA=2\nD=\nnonsense\n";
        let value = |name| in_file(text, name);
        assert_eq!(value("A").as_deref(), Some("2"));
        assert_eq!(value("B").as_deref(), Some("two words"));
        assert_eq!(value("C").as_deref(), Some("x=y"));
        assert_eq!((value("D").as_deref(), value("E")), (Some(""), None));
    }
}
