//! This node's number, kept as text in the data folder: the same for ever, and never another node's. Drawn once; never guessed where it is missing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "node";

/// Larger numbers are not exact in JSON as many programs read it.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// What a node alone was before nodes had numbers.
const NUMBER_BEFORE: u64 = 1;

/// What is known of the data folder and the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Whether a log is there already, see [`ripen_grid::log::LogOptions::identity_on_disk`].
    pub log: bool,
    /// Whether this node takes part in a cluster.
    pub cluster: bool,
}

/// Why this node has no number.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system.
    #[error("cannot read or write {}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Something else than a number.
    #[error(
        "{} does not hold this node's number; put the file back as it was, from a copy or with the number that other nodes show for this one, \
         or move the whole data folder away if what is only there may be lost", path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// No file beside a log that others may know.
    #[error(
        "{} is missing, though there is a log beside it: put it back as it was, from a copy or with the number that other nodes show for this one; \
         if this folder was only ever used by a node alone, that number is {NUMBER_BEFORE}", path.display()
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
}

/// This node's number. Draws one by `chance` (from all numbers, evenly) and writes it down where there is none yet; it is on disk when this returns. Blocks.
///
/// # Errors
/// See [`IdentityError`].
pub fn number(
    folder: &Path,
    known: Known,
    mut chance: impl FnMut() -> u64,
) -> Result<u64, IdentityError> {
    let path = folder.join(FILE);
    match (read_file(&path)?, known) {
        (Some(number), _) => Ok(number),
        (None, Known { log: false, .. }) => {
            write(folder, drawn(&mut chance)).map_err(|error| failed(&path, error))?;
            // Another process may have been quicker.
            read_file(&path)?.ok_or(IdentityError::Missing { path })
        }
        (None, Known { cluster: false, .. }) => Ok(NUMBER_BEFORE),
        (None, _) => Err(IdentityError::Missing { path }),
    }
}

fn drawn(chance: &mut impl FnMut() -> u64) -> u64 {
    let mut numbers = std::iter::repeat_with(|| chance() & NUMBER_MAX);
    let good = numbers.find(|number| *number > NUMBER_BEFORE);
    good.expect("chance does not say the same for ever")
}

/// The number that the folder has. Blocks.
///
/// # Errors
/// When the file cannot be read, or has no number.
pub fn read(folder: &Path) -> Result<Option<u64>, IdentityError> {
    read_file(&folder.join(FILE))
}

fn read_file(path: &Path) -> Result<Option<u64>, IdentityError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, error)),
    };
    let text = std::str::from_utf8(&text).ok().map(str::trim_ascii);
    let number = text.and_then(|text| text.parse().ok());
    let number = number.filter(|number| (1..=NUMBER_MAX).contains(number));
    number.map(Some).ok_or_else(|| IdentityError::Damaged {
        path: path.to_owned(),
    })
}

/// Makes the file whole or not at all, and leaves one that is there as it is.
fn write(folder: &Path, number: u64) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let new = folder.join(format!("{FILE}.{}.new", std::process::id()));
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o644);
    let mut file = options.open(&new)?;
    file.write_all(format!("{number}\n").as_bytes())?;
    file.sync_all()?;
    match fs::hard_link(&new, folder.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // Not all file systems have links; then the log's lock tells a second process.
            fs::rename(&new, folder.join(FILE))?;
        }
        _ => fs::remove_file(&new)?,
    }
    File::open(folder)?.sync_all()
}

fn failed(path: &Path, error: io::Error) -> IdentityError {
    let path = path.to_owned();
    IdentityError::Io { path, error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    const NEW: Known = Known {
        log: false,
        cluster: true,
    };
    const OLD: Known = Known {
        log: true,
        cluster: true,
    };

    fn folder() -> TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn a_number_is_drawn_once() {
        let folder = folder();
        let below = folder.path().join("made/anew");
        let first = number(&below, NEW, || 70_000).expect("drawn");
        assert_eq!(first, 70_000);
        for known in [NEW, OLD] {
            assert_eq!(number(&below, known, || 9).expect("read"), first);
        }
        let files: Vec<_> = fs::read_dir(&below).expect("listed").collect();
        assert_eq!(files.len(), 1);
        assert_eq!(
            fs::read_to_string(below.join(FILE)).expect("text"),
            "70000\n"
        );
    }

    #[test]
    fn numbers_are_exact_everywhere_and_never_those_of_before() {
        let mut chances = [0, 1, 1 << 53, u64::MAX].into_iter();
        let mut chance = || chances.next().expect("enough");
        assert_eq!(drawn(&mut chance), NUMBER_MAX);
    }

    #[test]
    fn who_was_quicker_is_right() {
        let folder = folder();
        write(folder.path(), 7).expect("written");
        write(folder.path(), 8).expect("left as it is");
        assert_eq!(number(folder.path(), NEW, || 9).expect("read"), 7);
    }

    #[test]
    fn a_damaged_file_is_no_number() {
        let folder = folder();
        let path = folder.path().join(FILE);
        for text in ["", "\n", "0", "-1", "seven", "9007199254740992", "\u{1F41}"] {
            fs::write(&path, text).expect("written");
            let damaged = number(folder.path(), NEW, || 9);
            assert!(
                matches!(damaged, Err(IdentityError::Damaged { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_lost_number_is_not_guessed_beside_a_log_that_others_may_know() {
        let folder = folder();
        let lost = number(folder.path(), OLD, || 9).expect_err("nobody knows it");
        assert!(
            lost.to_string()
                .contains("is missing, though there is a log beside it")
        );
        let alone = Known {
            log: true,
            cluster: false,
        };
        assert_eq!(number(folder.path(), alone, || 9).expect("as before"), 1);
        assert!(!folder.path().join(FILE).exists());
    }
}
