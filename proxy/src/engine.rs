//! What stands beside Postgres: answers sessions from the grid, queues their writes, and keeps barriers and ownership around what passes through.
//! Does; `plan` and `eval` decide what a statement means, the grid decides what becomes of rows. Never parses or evaluates by itself.

mod dead;
mod errors;
mod holds;
pub mod keeper;
pub mod outliving;
mod plans;
pub mod publisher;
mod rewiring;
mod status;

use crate::config::Config;
use crate::eval::{CommandTag, EvalError, Formats, Now, Params};
use crate::metrics::{ClientStatus, Status};
use crate::plan::{
    self, LocalCall, LocalPlan, Mode, PassPlan, Plan, ReadPlan, Reason, ScopeTemplate,
    SessionFacts, WritePlan,
};
use crate::session::answerer::{Answerer, Asker, Outcome, Planned, Refusal, Snapshot};
use bytes::BytesMut;
use keeper::Keeper;
use outliving::Word;
use plans::PlanCache;
use publisher::Publisher;
use rewiring::Rewiring;
use ripen_cachestore::catalog::{Catalog, Relation};
use ripen_grid::change::RowId;
use ripen_grid::cluster::status::MemberStatus;
use ripen_grid::grid::{Grid, GridError, Hold};
use ripen_grid::limits::LOAD_ATTEMPTS_MAX;
use ripen_grid::rows::{Found, Read};
use ripen_grid::scope::Scope;
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::key::Key;
use ripen_pg::sqlstate::ErrorFields;
use ripen_pg::tuple::Tuple;
use ripen_pg::value::Settings;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use tokio::sync::mpsc;

pub use holds::Holds;
pub use status::{Counters, Sources};

/// The answerer of real sessions.
pub struct Engine {
    /// The rows.
    pub grid: Arc<Grid>,
    /// The catalog.
    pub keeper: Arc<Keeper>,
    /// The publication.
    pub publisher: Arc<Publisher>,
    /// As configured.
    pub config: Arc<Config>,
    /// What happened, for status and metrics.
    pub counters: Counters,
    plans: PlanCache,
    rewiring: Arc<Rewiring<Hold>>,
    sources: OnceLock<Sources>,
    outliving: mpsc::UnboundedSender<Word>,
}

impl Engine {
    /// An engine over these parts.
    /// `outliving`: where transactions go that outlive their sessions, see [`outliving::end_outliving`].
    pub fn new(
        grid: Arc<Grid>,
        keeper: Arc<Keeper>,
        config: Arc<Config>,
        outliving: mpsc::UnboundedSender<Word>,
    ) -> Engine {
        let publisher = Publisher::new(keeper.store().clone(), grid.clone());
        Engine {
            grid,
            keeper,
            publisher: Arc::new(publisher),
            config,
            counters: Counters::default(),
            plans: PlanCache::default(),
            rewiring: Arc::default(),
            sources: OnceLock::new(),
            outliving,
        }
    }

    /// Set once at start.
    pub fn set_sources(&self, sources: Sources) {
        // A second set would be our own mistake, and harmless.
        let _ = self.sources.set(sources);
    }

    fn full_status(&self) -> Status {
        self.sources
            .get()
            .map_or_else(|| self.status(), |sources| (sources.status)())
    }

    fn clients(&self) -> Vec<ClientStatus> {
        self.sources
            .get()
            .map_or_else(Vec::new, |sources| (sources.clients)())
    }

    /// The cluster, as this node and its leader see it.
    async fn cluster(&self) -> MemberStatus {
        match self.sources.get() {
            Some(sources) => sources.node.view().await.0,
            None => MemberStatus::default(),
        }
    }

    /// How a relation is cached, by the configuration.
    pub fn mode(&self, relation: &Relation) -> Mode {
        keeper::mode(&self.config, relation)
    }

    fn try_read(
        &self,
        plan: &ReadPlan,
        keys: &[Key],
        params: &Params<'_>,
        formats: Formats<'_>,
        settings: &Settings,
        out: &mut BytesMut,
    ) -> Result<Result<u64, Vec<RowId>>, Refusal> {
        let table = plan.table.oid;
        let start = out.len();
        let rows: Vec<RowId> = keys
            .iter()
            .map(|key| RowId {
                table,
                key: key.clone(),
            })
            .collect();
        let fenced = || rows.iter().any(|row| self.grid.fences.has(row));
        let followed = || self.grid.feed.followed(table);
        let read = self.grid.rows.read(&rows, fenced, followed, |found| {
            let unknown: Vec<RowId> = rows
                .iter()
                .zip(found)
                .filter(|(_, found)| matches!(found, Found::Unknown))
                .map(|(row, _)| row.clone())
                .collect();
            if !unknown.is_empty() {
                return Ok(Err(unknown));
            }
            let tuples: Vec<Option<&Tuple>> = found.iter().map(Found::tuple).collect();
            plan.render(&tuples, params, formats, settings, out).map(Ok)
        });
        match read {
            Read::Fenced => Err(passed(
                "fenced",
                "the rows are owned by a passed-through transaction",
            )),
            Read::Apart => Err(passed(
                "apart",
                "some of the rows were just loaded and the hot cache has not come as far with the others",
            )),
            Read::Done(Ok(answer)) => Ok(answer),
            Read::Done(Err(EvalError::PassThrough(why))) => {
                out.truncate(start);
                Err(passed("not-computed", why))
            }
        }
    }

    fn scope(
        &self,
        template: &ScopeTemplate,
        params: Option<&Params<'_>>,
        settings: &Settings,
    ) -> Scope {
        match template {
            // Nobody knows what the names mean by now.
            _ if self.keeper.catalog().remembered => Scope::Everything,
            ScopeTemplate::Nothing => Scope::Nothing,
            ScopeTemplate::Everything => Scope::Everything,
            ScopeTemplate::Tables(tables) => self.cached_only(tables.iter().copied()),
            // What is pending stands under keys of before.
            ScopeTemplate::Keys(table, _) if self.grid.aside.has_table(*table) => {
                self.cached_only([*table].into_iter())
            }
            ScopeTemplate::Keys(table, keys) => {
                match params.map(|params| keys.keys(params, settings)) {
                    Some(Ok(keys)) if self.cached(*table) => Scope::rows(
                        keys.into_iter()
                            .map(|key| RowId { table: *table, key })
                            .collect(),
                    ),
                    _ => self.cached_only([*table].into_iter()),
                }
            }
        }
    }

    /// Tables of which nothing is in memory need no care.
    fn cached_only(&self, tables: impl Iterator<Item = TableOid>) -> Scope {
        let tables: BTreeSet<_> = tables.filter(|table| self.cached(*table)).collect();
        if tables.is_empty() {
            Scope::Nothing
        } else {
            Scope::Tables(tables)
        }
    }

    fn cached(&self, table: TableOid) -> bool {
        let catalog = self.keeper.catalog();
        catalog.relations.get(&table).is_none_or(|relation| {
            relation.read_obstacles.is_empty() && self.mode(relation) != Mode::Off
        })
    }

    /// Whether the newest catalog is the one that a plan has the relation from.
    fn is_of_now(&self, relation: &Arc<Relation>) -> bool {
        is_of(&self.keeper.catalog(), relation)
    }

    async fn barrier(&self, scope: &Scope) -> Result<(), ErrorFields> {
        let barrier = self.grid.barrier(scope).await;
        barrier.map_err(|error| errors::of_grid(&error))
    }

    async fn call(&self, call: &LocalCall) -> Result<&'static str, ErrorFields> {
        match call {
            LocalCall::Flush { table } => {
                let scope = match table {
                    None => Scope::Everything,
                    Some(name) => keeper::resolve(&self.keeper.catalog(), name)
                        .map(|table| Scope::Tables([table].into()))?,
                };
                self.barrier(&scope).await?;
            }
            LocalCall::Replay(id) => self.keeper.replay_dead_letter(&self.grid, *id).await?,
            LocalCall::Discard(id) => self.keeper.discard_dead_letter(*id).await?,
            LocalCall::Route(_) => {}
        }
        Ok("CALL")
    }
}

fn passed(code: &'static str, text: &'static str) -> Refusal {
    Refusal::PassThrough(Reason::new(code, text))
}

fn is_of(catalog: &Catalog, relation: &Arc<Relation>) -> bool {
    let known = catalog.relations.get(&relation.oid);
    known.is_some_and(|known| Arc::ptr_eq(known, relation))
}

fn refused(error: GridError) -> Refusal {
    match error {
        GridError::Owned => passed(
            "owned",
            "the rows are owned by a passed-through transaction",
        ),
        GridError::TooLarge => passed("too-large", "the rows are too large for the log"),
        GridError::NotLoadable(_) => passed("not-loaded", "the rows could not be loaded"),
        other => Refusal::Error(errors::of_grid(&other)),
    }
}

/// Microseconds since 2000-01-01, Postgres's epoch.
fn now_us() -> i64 {
    const POSTGRES_EPOCH_UNIX_S: i64 = 946_684_800;
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_micros() as i64 - POSTGRES_EPOCH_UNIX_S * 1_000_000
}

impl Answerer for Engine {
    type Holds = Holds;

    fn plans(&self) -> bool {
        true
    }

    fn plan(&self, facts: &SessionFacts, sql: &[u8], declared: &[TypeOid]) -> Arc<Planned> {
        let catalog = self.keeper.catalog();
        let Ok(sql) = std::str::from_utf8(sql) else {
            let plan = PassPlan::unknown(Reason::new("not-utf8", "the text is not UTF-8"));
            return Arc::new(Planned {
                plan: Plan::PassThrough(Arc::new(plan)),
                epoch: catalog.epoch,
            });
        };
        self.plans
            .get_or_make(sql, declared, facts, catalog.epoch, || {
                let mode = |relation: &Relation| self.mode(relation);
                match plan::plan(sql, declared, &catalog, &mode, facts) {
                    Plan::PassThrough(_) if catalog.remembered => {
                        let what = "the catalog has not been read yet";
                        let unknown = PassPlan::unknown(Reason::new("remembered", what));
                        Plan::PassThrough(Arc::new(unknown))
                    }
                    plan => plan,
                }
            })
    }

    fn epoch(&self) -> ripen_cachestore::catalog::Epoch {
        self.keeper.epoch()
    }

    fn is_current(&self, planned: &Planned) -> bool {
        planned.epoch == self.keeper.epoch()
    }

    async fn read(
        &self,
        asker: Asker<'_>,
        plan: &ReadPlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<u64, Refusal> {
        let keys = plan
            .keys(params, asker.settings)
            .map_err(|EvalError::PassThrough(why)| passed("not-computed", why))?;
        for _ in 0..LOAD_ATTEMPTS_MAX {
            if !self.grid.feed.serves(plan.table.oid) {
                self.counters.bypassed.fetch_add(1, Ordering::Relaxed);
                return Err(passed(
                    "not-followed",
                    "the table is not followed by the hot cache",
                ));
            }
            match self.try_read(plan, &keys, params, formats, asker.settings, out)? {
                Ok(rows) => {
                    self.counters.reads.fetch_add(1, Ordering::Relaxed);
                    return Ok(rows);
                }
                Err(unknown) => {
                    self.counters.misses.fetch_add(1, Ordering::Relaxed);
                    self.grid.load(&unknown).await.map_err(refused)?;
                    if !self.is_of_now(&plan.table) {
                        return Err(passed("not-computed", "the schema has changed meanwhile"));
                    }
                }
            }
        }
        Err(passed(
            "contended",
            "the rows change faster than they can be loaded",
        ))
    }

    async fn write(
        &self,
        asker: Asker<'_>,
        plan: &WritePlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<CommandTag, Refusal> {
        let table = plan.table.oid;
        let keys = plan
            .keys(params, asker.settings)
            .map_err(|EvalError::PassThrough(why)| passed("not-computed", why))?;
        let rows: Vec<RowId> = keys.into_iter().map(|key| RowId { table, key }).collect();
        if !self.grid.feed.serves(table) {
            return Err(passed(
                "not-followed",
                "the table is not followed by the hot cache",
            ));
        }
        let now = now_us();
        let now = Now {
            statement_us: now,
            transaction_us: now,
        };
        let catalog = self.keeper.catalog();
        if !is_of(&catalog, &plan.table) {
            return Err(passed("not-computed", "the schema has changed meanwhile"));
        }
        let start = out.len();
        let decided = self.grid.write(&catalog, &rows, |images| {
            out.truncate(start);
            if !self.is_of_now(&plan.table) {
                // While it waited for rows or room. A plan knows the constraints of its catalog only.
                return Err(EvalError::PassThrough("the schema has changed meanwhile"));
            }
            let decision = plan.decide(params, images, now, asker.settings, formats, out)?;
            Ok::<_, EvalError>((decision.group, decision.tag))
        });
        match decided.await {
            Ok(Ok(tag)) => {
                self.counters.writes.fetch_add(1, Ordering::Relaxed);
                Ok(tag)
            }
            Ok(Err(EvalError::PassThrough(why))) => Err(passed("not-computed", why)),
            Err(error) => Err(refused(error)),
        }
    }

    async fn catch_up(&self) -> Result<(), ErrorFields> {
        self.barrier(&Scope::Everything).await
    }

    async fn enter(
        &self,
        asker: Asker<'_>,
        plan: &PassPlan,
        params: Option<&Params<'_>>,
        snapshot: Snapshot,
        holds: &mut Holds,
    ) -> Result<(), ErrorFields> {
        self.take_holds(asker, plan, params, snapshot, holds).await
    }

    fn may_lag(&self, plan: &PassPlan) -> bool {
        let queues = |table: &TableOid| {
            let catalog = self.keeper.catalog();
            let relation = catalog.relations.get(table);
            relation.is_none_or(|relation| self.mode(relation) == Mode::WriteBehind)
        };
        let owned = |table: &TableOid| match &plan.writes {
            ScopeTemplate::Tables(tables) => tables.contains(table),
            _ => false,
        };
        match (&plan.reads, &plan.writes) {
            (ScopeTemplate::Nothing, _) | (_, ScopeTemplate::Everything) => false,
            (ScopeTemplate::Everything, _) => true,
            // Both name the same keys.
            (ScopeTemplate::Keys(..), ScopeTemplate::Keys(..)) => false,
            (ScopeTemplate::Keys(table, _), _) => queues(table) && !owned(table),
            (ScopeTemplate::Tables(tables), _) => {
                tables.iter().any(|table| queues(table) && !owned(table))
            }
        }
    }

    async fn leave(&self, holds: Holds, outcome: Outcome) {
        self.give_back(holds, outcome).await;
    }

    async fn local(
        &self,
        asker: Asker<'_>,
        plan: &LocalPlan,
        describe: bool,
        out: &mut BytesMut,
    ) -> Result<(), ErrorFields> {
        match plan {
            LocalPlan::Show(shown) => status::show(self, asker, *shown, describe, out).await,
            LocalPlan::Call(LocalCall::Route(sql)) => {
                let planned = self.plan(asker.facts, sql.as_bytes(), &[]);
                status::route(&planned.plan, describe, out);
                Ok(())
            }
            LocalPlan::Call(call) => {
                let tag = self.call(call).await?;
                ripen_pg::wire::backend::command_complete(out, tag.as_bytes());
                Ok(())
            }
            LocalPlan::Empty
            | LocalPlan::Begin { .. }
            | LocalPlan::Commit { .. }
            | LocalPlan::Rollback { .. } => {
                unreachable!("the session answers transaction commands itself")
            }
        }
    }

    fn describe_local(&self, plan: &LocalPlan, formats: Formats<'_>, out: &mut BytesMut) {
        status::describe(self, plan, formats, out);
    }
}
