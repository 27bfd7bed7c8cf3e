//! What stands beside Postgres: answers sessions from the grid, queues their writes, and keeps barriers and ownership around what passes through.
//! Does; `plan` and `eval` decide what a statement means, the grid decides what becomes of rows. Never parses or evaluates by itself.

mod dead;
mod errors;
mod forwarded;
mod holds;
mod home;
pub mod keeper;
pub mod outliving;
mod plans;
pub mod publisher;
mod rewiring;
mod status;

use crate::config::Config;
use crate::eval::{CommandTag, EvalError, Formats, Now, Params};
use crate::limits::CATALOG_WAIT;
use crate::metrics::{ClientStatus, Status};
use crate::plan::{
    self, LocalCall, LocalPlan, Mode, PassPlan, Plan, ReadPlan, Reason, ScopeTemplate,
    SessionFacts, WritePlan,
};
use crate::session::answerer::{Answerer, Asker, Outcome, Planned, Refusal, Snapshot};
use bytes::BytesMut;
use forwarded::{Forwarded, Forwarding};
use keeper::Keeper;
use outliving::Word;
use plans::PlanCache;
use publisher::Publisher;
use rewiring::Rewiring;
use ripen_cachestore::catalog::{Catalog, Relation};
use ripen_cachestore::home::Server;
use ripen_grid::change::RowId;
use ripen_grid::cluster::status::MemberStatus;
use ripen_grid::desk::Answer;
use ripen_grid::grid::{Grid, GridError, Hold};
use ripen_grid::limits::{CATCH_UP_WAIT, LOAD_ATTEMPTS_MAX};
use ripen_grid::log::RequestId;
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
use std::time::{Duration, SystemTime};
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
        let rows = named(table, keys);
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

    /// The rows that a write names, and the catalog that its plan is of.
    fn writable(
        &self,
        plan: &WritePlan,
        params: &Params<'_>,
        settings: &Settings,
    ) -> Result<(Vec<RowId>, Arc<Catalog>), Refusal> {
        let table = plan.table.oid;
        let keys = plan
            .keys(params, settings)
            .map_err(|EvalError::PassThrough(why)| passed("not-computed", why))?;
        if !self.grid.feed.serves(table) {
            return Err(passed(
                "not-followed",
                "the table is not followed by the hot cache",
            ));
        }
        let catalog = self.keeper.catalog();
        if !is_of(&catalog, &plan.table) {
            return Err(passed("not-computed", "the schema has changed meanwhile"));
        }
        let rows = keys.into_iter().map(|key| RowId { table, key });
        Ok((rows.collect(), catalog))
    }

    /// Whether a write may still be decided after it has waited for rows or room: a plan knows the constraints of its catalog only.
    fn still_writable(&self, plan: &WritePlan) -> Result<(), EvalError> {
        match self.is_of_now(&plan.table) && self.keeper.is_fresh() {
            true => Ok(()),
            false => Err(EvalError::PassThrough("the schema has changed meanwhile")),
        }
    }

    /// From now on this node carries out writes of all nodes, where it leads.
    pub fn serve_writes(self: &Arc<Self>) {
        let engine = Arc::downgrade(self);
        self.grid.set_writer(Arc::new(move |id, below, words| {
            let engine = engine.upgrade();
            Box::pin(async move {
                match (engine, Forwarded::decode(&words)) {
                    (Some(engine), Ok(write)) => engine.carry_out(id, below, write).await,
                    _ => Answer::Elsewhere,
                }
            })
        }));
    }

    async fn carry_out(&self, id: RequestId, below: u64, write: Forwarded) -> Answer {
        match self.write_once(id, below, &write).await {
            Ok(answer) => answer,
            Err(refusal) => Answer::Done(forwarded::encode_refusal(&refusal)),
        }
    }

    async fn write_once(
        &self,
        id: RequestId,
        below: u64,
        write: &Forwarded,
    ) -> Result<Answer, Refusal> {
        if !self.keeper.is_fresh() {
            let fresh = self.keeper.until_fresh();
            // Until then everything passes through.
            let _ = tokio::time::timeout(CATALOG_WAIT, fresh).await;
        }
        let planned = self.plan(&write.facts, write.sql.as_bytes(), &write.declared);
        let Plan::Write(plan) = &planned.plan else {
            return Err(passed("leader", "the leader's catalog does not allow it"));
        };
        if plan.shape() != write.shape {
            return Err(passed("leader", "the leader's catalog is another one"));
        }
        let values: Vec<Option<&[u8]>> = write.values.iter().map(Option::as_deref).collect();
        let params = Params {
            formats: Formats(&write.param_formats),
            values: &values,
        };
        let formats = Formats(&write.result_formats);
        let (rows, catalog) = self.writable(plan, &params, &write.settings)?;
        let (now, mut out) = (Now::of_statement(now_us()), BytesMut::new());
        let decided = self.grid.write_once(id, below, &catalog, &rows, |images| {
            out.clear();
            self.still_writable(plan)?;
            let settings = &write.settings;
            let decision = plan.decide(&params, images, now, settings, formats, &mut out)?;
            let answer = forwarded::encode_done(decision.tag, &out);
            Ok::<_, EvalError>((decision.group, answer))
        });
        match decided.await {
            Ok(Ok(answer)) => {
                self.counters.writes.fetch_add(1, Ordering::Relaxed);
                Ok(Answer::Done(answer))
            }
            Ok(Err(EvalError::PassThrough(why))) => Err(passed("not-computed", why)),
            Err(GridError::Elsewhere | GridError::Log(_)) => Ok(Answer::Elsewhere),
            Err(error) => Err(refused(error)),
        }
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

fn named(table: TableOid, keys: &[Key]) -> Vec<RowId> {
    let row = |key: &Key| RowId {
        table,
        key: key.clone(),
    };
    keys.iter().map(row).collect()
}

fn passed(code: &'static str, text: &'static str) -> Refusal {
    Refusal::PassThrough(Reason::new(code, text))
}

fn no_lease() -> Refusal {
    passed(
        "no-lease",
        "this node does not know whether it has heard of all that others have written",
    )
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
        if !self.keeper.is_fresh() {
            let why = "another node has changed the schema";
            let plan = PassPlan::unknown(Reason::new("outdated", why));
            return Arc::new(Planned {
                plan: Plan::PassThrough(Arc::new(plan)),
                epoch: catalog.epoch,
            });
        }
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
        planned.epoch == self.keeper.epoch() && self.keeper.is_fresh()
    }

    fn is_fresh(&self) -> bool {
        self.keeper.is_fresh()
    }

    fn guards(&self) -> bool {
        self.grid.home.guarded()
    }

    fn is_home(&self, server: Option<Server>) -> bool {
        self.grid.home.is(server)
    }

    async fn until_home(
        &self,
        server: Option<Server>,
        patience: Duration,
    ) -> Result<(), ErrorFields> {
        self.wait_home(server, patience).await
    }

    fn patience(&self) -> Duration {
        self.config.barrier_timeout
    }

    async fn until_fresh(&self) {
        self.keeper.until_fresh().await;
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
            if !self.grid.is_sure() {
                if !self.grid.until_sure().await {
                    return Err(no_lease());
                }
                continue;
            }
            if self.grid.feed.behind() && !self.grid.feed.is_exclusive(plan.table.oid) {
                let caught_up =
                    tokio::time::timeout(CATCH_UP_WAIT, self.grid.feed.until_caught_up());
                if caught_up.await.is_err() {
                    self.counters.bypassed.fetch_add(1, Ordering::Relaxed);
                    return Err(passed(
                        "behind",
                        "the node has not heard yet what it missed",
                    ));
                }
                continue;
            }
            match self.try_read(plan, &keys, params, formats, asker.settings, out)? {
                Ok(rows) => {
                    if self.grid.has_peers() {
                        let read = named(plan.table.oid, &keys);
                        let settled = self.grid.settle_read(&read).await;
                        settled.map_err(|_| no_lease())?;
                    }
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
        if self.grid.has_peers() {
            let forwarding = Forwarding {
                facts: asker.facts,
                settings: asker.settings,
                sql: &plan.source.sql,
                declared: &plan.source.declared,
                shape: plan.shape(),
                params,
                formats,
            };
            let asked = self.grid.ask_write(forwarding.encode()).await;
            let answer = asked.map_err(|error| match error {
                GridError::NoLeader => Refusal::Error(errors::unknown_outcome()),
                error => refused(error),
            })?;
            return forwarded::decode_answer(&answer, out);
        }
        let (rows, catalog) = self.writable(plan, params, asker.settings)?;
        let (now, start) = (Now::of_statement(now_us()), out.len());
        let decided = self.grid.write(&catalog, &rows, |images| {
            out.truncate(start);
            self.still_writable(plan)?;
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
