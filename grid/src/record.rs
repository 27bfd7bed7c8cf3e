//! The system of record as the grid uses it: a seam, so that a simulated one can stand in for Postgres. Decides nothing.

use crate::change::{FlushSeq, RowId};
use futures_util::future::BoxFuture;
use ripen_cachestore::catalog::{Catalog, Epoch, Relation};
use ripen_cachestore::flush::{Again, FlushBatch, FlushOutcome};
use ripen_cachestore::home::Home;
use ripen_cachestore::load::{Gathering, Loaded};
use ripen_cachestore::progress::{FlushFate, LogKey, Taken, Taker};
use ripen_cachestore::standing::Standing;
use ripen_cachestore::{Store, StoreError};
use ripen_pg::ids::Xid;
use ripen_pg::key::Key;
use std::sync::Arc;

/// What comes of asking the system of record.
pub type Asked<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Tells others which transaction carries a flush, before it commits.
pub type Tell<'a> = Box<dyn FnOnce(Xid) -> Asked<'a, ()> + Send + 'a>;

/// What [`Store`] does for the grid; its methods of the same names say what each promises.
pub trait Record: Send + Sync + 'static {
    /// See [`Store::home`].
    fn home(&self) -> &Arc<Home>;
    /// See [`Store::forget_idle`].
    fn forget_idle(&self);
    /// See [`Store::standing`].
    fn standing(&self, log: LogKey) -> Asked<'_, Standing>;
    /// See [`Store::flush_again`].
    fn flush_again<'a>(
        &'a self,
        catalog: &'a Catalog,
        batch: &'a FlushBatch,
        again: &'a Again,
    ) -> Asked<'a, FlushOutcome>;
    /// See [`Store::newest_epoch`].
    fn newest_epoch(&self, number: i32) -> Asked<'_, u64>;
    /// See [`Store::take_over`].
    fn take_over<'a>(&'a self, taker: Taker<'a>) -> Asked<'a, Taken>;
    /// See [`Store::outcome`].
    fn outcome(&self, log: LogKey, epoch: u64, seq: FlushSeq) -> Asked<'_, FlushFate>;
    /// See [`Store::dead_rows`].
    fn dead_rows(&self, log: LogKey, seq: FlushSeq) -> Asked<'_, Vec<RowId>>;
    /// See [`Store::flush_told`].
    fn flush<'a>(
        &'a self,
        catalog: &'a Catalog,
        batch: &'a FlushBatch,
        tell: Tell<'a>,
    ) -> Asked<'a, FlushOutcome>;
    /// See [`Store::load_catalog`].
    fn load_catalog(&self, epoch: Epoch) -> Asked<'_, Catalog>;
    /// See [`Store::load_rows`].
    fn load_rows<'a>(
        &'a self,
        catalog: &'a Catalog,
        relation: &'a Relation,
        keys: &'a [Key],
    ) -> Asked<'a, Loaded>;
    /// See [`Store::load_sets`].
    fn load_sets<'a>(
        &'a self,
        catalog: &'a Catalog,
        relation: &'a Relation,
        sets: Gathering<'a>,
    ) -> Asked<'a, Loaded>;
}

impl Record for Store {
    fn home(&self) -> &Arc<Home> {
        Store::home(self)
    }

    fn forget_idle(&self) {
        Store::forget_idle(self);
    }

    fn standing(&self, log: LogKey) -> Asked<'_, Standing> {
        Box::pin(Store::standing(self, log))
    }

    fn flush_again<'a>(
        &'a self,
        catalog: &'a Catalog,
        batch: &'a FlushBatch,
        again: &'a Again,
    ) -> Asked<'a, FlushOutcome> {
        Box::pin(Store::flush_again(self, catalog, batch, again))
    }

    fn newest_epoch(&self, number: i32) -> Asked<'_, u64> {
        Box::pin(Store::newest_epoch(self, number))
    }

    fn take_over<'a>(&'a self, taker: Taker<'a>) -> Asked<'a, Taken> {
        Box::pin(Store::take_over(self, taker))
    }

    fn outcome(&self, log: LogKey, epoch: u64, seq: FlushSeq) -> Asked<'_, FlushFate> {
        Box::pin(Store::outcome(self, log, epoch, seq))
    }

    fn dead_rows(&self, log: LogKey, seq: FlushSeq) -> Asked<'_, Vec<RowId>> {
        Box::pin(Store::dead_rows(self, log, seq))
    }

    fn flush<'a>(
        &'a self,
        catalog: &'a Catalog,
        batch: &'a FlushBatch,
        tell: Tell<'a>,
    ) -> Asked<'a, FlushOutcome> {
        Box::pin(self.flush_told(catalog, batch, tell))
    }

    fn load_catalog(&self, epoch: Epoch) -> Asked<'_, Catalog> {
        Box::pin(Store::load_catalog(self, epoch))
    }

    fn load_rows<'a>(
        &'a self,
        catalog: &'a Catalog,
        relation: &'a Relation,
        keys: &'a [Key],
    ) -> Asked<'a, Loaded> {
        Box::pin(Store::load_rows(self, catalog, relation, keys))
    }

    fn load_sets<'a>(
        &'a self,
        catalog: &'a Catalog,
        relation: &'a Relation,
        sets: Gathering<'a>,
    ) -> Asked<'a, Loaded> {
        Box::pin(Store::load_sets(self, catalog, relation, sets))
    }
}
