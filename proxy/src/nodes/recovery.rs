//! How a recovered log takes the place of the old one in a data folder: by two renames, between which a crash leaves a folder that is neither the one nor the other, and
//! that must not be taken for an empty one. Never looks into a log.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The folder of the log in use.
pub fn log(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// Where the new log is made.
pub fn made(folder: &Path) -> PathBuf {
    folder.join("log.recovered")
}

/// Where the old log is kept.
pub fn kept(folder: &Path, identity: u64) -> PathBuf {
    folder.join(format!("log.before-{identity:016x}"))
}

/// Whether the old log has left its place, and the new one, which is whole then, has not yet taken it.
pub fn is_unfinished(folder: &Path) -> bool {
    made(folder).exists() && !log(folder).exists()
}

/// Puts the old log away.
///
/// # Errors
/// The file system's; nothing has changed then.
pub fn put_away(folder: &Path, identity: u64) -> io::Result<()> {
    fs::rename(log(folder), kept(folder, identity))?;
    File::open(folder)?.sync_all()
}

/// Puts the new log in the place of the old one, which has been put away.
///
/// # Errors
/// The file system's; it may be tried again.
pub fn finish(folder: &Path) -> io::Result<()> {
    fs::rename(made(folder), log(folder))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_between_the_two_steps_is_noticed_and_can_be_mended() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir(log(folder)).unwrap();
        fs::write(log(folder).join("wal"), "old").unwrap();
        fs::create_dir(made(folder)).unwrap();
        fs::write(made(folder).join("wal"), "new").unwrap();
        assert!(!is_unfinished(folder), "the old one is still in use");
        put_away(folder, 10).unwrap();
        assert!(is_unfinished(folder));
        finish(folder).unwrap();
        assert!(!is_unfinished(folder));
        let read = |path: PathBuf| fs::read_to_string(path.join("wal")).unwrap();
        assert_eq!(read(log(folder)), "new");
        assert_eq!(read(kept(folder, 10)), "old");
        assert!(kept(folder, 10).ends_with("log.before-000000000000000a"));
    }
}
