//! What it means for memory that a scope is given to the database, and that it comes back. Decides nothing about who holds what.

use crate::feed::Feed;
use crate::fences::Fences;
use crate::marks::Marks;
use crate::rows::Rows;
use crate::scope::Scope;
use std::sync::Arc;

/// The parts of a node that fences concern.
#[derive(Clone)]
pub struct Ownership {
    /// Rows of this node.
    pub rows: Arc<Rows>,
    /// What belongs to the database.
    pub fences: Arc<Fences>,
    /// Which tables are served.
    pub feed: Arc<Feed>,
    /// Marks in Postgres's WAL that end fences.
    pub marks: Arc<Marks>,
}

impl Ownership {
    /// From now on no reader is at the rows of the scope, and none begins.
    pub fn begin(&self, scope: &Scope) {
        self.fences.raise(scope);
        self.rows.pass_through_shards();
    }

    /// The scope comes back. When this returns, no cached read can miss what was committed under it.
    pub fn end(&self, scope: Scope, changed: bool) {
        match &scope {
            _ if !changed => self.fences.lower(&scope),
            Scope::Nothing => self.fences.lower(&scope),
            Scope::Rows(rows) => {
                self.rows.drop_rows(rows);
                self.fences.lower(&scope);
            }
            Scope::Tables(_) | Scope::Everything => self.end_wide(scope),
        }
    }

    /// Tables that the stream follows stay fenced until it has passed the commit; the others lose their clean rows.
    fn end_wide(&self, scope: Scope) {
        let served = self.feed.served();
        match &scope {
            Scope::Tables(tables) => {
                let unfollowed = tables
                    .iter()
                    .filter(|table| !served.followed.contains(table));
                unfollowed.for_each(|table| self.rows.drop_table(*table));
            }
            _ => served
                .exclusive
                .iter()
                .for_each(|table| self.rows.drop_table(*table)),
        }
        let fences = self.fences.clone();
        self.marks
            .after_next(Box::new(move || fences.lower(&scope)));
    }
}
