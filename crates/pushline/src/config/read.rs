//! Reads a table as a type of the model and finds every mistake in it: serde stops at the first, so the value at fault is taken out and the
//! table is read again. A field that is missing then has an example ([`example`]) in its place.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeArray, DeString, DeTable, DeValue},
};

use super::{
    deserialize::{Node, find},
    examples::example,
    mistakes::Collector,
    refusal::{Problem, Refusal, Step},
    source::Source,
};

/// A table of the tree, and its name.
pub(super) struct Table<'a, 'i> {
    pub(super) path: String,
    pub(super) value: Spanned<DeValue<'i>>,
    pub(super) source: &'a Source,
    /// Fields that were reported: taken out, or put in.
    mended: HashSet<Vec<Step>>,
}

impl<'a, 'i> Table<'a, 'i> {
    pub(super) fn new(path: String, value: Spanned<DeValue<'i>>, source: &'a Source) -> Self {
        Self { path, value, source, mended: HashSet::new() }
    }

    /// Reads the table. Where there are mistakes, the value is what the rest of it says, and is good for nothing but finding more of them.
    /// `is_foreign`: an unknown field that is no mistake, by its offset.
    pub(super) fn read<T: DeserializeOwned>(&mut self, mistakes: &mut Collector, mut is_foreign: impl FnMut(usize) -> bool) -> Option<T> {
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
            let is_known = self.mended.contains(&path);
            let is_unknown_to_us = matches!(refusal.problem, Problem::Unknown { .. }) && path.len() == 1 && is_foreign(offset);
            if !is_known && !is_unknown_to_us {
                mistakes.push(self.source.mistake(offset, self.field(&path), self.problem::<T>(&refusal, &path)));
            }
            if mistakes.is_full() || !self.mend(&refusal, offset, &path) {
                return None;
            }
        }
    }

    /// Whether a field was missing or wrong: its value isn't the file's.
    pub(super) fn is_mended(&self, name: &str) -> bool {
        self.mended.contains(&[Step::Field(name.to_owned())][..])
    }

    /// Whether a field of the table that a path of at least two levels leads to was missing or wrong.
    pub(super) fn is_mended_within(&self, path: &[&str]) -> bool {
        let is_it = |(step, name): (&Step, &&str)| matches!(step, Step::Field(field) if field == name);
        self.mended.iter().any(|mended| mended.len() >= 2 && mended.iter().zip(path).take(2).all(is_it))
    }

    /// A mistake in a field, by its path from this table; at the last table of the path where the field is missing.
    pub(super) fn mistake(&self, mistakes: &mut Collector, path: &[&str], problem: impl Into<String>) {
        let (mut offset, mut table, mut steps) = (self.value.span().start, self.table(), Vec::with_capacity(path.len()));
        for name in path {
            let found = table.and_then(|table| find(table, name));
            steps.push(Step::Field(found.map_or(*name, |(key, _)| key.get_ref()).to_owned()));
            offset = found.map_or(offset, |(key, value)| self.source.field_offset(key, value));
            table = found.and_then(|(_, value)| value.get_ref().as_table());
        }
        mistakes.push(self.source.mistake(offset, self.field(&steps), problem));
    }

    /// A mistake in a field, such as `tls.cert_file`, of a listener: `[mqtt.listener]` is the first, if it is there, and those of `[[mqtt.listeners]]` follow.
    pub(super) fn mistake_of_listener(&self, mistakes: &mut Collector, number: usize, field: &str, problem: impl Into<String>) {
        let mqtt = self.table().and_then(|table| table.get("mqtt")).and_then(|mqtt| mqtt.get_ref().as_table());
        let before = usize::from(mqtt.is_some_and(|mqtt| mqtt.contains_key("listener")));
        let of_list = || [Step::Field("listeners".to_owned()), Step::Item(number - before)];
        let place = if number < before { vec![Step::Field("listener".to_owned())] } else { of_list().into() };
        let field = field.split('.').map(|name| Step::Field(name.to_owned()));
        let path: Vec<Step> = [Step::Field("mqtt".to_owned())].into_iter().chain(place).chain(field).collect();
        let (mut offset, mut value) = (self.value.span().start, Some(self.value.get_ref()));
        for step in &path {
            let found = match (value, step) {
                (Some(DeValue::Table(table)), Step::Field(name)) => {
                    find(table, name).map(|(key, value)| (self.source.field_offset(key, value), value))
                }
                (Some(DeValue::Array(items)), Step::Item(index)) => items.get(*index).map(|item| (item.span().start, item)),
                _ => None,
            };
            value = found.map(|(at, value)| {
                offset = at;
                value.get_ref()
            });
        }
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
    fn mend(&mut self, refusal: &Refusal, offset: usize, path: &[Step]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        if matches!(last, Step::Field(_)) {
            // The next item of a list moves to the place of one that is taken out.
            self.mended.insert(path.to_vec());
        }
        match last {
            Step::Field(name) if matches!(refusal.problem, Problem::Missing(_)) => match example(&self.field(path)) {
                Some(example) => self.put_in(parents, name, example, offset),
                // Without a `kind`, say, the rest of its table can't be read.
                None => self.take_out(parents),
            },
            Step::Field(name) => {
                // What a file was to give is missing then, and that was reported.
                let field = name.strip_suffix("_file").unwrap_or(name).to_owned();
                self.mended.insert([parents, &[Step::Field(field)]].concat());
                self.take_out(path)
            }
            Step::Item(_) => self.take_out(path) && (!self.is_empty_list(parents) || self.take_out_list(parents)),
        }
    }

    /// Takes out a list whose last item was at fault: it isn't one that was written empty.
    fn take_out_list(&mut self, path: &[Step]) -> bool {
        self.mended.insert(path.to_vec());
        self.take_out(path)
    }

    fn is_empty_list(&mut self, path: &[Step]) -> bool {
        self.at(path).is_some_and(|value| value.as_array().is_some_and(|items| items.is_empty()))
    }

    fn at(&mut self, path: &[Step]) -> Option<&mut DeValue<'i>> {
        path.iter().try_fold(self.value.get_mut(), |value, step| child(value, step))
    }

    fn put_in(&mut self, parents: &[Step], name: &str, example: &'static str, offset: usize) -> bool {
        let Some(DeValue::Table(table)) = self.at(parents) else { return false };
        let value = Spanned::new(offset..offset, DeValue::String(DeString::Borrowed(example)));
        table.insert(Spanned::new(offset..offset, DeString::Owned(name.to_owned())), value).is_none()
    }

    /// Takes a value out of the table; `false` where there is none.
    fn take_out(&mut self, path: &[Step]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        match (self.at(parents), last) {
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

    fn problem<T: DeserializeOwned>(&self, refusal: &Refusal, path: &[Step]) -> String {
        match &refusal.problem {
            Problem::Other(text) => text.clone(),
            Problem::Variant { given, known } => format!("{given:?} isn't known here, expected {}", quoted(known)),
            Problem::Missing(name) => match (example(&self.field(path)), self.refusal::<T>(path, DeValue::String("".into()))) {
                (Some(example), _) if self.is_secret::<T>(path) => {
                    format!("it is missing: {name} = {example:?}, or {name}_file = \"path\"")
                }
                (Some(example), _) => format!("it is missing: {name} = {example:?}"),
                (None, Some(Problem::Variant { known, .. })) => format!("it is missing: {name} = {}", quoted(known)),
                (None, _) => "it is missing".to_owned(),
            },
            Problem::Unknown { name, known } => {
                let parents = path.split_last().map_or(&[][..], |(_, parents)| parents);
                let known = self.known::<T>(parents, known);
                let near = known.iter().map(|known| (strsim::osa_distance(known, name), known)).min();
                let list = known.join(", ");
                match near.filter(|(distance, _)| *distance <= 1 + name.len() / 6) {
                    Some((_, near)) => format!("there is no such field; did you mean {near}? (known here: {list})"),
                    None => format!("there is no such field (known here: {list})"),
                }
            }
        }
    }

    /// The fields of a table, those that name a secret's file included.
    fn known<T: DeserializeOwned>(&self, table: &[Step], fields: &[&'static str]) -> Vec<String> {
        let mut known = Vec::new();
        for field in fields {
            known.push((*field).to_owned());
            let file = format!("{field}_file");
            if !fields.contains(&file.as_str()) && self.is_secret::<T>(&[table, &[Step::Field((*field).to_owned())]].concat()) {
                known.push(file);
            }
        }
        // The lists of tables are read apart from the rest of the document.
        if self.path.is_empty() && table.is_empty() {
            known.extend(["webhooks", "groups"].map(str::to_owned));
        }
        known
    }

    /// Whether a field may be given as the path of a file: the type then refuses what is no path.
    fn is_secret<T: DeserializeOwned>(&self, path: &[Step]) -> bool {
        let Some((Step::Field(name), parents)) = path.split_last() else { return false };
        let file = [parents, &[Step::Field(format!("{name}_file"))]].concat();
        matches!(self.refusal::<T>(&file, DeValue::Boolean(true)), Some(Problem::Other(_)))
    }

    /// Why the type refuses a value at a path, where nothing else is in its tables.
    fn refusal<T: DeserializeOwned>(&self, path: &[Step], value: DeValue<'static>) -> Option<Problem> {
        let span = self.value.span();
        let within = |value, step: &Step| match step {
            Step::Field(name) => {
                let entry = (Spanned::new(span.clone(), DeString::Owned(name.clone())), Spanned::new(span.clone(), value));
                Some(DeValue::Table([entry].into_iter().collect()))
            }
            Step::Item(_) => None,
        };
        let value = path.iter().rev().try_fold(value, within)?;
        let refusal = T::deserialize(Node::new(&Spanned::new(span.clone(), value), self.source)).err()?;
        (refusal.path == path).then_some(refusal.problem)
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

fn child<'a, 'i>(value: &'a mut DeValue<'i>, step: &Step) -> Option<&'a mut DeValue<'i>> {
    match (value, step) {
        (DeValue::Table(table), Step::Field(name)) => table.get_mut(name.as_str()).map(Spanned::get_mut),
        (DeValue::Array(items), Step::Item(index)) => items.get_mut(*index).map(Spanned::get_mut),
        _ => None,
    }
}

/// `"a", "b" or "c"`.
fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, front)) => format!("{} or {last}", front.join(", ")),
        None => String::new(),
    }
}
