//! A configuration file as a tree in which every value has its span, with the environment's overrides put in.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use pushline_deliver::FileWatch;
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    files::{self, TextError},
    mistakes::{Collector, Location, Mistake},
    syntax,
};

/// Environment variables that begin so override a field: `PUSHLINE_QUEUE__KIND`, `__` between levels. Those without `__` that name no field belong
/// to other programs: Kubernetes puts `PUSHLINE_SERVICE_HOST` into every pod that sees a Service named `pushline`.
pub(super) const PREFIX: &str = "PUSHLINE_";

/// A file's text, and the variables that override it. Both have one range of offsets: a variable's is its number beyond the end of the text.
#[derive(Debug)]
pub(super) struct Source {
    file: String,
    folder: PathBuf,
    line_ends: Vec<usize>,
    len: usize,
    variables: Vec<String>,
    /// The files that were read since the configuration names them.
    named_files: RefCell<FileWatch>,
}

impl Source {
    /// Parses a file's text and puts the overrides in. Mistakes of syntax are all that can be found then: `None`.
    pub(super) fn parse<'i>(
        path: &Path,
        text: &'i str,
        variables: impl IntoIterator<Item = (String, String)>,
        mistakes: &mut Collector,
    ) -> (Self, Option<DeTable<'i>>) {
        let mut source = Self {
            file: path.display().to_string(),
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
            line_ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            len: text.len(),
            variables: Vec::new(),
            named_files: RefCell::default(),
        };
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut reported = None;
        for error in &errors {
            let offset = error.span().map_or(0, |span| span.start);
            // What follows in the same line follows from the first.
            if reported.replace(source.line(offset)) != Some(source.line(offset)) {
                let problem = syntax::problem(error, text, root.get_ref(), |offset| source.line(offset));
                mistakes.push(source.mistake(offset, String::new(), problem));
            }
        }
        let root = errors.is_empty().then(|| root.into_inner());
        let root = root.map(|mut root| {
            for (name, value) in variables {
                source.put(&mut root, name, value, mistakes);
            }
            root
        });
        (source, root)
    }

    fn put(&mut self, root: &mut DeTable<'_>, name: String, value: String, mistakes: &mut Collector) {
        let levels: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        self.variables.push(name);
        let offset = self.len + self.variables.len();
        if let Err(problem) = put(root, &levels, value, offset) {
            mistakes.push(self.mistake(offset, levels.join("."), problem));
        }
    }

    pub(super) fn mistake(&self, offset: usize, field: String, problem: impl Into<String>) -> Mistake {
        Mistake { offset, place: self.place(offset), field, problem: problem.into() }
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.line_ends.partition_point(|end| *end < offset)
    }

    /// The variable at an offset, where it is one.
    pub(super) fn variable(&self, offset: usize) -> Option<&str> {
        let index = offset.checked_sub(self.len + 1)?;
        self.variables.get(index).map(String::as_str)
    }

    /// A path that isn't absolute is sought beside the configuration file.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// Reads a text file that the configuration names ([`files::read_text`]), and watches it.
    pub(super) fn read_text(&self, path: &Path) -> Result<String, TextError> {
        self.read_named(path, files::read_text)
    }

    /// Reads a value that the configuration names ([`files::read_value`]), and watches its file.
    pub(super) fn read_value(&self, path: &Path) -> Result<String, TextError> {
        self.read_named(path, files::read_value)
    }

    fn read_named(&self, path: &Path, read: impl FnOnce(&Path) -> Result<String, TextError>) -> Result<String, TextError> {
        let mut named_files = self.named_files.borrow_mut();
        named_files.add(path.to_owned());
        let text = read(path);
        if matches!(text, Err(TextError::Unreadable(_))) {
            named_files.unjudge(path);
        }
        text
    }

    /// The files that were read.
    pub(super) fn into_named_files(self) -> FileWatch {
        self.named_files.into_inner()
    }

    fn place(&self, offset: usize) -> Location {
        match self.variable(offset) {
            Some(name) => Location::Variable(name.to_owned()),
            None => Location::Line(self.file.clone(), self.line(offset)),
        }
    }

    /// Where a field stands: at its name in the file, or in the variable that gives its value.
    pub(super) fn field_offset(&self, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) -> usize {
        let value = value.span().start;
        if self.variable(value).is_some() { value } else { key.span().start }
    }
}

fn put(table: &mut DeTable<'_>, levels: &[String], value: String, offset: usize) -> Result<(), String> {
    let Some((first, rest)) = levels.split_first().filter(|(first, _)| !first.is_empty()) else { return Err("it names no field".into()) };
    let key = Spanned::new(offset..offset, DeString::Owned(first.clone()));
    if rest.is_empty() {
        // The key of a field that the file has too stays the file's.
        table.insert(key, Spanned::new(offset..offset, DeValue::String(value.into())));
        return Ok(());
    }
    let entry = table.entry(key).or_insert_with(|| Spanned::new(offset..offset, DeValue::Table(DeTable::new())));
    match entry.get_mut() {
        DeValue::Table(table) => put(table, rest, value, offset),
        DeValue::Array(_) => Err(format!("{first} is a list: what is in a list can't be overridden from the environment")),
        _ => Err(format!("{first} is no table")),
    }
}
