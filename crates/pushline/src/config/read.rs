//! Reads a table as a type of the model and finds every mistake in it: serde stops at the first, so the value at fault is taken out and the
//! table is read again.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeArray, DeString, DeTable, DeValue},
};

use super::{
    deserialize::{Node, find},
    mistakes::Collector,
    refusal::{Problem, Refusal, Step},
    source::Source,
};

/// A table of the tree, and its name.
pub(super) struct Table<'a, 'i> {
    pub(super) path: String,
    pub(super) value: Spanned<DeValue<'i>>,
    pub(super) source: &'a Source,
}

/// Fields that must be there: what stands in for one, so that the rest can be read, and what would be right. Without a `kind` the rest of its table
/// can't be read.
const REQUIRED: [(&str, Option<&str>, &str); 10] = [
    ("brokers.url", Some("mqtt://a.example"), "url = \"mqtt://host:1883\""),
    ("name", Some("w"), "name = \"tokyo-server\""),
    ("url", Some("http://a.example/"), "url = \"https://example.com/push\""),
    ("org", Some("a"), "org = \"mti\""),
    ("brokers", Some("a:1"), "brokers = \"host:9092\""),
    ("kind", None, "kind = \"none\", \"basic\", \"bearer\" or \"api_key\""),
    ("username", Some("u"), "username = \"…\""),
    ("password", Some("p"), "password = \"…\", or password_file = \"path\""),
    ("token", Some("t"), "token = \"…\", or token_file = \"path\""),
    ("key", Some("k"), "key = \"…\", or key_file = \"path\""),
];

impl<'i> Table<'_, 'i> {
    /// Reads the table. Where there are mistakes, the value is what the rest of it says, and is good for nothing but finding more of them.
    /// `is_foreign`: an unknown field that is no mistake, by its offset.
    pub(super) fn read<T: DeserializeOwned>(&mut self, mistakes: &mut Collector, mut is_foreign: impl FnMut(usize) -> bool) -> Option<T> {
        // Fields that were reported: taken out, or put in.
        let mut reported: HashSet<Vec<Step>> = HashSet::new();
        loop {
            let refusal = match T::deserialize(Node::new(&self.value, self.source)) {
                Ok(value) => return Some(value),
                Err(refusal) => refusal,
            };
            let offset = refusal.offset.unwrap_or(self.value.span().start);
            let mut path = refusal.path.clone();
            if let Problem::Missing(name) = refusal.problem {
                path.push(Step::Field(name.to_owned()));
            }
            let is_known = reported.contains(&path);
            let is_unknown_to_us = matches!(refusal.problem, Problem::Unknown { .. }) && path.len() == 1 && is_foreign(offset);
            if !is_known && !is_unknown_to_us {
                mistakes.push(self.source.mistake(offset, self.field(&path), self.problem(&refusal)));
            }
            if mistakes.is_full() || !self.mend(&refusal, offset, &path, &mut reported) {
                return None;
            }
        }
    }

    /// A mistake in a field, or at the table where the field is missing.
    pub(super) fn mistake(&self, mistakes: &mut Collector, name: &str, problem: impl Into<String>) {
        let found = self.table().and_then(|table| find(table, name));
        let field = found.map_or(name, |(key, _)| key.get_ref());
        mistakes.push(self.source.mistake(self.offset(name), self.field(&[Step::Field(field.to_owned())]), problem));
    }

    /// A mistake in a field of a section, or at the section, or where the document begins.
    pub(super) fn mistake_within(&self, mistakes: &mut Collector, section: &str, name: &str, problem: impl Into<String>) {
        let fields = self.table().and_then(|table| table.get(section)).and_then(|value| value.get_ref().as_table());
        let found = fields.and_then(|fields| find(fields, name));
        let offset = found.map_or_else(|| self.offset(section), |(key, value)| self.source.field_offset(key, value));
        let path = [section, name].map(|name| Step::Field(name.to_owned()));
        mistakes.push(self.source.mistake(offset, self.field(&path), problem));
    }

    /// Where a field stands, or the table where it is missing.
    pub(super) fn offset(&self, name: &str) -> usize {
        let found = self.table().and_then(|table| find(table, name));
        found.map_or(self.value.span().start, |(key, value)| self.source.field_offset(key, value))
    }

    /// A field's text as it is given, whether or not the rest is right.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.table()?.get(name)?.get_ref().as_str()
    }

    pub(super) fn table(&self) -> Option<&DeTable<'i>> {
        self.value.get_ref().as_table()
    }

    /// Takes the value at fault out of the table, or puts a missing one in. `false` where neither can help.
    fn mend(&mut self, refusal: &Refusal, offset: usize, path: &[Step], reported: &mut HashSet<Vec<Step>>) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let stand_in = |name: &String| required(parents, name).and_then(|(_, stand_in, _)| *stand_in);
        if let (Problem::Missing(_), Step::Field(name), false) = (&refusal.problem, last, parents.is_empty())
            && stand_in(name).is_none()
        {
            return self.take_out(parents);
        }
        let parent = parents.iter().try_fold(self.value.get_mut(), |value, step| child(value, step));
        match (parent, last) {
            (Some(DeValue::Table(table)), Step::Field(name)) if matches!(refusal.problem, Problem::Missing(_)) => {
                let Some(stand_in) = stand_in(name) else { return false };
                reported.insert(path.to_vec());
                let value = Spanned::new(offset..offset, DeValue::String(DeString::Borrowed(stand_in)));
                table.insert(Spanned::new(offset..offset, DeString::Owned(name.clone())), value).is_none()
            }
            (Some(_), Step::Field(name)) => {
                // What a file was to give is missing then, and that was reported.
                let field = name.strip_suffix("_file").unwrap_or(name).to_owned();
                reported.insert([parents, &[Step::Field(field)]].concat());
                reported.insert(path.to_vec());
                self.take_out(path)
            }
            _ => self.take_out(path),
        }
    }

    /// Takes a value out of the table; `false` where there is none.
    fn take_out(&mut self, path: &[Step]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        match (parents.iter().try_fold(self.value.get_mut(), |value, step| child(value, step)), last) {
            (Some(DeValue::Table(table)), Step::Field(name)) => table.remove(name.as_str()).is_some(),
            (Some(DeValue::Array(items)), Step::Item(at)) => {
                let len = items.len();
                let all = std::mem::replace(items, DeArray::new()).into_iter().enumerate();
                *items = all.filter(|(index, _)| index != at).map(|(_, item)| item).collect();
                items.len() < len
            }
            _ => false,
        }
    }

    fn problem(&self, refusal: &Refusal) -> String {
        match &refusal.problem {
            Problem::Other(text) => text.clone(),
            Problem::Missing(name) => match required(&refusal.path, name) {
                Some((_, _, remedy)) => format!("it is missing: {remedy}"),
                None => "it is missing".to_owned(),
            },
            Problem::Unknown { name, known } => {
                // The lists of tables are read apart from the rest of the document.
                let lists: &[&str] = if self.path.is_empty() && refusal.path.len() == 1 { &["webhooks", "groups"] } else { &[] };
                let known = [known, lists].concat();
                let near = known.iter().map(|known| (strsim::osa_distance(known, name), known)).min();
                let list = known.join(", ");
                match near.filter(|(distance, _)| *distance <= 1 + name.len() / 6) {
                    Some((_, near)) => format!("there is no such field; did you mean {near}? (known here: {list})"),
                    None => format!("there is no such field (known here: {list})"),
                }
            }
        }
    }

    /// As it is written: `webhooks[0].auth.kind`. An item of a list has the list's name; its line and its value tell which.
    fn field(&self, path: &[Step]) -> String {
        path.iter().fold(self.path.clone(), |field, step| match step {
            Step::Field(name) if field.is_empty() => name.clone(),
            Step::Field(name) => format!("{field}.{name}"),
            Step::Item(_) => field,
        })
    }
}

/// The entry of a field in [`REQUIRED`]: by the name of its table and its own, or by its own alone.
fn required(table: &[Step], name: &str) -> Option<&'static (&'static str, Option<&'static str>, &'static str)> {
    let table = table.iter().rev().find_map(|step| if let Step::Field(table) = step { Some(table.as_str()) } else { None });
    let by = |wanted: &str| REQUIRED.iter().find(|(required, ..)| *required == wanted);
    by(&format!("{}.{name}", table.unwrap_or_default())).or_else(|| by(name))
}

fn child<'a, 'i>(value: &'a mut DeValue<'i>, step: &Step) -> Option<&'a mut DeValue<'i>> {
    match (value, step) {
        (DeValue::Table(table), Step::Field(name)) => table.get_mut(name.as_str()).map(Spanned::get_mut),
        (DeValue::Array(items), Step::Item(index)) => items.get_mut(*index).map(Spanned::get_mut),
        _ => None,
    }
}
