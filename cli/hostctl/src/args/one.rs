//! One resource on the command line: `KIND ID`, or `KIND/ID` as `-o name` prints it.

use clap::{ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};
use hosting_resource::KindInfo;

use crate::kinds::{Named, NamedParser};

/// One resource.
#[derive(Debug)]
pub(crate) struct OneArgs {
    pub kind: &'static KindInfo,
    pub id: String,
    pub parent: Option<String>,
}

/// One resource as it is typed.
#[derive(Debug, Args)]
struct Typed {
    /// Kind, e.g. fqdn; KIND/ID, as -o name prints it, says both
    #[arg(value_parser = NamedParser, hide_possible_values = true)]
    kind: Named,
    /// Id or name
    id: Option<String>,
    /// What it lies in, for names that only mean something there
    #[arg(long = "in", value_name = "PARENT")]
    parent: Option<String>,
}

impl TryFrom<Typed> for OneArgs {
    type Error = clap::Error;

    fn try_from(typed: Typed) -> Result<Self, clap::Error> {
        let Named { info: kind, id: behind } = typed.kind;
        let wrong = |error, words: String| Err(clap::Error::raw(error, format!("{words}\n")));
        let noun = kind.dashed();
        let id = match (behind, typed.id) {
            (Some(id), None) | (None, Some(id)) => id,
            (Some(id), Some(other)) => {
                let words =
                    format!("{noun}/{id} says which {noun} is meant, so {other:?} is one argument too many");
                return wrong(ErrorKind::UnknownArgument, words);
            }
            (None, None) => {
                let words = format!("the id or name is missing: write {noun} ID, or {noun}/ID");
                return wrong(ErrorKind::MissingRequiredArgument, words);
            }
        };
        Ok(Self { kind, id, parent: typed.parent })
    }
}

impl FromArgMatches for OneArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Typed::from_arg_matches(matches)?.try_into()
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for OneArgs {
    fn augment_args(command: Command) -> Command {
        Typed::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Typed::augment_args_for_update(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        one: OneArgs,
    }

    #[test]
    fn kind_and_id_are_one_word_or_two() {
        let read = |line: &str| Line::try_parse_from(format!("x {line}").split(' ')).map(|line| line.one);
        for (line, id) in
            [("zone bakery.test", "bakery.test"), ("zones/bakery.test", "bakery.test"), ("zone a/b", "a/b")]
        {
            let one = read(line).unwrap();
            assert_eq!((one.kind.plural(), one.id.as_str()), ("zones", id), "{line}");
        }
        // What follows the first slash is the id, which may have slashes of its own.
        assert_eq!(read("tenant/acme/1001").unwrap().id, "acme/1001");
        for line in ["zone", "zone/", "zone/a b", "zonk/a", "zonk a"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
