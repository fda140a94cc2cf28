//! What is wrong with a configuration: every mistake, with its place, its field and the remedy.

use std::fmt;

use pushline_deliver::FileWatch;

/// How many mistakes are listed. The rest is likely to follow from one cause.
const LISTED: usize = 100;

/// One mistake: where it stands, what is wrong, what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Where it stands in the file; for the order of the list. Variables come after the file.
    pub(super) offset: usize,
    pub(super) place: Location,
    /// Such as `webhooks[0].auth.kind`; empty where the mistake belongs to no field.
    pub(super) field: String,
    pub(super) problem: String,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A file, and the line in it; the first is 1.
    Line(String, usize),
    /// An environment variable.
    Variable(String),
}

/// All mistakes of a configuration, in the order in which they stand there. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistakes {
    mistakes: Vec<Mistake>,
    /// The files that the configuration names: a mistake may lie in one, or be that it is missing.
    pub(crate) named_files: FileWatch,
}

/// Collects mistakes while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Collector(Vec<Mistake>);

impl Collector {
    pub(super) fn push(&mut self, mistake: Mistake) {
        if !self.is_full() {
            self.0.push(mistake);
        }
    }

    /// Whether the list is full: reading on is no use.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() > LISTED
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// `Ok`, with the files that were read, when nothing was wrong.
    pub(super) fn finish(mut self, named_files: FileWatch) -> Result<FileWatch, Mistakes> {
        if self.0.is_empty() {
            return Ok(named_files);
        }
        self.0.sort_by_key(|mistake| mistake.offset);
        Err(Mistakes { mistakes: self.0, named_files })
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    /// One mistake a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().take(LISTED).enumerate() {
            write!(f, "{}{mistake}", if index > 0 { "\n" } else { "" })?;
        }
        if self.mistakes.len() > LISTED { write!(f, "\nonly the first {LISTED} mistakes are listed") } else { Ok(()) }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, field, problem, .. } = self;
        write!(f, "{place}: {field}{}{problem}", if field.is_empty() { "" } else { ": " })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(file, line) => write!(f, "{file}:{line}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}
