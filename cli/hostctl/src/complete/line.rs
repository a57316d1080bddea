//! A command line up to the cursor: which command it is, what was given to it, and what stands at the cursor.
//!
//! Owns the reading of it by the same description that the command line itself is parsed by. It asks nobody.

use clap::{Arg, ArgAction, Command};

/// What a line says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// The subcommands, by their names.
    pub path: Vec<String>,
    /// Values given before the cursor, with the ids of their arguments.
    pub given: Vec<(String, String)>,
    /// The id of the argument whose value is being typed; `None` for an option's name, a subcommand, or one argument too many.
    pub at: Option<String>,
    /// What of the value is there.
    pub typed: String,
    /// What stands before the value in the same word: `--in=`.
    pub before: String,
}

impl Line {
    /// The first value of an argument.
    pub(super) fn value(&self, id: &str) -> Option<&str> {
        self.given.iter().find(|(of, _)| of == id).map(|(_, value)| value.as_str())
    }

    /// All values of an argument.
    pub(super) fn values<'l>(&'l self, id: &'l str) -> impl Iterator<Item = &'l str> {
        self.given.iter().filter(move |(of, _)| of == id).map(|(_, value)| value.as_str())
    }

    /// Reads a line up to the cursor. The first word is the command itself.
    pub(super) fn read(text: &str, command: &Command) -> Self {
        let mut words = words(text).into_iter();
        let _ = words.next();
        let mut words: Vec<String> = words.collect();
        let typed = words.pop().unwrap_or_default();
        let mut line = Self::default();
        let mut command = command;
        let (mut place, mut pending, mut no_options) = (0, None::<&Arg>, false);
        for word in words {
            if let Some(arg) = pending.take() {
                line.give(arg, word);
                continue;
            }
            match option(command, &word).filter(|_| !no_options) {
                Some((arg, Some(value), _)) => line.give(arg, value),
                Some((arg, None, _)) if takes_value(arg) => pending = Some(arg),
                Some(_) => {}
                None if word == "--" => no_options = true,
                None if word.starts_with('-') && word.len() > 1 && !no_options => {}
                None => match command.find_subcommand(&word).filter(|_| place == 0) {
                    Some(sub) => {
                        line.path.push(sub.get_name().to_owned());
                        command = sub;
                    }
                    None => {
                        if let Some(arg) = positional(command, place) {
                            line.give(arg, word);
                        }
                        place += 1;
                    }
                },
            }
        }
        let at = match pending {
            Some(arg) => Some((arg, typed, String::new())),
            None => match option(command, &typed).filter(|_| !no_options) {
                Some((arg, Some(value), before)) => Some((arg, value, before)),
                Some(_) => None,
                None if typed.starts_with('-') && !no_options => None,
                None => positional(command, place).map(|arg| (arg, typed, String::new())),
            },
        };
        if let Some((arg, typed, before)) = at {
            (line.at, line.typed, line.before) = (Some(arg.get_id().to_string()), typed, before);
        }
        line
    }

    fn give(&mut self, arg: &Arg, value: String) {
        self.given.push((arg.get_id().to_string(), value));
    }
}

fn takes_value(arg: &Arg) -> bool {
    let takes_none = arg.get_num_args().is_some_and(|range| !range.takes_values());
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count);
    // Where a value must follow after `=`, the next word is another argument.
    !is_switch && !takes_none && !arg.is_require_equals_set()
}

/// The option that a word begins, the value in the same word, and what stands before that.
fn option<'c>(command: &'c Command, word: &str) -> Option<(&'c Arg, Option<String>, String)> {
    if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let is_it = |arg: &&Arg| {
            arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
        };
        let before = value.as_ref().map(|_| format!("--{name}=")).unwrap_or_default();
        return Some((command.get_arguments().find(is_it)?, value, before));
    }
    let mut letters = word.strip_prefix('-')?.chars();
    let letter = letters.next()?;
    let arg = command.get_arguments().find(|arg| arg.get_short() == Some(letter))?;
    let value = Some(letters.as_str()).filter(|rest| !rest.is_empty() && takes_value(arg)).map(str::to_owned);
    Some((arg, value, format!("-{letter}")))
}

/// The argument at a place; the last one of many values takes all that follow.
fn positional(command: &Command, place: usize) -> Option<&Arg> {
    let all: Vec<&Arg> = command.get_positionals().collect();
    all.get(place).copied().or_else(|| {
        let takes_many = |arg: &&&Arg| {
            matches!(arg.get_action(), ArgAction::Append)
                || arg.get_num_args().is_some_and(|range| range.max_values() > 1)
        };
        all.last().filter(takes_many).copied()
    })
}

/// The words of a line as a shell reads them, the last one as far as it is typed. What would need a shell to be known stays as it is.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut is_begun = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, ' ' | '\t' | '\n') => {
                if is_begun {
                    words.push(std::mem::take(&mut word));
                }
                is_begun = false;
                continue;
            }
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (None | Some('"'), '\\') => word.extend(letters.next()),
            _ => word.push(letter),
        }
        is_begun = true;
    }
    words.push(word);
    words
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    fn read(text: &str) -> Line {
        let mut command = Cli::command();
        command.build();
        Line::read(text, &command)
    }

    fn at(text: &str) -> (String, String) {
        let line = read(text);
        (line.at.unwrap_or_default(), line.typed)
    }

    #[test]
    fn words_are_what_a_shell_makes_of_them() {
        assert_eq!(words("a 'b c' \"d e\" f\\ g "), ["a", "b c", "d e", "f g", ""]);
        assert_eq!(words("a  b='c d"), ["a", "b=c d"]);
        assert_eq!(words("a ''  b"), ["a", "", "b"]);
    }

    #[test]
    fn the_argument_at_the_cursor_is_found() {
        for (line, id, typed) in [
            ("hostctl get zo", "kind", "zo"),
            ("hostctl get zone ba", "ids", "ba"),
            ("hostctl get zone a.example ba", "ids", "ba"),
            ("hostctl --data /tmp/x describe zone ba", "id", "ba"),
            ("hostctl describe -o yaml zone ", "id", ""),
            ("hostctl get fqdns --in ac", "parent", "ac"),
            ("hostctl get fqdns --in=ac", "parent", "ac"),
            ("hostctl update zone x -s ten", "set", "ten"),
            ("hostctl delete zone --wait x", "id", "x"),
            ("hostctl node forget we", "id", "we"),
            ("hostctl plan --without web-1,we", "without", "web-1,we"),
            ("hostctl get zones --api http://127.0.0.1:1 --sta", "", ""),
            ("hostctl get zones --status fa", "status", "fa"),
            ("hostctl fle", "", ""),
            ("hostctl describe zone a b", "", ""),
            ("hostctl describe zone -- -a", "id", "-a"),
        ] {
            assert_eq!(at(line), (id.to_owned(), typed.to_owned()), "{line}");
        }
        let line = read("hostctl --api http://x set zone/a -s name=b --key-file=/k -stype=A --in=ac");
        assert_eq!(line.path, ["update"]);
        let value = |id: &str| line.value(id);
        assert_eq!(
            (value("api"), value("key_file"), value("kind")),
            (Some("http://x"), Some("/k"), Some("zone/a"))
        );
        assert_eq!(line.values("set").collect::<Vec<_>>(), ["name=b", "type=A"]);
        assert_eq!(line.before, "--in=");
    }
}
