//! The file system as the log uses it: a seam, so that simulations can lose, tear and refuse writes. Never retries.

mod sim;

pub use sim::{Faults, SimDisk};

use std::any::Any;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A file system. Names become durable by [`Disk::sync_dir`], contents by [`DiskFile::sync`].
pub trait Disk: Send + Sync + 'static {
    /// Creates a directory, its parents too, durably.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Creates and locks a file against other processes, for as long as the guard lives. `None` if another has it.
    fn lock(&self, path: &Path) -> io::Result<Option<LockGuard>>;
    /// Names in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates an empty file; one of that name is emptied.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Who shall wait for it.
    fn waiting(&self) -> Waiting {
        Waiting::Blocks
    }
}

/// How long a batch takes, asked for each.
pub type Pace = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Who waits for a disk.
#[derive(Clone)]
pub enum Waiting {
    /// Calls take their time: threads make them that nobody else needs.
    Blocks,
    /// Calls take no time: the log's own tasks make them, so that one thread alone can run it, and always in the same order. A batch is written after this long.
    Pauses(Pace),
}

/// Makes calls that may take their time, where they keep nobody else waiting.
pub(crate) async fn blocking<T: Send + 'static>(
    disk: &dyn Disk,
    calls: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    match disk.waiting() {
        Waiting::Blocks => tokio::task::spawn_blocking(calls)
            .await
            .map_err(io::Error::other),
        Waiting::Pauses(pace) => {
            tokio::time::sleep(pace()).await;
            Ok(calls())
        }
    }
}

/// Holds a lock until dropped.
pub type LockGuard = Box<dyn Any + Send + Sync>;

/// An open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Reads exactly `bytes.len()` bytes.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes`; the file grows if need be.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written so far durable, and the length that reading it needs. After an error nothing is known about what is durable.
    fn sync(&self) -> io::Result<()>;
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<LockGuard>> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        // Names that are not UTF-8 are not ours.
        let name = |entry: io::Result<std::fs::DirEntry>| {
            entry.map(|entry| entry.file_name().into_string().ok())
        };
        std::fs::read_dir(dir)?
            .filter_map(|entry| name(entry).transpose())
            .collect()
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(options.open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
