//! The form in which a result is printed: tables for people, the rest for programs.
//!
//! Owns the forms and how names and YAML are spelt. It prints nothing itself and depends on nothing else here.

use std::path::PathBuf;

use clap::{
    ValueEnum,
    builder::{EnumValueParser, PathBufValueParser, TypedValueParser},
};

use serde_json::Value;

/// The form in which a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table or a few lines; columns are shortened on a narrow terminal.
    #[value(skip)]
    Table,
    /// Whole values however narrow the terminal is
    Wide,
    /// KIND/ID of each resource, one a line
    Name,
    /// All fields as YAML
    Yaml,
    /// All fields as JSON, the same as --json
    Json,
}

impl Format {
    /// Whether a program reads the result. Then nobody is asked anything.
    pub(crate) const fn is_for_programs(self) -> bool {
        matches!(self, Self::Name | Self::Yaml | Self::Json)
    }

    /// As it is typed.
    pub(crate) const fn flag(self) -> &'static str {
        match self {
            Self::Table => "",
            Self::Wide => "-o wide",
            Self::Name => "-o name",
            Self::Yaml => "-o yaml",
            Self::Json => "-o json",
        }
    }
}

/// What `-o` names: a form of the result, and for a join token the file that the token goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    Format(Format),
    File(PathBuf),
}

impl Output {
    /// Reads a form.
    pub(crate) fn format() -> impl TypedValueParser<Value = Self> {
        EnumValueParser::<Format>::new().map(Self::Format)
    }

    /// Reads the path of a file.
    pub(crate) fn file() -> impl TypedValueParser<Value = Self> {
        PathBufValueParser::new().map(Self::File)
    }
}

/// What `-o name` prints of a thing, and what commands take in place of KIND and ID.
pub(crate) fn name(noun: &str, id: &str) -> String {
    format!("{noun}/{id}")
}

/// A value as one YAML document, which reads back as the same value.
pub(crate) fn yaml(value: &Value) -> String {
    // A value of JSON has nothing that YAML could not say.
    let mut text = serde_saphyr::to_string(value).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
