//! Who brings the publication up to date: the upkeep, after the catalog changed, and sessions, before DDL that a published table would make Postgres refuse,
//! or that would make Postgres refuse later updates (a table in a publication must keep its replica identity). `standing` decides which tables may count as followed;
//! `ripen_hotcache::publication` does the SQL. Never lets a table count as followed that this process has taken out since it was last put in, or of which it has
//! heard that another node has.

mod standing;

use parking_lot::{Mutex, MutexGuard};
use ripen_cachestore::{Store, StoreError};
use ripen_grid::feed::Served;
use ripen_grid::grid::Grid;
use ripen_hotcache::publication::{self, Author, PublicationError};
use ripen_pg::ids::{TableOid, Xid};
use standing::{Asked, Standing};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

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
    /// A query failed.
    #[error(transparent)]
    Query(#[from] tokio_postgres::Error),
}

/// The publication as this process has left it.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// In it, and wanted here.
    pub tables: BTreeSet<TableOid>,
    /// Of these, those that were not until now as far as is known here: put there just now, by another node, or by an earlier process. The stream tells in part only what
    /// was running then.
    pub fresh: BTreeSet<TableOid>,
    /// What to wait for before `fresh` may be served, if there is any.
    pub horizon: Option<Xid>,
    /// Not in it, and why.
    pub refused: BTreeMap<TableOid, &'static str>,
}

/// Says whether this node leads.
pub type Leads = Arc<dyn Fn() -> bool + Send + Sync>;

/// See the module.
pub struct Publisher {
    store: Store,
    grid: Arc<Grid>,
    /// This process, among those that change the publication.
    author: Author,
    /// Set when other nodes change the publication, too.
    leads: OnceLock<Leads>,
    /// Held while the publication changes in Postgres.
    changing: tokio::sync::Mutex<()>,
    standing: Mutex<Standing>,
}

impl Publisher {
    /// One that knows nothing of the publication yet.
    pub fn new(store: Store, grid: Arc<Grid>) -> Publisher {
        Publisher {
            store,
            grid,
            author: Author(rand::random()),
            leads: OnceLock::new(),
            changing: tokio::sync::Mutex::default(),
            standing: Mutex::default(),
        }
    }

    /// From now on the publication belongs to several nodes: only who leads takes out what it does not want, and what others have put there stays. Once, before
    /// anything is published.
    pub fn share(&self, leads: Leads) {
        let shared = self.leads.set(leads);
        assert!(shared.is_ok(), "shared once");
    }

    /// Makes the publication contain the usable ones of these tables, unless somebody has withdrawn them. Other tables go; of a shared publication only those that are
    /// known and unwanted by who leads. Cancel safe.
    pub async fn publish(
        &self,
        wanted: &BTreeSet<TableOid>,
        unwanted: &BTreeSet<TableOid>,
    ) -> Result<Published, PublisherError> {
        let _one_at_a_time = self.changing.lock().await;
        let wish = || {
            let wanted = &self.without_held(wanted);
            let leads = self.leads.get().map(|leads| leads());
            let asked = Asked {
                wanted,
                unwanted,
                leads,
            };
            self.standing().wish(&asked)
        };
        let mut client = self.store.client().await?;
        let done = publication::ensure(&mut client, PUBLICATION, self.author, &wish).await?;
        let horizon = match done.horizon {
            None => publication::horizon(&client).await?,
            Some(known) => known,
        };
        // Nothing may fail from here on: what is fresh is told once.
        let (tables, fresh) = self.standing().note(&done);
        let horizon = (!fresh.is_empty()).then_some(horizon);
        Ok(Published {
            tables,
            fresh,
            horizon,
            refused: done.refused,
        })
    }

    /// From now on these tables are served, but for those that are not in the publication any more. Rows of tables that were not followed until now are
    /// dropped first: nobody has told of their changes.
    ///
    /// `beginnings`: how often the stream had begun anew when this was decided ([`ripen_grid::feed::Feed::serve`]).
    pub fn serve(&self, mut served: Served, beginnings: u64) {
        let standing = self.standing();
        let held = self.grid.requests.lock().withdrawn();
        served
            .followed
            .retain(|table| standing.may_be_served(table) && !held.contains(table));
        let before = self.grid.feed.served();
        for table in served.followed.difference(&before.followed) {
            self.grid.rows.drop_table(*table);
        }
        self.grid.feed.serve(served, beginnings);
    }

    /// Takes these tables out of the publication until the answer is dropped; then the upkeep puts back what may be. The caller holds them: what is in memory is
    /// fenced. What cannot be had (a lock that this very transaction has) is logged: Postgres then says what it says.
    pub async fn withdraw(self: &Arc<Self>, tables: BTreeSet<TableOid>) -> Withdrawn {
        let withdrawn = self.keep_out(tables);
        let _one_at_a_time = self.changing.lock().await;
        let published = self.unpublished(&withdrawn.tables);
        if !published.is_empty()
            && let Err(error) = self.take_out(&published).await
        {
            tracing::warn!(%error, "cannot take tables out of the publication before they change");
        }
        withdrawn
    }

    /// Without the tables that a transaction of some node has had taken out and that are held for it on all nodes.
    fn without_held(&self, tables: &BTreeSet<TableOid>) -> BTreeSet<TableOid> {
        let held = self.grid.requests.lock().withdrawn();
        tables.difference(&held).copied().collect()
    }

    /// The stream has passed the place where these tables left the publication: from there on it tells nothing of them, so they are not followed until the upkeep has seen
    /// them there again. Answers whether it has something to do; our own changes are known.
    pub fn left(&self, author: Author, tables: &[TableOid]) -> bool {
        if author == self.author {
            return false;
        }
        let tables: BTreeSet<TableOid> = tables.iter().copied().collect();
        let mut standing = self.standing();
        standing.lose(&tables);
        self.grid.feed.unfollow(|table| tables.contains(table));
        true
    }

    /// What is known, with what the log has told of other nodes: they may have taken tables out and put them back since anybody looked.
    fn standing(&self) -> MutexGuard<'_, Standing> {
        let mut standing = self.standing.lock();
        standing.lose(&self.grid.feed.take_withdrawn());
        standing
    }

    fn keep_out(self: &Arc<Self>, tables: BTreeSet<TableOid>) -> Withdrawn {
        self.standing.lock().withdraw(&tables);
        Withdrawn {
            publisher: self.clone(),
            tables,
        }
    }

    /// Those of the tables that may be published count as followed no more.
    fn unpublished(&self, tables: &BTreeSet<TableOid>) -> Vec<TableOid> {
        let mut standing = self.standing.lock();
        // Other nodes may have put there what this one does not want.
        let shared = self.leads.get().is_some();
        let concerned = |table: &&TableOid| shared || standing.is_published(table);
        let published: Vec<TableOid> = tables.iter().filter(concerned).copied().collect();
        standing.forget(tables);
        self.grid.feed.unfollow(|table| tables.contains(table));
        published
    }

    async fn take_out(&self, tables: &[TableOid]) -> Result<(), PublisherError> {
        let mut client = self.store.client().await?;
        let done = publication::withdraw(&mut client, PUBLICATION, self.author, tables).await;
        Ok(done?)
    }
}

/// Keeps tables out of the publication while it lives.
pub struct Withdrawn {
    publisher: Arc<Publisher>,
    tables: BTreeSet<TableOid>,
}

impl Drop for Withdrawn {
    fn drop(&mut self) {
        self.publisher.standing.lock().give_back(&self.tables);
    }
}

#[cfg(test)]
mod tests;
