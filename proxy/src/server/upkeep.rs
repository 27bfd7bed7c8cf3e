//! Everything about the system of record that must be right before rows may be served: its version and rights, the schema `ripen`, the catalog, the publication.
//! Tries until it is, and again whenever the catalog or the stream changed. Does; never serves a client.

use crate::config::{Config, Conflict};
use crate::engine::Engine;
use crate::engine::keeper::{self, Keeper};
use crate::engine::publisher::{Publisher, PublisherError};
use crate::server::memo::Memo;
use ripen_cachestore::catalog::{Catalog, Relation};
use ripen_cachestore::server::ServerFacts;
use ripen_cachestore::{Class, Store, StoreError};
use ripen_grid::feed::Served;
use ripen_grid::grid::Grid;
use ripen_grid::rows::TableBounds;
use ripen_hotcache::{publication, slots};
use ripen_pg::ids::{TableOid, Xid};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// What went wrong in one round; the next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// Postgres refused or is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The publication could not be changed.
    #[error(transparent)]
    Publisher(#[from] PublisherError),
    /// A query failed.
    #[error(transparent)]
    Query(#[from] tokio_postgres::Error),
}

/// See the module.
pub struct Upkeep {
    /// The system of record.
    pub store: Store,
    /// The rows.
    pub grid: Arc<Grid>,
    /// The catalog.
    pub keeper: Arc<Keeper>,
    /// The publication.
    pub publisher: Arc<Publisher>,
    /// Who keeps what prepared transactions hold.
    pub engine: Arc<Engine>,
    /// Whether it knows of those that an earlier process has left.
    pub adopted: bool,
    /// As configured.
    pub config: Arc<Config>,
    /// Woken when the stream stands up.
    pub attention: Arc<Notify>,
    /// What `/ready` answers.
    pub readiness: Arc<Readiness>,
    /// True when the database may be worked on.
    pub claimed: watch::Receiver<bool>,
    /// Told when the schema `ripen` stands: the stream may start.
    pub migrated: Arc<Notify>,
    /// What a start without Postgres needs.
    pub memo: Memo,
    /// Tables published, or followed by a stream begun, so recently that transactions may run which the stream tells in part only.
    pub young: Young,
}

/// How far the start has come. Never goes back: whatever breaks later is dealt with while clients are served.
#[derive(Debug, Default)]
pub struct Readiness {
    reached: AtomicBool,
    served: AtomicBool,
}

impl Readiness {
    /// What is still missing.
    pub fn missing(&self) -> Option<&'static str> {
        if !self.reached.load(Ordering::SeqCst) {
            return Some("Postgres has not been reached yet, see the log");
        }
        let served = self.served.load(Ordering::SeqCst);
        (!served).then_some("the hot cache does not follow yet, so nothing is served from memory")
    }
}

/// See [`Upkeep::young`].
#[derive(Default)]
pub struct Young {
    tables: BTreeSet<TableOid>,
    horizon: Option<Xid>,
    /// How often the stream had begun anew when all tables were.
    since: u64,
}

impl Upkeep {
    /// Runs until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut wait, mut complaint) = (Duration::from_millis(100), String::new());
        loop {
            let round = tokio::select! {
                () = stop.cancelled() => return,
                round = self.prepare() => round,
            };
            match round {
                Ok(()) => break,
                Err(error) => {
                    self.strand(&error);
                    let text = error.to_string();
                    if text != complaint {
                        tracing::error!(
                            error = text,
                            "Postgres is not ready for Ripen; trying again"
                        );
                        complaint = text;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(2)),
            }
        }
        self.readiness.reached.store(true, Ordering::SeqCst);
        let patience = Instant::now() + crate::limits::READY_WAIT;
        self.migrated.notify_one();
        let mut catalogs = self.keeper.watch();
        loop {
            self.memo.save(self.keeper.catalog()).await;
            match self.serve_tables().await {
                Ok(all) => self.note_served(all, patience),
                Err(error) => {
                    tracing::warn!(%error, "cannot bring the publication up to date; new tables are not cached yet")
                }
            }
            self.sweep();
            if let Err(error) = self.tidy_slots().await {
                tracing::debug!(%error, "slots of nodes that are gone stay for now");
            }
            if let Err(error) = self.grid.load_bases(&self.keeper.catalog()).await {
                tracing::debug!(%error, "rows below pending changes are not loaded yet");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                _ = catalogs.changed() => {}
                () = self.attention.notified() => {}
                () = self.grid.until_settled(), if !self.grid.settled() => {}
                () = tokio::time::sleep(crate::limits::UPKEEP_PERIOD) => {}
            }
        }
    }

    /// Postgres is away at the start: what an earlier process has acknowledged and not written is served, as far as its catalog is remembered.
    fn strand(&self, error: &UpkeepError) {
        let away = matches!(error, UpkeepError::Store(error) if error.class() == Class::Connection);
        let feed = &self.grid.feed;
        if !away || feed.stranded() || self.keeper.catalog().is_loaded() {
            return;
        }
        if !self.keeper.catalog().remembered {
            let Some(catalog) = self.memo.catalog() else {
                return;
            };
            self.keeper.recall(catalog);
        }
        let catalog = self.keeper.catalog();
        self.grid.rows.bound_tables(&self.bounds(&catalog));
        let (exclusive, _) = self.wanted(&catalog);
        let served = Served {
            exclusive: exclusive.into_iter().collect(),
            followed: Default::default(),
            guarded: self.guarded(&catalog),
        };
        self.publisher.serve(served, feed.beginnings());
        self.grid.set_stranded(true);
        tracing::warn!(
            "Postgres is away: what is pending is served, and clients that need no password are let in"
        );
    }

    async fn prepare(&mut self) -> Result<(), UpkeepError> {
        let facts = self.store.server_facts().await?;
        if !self.adopted {
            self.engine.adopt_prepared().await?;
            self.adopted = true;
        }
        if self.grid.feed.stranded() {
            self.grid.set_stranded(false);
        }
        warn_about(&facts);
        // When the claim ends instead, so does everything.
        let _ = self.claimed.wait_for(|claimed| *claimed).await;
        self.store.migrate().await?;
        self.keeper.load().await?;
        let client = self.store.client().await?;
        let row = client
            .query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text", &[])
            .await?;
        let newest: String = row.try_get(0)?;
        self.grid.rows.note_xid(Xid(newest.parse().unwrap_or(0)));
        drop(client);
        // The slot that is made next must find the publication.
        self.publish().await?;
        Ok(())
    }

    /// Decides which tables are served: those that nobody else writes, and those that the stream carries for certain. Answers whether that is all that can be.
    async fn serve_tables(&mut self) -> Result<bool, UpkeepError> {
        let beginnings = self.grid.feed.beginnings();
        let catalog = self.keeper.catalog();
        // Before the first row of a table is in memory.
        self.grid.rows.bound_tables(&self.bounds(&catalog));
        let (exclusive, wanted) = self.wanted(&catalog);
        let before = self.grid.feed.served();
        // What is no longer wanted must go before the publication changes; what is new comes after.
        let kept = before
            .followed
            .iter()
            .copied()
            .filter(|table| wanted.contains(table));
        let mut served = Served {
            exclusive: exclusive.into_iter().collect(),
            followed: kept.collect(),
            guarded: self.guarded(&catalog),
        };
        self.publisher.serve(served.clone(), beginnings);
        let published = self.publish().await?;
        if !self.grid.feed.live() {
            return Ok(false);
        }
        self.rejuvenate(&published, beginnings).await?;
        self.grow_up().await?;
        served.followed = published
            .into_iter()
            .filter(|table| !self.young.tables.contains(table))
            .collect();
        self.publisher.serve(served, beginnings);
        Ok(self.young.tables.is_empty() && self.grid.feed.beginnings() == beginnings)
    }

    /// Where this node leads: slots that nodes of earlier versions had keep WAL until Postgres's disk is full.
    async fn tidy_slots(&self) -> Result<(), UpkeepError> {
        let leading = self.grid.member();
        if !leading.is_some_and(|member| member.leadership().borrow().here) {
            return Ok(());
        }
        let client = self.store.client().await?;
        let given = self.config.slot.as_deref();
        let keep = BTreeSet::from([slots::name(&client, given).await?]);
        let left = slots::drop_others(&client, given.unwrap_or(slots::OWN_NAME), &keep).await?;
        for slot in left.dropped {
            tracing::info!(slot, "a replication slot of a single node was dropped");
        }
        Ok(())
    }

    fn note_served(&self, all: bool, patience: Instant) {
        let ready = (all || self.grid.feed.given_up()) && self.grid.settled();
        if !ready && !self.readiness.served.load(Ordering::SeqCst) && Instant::now() >= patience {
            tracing::warn!(
                "a long transaction or a lock in Postgres keeps the hot cache from starting; serving without it until then"
            );
        }
        if ready || Instant::now() >= patience {
            self.readiness.served.store(true, Ordering::SeqCst);
        }
    }

    /// Tables where changes made by others win over pending ones.
    fn guarded<S: Default + std::hash::BuildHasher>(
        &self,
        catalog: &Catalog,
    ) -> HashSet<TableOid, S> {
        let relations = catalog.relations.values();
        let database = |relation: &&Arc<Relation>| {
            keeper::settings(&self.config, relation).conflict == Conflict::Database
        };
        relations
            .filter(database)
            .map(|relation| relation.oid)
            .collect()
    }

    /// Brings the publication up to date. Answers the tables in it. Those that have just come there are young, whoever put them there.
    async fn publish(&mut self) -> Result<BTreeSet<TableOid>, UpkeepError> {
        let catalog = self.keeper.catalog();
        let (_, wanted) = self.wanted(&catalog);
        let known: BTreeSet<TableOid> = catalog.relations.keys().copied().collect();
        let published = self.publisher.publish(&wanted, &(&known - &wanted)).await?;
        for (table, why) in &published.refused {
            tracing::debug!(table = table.0, why, "a table is not followed");
        }
        self.young.tables.extend(published.fresh);
        self.young.horizon = self.young.horizon.max(published.horizon);
        Ok(published.tables)
    }

    /// All tables are young when the stream has begun anew: nobody remembers which transactions ran when an earlier process published them, and one that was
    /// in the WAL before a new slot may become visible after it.
    async fn rejuvenate(
        &mut self,
        published: &BTreeSet<TableOid>,
        beginnings: u64,
    ) -> Result<(), UpkeepError> {
        if self.young.since == beginnings {
            return Ok(());
        }
        let client = self.store.client().await?;
        self.young = Young {
            tables: published.clone(),
            horizon: Some(publication::horizon(&client).await?),
            since: beginnings,
        };
        Ok(())
    }

    /// Tables stop being young when every transaction has ended that ran when they were published.
    async fn grow_up(&mut self) -> Result<(), UpkeepError> {
        let Some(horizon) = self.young.horizon else {
            return Ok(());
        };
        let client = self.store.client().await?;
        let wait = publication::wait_until_followed(&client, horizon);
        if let Ok(ended) = tokio::time::timeout(crate::limits::YOUNG_WAIT, wait).await {
            ended?;
            self.young.tables.clear();
            self.young.horizon = None;
        }
        Ok(())
    }

    /// What cacheable tables are allowed, where it is less than everything.
    fn bounds(&self, catalog: &Catalog) -> BTreeMap<TableOid, TableBounds> {
        let relations = catalog.relations.values();
        let cacheable = relations.filter(|relation| keeper::cacheable(&self.config, relation));
        let bounds = cacheable.map(|relation| {
            let settings = keeper::settings(&self.config, relation);
            let bounds = TableBounds {
                memory_share: settings.memory_share,
                expiry: settings.expiry,
                resident_rows_max: settings.resident.then_some(self.config.resident_rows_max),
            };
            (relation.oid, bounds)
        });
        bounds
            .filter(|(_, bounds)| *bounds != TableBounds::default())
            .collect()
    }

    /// Gives back memory that rows need no longer.
    fn sweep(&self) {
        let feed = &self.grid.feed;
        let (rows, served) = (&self.grid.rows, feed.served());
        rows.settle_loads(|| feed.position(), |table| served.followed.contains(&table));
        rows.sweep();
    }

    /// Cacheable tables: those declared exclusive, and the others.
    fn wanted(&self, catalog: &Catalog) -> (BTreeSet<TableOid>, BTreeSet<TableOid>) {
        let relations = catalog.relations.values();
        let cacheable = relations.filter(|relation| keeper::cacheable(&self.config, relation));
        let (exclusive, followed): (Vec<_>, Vec<_>) =
            cacheable.partition(|relation| keeper::settings(&self.config, relation).exclusive);
        let oids = |relations: Vec<&Arc<Relation>>| {
            relations.into_iter().map(|relation| relation.oid).collect()
        };
        (oids(exclusive), oids(followed))
    }
}

fn warn_about(facts: &ServerFacts) {
    tracing::info!(
        version = facts.version,
        wal_level = facts.wal_level,
        "Postgres is there"
    );
    if facts.version < 140_000 {
        tracing::warn!(
            "Postgres before 14 has no binary replication stream: only exclusive tables are cached"
        );
    }
    if facts.in_recovery {
        tracing::warn!("the upstream is a standby: nothing can be flushed until it is promoted");
    }
    if facts.slot_wal_keep_bytes.is_none() {
        tracing::warn!(
            "max_slot_wal_keep_size is unlimited: if Ripen stays away, its slot keeps WAL until the disk is full; set a bound"
        );
    }
}
