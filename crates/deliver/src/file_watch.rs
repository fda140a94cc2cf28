//! Whether files have changed since their contents were judged: those of certificates, and the configuration.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Tells one state of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    modified: SystemTime,
    /// In bytes.
    length: u64,
    /// A file that takes another's place may have its time and its length.
    inode: u64,
}

/// Files that are looked at from time to time, and read when they have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileWatch {
    files: Vec<PathBuf>,
    /// Their stamps when their contents were judged.
    judged: Vec<Option<FileStamp>>,
    /// Their stamps at the last look.
    seen: Vec<Option<FileStamp>>,
}

impl FileWatch {
    /// Watches files that are read right after this call.
    #[must_use]
    pub fn new(files: Vec<PathBuf>) -> Self {
        let stamps = stamps(&files);
        Self { files, judged: stamps.clone(), seen: stamps }
    }

    /// Watches one more file, which is read right after this call.
    pub fn add(&mut self, file: PathBuf) {
        let stamp = stamp(&file);
        self.files.push(file);
        self.judged.push(stamp.clone());
        self.seen.push(stamp);
    }

    /// A watched file couldn't be read: it is to be read at each look until it could.
    pub fn unjudge(&mut self, file: &Path) {
        for (_, judged) in self.files.iter().zip(&mut self.judged).filter(|(watched, _)| *watched == file) {
            *judged = None;
        }
    }

    /// Looks at the files, and returns whether they are to be read: they have changed since their contents were judged.
    ///
    /// A file that is missing now is being replaced. A file that changed since the last look is being written, and half of it may be valid too.
    pub fn look(&mut self) -> bool {
        let now = stamps(&self.files);
        let rests = self.seen == now;
        self.seen = now;
        let is_replaced = |(judged, seen): (&Option<FileStamp>, &Option<FileStamp>)| judged.is_some() && seen.is_none();
        rests && self.seen != self.judged && !self.judged.iter().zip(&self.seen).any(is_replaced)
    }

    /// The contents at the last look count from now on, or are of no use. Files that couldn't be read aren't judged: they are read at the next look.
    pub fn judged(&mut self) {
        self.judged.clone_from(&self.seen);
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<FileStamp>> {
    files.iter().map(|file| stamp(file)).collect()
}

/// `None`: it isn't there.
fn stamp(file: &Path) -> Option<FileStamp> {
    let metadata = fs::metadata(file).ok()?;
    Some(FileStamp { modified: metadata.modified().ok()?, length: metadata.len(), inode: metadata.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this text that was written at the beginning of time.
    fn write(file: &Path, text: &str) {
        fs::write(file, text).unwrap();
        fs::File::options().write(true).open(file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }

    #[test]
    fn a_file_that_is_being_written_or_replaced_is_not_read_yet() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        write(&file, "nine byte");
        let mut watch = FileWatch::new(vec![file.clone()]);
        let looks = ["nine byte", "", "half", "whole", "whole"].map(|text| {
            write(&file, text);
            watch.look()
        });
        assert_eq!(looks, [false, false, false, false, true]);
        watch.judged();
        fs::remove_file(&file).unwrap();
        assert_eq!([watch.look(), watch.look()], [false, false], "it is being replaced");
    }

    #[test]
    fn a_file_that_was_missing_is_read_when_it_comes_while_another_is_still_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (comes, stays_away) = (folder.path().join("comes"), folder.path().join("stays-away"));
        let mut watch = FileWatch::default();
        [&comes, &stays_away].into_iter().for_each(|file| watch.add(file.clone()));
        assert_eq!([watch.look(), watch.look()], [false, false]);
        write(&comes, "text");
        assert_eq!([watch.look(), watch.look()], [false, true]);
    }

    #[test]
    fn a_file_that_could_not_be_read_when_it_was_named_is_read_at_the_next_look() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        write(&file, "text");
        let mut watch = FileWatch::new(vec![file.clone()]);
        watch.unjudge(&file);
        assert!(watch.look());
    }

    #[test]
    fn a_file_that_could_not_be_read_is_read_at_each_look_until_it_is_judged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        write(&file, "one");
        let mut watch = FileWatch::new(vec![file.clone()]);
        write(&file, "three");
        assert_eq!([watch.look(), watch.look(), watch.look()], [false, true, true]);
        watch.judged();
        assert!(!watch.look());
    }

    #[test]
    fn a_file_that_takes_anothers_place_with_its_time_and_length_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("file"), folder.path().join("other"));
        [(&file, "one"), (&other, "two")].into_iter().for_each(|(file, text)| write(file, text));
        let mut watch = FileWatch::new(vec![file.clone()]);
        fs::rename(other, file).unwrap();
        assert_eq!([watch.look(), watch.look()], [false, true]);
    }
}
