//! The file system as the embedded queue sees it: small, so that tests can play crashes, torn writes and full disks on it.

use std::{any::Any, fmt::Debug, fs, io, os::unix::fs::FileExt, path::Path, sync::Arc};

/// A place for folders and files. Written bytes are durable only after [`File::sync`]; a file's name only after [`FileSystem::sync_dir`].
pub trait FileSystem: Debug + Send + Sync {
    /// Creates a folder and those above it; one that is there is fine.
    ///
    /// # Errors
    /// The error of the system, here and below.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// The names of the files in a folder.
    ///
    /// # Errors
    /// As above.
    fn names(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens a file to read and write; an absent one is created empty.
    ///
    /// # Errors
    /// As above.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Removes a file.
    ///
    /// # Errors
    /// As above.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names of a folder durable.
    ///
    /// # Errors
    /// As above.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that are still free where a folder lies.
    ///
    /// # Errors
    /// As above.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;

    /// Locks a file against other processes until the returned value is dropped. `None`: another process has locked it.
    ///
    /// # Errors
    /// As above.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;
}

/// An open file.
pub trait File: Debug + Send + Sync {
    /// The size in bytes.
    ///
    /// # Errors
    /// The error of the system, here and below.
    fn size(&self) -> io::Result<u64>;

    /// Fills the buffer from a position; `UnexpectedEof` where the file ends before.
    ///
    /// # Errors
    /// As above.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;

    /// Writes all bytes at a position. On an error any part of them may have been written.
    ///
    /// # Errors
    /// As above.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Truncates the file to a length.
    ///
    /// # Errors
    /// As above.
    fn truncate(&self, size: u64) -> io::Result<()>;

    /// Makes written bytes durable. After an error it is unknown which bytes are on the disk, so a caller must not try again.
    ///
    /// # Errors
    /// As above.
    fn sync(&self) -> io::Result<()>;
}

/// The file system of the operating system.
#[derive(Debug)]
pub struct OsFileSystem;

impl FileSystem for OsFileSystem {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(dir)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl File for fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.read_exact_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_all_at(bytes, position)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
