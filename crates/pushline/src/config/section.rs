//! Sections of a configuration that are read field by field, for whoever knows what belongs in them.
//!
//! Each mistake is told with its place and its field, and a field that nobody asked for is one.

use std::{collections::BTreeMap, fmt};

use super::{
    document::{ConfigError, Entry, Place, Value},
    fields::{Field, read},
};

/// A table that is read field by field. What nobody read is an unknown field.
#[derive(Debug)]
pub(crate) struct Section {
    path: String,
    place: Place,
    fields: BTreeMap<String, Entry>,
    /// From the environment: they go before the fields, and one that nobody read is no mistake.
    overrides: BTreeMap<String, Entry>,
    places: BTreeMap<&'static str, Place>,
    asked: Vec<&'static str>,
}

impl Section {
    /// The whole document.
    pub(super) fn root(place: Place, fields: BTreeMap<String, Entry>, overrides: BTreeMap<String, Entry>) -> Self {
        Self { overrides, ..Self::new(String::new(), place, fields) }
    }

    fn new(path: String, place: Place, fields: BTreeMap<String, Entry>) -> Self {
        Self { path, place, fields, overrides: BTreeMap::new(), places: BTreeMap::new(), asked: Vec::new() }
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

    /// Everything known was asked for: the variables that name none of it.
    pub(super) fn passed_over(&self) -> Vec<String> {
        self.overrides.values().filter_map(|entry| entry.place.variable()).map(str::to_owned).collect()
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
        let field = self.fields.remove(name);
        let entry = self.overrides.remove(name).or(field)?;
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
