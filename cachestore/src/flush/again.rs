//! A flush that was in Postgres and is not any more is written again: the same changes under the same number, on the server that was found to lack it.
//! What Postgres had refused of it is refused again without being tried: what came later was decided without it.

use super::{FlushBatch, FlushOutcome, PROGRESS};
use crate::catalog::Catalog;
use crate::change::RowId;
use crate::error::StoreError;
use crate::home::{Home, SERVER, Server};
use crate::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// What is said of such a flush. The default: it is a new one.
#[derive(Clone, Debug, Default)]
pub struct Again {
    /// Where it is to be written, and nowhere else; `None`: where the log says that the system of record is.
    pub server: Option<Server>,
    /// Rows that stood in the dead letters.
    pub refused: BTreeSet<RowId>,
}

/// Says which server it is, too.
static PROGRESS_THERE: LazyLock<String> = LazyLock::new(|| format!("{PROGRESS}, {SERVER}"));

impl Again {
    pub(super) fn progress(&self, home: &Home) -> &'static str {
        match self.server.is_some() || home.guarded() {
            true => &PROGRESS_THERE,
            false => PROGRESS,
        }
    }

    /// Whether the flush belongs on the server that has answered.
    pub(super) fn check(&self, found: Option<Server>, home: &Home) -> Result<(), StoreError> {
        let right = match self.server {
            Some(wanted) => found == Some(wanted),
            None => home.is(found),
        };
        match found {
            Some(found) if !right => {
                home.doubt();
                Err(StoreError::Strange(found))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn with_refused(
        &self,
        batch: &FlushBatch,
        mut beaten: BTreeMap<usize, StoreError>,
    ) -> BTreeMap<usize, StoreError> {
        let refused = |row: &RowId| self.refused.contains(row);
        for (index, group) in batch.groups.iter().enumerate() {
            if group.rows.iter().any(|change| refused(&change.row)) {
                let message = "Postgres refused this before, on a server that it has failed over from since; its dead letter was lost with that".to_owned();
                let sqlstate = "55000";
                beaten.insert(index, StoreError::Change { sqlstate, message });
            }
        }
        beaten
    }
}

impl Store {
    /// [`Store::flush`] for a flush that Postgres has lost.
    pub async fn flush_again(
        &self,
        catalog: &Catalog,
        batch: &FlushBatch,
        again: &Again,
    ) -> Result<FlushOutcome, StoreError> {
        let told = |_| std::future::ready(Ok(()));
        self.carry_out(catalog, batch, again, told).await
    }
}
