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
#[derive(Debug)]
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

    /// Looks at the files, and returns whether they are to be read: they have changed since their contents were judged.
    ///
    /// A missing file is being replaced. A file that changed since the last look is being written, and half of it may be valid too.
    pub fn look(&mut self) -> bool {
        let now = stamps(&self.files);
        let rests = self.seen == now;
        self.seen = now;
        rests && self.seen != self.judged && self.seen.iter().all(Option::is_some)
    }

    /// The contents at the last look count from now on, or are of no use. Files that couldn't be read aren't judged: they are read at the next look.
    pub fn judged(&mut self) {
        self.judged.clone_from(&self.seen);
    }
}

/// `None`: it isn't there.
fn stamps(files: &[PathBuf]) -> Vec<Option<FileStamp>> {
    let stamp = |file: &Path| {
        let metadata = fs::metadata(file).ok()?;
        Some(FileStamp { modified: metadata.modified().ok()?, length: metadata.len(), inode: metadata.ino() })
    };
    files.iter().map(|file| stamp(file)).collect()
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
