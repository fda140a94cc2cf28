//! A configuration file as a tree in which every value knows its place, with the environment's overrides put in; and sections of it that are
//! read field by field, so that each mistake is told with its file, line and field.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::units::{parse_duration, parse_size};

/// Environment variables that begin so override a field: `PUSHLINE_QUEUE__KIND`, `__` between levels.
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

#[derive(Debug, Clone)]
struct Entry {
    value: Value,
    place: Place,
}

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    /// From the environment: what it is depends on what is wanted.
    Variable(String),
    List(Vec<Entry>),
    Table(BTreeMap<String, Entry>),
    Other(&'static str),
}

/// A table that is read field by field. What nobody read is an unknown field.
#[derive(Debug)]
pub(crate) struct Section {
    path: String,
    place: Place,
    fields: BTreeMap<String, Entry>,
    places: BTreeMap<&'static str, Place>,
    asked: Vec<&'static str>,
}

/// What a field can be read as.
pub(crate) trait Field: Sized {
    const EXPECTED: &'static str;
    fn text(text: &str) -> Result<Self, String>;
    fn integer(_: i64) -> Option<Self> {
        None
    }
    fn boolean(_: bool) -> Option<Self> {
        None
    }
}

/// Reads a file's text and puts the environment's overrides in.
pub(crate) fn parse(file: &str, text: &str, variables: impl IntoIterator<Item = (String, String)>) -> Result<Section, ConfigError> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line = |span: std::ops::Range<usize>| Place::Line(file.to_owned(), 1 + ends.partition_point(|end| *end < span.start));
    let document = DeTable::parse(text).map_err(|error| ConfigError {
        place: line(error.span().unwrap_or(0..0)),
        field: String::new(),
        problem: error.message().to_owned(),
    })?;
    let mut fields = table(document.get_ref(), &line);
    for (name, value) in variables {
        let levels: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        let place = Place::Variable(name);
        put(&mut fields, &levels, value, &place).map_err(|problem| ConfigError { place, field: levels.join("."), problem })?;
    }
    Ok(Section::new(String::new(), Place::Line(file.to_owned(), 1), fields))
}

fn table(table: &DeTable<'_>, line: &impl Fn(std::ops::Range<usize>) -> Place) -> BTreeMap<String, Entry> {
    table.iter().map(|(name, value)| (name.get_ref().to_string(), entry(name.span(), value, line))).collect()
}

fn entry(span: std::ops::Range<usize>, value: &Spanned<DeValue<'_>>, line: &impl Fn(std::ops::Range<usize>) -> Place) -> Entry {
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

impl Section {
    fn new(path: String, place: Place, fields: BTreeMap<String, Entry>) -> Self {
        Self { path, place, fields, places: BTreeMap::new(), asked: Vec::new() }
    }

    /// A field, if it is there.
    pub(crate) fn get<T: Field>(&mut self, name: &'static str) -> Result<Option<T>, ConfigError> {
        let Some(entry) = self.take(name) else { return Ok(None) };
        let error = |problem| self.error_at(entry.place.clone(), name, problem);
        read(&entry.value).map(Some).map_err(error)
    }

    /// A field with a default.
    pub(crate) fn or<T: Field>(&mut self, name: &'static str, default: T) -> Result<T, ConfigError> {
        Ok(self.get(name)?.unwrap_or(default))
    }

    /// A field that must be there.
    pub(crate) fn require<T: Field>(&mut self, name: &'static str) -> Result<T, ConfigError> {
        self.get(name)?.ok_or_else(|| self.error(name, format!("it is missing: {}", T::EXPECTED)))
    }

    /// A list of fields, if it is there.
    pub(crate) fn list<T: Field>(&mut self, name: &'static str) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(entry) = self.take(name) else { return Ok(None) };
        let items = match entry.value {
            Value::List(items) => items,
            // From the environment a list is written with commas.
            Value::Variable(text) => {
                let item = |item: &str| Entry { value: Value::Variable(item.trim().to_owned()), place: entry.place.clone() };
                text.split(',').map(item).collect()
            }
            other => {
                return Err(self.error_at(entry.place, name, format!("it is {}, expected a list: [{}, …]", other.kind(), T::EXPECTED)));
            }
        };
        let item = |item: Entry| read(&item.value).map_err(|problem| self.error_at(item.place, name, problem));
        items.into_iter().map(item).collect::<Result<_, _>>().map(Some)
    }

    /// A table of names and texts, in the order of the names.
    pub(crate) fn texts(&mut self, name: &'static str) -> Result<Vec<(String, String, Place)>, ConfigError> {
        let Some(entry) = self.take(name) else { return Ok(Vec::new()) };
        let Value::Table(fields) = entry.value else {
            return Err(self.error_at(
                entry.place,
                name,
                format!("it is {}, expected a table: {{ name = \"value\" }}", entry.value.kind()),
            ));
        };
        let text = |(key, entry): (String, Entry)| match read::<String>(&entry.value) {
            Ok(text) => Ok((key, text, entry.place)),
            Err(problem) => Err(ConfigError { place: entry.place, field: format!("{}.{name}.{key}", self.path), problem }),
        };
        fields.into_iter().map(text).collect()
    }

    /// A table within, if it is there.
    pub(crate) fn section(&mut self, name: &'static str) -> Result<Option<Self>, ConfigError> {
        let Some(entry) = self.take(name) else { return Ok(None) };
        let path = self.path_of(name);
        match entry.value {
            Value::Table(fields) => Ok(Some(Self::new(path, entry.place, fields))),
            other => Err(ConfigError { place: entry.place, field: path, problem: format!("it is {}, expected a table", other.kind()) }),
        }
    }

    /// `[[name]]` tables.
    pub(crate) fn sections(&mut self, name: &'static str) -> Result<Vec<Self>, ConfigError> {
        let Some(entry) = self.take(name) else { return Ok(Vec::new()) };
        let path = self.path_of(name);
        let Value::List(items) = entry.value else {
            return Err(ConfigError { place: entry.place, field: path.clone(), problem: format!("expected a list of tables: [[{path}]]") });
        };
        let section = |(place, item): (usize, Entry)| match item.value {
            Value::Table(fields) => Ok(Self::new(format!("{path}[{place}]"), item.place, fields)),
            other => {
                Err(ConfigError { place: item.place, field: path.clone(), problem: format!("it is {}, expected a table", other.kind()) })
            }
        };
        items.into_iter().enumerate().map(section).collect()
    }

    /// Everything known was asked for: what is left is unknown.
    pub(crate) fn finish(self) -> Result<(), ConfigError> {
        let Some((name, entry)) = self.fields.iter().next() else { return Ok(()) };
        let known = self.asked.join(", ");
        let problem = match self.asked.iter().find(|asked| is_near(asked, name)) {
            Some(near) => format!("there is no such field; did you mean {near}? (known here: {known})"),
            None => format!("there is no such field (known here: {known})"),
        };
        Err(ConfigError { place: entry.place.clone(), field: self.path_of(name), problem })
    }

    /// A mistake in a field that was read, or at this table where it is missing.
    pub(crate) fn error(&self, name: &str, problem: impl fmt::Display) -> ConfigError {
        let place = self.places.get(name).unwrap_or(&self.place).clone();
        self.error_at(place, name, problem.to_string())
    }

    /// A mistake of the table as a whole.
    pub(crate) fn error_here(&self, problem: impl fmt::Display) -> ConfigError {
        ConfigError { place: self.place.clone(), field: self.path.clone(), problem: problem.to_string() }
    }

    fn error_at(&self, place: Place, name: &str, problem: String) -> ConfigError {
        ConfigError { place, field: self.path_of(name), problem }
    }

    fn take(&mut self, name: &'static str) -> Option<Entry> {
        self.asked.push(name);
        let entry = self.fields.remove(name)?;
        self.places.insert(name, entry.place.clone());
        Some(entry)
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// One letter more, less, other or swapped.
fn is_near(known: &str, given: &str) -> bool {
    let (known, given) = (known.as_bytes(), given.as_bytes());
    let same_front = known.iter().zip(given).take_while(|(a, b)| a == b).count();
    let same_back = known.iter().rev().zip(given.iter().rev()).take_while(|(a, b)| a == b).count();
    let longer = known.len().max(given.len());
    known.len().abs_diff(given.len()) <= 1 && same_front + same_back + 2 >= longer && longer > 2
}

impl Value {
    fn kind(&self) -> &'static str {
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

fn read<T: Field>(value: &Value) -> Result<T, String> {
    let wrong = || format!("it is {}, expected {}", value.kind(), T::EXPECTED);
    match value {
        Value::Text(text) => T::text(text),
        Value::Integer(integer) => T::integer(*integer).ok_or_else(wrong),
        Value::Bool(boolean) => T::boolean(*boolean).ok_or_else(wrong),
        Value::Variable(text) => {
            let typed = text.parse().ok().and_then(T::integer).or_else(|| text.parse().ok().and_then(T::boolean));
            typed.map_or_else(|| T::text(text), Ok)
        }
        Value::List(_) | Value::Table(_) | Value::Other(_) => Err(wrong()),
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

// === fields ===

impl Field for String {
    const EXPECTED: &'static str = "a text";
    fn text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Field for PathBuf {
    const EXPECTED: &'static str = "a path";
    fn text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a path can't be empty".into()) } else { Ok(text.into()) }
    }
}

impl Field for bool {
    const EXPECTED: &'static str = "true or false";
    fn text(_: &str) -> Result<Self, String> {
        Err("it is a text, expected true or false".into())
    }
    fn boolean(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl Field for u32 {
    const EXPECTED: &'static str = "a whole number";
    fn text(_: &str) -> Result<Self, String> {
        Err("it is a text, expected a whole number".into())
    }
    fn integer(value: i64) -> Option<Self> {
        value.try_into().ok()
    }
}

impl Field for Duration {
    const EXPECTED: &'static str = "a duration such as \"90s\"";
    fn text(text: &str) -> Result<Self, String> {
        parse_duration(text).map_err(|problem| format!("{text:?}: {problem}"))
    }
}

impl Field for SocketAddr {
    const EXPECTED: &'static str = "an address such as \"127.0.0.1:1883\"";
    fn text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is no address with a port, such as \"127.0.0.1:1883\" or \"[::]:1883\""))
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

impl Field for Size {
    const EXPECTED: &'static str = "a size such as \"10GiB\"";
    fn text(text: &str) -> Result<Self, String> {
        parse_size(text).map(Self).map_err(|problem| format!("{text:?}: {problem}"))
    }
    fn integer(value: i64) -> Option<Self> {
        value.try_into().ok().map(Self)
    }
}

/// Whatever a word of another crate reads from a text.
#[derive(Debug, Clone)]
pub(crate) struct Parsed<T>(pub(crate) T);

impl<T: std::str::FromStr<Err: fmt::Display>> Field for Parsed<T> {
    const EXPECTED: &'static str = "a text";
    fn text(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|problem: T::Err| problem.to_string())
    }
}

/// One of a few words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OneOf<T>(pub(crate) T);

/// The words that [`OneOf`] reads.
pub(crate) trait Words: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> Field for OneOf<T> {
    const EXPECTED: &'static str = "one of a few words";
    fn text(text: &str) -> Result<Self, String> {
        let found = T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| Self(*value));
        let words: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect();
        found.ok_or_else(|| format!("{text:?} isn't known here, expected {}", words.join(" or ")))
    }
}
