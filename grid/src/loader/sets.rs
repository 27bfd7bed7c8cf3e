//! Loads keyed sets: one statement for the rows that have one of some values in some columns, with the snapshot that saw them. Does; what it means beside the changes that passed meanwhile is
//! decided in `rows::sets`.

use super::{CatalogSource, LoadError, Sure};
use crate::change::RowId;
use crate::limits;
use crate::peers::Peers;
use crate::record::Record;
use crate::rows::sets::SetIds;
use crate::rows::{Moment, Rows, SetLoad, SetTicket};
use ripen_cachestore::load::Gathering;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::{Semaphore, watch};

pub struct SetLoader {
    rows: Arc<Rows>,
    store: Arc<dyn Record>,
    catalog: CatalogSource,
    settled: watch::Receiver<bool>,
    sure: Sure,
    places: Semaphore,
}

impl SetLoader {
    pub fn new(
        rows: Arc<Rows>,
        store: Arc<dyn Record>,
        catalog: CatalogSource,
        settled: watch::Receiver<bool>,
        sure: Sure,
    ) -> SetLoader {
        SetLoader {
            rows,
            store,
            catalog,
            settled,
            sure,
            places: Semaphore::new(limits::SET_LOADS_AT_ONCE_MAX),
        }
    }

    /// See [`super::Loader::load_sets`].
    pub async fn load(
        &self,
        sets: &SetIds,
        queries: &AtomicU64,
        peers: Option<&Weak<Peers>>,
    ) -> Result<(), LoadError> {
        // As with rows: before that nobody knows what a load contains.
        let mut settled = self.settled.clone();
        let waited = settled.wait_for(|settled| *settled).await;
        waited.map_err(|_| LoadError::Stopped)?;
        let place = self.places.acquire().await;
        let place = place.map_err(|_| LoadError::Stopped)?;
        match self.rows.begin_set_load(sets) {
            SetLoad::Known => Ok(()),
            SetLoad::Refused => Err(LoadError::Crowded),
            SetLoad::Others(wait) => {
                drop(place);
                wait.ended().await;
                Ok(())
            }
            SetLoad::Mine(ticket) => {
                queries.fetch_add(1, Ordering::Relaxed);
                self.carry(ticket, peers).await
            }
        }
    }

    /// A ticket that is dropped fails the load.
    async fn carry(&self, ticket: SetTicket, peers: Option<&Weak<Peers>>) -> Result<(), LoadError> {
        let catalog = (self.catalog)();
        let sets = ticket.sets();
        let relation = catalog.relations.get(&sets.table);
        let relation = relation.ok_or(LoadError::NoTable)?;
        let positions: Vec<usize> = sets.columns.positions().collect();
        let rows_max = ticket.rows_max();
        let gathering = Gathering {
            columns: &positions,
            values: &sets.values,
            rows_max,
        };
        let loaded = self.store.load_sets(&catalog, relation, gathering).await;
        let loaded = loaded.map_err(|error| LoadError::Store(Arc::new(error)))?;
        if !(self.sure)() {
            return Err(LoadError::CutOff);
        }
        let moment = Arc::new(Moment {
            snapshot: loaded.snapshot,
            wal: loaded.wal,
        });
        let few = loaded.rows.len() <= rows_max;
        let found = few.then_some(loaded.rows);
        let peers = peers.and_then(Weak::upgrade);
        let is_near = |row: &RowId| peers.as_ref().is_some_and(|peers| peers.is_near(row));
        self.rows.finish_set_load(ticket, &moment, found, is_near);
        Ok(())
    }
}
