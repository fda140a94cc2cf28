//! Why a type refused a value of the configuration, with the path to the value and the place where it stands.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

/// A value that a type refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// From the table that was read to the value.
    pub(super) path: Vec<Step>,
    /// Where the value stands; `None`: where the table does.
    pub(super) offset: Option<usize>,
    pub(super) problem: Problem,
}

/// A level of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Field(String),
    Item(usize),
}

#[derive(Debug)]
pub(super) enum Problem {
    /// A field that must be there isn't.
    Missing(&'static str),
    /// A field of this name isn't known.
    Unknown { name: String, known: &'static [&'static str] },
    /// A word that isn't one of those that are known.
    Variant { given: String, known: &'static [&'static str] },
    /// Anything else, in words.
    Other(String),
}

impl Refusal {
    pub(super) fn new(problem: Problem) -> Self {
        Self { path: Vec::new(), offset: None, problem }
    }

    pub(super) fn other(text: String) -> Self {
        Self::new(Problem::Other(text))
    }

    /// The same, seen from the table or list around it.
    pub(super) fn within(mut self, step: Step, offset: usize) -> Self {
        self.path.insert(0, step);
        self.offset = self.offset.or(Some(offset));
        self
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.problem)
    }
}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::other(text.to_string())
    }

    fn invalid_type(given: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::other(format!("it is {}, expected {}", kind(given), words(expected)))
    }

    fn invalid_value(given: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::other(format!("{given} isn't allowed, expected {}", words(expected)))
    }

    fn unknown_variant(given: &str, known: &'static [&'static str]) -> Self {
        Self::new(Problem::Variant { given: given.to_owned(), known })
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::new(Problem::Unknown { name: name.to_owned(), known })
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new(Problem::Missing(name))
    }
}

/// What a value is. The value itself isn't shown: it may be a secret.
fn kind(given: Unexpected<'_>) -> &'static str {
    match given {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a number",
        Unexpected::Float(_) => "a fraction",
        Unexpected::Str(_) | Unexpected::Char(_) => "a text",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        Unexpected::Other("a date") => "a date",
        _ => "something else",
    }
}

/// What serde calls a type, in the words of a configuration.
pub(super) fn words(expected: &dyn Expected) -> String {
    match expected.to_string().as_str() {
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        text if text.starts_with("struct ") => "a table".to_owned(),
        text => text.to_owned(),
    }
}
