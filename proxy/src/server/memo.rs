//! What the next process should know if it finds Postgres away: the catalog and the logins, as files in the data folder. Losing them costs only that.

use crate::logins::Logins;
use ripen_cachestore::catalog::{Catalog, Epoch};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CATALOG: &str = "catalog.json";
const LOGINS: &str = "logins.json";

/// See the module.
pub struct Memo {
    folder: PathBuf,
    logins: Arc<Logins>,
    saved: Epoch,
}

impl Memo {
    /// The memo in that folder. `logins` learn what it says of them.
    pub fn open(folder: &Path, logins: Arc<Logins>) -> Memo {
        if let Ok(bytes) = fs::read(folder.join(LOGINS)) {
            logins.restore(&bytes);
        }
        Memo {
            folder: folder.to_owned(),
            logins,
            saved: Epoch::default(),
        }
    }

    /// The catalog that the last process used.
    pub fn catalog(&self) -> Option<Catalog> {
        Catalog::recall(&fs::read(self.folder.join(CATALOG)).ok()?)
    }

    /// Writes what has changed. Not cancel safe: dropped, it may be written or not.
    pub async fn save(&mut self, catalog: Arc<Catalog>) {
        let folder = self.folder.clone();
        let logins = self.logins.changes();
        let changed = catalog.is_loaded() && catalog.epoch != self.saved;
        if !changed && logins.is_none() {
            return;
        }
        self.saved = catalog.epoch;
        let saving = tokio::task::spawn_blocking(move || {
            if changed {
                replace(&folder, CATALOG, &catalog.remember())?;
            }
            logins.map_or(Ok(()), |logins| replace(&folder, LOGINS, &logins))
        });
        if let Ok(Err(error)) = saving.await {
            tracing::warn!(%error, "cannot write to the data folder what a start without Postgres would need");
        }
    }
}

/// A file is there in whole or as it was.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_catalog_comes_back_as_a_remembered_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut memo = Memo::open(folder.path(), Arc::default());
        assert!(memo.catalog().is_none());
        let catalog = Catalog {
            epoch: Epoch(3),
            server_version: 150_000,
            ..Catalog::default()
        };
        memo.save(Arc::new(catalog)).await;
        let back = memo.catalog().unwrap();
        assert!(back.remembered && !back.is_loaded() && back.server_version == 150_000);
    }
}
