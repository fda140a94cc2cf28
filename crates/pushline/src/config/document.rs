//! A configuration file as a tree in which every value knows its place, for the sections that are read of it (`section.rs`), with the environment's
//! overrides put in.
//!
//! Whatever is wrong is told with the place where it stands: the line of the file, or the variable.

use std::{collections::BTreeMap, fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::section::Section;

/// Environment variables that begin so override a field: `PUSHLINE_QUEUE__KIND`, `__` between levels. Those without `__` that name no field are
/// somebody else's: Kubernetes puts `PUSHLINE_SERVICE_HOST` into every pod that sees a Service named `pushline`.
pub(crate) const PREFIX: &str = "PUSHLINE_";

/// What is wrong, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {field}{}{problem}", if field.is_empty() { "" } else { ": " })]
pub(crate) struct ConfigError {
    pub(crate) place: Place,
    pub(crate) field: String,
    pub(crate) problem: String,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Line(String, usize),
    Variable(String),
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// A value, not yet read as anything.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    /// From the environment: what it is depends on what is wanted.
    Variable(String),
    List(Vec<Entry>),
    Table(BTreeMap<String, Entry>),
    Other(&'static str),
}

/// Reads a file's text and puts the environment's overrides in.
pub(crate) fn parse(file: &str, text: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<Section, ConfigError> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line = |span: Range<usize>| Place::Line(file.to_owned(), 1 + ends.partition_point(|end| *end < span.start));
    let document = DeTable::parse(text).map_err(|error| ConfigError {
        place: line(error.span().unwrap_or(0..0)),
        field: String::new(),
        problem: error.message().to_owned(),
    })?;
    let (mut fields, mut overrides) = (table(document.get_ref(), &line), BTreeMap::new());
    for (name, value) in variables {
        let levels: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        let place = Place::Variable(name);
        // Whether there is such a field is known once all that is known was asked for.
        let within = if levels.len() == 1 { &mut overrides } else { &mut fields };
        put(within, &levels, value, &place).map_err(|problem| ConfigError { place, field: levels.join("."), problem })?;
    }
    Ok(Section::root(Place::Line(file.to_owned(), 1), fields, overrides))
}

fn table(table: &DeTable<'_>, line: &impl Fn(Range<usize>) -> Place) -> BTreeMap<String, Entry> {
    table.iter().map(|(name, value)| (name.get_ref().to_string(), entry(name.span(), value, line))).collect()
}

fn entry(span: Range<usize>, value: &Spanned<DeValue<'_>>, line: &impl Fn(Range<usize>) -> Place) -> Entry {
    let list = |item: &Spanned<DeValue<'_>>| entry(item.span(), item, line);
    let node = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).map_or(Value::Other("a huge number"), Value::Integer)
        }
        DeValue::Boolean(boolean) => Value::Bool(*boolean),
        DeValue::Array(items) => Value::List(items.iter().map(list).collect()),
        DeValue::Table(fields) => Value::Table(table(fields, line)),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
    };
    Entry { value: node, place: line(span) }
}

fn put(fields: &mut BTreeMap<String, Entry>, levels: &[String], value: String, place: &Place) -> Result<(), String> {
    let Some((first, rest)) = levels.split_first().filter(|(first, _)| !first.is_empty()) else { return Err("it names no field".into()) };
    if rest.is_empty() {
        fields.insert(first.clone(), Entry { value: Value::Variable(value), place: place.clone() });
        return Ok(());
    }
    let entry = fields.entry(first.clone()).or_insert_with(|| Entry { value: Value::Table(BTreeMap::new()), place: place.clone() });
    match &mut entry.value {
        Value::Table(table) => put(table, rest, value, place),
        Value::List(_) => Err(format!("{first} is a list: what is in a list can't be overridden from the environment")),
        _ => Err(format!("{first} is no table")),
    }
}

impl Value {
    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Variable(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

impl Place {
    /// The variable's name, where it is one.
    pub(super) fn variable(&self) -> Option<&str> {
        match self {
            Self::Line(..) => None,
            Self::Variable(name) => Some(name),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(file, line) => write!(f, "{file}:{line}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}
