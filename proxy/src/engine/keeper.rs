//! Keeps the catalog fresh: reads it at start, after DDL that passes through (before its end is acknowledged), and when a poll finds it changed.
//! Does; what changed rows and plans mean is decided elsewhere (rows of changed tables are dropped, plans of old epochs are made anew).

use super::errors;
use crate::config::{Config, TableSettings};
use crate::limits::{CATALOG_RETRY, REPLAY_POLL};
use crate::plan::Mode;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use ripen_cachestore::catalog::{Catalog, Epoch, Relation};
use ripen_cachestore::{Store, StoreError};
use ripen_grid::grid::{Grid, Holder};
use ripen_grid::scope::Scope;
use ripen_pg::ids::TableOid;
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Called with the old and the new catalog before the new one is used, and again when the old one is not any more.
pub type OnChange = Box<dyn Fn(&Catalog, &Catalog) + Send + Sync>;

/// Holds the newest catalog. Shared by all sessions.
pub struct Keeper {
    store: Store,
    config: Arc<Config>,
    current: Arc<ArcSwap<Catalog>>,
    /// The catalog that rows in memory were loaded by: the current one, or the last before none could be read.
    last: Mutex<Arc<Catalog>>,
    epoch: AtomicU64,
    fingerprint: Mutex<String>,
    loading: tokio::sync::Mutex<()>,
    turns: Turns,
    on_change: OnChange,
    changed: watch::Sender<Epoch>,
    loads: AtomicU64,
    soon: Notify,
    grid: Arc<Grid>,
    /// Counts the changes that other nodes have told of.
    told: watch::Receiver<u64>,
    /// How many of them the catalog contains.
    contains: watch::Sender<u64>,
}

impl Keeper {
    /// A keeper with an empty catalog of epoch 0, under which everything passes through.
    pub fn new(
        store: Store,
        config: Arc<Config>,
        current: Arc<ArcSwap<Catalog>>,
        on_change: OnChange,
        grid: Arc<Grid>,
    ) -> Keeper {
        Keeper {
            store,
            config,
            current,
            last: Mutex::default(),
            epoch: AtomicU64::new(0),
            fingerprint: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            turns: Turns::default(),
            on_change,
            changed: watch::Sender::new(Epoch(0)),
            loads: AtomicU64::new(0),
            soon: Notify::new(),
            told: grid.catalog_changes.clone(),
            grid,
            contains: watch::Sender::new(0),
        }
    }

    /// The newest catalog.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.current.load_full()
    }

    /// Whether the catalog contains all changes that other nodes have told of. Until it does, nothing must be planned by it.
    pub fn is_fresh(&self) -> bool {
        *self.contains.borrow() >= *self.told.borrow()
    }

    /// Waits until it does. Cancel safe.
    pub async fn until_fresh(&self) {
        let told = *self.told.borrow();
        // The sender is ours.
        let _ = self
            .contains
            .subscribe()
            .wait_for(|contains| *contains >= told)
            .await;
    }

    /// The newest catalog's epoch.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Uses the catalog of an earlier process until one can be read: this process has not reached Postgres yet.
    pub fn recall(&self, catalog: Catalog) {
        let catalog = self.configured(catalog);
        (self.on_change)(&Catalog::default(), &catalog);
        self.replace(catalog);
        *self.last.lock() = self.catalog();
    }

    /// The system of record.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Something hints at a schema change: poll now.
    pub fn look_soon(&self) {
        self.soon.notify_one();
    }

    /// How often the catalog was read.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    /// Tells of new catalogs.
    pub fn watch(&self) -> watch::Receiver<Epoch> {
        self.changed.subscribe()
    }

    /// Reads the catalog anew. When this returns well, every plan made from now on knows what was committed before the call. Calls that wait meanwhile share the
    /// next reading. Cancel safe.
    pub async fn load(&self) -> Result<(), StoreError> {
        let turn = self.turns.ask();
        let _one_at_a_time = self.loading.lock().await;
        if self.turns.is_served(turn) {
            return Ok(());
        }
        let served = self.turns.begin();
        let told = *self.told.borrow();
        let next = Epoch(self.epoch().0 + 1);
        let catalog = self.configured(self.store.load_catalog(next).await?);
        self.loads.fetch_add(1, Ordering::Relaxed);
        let (old, catalog) = (self.last.lock().clone(), Arc::new(catalog));
        (self.on_change)(&old, &catalog);
        self.current.store(catalog.clone());
        // Loads that began in between have read rows as the old catalog has them.
        (self.on_change)(&old, &catalog);
        *self.last.lock() = catalog.clone();
        self.epoch.store(next.0, Ordering::SeqCst);
        self.changed.send_replace(next);
        // Whoever finds it equal may rely on the catalog being in use.
        *self.fingerprint.lock() = catalog.fingerprint.clone();
        self.turns.end(served);
        self.contains
            .send_modify(|contains| *contains = told.max(*contains));
        Ok(())
    }

    /// Reads the catalog after DDL. If that fails, nothing is planned any more until a poll succeeds: an old catalog must not be used.
    pub async fn reload(&self) {
        self.distrust_after(self.load().await);
    }

    /// The same after what may have been a schema change.
    pub async fn reload_if_changed(&self) {
        self.distrust_after(self.poll().await);
    }

    fn distrust_after(&self, read: Result<(), StoreError>) {
        if let Err(error) = read {
            tracing::error!(%error, "cannot read the catalog after a schema change; everything passes through until it can be read");
            self.distrust();
        }
    }

    fn distrust(&self) {
        self.fingerprint.lock().clear();
        self.replace(Catalog::default());
    }

    /// With what the configuration says of tables.
    fn configured(&self, mut catalog: Catalog) -> Catalog {
        let relations = catalog.relations.values();
        let resident = relations.filter(|relation| settings(&self.config, relation).resident);
        catalog.residents = resident
            .filter(|relation| cacheable(&self.config, relation))
            .map(|relation| relation.oid)
            .collect();
        catalog
    }

    /// Without a reading.
    fn replace(&self, catalog: Catalog) {
        let epoch = Epoch(self.epoch().0 + 1);
        self.current.store(Arc::new(Catalog { epoch, ..catalog }));
        self.epoch.store(epoch.0, Ordering::SeqCst);
        self.changed.send_replace(epoch);
    }

    /// Polls for changes made behind Ripen's back, until stopped. Errors are logged once per change of state: Postgres may be away.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut failing = false;
        let mut told = self.told.clone();
        loop {
            let overdue = !self.is_fresh();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.soon.notified() => {}
                Ok(()) = told.changed() => {}
                () = tokio::time::sleep(CATALOG_RETRY), if overdue => {}
                () = tokio::time::sleep(self.config.catalog_poll) => {}
            }
            let read = match self.is_fresh() {
                true => self.poll().await,
                false => self.load().await,
            };
            match read {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    tracing::warn!(%error, "cannot ask Postgres for schema changes");
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }

    async fn poll(&self) -> Result<(), StoreError> {
        if !self.is_outdated().await? {
            return Ok(());
        }
        // All nodes have the same catalog, or none: what one has decided by it the others read by theirs.
        if let Err(error) = self.grid.tell_catalog_changed().await {
            tracing::debug!(%error, "the other nodes have not heard of a change of the schema yet");
        }
        self.load().await
    }

    /// Whether the catalog in Postgres is another one by now.
    pub async fn is_outdated(&self) -> Result<bool, StoreError> {
        let fingerprint = self.store.catalog_fingerprint().await?;
        Ok(*self.fingerprint.lock() != fingerprint)
    }

    /// Writes a dead letter's changes to Postgres again: whole rows of inserts, and all that updates assigned or added. Refused, with the letter still open, when
    /// Postgres refuses again, when a row to be inserted is there, or when one to be updated is not. Cancel safe: once begun it goes on.
    pub async fn replay_dead_letter(
        self: &Arc<Self>,
        grid: &Arc<Grid>,
        id: i64,
    ) -> Result<(), ErrorFields> {
        let (keeper, grid) = (self.clone(), grid.clone());
        let replay = tokio::spawn(async move { keeper.replay(&grid, id).await });
        replay.await.unwrap_or_else(|_| Err(interrupted(id)))
    }

    /// As a passed-through transaction that may touch anything: what its changes fire is not looked at.
    async fn replay(&self, grid: &Arc<Grid>, id: i64) -> Result<(), ErrorFields> {
        let hold = grid.hold(Scope::Everything, Holder::default()).await;
        let hold = hold.map_err(|error| errors::of_grid(&error))?;
        let replayed = match self.store.replay(&self.catalog(), id).await {
            Err(StoreError::UnknownOutcome(error)) => {
                tracing::warn!(id, %error, "the outcome of a dead letter's replay is unknown; asking Postgres");
                self.was_replayed(id).await
            }
            known => known,
        };
        grid.release(hold, true);
        match replayed {
            Ok(true) => Ok(()),
            Ok(false) => Err(no_letter(id)),
            Err(error) if matches!(error.sqlstate(), "02000" | "23505" | "42804") => {
                Err(outdated(id))
            }
            Err(error) => Err(errors::of_store(&error)),
        }
    }

    /// Asks until Postgres answers: before, nobody may go on with the rows.
    async fn was_replayed(&self, id: i64) -> Result<bool, StoreError> {
        loop {
            match self.store.is_open(id).await {
                Ok(true) => {
                    return Err(StoreError::Unexpected("the replay was rolled back".into()));
                }
                Ok(false) => return Ok(true),
                Err(error) => tracing::debug!(id, %error, "Postgres cannot tell yet"),
            }
            tokio::time::sleep(REPLAY_POLL).await;
        }
    }

    /// Gives a dead letter up.
    pub async fn discard_dead_letter(&self, id: i64) -> Result<(), ErrorFields> {
        match self
            .store
            .discard(id)
            .await
            .map_err(|error| errors::of_store(&error))?
        {
            true => Ok(()),
            false => Err(no_letter(id)),
        }
    }
}

fn outdated(id: i64) -> ErrorFields {
    ErrorFields::error(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("dead letter {id} does not fit its rows any more"),
    )
    .hint("A row that it inserts exists, or one that it updates does not, or a column has another type than it had. Make the change by hand, then discard the letter.")
}

fn interrupted(id: i64) -> ErrorFields {
    ErrorFields::error(
        SqlState::INTERNAL_ERROR,
        format!("the replay of dead letter {id} was interrupted"),
    )
}

fn no_letter(id: i64) -> ErrorFields {
    ErrorFields::error(
        SqlState::UNDEFINED_OBJECT,
        format!("there is no open dead letter {id}"),
    )
    .hint("SHOW ripen.dead_letters lists the open ones.")
}

/// Who asked for a reading of the catalog, and whom the readings so far have served: a reading serves everybody who asked before it began.
#[derive(Default)]
struct Turns {
    asked: AtomicU64,
    served: AtomicU64,
}

impl Turns {
    /// Asks for a reading; the answer is the place in the line.
    fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether a reading that began after that call of `ask` has ended well.
    fn is_served(&self, turn: u64) -> bool {
        self.served.load(Ordering::SeqCst) >= turn
    }

    /// A reading begins. It serves up to this place, if it ends well.
    fn begin(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// It has ended well.
    fn end(&self, served: u64) {
        self.served.fetch_max(served, Ordering::SeqCst);
    }
}

/// How a relation is configured.
pub fn settings(config: &Config, relation: &Relation) -> TableSettings {
    config.table(&relation.schema, &relation.name)
}

/// How a relation is cached, by the configuration. Ripen's own tables never are.
pub fn mode(config: &Config, relation: &Relation) -> Mode {
    use crate::config::Mode as Configured;
    if relation.schema == "ripen" {
        return Mode::Off;
    }
    let settings = settings(config, relation);
    match settings.mode {
        Configured::Off => Mode::Off,
        // No delay means write-through.
        Configured::WriteBehind if !settings.write_delay.is_zero() => Mode::WriteBehind,
        Configured::WriteBehind | Configured::ReadThrough => Mode::ReadThrough,
    }
}

/// Whether rows of the relation may be in memory at all.
pub fn cacheable(config: &Config, relation: &Relation) -> bool {
    relation.read_obstacles.is_empty() && mode(config, relation) != Mode::Off
}

/// Whether inserts into the relation are queued although its rows have no key: nothing of it is cached, but some of it may be pending.
pub fn appends(config: &Config, relation: &Relation) -> bool {
    relation.appends() && mode(config, relation) == Mode::WriteBehind
}

/// Tables whose rows in memory mean something else now, or nothing.
pub fn changed_tables(old: &Catalog, new: &Catalog) -> HashSet<TableOid> {
    let same = |old: &Relation, new: &Relation| {
        old.shape() == new.shape()
            && old.primary_key == new.primary_key
            && old.width == new.width
            && old.storage == new.storage
    };
    let changed = old.relations.iter().filter(|(oid, relation)| {
        !new.relations
            .get(oid)
            .is_some_and(|new| same(relation, new))
    });
    changed.map(|(oid, _)| *oid).collect()
}

/// A table by the name that a user wrote: `name` (in `public`) or `schema.name`.
pub fn resolve(catalog: &Catalog, name: &str) -> Result<TableOid, ErrorFields> {
    let (schema, table) = name.split_once('.').unwrap_or(("public", name));
    let namespace = catalog.namespaces.get(schema);
    let found =
        namespace.and_then(|namespace| catalog.names.get(&(namespace.oid, table.to_owned())));
    found.copied().ok_or_else(|| {
        ErrorFields::error(
            SqlState::UNDEFINED_TABLE,
            format!("relation \"{name}\" does not exist"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::Turns;

    #[test]
    fn a_reading_serves_those_who_asked_before_it_began() {
        let turns = Turns::default();
        let (first, second) = (turns.ask(), turns.ask());
        let served = turns.begin();
        let late = turns.ask();
        assert!(!turns.is_served(first));
        turns.end(served);
        assert!(turns.is_served(first) && turns.is_served(second));
        assert!(!turns.is_served(late));
    }

    #[test]
    fn a_reading_that_failed_serves_nobody() {
        let turns = Turns::default();
        let turn = turns.ask();
        turns.begin();
        assert!(!turns.is_served(turn));
        turns.end(turns.begin());
        assert!(turns.is_served(turn));
    }
}
