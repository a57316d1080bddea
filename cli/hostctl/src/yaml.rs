//! YAML files of the user's, JSON among them.

use std::{collections::BTreeMap, io::Read, path::Path};

use anyhow::{Context, anyhow};
use serde::de::DeserializeOwned;

use crate::{environment, output};

/// Reads a file of the kind `what` (`a seed file`); `-` is standard input. `${NAME}` in it is replaced from `vars`, then from the
/// environment; one that is not set stays as it is, with a warning.
///
/// # Errors
/// A file that cannot be read, or holds something else. The place is named, not shown: keys stand in such files.
pub(crate) fn read<T: DeserializeOwned>(
    file: &Path,
    what: &str,
    vars: &BTreeMap<String, String>,
) -> anyhow::Result<T> {
    let text = text_of(file)?;
    let mut unset = Vec::new();
    let text =
        substitute(&text, |name| vars.get(name).cloned().or_else(|| environment::variable(name)), &mut unset);
    for name in unset {
        output::warning(format!("{}: ${{{name}}} is not set and stays as it is", shown(file)));
    }
    parse(&text).map_err(|problem| anyhow!("{} is not {what}: {problem}", shown(file)))
}

/// As [`read`], without variables: what stands there is what is meant.
pub(crate) fn read_plain<T: DeserializeOwned>(file: &Path, what: &str) -> anyhow::Result<T> {
    parse(&text_of(file)?).map_err(|problem| anyhow!("{} is not {what}: {problem}", shown(file)))
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())
}

/// What a message calls the file.
pub(crate) fn shown(file: &Path) -> String {
    if file.as_os_str() == "-" { "standard input".to_owned() } else { file.display().to_string() }
}

fn text_of(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", shown(file)))
}

/// Replaces `${NAME}`, and lists each name without a value once. Comments are left alone.
fn substitute(text: &str, value: impl Fn(&str) -> Option<String>, unset: &mut Vec<String>) -> String {
    let mut result = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with('#') {
            result.push_str(line);
            continue;
        }
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            result.push_str(before);
            let Some((name, after)) = after.split_once('}').filter(|(name, _)| is_name(name)) else {
                result.push_str("${");
                rest = after;
                continue;
            };
            match value(name) {
                Some(value) => result.push_str(&value),
                None => {
                    result.push_str(&format!("${{{name}}}"));
                    if !unset.iter().any(|known| known == name) {
                        unset.push(name.to_owned());
                    }
                }
            }
            rest = after;
        }
        result.push_str(rest);
    }
    result
}

/// As POSIX has it for variables.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::format::yaml as written;

    #[test]
    fn variables_are_replaced_and_one_that_is_not_set_stays_and_is_named_once() {
        let value = |name: &str| (name == "V").then(|| "8.2".to_owned());
        let mut unset = Vec::new();
        let text = "a: ${V}, b: ${V}\n# ${IN_A_COMMENT}\nc: ${W} ${W}\nd: ${V\ne: ${} ${a-b} $V {V}\n";
        let wanted = "a: 8.2, b: 8.2\n# ${IN_A_COMMENT}\nc: ${W} ${W}\nd: ${V\ne: ${} ${a-b} $V {V}\n";
        assert_eq!(substitute(text, value, &mut unset), wanted);
        assert_eq!(unset, ["W"]);
    }

    #[test]
    fn an_error_names_the_place_and_shows_no_line_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.yaml");
        std::fs::write(&file, "api_key: hst_canary\nflag: maybe\n").unwrap();
        let error = read_plain::<BTreeMap<String, bool>>(&file, "a set of flags").unwrap_err().to_string();
        assert!(error.contains("x.yaml is not a set of flags") && error.contains("line 1"), "{error}");
        assert!(!error.contains("hst_canary") && !error.contains("<input>"), "{error}");
    }

    #[test]
    fn what_is_written_reads_back_as_the_same() {
        let texts = [
            "yes",
            "no",
            "null",
            "~",
            "8.10",
            "1001",
            "0x1f",
            "1e3",
            "",
            " ",
            "a: b",
            "- a",
            "# a",
            "a #b",
            "\"'",
            "@",
            "*.a.example",
            "two\nlines\n",
            "tab\t",
            "\u{7}",
            "2026-11-29",
            "2026-11-29T10:00:00Z",
            "{",
            "[",
            "%",
            "!a",
            "&a",
            "bücher",
            ".inf",
            "=",
            "<<",
            "on",
            "y",
            "---",
            "...",
            "a\r\nb",
            "trailing ",
            "v=spf1 include:_spf.example -all",
            "\u{2028}",
            "-",
            "?",
            "0o17",
            "1_000",
        ];
        let long = "word ".repeat(100);
        let mut value = json!([{"id": 1, "nested": {"list": [], "map": {}, "none": null, "yes": true}, "n": [1.5, -3, u64::MAX]}, long]);
        for text in texts {
            value.as_array_mut().unwrap().push(json!({text: text, "in a list": [text]}));
        }
        let text = written(&value);
        let back: Value = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(back, value, "{text}");
        assert_eq!(written(&json!([])).trim(), "[]");
    }

    #[test]
    fn json_is_read_too() {
        let value: Value = parse("{\"a\": [1, \"x\"], \"b\": null}").unwrap();
        assert_eq!(value, json!({"a": [1, "x"], "b": null}));
    }
}
