//! Several logs of one node: their folders, and which table belongs to which. Does; `ripen_grid::assignment` decides where tables belong. Never forgets a log that may hold something
//! acknowledged: how many there have been stands in the data folder.

use crate::config::{Config, Mode};
use crate::engine::keeper;
use parking_lot::Mutex;
use ripen_cachestore::catalog::Catalog;
use ripen_grid::assignment::{Assignment, Contradiction, Wish};
use ripen_grid::grid::Grid;
use ripen_grid::log::LogOptions;
use ripen_grid::queue::LogNumber;
use ripen_pg::ids::TableOid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where it stands how many logs there have been. Without it: one.
const FILE: &str = "logs";

/// Why the logs cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FoldersError {
    /// The file system.
    #[error("cannot read or write {}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Something else than a number.
    #[error("{} does not hold how many logs there are beside it; write that number into it", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// A log that was there.
    #[error(
        "the log {} is missing, which may hold acknowledged changes that are not in Postgres: put it back; if it is lost, or was empty, \
         lower the number in {} (or, for one log, remove that file) to go on without it", path.display(), file.display()
    )]
    Missing {
        /// Its folder.
        path: PathBuf,
        /// Where it stands that it was there.
        file: PathBuf,
    },
    /// A node among others.
    #[error(
        "this data folder has {known} logs, and a node of a cluster has one: start it alone once more with logs = 1, wait until SHOW ripen.logs shows only the first with tables or pending rows, \
         stop it, and remove {} and the folders \"log-1\" and so on beside it", file.display()
    )]
    Several {
        /// How many there have been.
        known: u8,
        /// Where that stands.
        file: PathBuf,
    },
}

/// The folders of a node's logs.
#[derive(Debug)]
pub struct Folders {
    data: PathBuf,
    wanted: u8,
    known: u8,
}

impl Folders {
    /// Those of a data folder, of which so many are to take changes. What others hold is written to Postgres, too. Blocks for a moment.
    ///
    /// # Errors
    /// When one is missing that was there before.
    pub fn of(data: &Path, wanted: u8) -> Result<Folders, FoldersError> {
        let folders = Folders {
            data: data.to_owned(),
            wanted,
            known: known(&data.join(FILE))?,
        };
        // A folder without any log is new, or one whose first log was made elsewhere.
        let missing = (1..folders.known).map(|number| folders.folder(number));
        match missing.into_iter().find(|path| !path.is_dir()) {
            Some(path) => Err(FoldersError::Missing {
                path,
                file: data.join(FILE),
            }),
            None => Ok(folders),
        }
    }

    /// Refuses a folder with several logs.
    ///
    /// # Errors
    /// That.
    pub fn check_one(&self) -> Result<(), FoldersError> {
        match self.known {
            1 => Ok(()),
            known => Err(FoldersError::Several {
                known,
                file: self.data.join(FILE),
            }),
        }
    }

    /// How to open them, in their order; `first`: the first one.
    pub fn logs(&self, first: &LogOptions) -> Vec<LogOptions> {
        let others = (1..self.count()).map(|number| LogOptions {
            dir: self.folder(number),
            ..first.clone()
        });
        std::iter::once(first.clone()).chain(others).collect()
    }

    /// All of them are there from now on. To be called when they have been opened, and before anything is acknowledged. On disk when it returns. Blocks for a moment.
    ///
    /// # Errors
    /// The file system's.
    pub fn remember(&self) -> Result<(), FoldersError> {
        if self.count() == self.known {
            return Ok(());
        }
        let path = self.data.join(FILE);
        write(&self.data, self.count()).map_err(|error| FoldersError::Io { path, error })
    }

    fn count(&self) -> u8 {
        self.wanted.max(self.known)
    }

    fn folder(&self, number: u8) -> PathBuf {
        self.data.join(format!("log-{number}"))
    }
}

fn known(path: &Path) -> Result<u8, FoldersError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(1),
        Err(error) => {
            let path = path.to_owned();
            return Err(FoldersError::Io { path, error });
        }
    };
    let number = text.trim_ascii().parse().ok();
    let number = number.filter(|number| (1..=crate::limits::LOGS_MAX).contains(number));
    number.ok_or_else(|| FoldersError::Damaged {
        path: path.to_owned(),
    })
}

fn write(folder: &Path, count: u8) -> io::Result<()> {
    let new = folder.join(format!("{FILE}.new"));
    let mut file = File::create(&new)?;
    file.write_all(format!("{count}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

/// Gives tables to logs, catalog after catalog.
pub struct Assigner {
    config: Arc<Config>,
    /// What has been complained of.
    told: Mutex<Vec<Contradiction>>,
}

impl Assigner {
    /// By that configuration.
    pub fn new(config: Arc<Config>) -> Assigner {
        Assigner {
            config,
            told: Mutex::default(),
        }
    }

    /// Gives the tables of a catalog to the logs. Call it before anything is decided by the catalog; the answer moves tables that were in other logs.
    pub fn assign(
        &self,
        catalog: &Catalog,
        grid: &Arc<Grid>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        if grid.queues.len() == 1 {
            return None;
        }
        let assignment = Assignment::of(&wishes(&self.config, catalog), self.config.logs);
        let mut told = self.told.lock();
        if *told != assignment.contradictions {
            let contradictions = assignment.contradictions.iter();
            contradictions.for_each(|one| complain(catalog, one));
            *told = assignment.contradictions;
        }
        drop(told);
        grid.assign(assignment.logs)
    }
}

fn wishes(config: &Config, catalog: &Catalog) -> BTreeMap<TableOid, Wish> {
    let relations = catalog.relations.values();
    let queued = relations.filter_map(|relation| {
        let settings = keeper::settings(config, relation);
        let wish = Wish {
            log: settings.log.map(LogNumber),
            parents: relation.parents.clone(),
        };
        (settings.mode == Mode::WriteBehind).then_some((relation.oid, wish))
    });
    queued.collect()
}

fn complain(catalog: &Catalog, contradiction: &Contradiction) {
    let name = |table: TableOid| {
        let relation = catalog.relations.get(&table);
        relation.map_or_else(String::new, |relation| {
            format!("{}.{}", relation.schema, relation.name)
        })
    };
    let (heeded, ignored) = (contradiction.heeded, contradiction.ignored);
    tracing::error!(
        table = name(ignored.0),
        log = ignored.1.0,
        connected = name(heeded.0),
        goes_to = heeded.1.0,
        "tables that foreign keys connect must be in one log, so the setting \"log\" of one of them does not count: give them the same"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(data: &Path, wanted: u8) -> Folders {
        Folders::of(data, wanted).expect("nothing is missing")
    }

    fn make(folders: &Folders) -> usize {
        let logs = folders.logs(&LogOptions::new(folders.data.join("log")));
        logs.iter()
            .for_each(|log| fs::create_dir_all(&log.dir).expect("made"));
        folders.remember().expect("written");
        logs.len()
    }

    #[test]
    fn one_log_leaves_no_trace() {
        let data = tempfile::tempdir().expect("a folder");
        assert_eq!(make(&folders(data.path(), 1)), 1);
        let names: Vec<_> = fs::read_dir(data.path()).expect("listed").collect();
        assert_eq!(names.len(), 1);
        assert!(folders(data.path(), 1).check_one().is_ok());
    }

    #[test]
    fn logs_that_are_not_wanted_any_more_are_opened_all_the_same() {
        let data = tempfile::tempdir().expect("a folder");
        assert_eq!(make(&folders(data.path(), 3)), 3);
        assert_eq!(make(&folders(data.path(), 2)), 3);
        assert_eq!(make(&folders(data.path(), 4)), 4);
        assert!(folders(data.path(), 1).check_one().is_err());
    }

    #[test]
    fn a_lost_log_is_not_taken_for_an_empty_one() {
        let data = tempfile::tempdir().expect("a folder");
        make(&folders(data.path(), 3));
        fs::remove_dir(data.path().join("log-2")).expect("removed");
        let lost = Folders::of(data.path(), 3).expect_err("it may hold something");
        assert!(lost.to_string().contains("log-2 is missing"), "{lost}");
        fs::write(data.path().join(FILE), "2").expect("written");
        assert_eq!(make(&folders(data.path(), 2)), 2);
        fs::write(data.path().join(FILE), "two").expect("written");
        assert!(Folders::of(data.path(), 2).is_err());
    }
}
