//! Who brings the publication up to date: the upkeep, after the catalog changed, and sessions, before DDL that a published table would make Postgres refuse,
//! or that would make Postgres refuse later updates (a table in a publication must keep its replica identity). Decides which tables may count as followed;
//! `ripen_hotcache::publication` does the SQL. Never lets a table count as followed that this process has taken out since it was last put in.

use parking_lot::Mutex;
use ripen_cachestore::{Store, StoreError};
use ripen_grid::feed::Served;
use ripen_grid::grid::Grid;
use ripen_hotcache::publication::{self, PublicationError, Published};
use ripen_pg::ids::TableOid;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The publication that the hot cache follows.
pub const PUBLICATION: &str = "ripen";

/// Why it could not be brought up to date. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// Postgres is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Postgres refused.
    #[error(transparent)]
    Publication(#[from] PublicationError),
}

/// See the module.
pub struct Publisher {
    store: Store,
    grid: Arc<Grid>,
    /// Held while the publication changes in Postgres.
    changing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is in the publication, as far as this process has seen to it. `None`: whatever an earlier one has left there.
    published: Option<BTreeSet<TableOid>>,
    /// Tables that transactions now running have had taken out, and how many of these there are.
    withdrawn: BTreeMap<TableOid, usize>,
}

impl State {
    fn is_published(&self, table: &TableOid) -> bool {
        self.published
            .as_ref()
            .is_none_or(|published| published.contains(table))
    }

    fn may_be_served(&self, table: &TableOid) -> bool {
        self.is_published(table) && !self.withdrawn.contains_key(table)
    }

    fn take_out(&mut self, tables: &BTreeSet<TableOid>) {
        for table in tables {
            *self.withdrawn.entry(*table).or_default() += 1;
        }
    }

    fn give_back(&mut self, tables: &BTreeSet<TableOid>) {
        for table in tables {
            if let Some(count) = self.withdrawn.get_mut(table) {
                *count -= 1;
            }
        }
        self.withdrawn.retain(|_, count| *count > 0);
    }
}

impl Publisher {
    /// One that knows nothing of the publication yet.
    pub fn new(store: Store, grid: Arc<Grid>) -> Publisher {
        Publisher {
            store,
            grid,
            changing: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Makes the publication contain exactly the usable ones of these tables that nobody has withdrawn. Cancel safe.
    pub async fn publish(&self, wanted: BTreeSet<TableOid>) -> Result<Published, PublisherError> {
        let _one_at_a_time = self.changing.lock().await;
        let wanted: Vec<TableOid> = {
            let state = self.state.lock();
            let free = |table: &TableOid| !state.withdrawn.contains_key(table);
            wanted.into_iter().filter(free).collect()
        };
        let mut client = self.store.client().await?;
        let published = publication::ensure(&mut client, PUBLICATION, &wanted).await?;
        self.state.lock().published = Some(&published.followed | &published.added);
        Ok(published)
    }

    /// From now on these tables are served, but for those that are not in the publication any more. Rows of tables that were not followed until now are
    /// dropped first: nobody has told of their changes.
    ///
    /// `beginnings`: how often the stream had begun anew when this was decided ([`ripen_grid::feed::Feed::serve`]).
    pub fn serve(&self, mut served: Served, beginnings: u64) {
        let state = self.state.lock();
        served.followed.retain(|table| state.may_be_served(table));
        let before = self.grid.feed.served();
        for table in served.followed.difference(&before.followed) {
            self.grid.rows.drop_table(*table);
        }
        self.grid.feed.serve(served, beginnings);
    }

    /// Takes these tables out of the publication until the answer is dropped; then the upkeep puts back what may be. The caller holds them: what is in memory is
    /// fenced. What cannot be had (a lock that this very transaction has) is logged: Postgres then says what it says.
    pub async fn withdraw(self: &Arc<Self>, tables: BTreeSet<TableOid>) -> Withdrawn {
        self.state.lock().take_out(&tables);
        let publisher = self.clone();
        let withdrawn = Withdrawn { publisher, tables };
        let _one_at_a_time = self.changing.lock().await;
        let published = self.unpublished(&withdrawn.tables);
        if !published.is_empty()
            && let Err(error) = self.take_out(&published).await
        {
            tracing::warn!(%error, "cannot take tables out of the publication before they change");
        }
        withdrawn
    }

    /// Those of the tables that may be published count as followed no more.
    fn unpublished(&self, tables: &BTreeSet<TableOid>) -> Vec<TableOid> {
        let mut state = self.state.lock();
        let concerned = |table: &&TableOid| state.is_published(table);
        let published: Vec<TableOid> = tables.iter().filter(concerned).copied().collect();
        if let Some(known) = &mut state.published {
            known.retain(|table| !tables.contains(table));
        }
        self.grid.feed.unfollow(|table| tables.contains(table));
        published
    }

    async fn take_out(&self, tables: &[TableOid]) -> Result<(), PublisherError> {
        let mut client = self.store.client().await?;
        Ok(publication::withdraw(&mut client, PUBLICATION, tables).await?)
    }
}

/// Keeps tables out of the publication while it lives.
pub struct Withdrawn {
    publisher: Arc<Publisher>,
    tables: BTreeSet<TableOid>,
}

impl Drop for Withdrawn {
    fn drop(&mut self) {
        self.publisher.state.lock().give_back(&self.tables);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_withdrawn_until_the_last_transaction_has_given_it_back() {
        let (mut state, tables) = (State::default(), BTreeSet::from([TableOid(1)]));
        state.take_out(&tables);
        state.take_out(&tables);
        state.give_back(&tables);
        assert!(state.withdrawn.contains_key(&TableOid(1)));
        state.give_back(&tables);
        assert!(state.withdrawn.is_empty());
    }

    #[test]
    fn what_an_earlier_process_published_may_be_anything() {
        let mut state = State::default();
        assert!(state.is_published(&TableOid(1)));
        state.published = Some(BTreeSet::new());
        assert!(!state.is_published(&TableOid(1)));
    }
}
