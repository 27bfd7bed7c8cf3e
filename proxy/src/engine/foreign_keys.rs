//! Whether the rows that a write's foreign keys refer to are there. Never looks into Postgres by itself: rows that are not known are loaded as those that are written.
//!
//! Invariant (P5, P4): a row is queued only if what it refers to is in Postgres, as far as this node has been told, and no change that is on its way takes it away. Whoever
//! deletes it later through Ripen passes through, behind a fence around it, and has what refers to it flushed first. So no flush needs to wait for another.

use super::{Engine, is_of, passed};
use crate::eval::{EvalError, Params};
use crate::plan::WritePlan;
use crate::session::answerer::Refusal;
use ripen_cachestore::catalog::Catalog;
use ripen_grid::change::RowId;
use ripen_grid::rows::slot::Lend;
use ripen_pg::tuple::Tuple;
use ripen_pg::value::Settings;
use std::sync::Arc;

/// The rows that a write is decided on.
pub(super) struct Named {
    /// Those that it writes, then those that they refer to.
    pub rows: Vec<RowId>,
    /// How many it writes.
    own: usize,
    /// What its plan is of.
    pub catalog: Arc<Catalog>,
}

impl Named {
    pub fn new(own: Vec<RowId>, catalog: Arc<Catalog>) -> Named {
        Named {
            own: own.len(),
            rows: own,
            catalog,
        }
    }

    /// How many rows it writes.
    pub fn count(&self) -> usize {
        self.own
    }

    /// The images of the rows that are written, all others having been looked at. Called where nothing can change meanwhile.
    pub fn own<'i>(
        &self,
        engine: &Engine,
        images: &'i [Option<Tuple>],
    ) -> Result<&'i [Option<Tuple>], EvalError> {
        let (own, parents) = images.split_at(self.own);
        for (row, image) in self.rows[self.own..].iter().zip(parents) {
            if image.is_none() {
                return Err(EvalError::PassThrough(
                    "a row that it refers to is not there",
                ));
            }
            if !engine.is_in_postgres(row) {
                return Err(EvalError::PassThrough(
                    "a row that it refers to is not in Postgres yet",
                ));
            }
        }
        Ok(own)
    }
}

impl Engine {
    /// Adds what the write's rows refer to.
    pub(super) fn with_parents(
        &self,
        mut named: Named,
        plan: &WritePlan,
        params: &Params<'_>,
        settings: &Settings,
    ) -> Result<Named, Refusal> {
        for parent in plan.parent_tables() {
            if !self.grid.feed.serves(parent.oid) {
                return Err(passed(
                    "not-followed",
                    "a table that it refers to is not followed by the hot cache",
                ));
            }
            if !is_of(&named.catalog, parent) {
                return Err(passed("not-computed", "the schema has changed meanwhile"));
            }
        }
        let parents = plan
            .parents(params, settings)
            .map_err(|EvalError::PassThrough(why)| passed("not-computed", why))?;
        named.rows.extend(parents);
        Ok(named)
    }

    fn is_in_postgres(&self, row: &RowId) -> bool {
        match self.grid.rows.lend(row, || false) {
            Some(Lend::Base(base)) => base.row.is_some(),
            _ => false,
        }
    }
}
