//! What the next process should know if it finds Postgres away: the catalog and the logins, as files in the data folder. Losing them costs only that.

use crate::logins::Logins;
use ripen_cachestore::catalog::{Catalog, Epoch};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const CATALOG: &str = "catalog.json";
const LOGINS: &str = "logins.json";

/// See the module.
pub struct Memo {
    folder: PathBuf,
    saved: Epoch,
}

impl Memo {
    /// The memo in that folder.
    pub fn new(folder: &Path) -> Memo {
        Memo {
            folder: folder.to_owned(),
            saved: Epoch::default(),
        }
    }

    /// The catalog that the last process used.
    pub fn catalog(&self) -> Option<Catalog> {
        Catalog::recall(&fs::read(self.folder.join(CATALOG)).ok()?)
    }

    /// Writes the catalog if it is a new one. Not cancel safe: dropped, it may be written or not.
    pub async fn save(&mut self, catalog: Arc<Catalog>) {
        if !catalog.is_loaded() || catalog.epoch == self.saved {
            return;
        }
        self.saved = catalog.epoch;
        write(&self.folder, CATALOG, move || catalog.remember()).await;
    }
}

/// Tells `logins` what the last process knew of them.
pub fn recall_logins(folder: &Path, logins: &Logins) {
    if let Ok(bytes) = fs::read(folder.join(LOGINS)) {
        logins.restore(&bytes);
    }
}

/// Writes the logins down as soon as there is a new one, until stopped.
pub async fn keep_logins(folder: PathBuf, logins: Arc<Logins>, stop: CancellationToken) {
    while stop.run_until_cancelled(logins.changed()).await.is_some() {
        let logins = logins.clone();
        write(&folder, LOGINS, move || logins.all()).await;
    }
}

async fn write(
    folder: &Path,
    name: &'static str,
    bytes: impl FnOnce() -> Vec<u8> + Send + 'static,
) {
    let folder = folder.to_owned();
    let writing = tokio::task::spawn_blocking(move || replace(&folder, name, &bytes()));
    if let Ok(Err(error)) = writing.await {
        tracing::warn!(%error, name, "cannot write to the data folder what a start without Postgres would need");
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
        let mut memo = Memo::new(folder.path());
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
