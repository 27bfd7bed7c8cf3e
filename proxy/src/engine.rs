//! What stands beside Postgres: answers sessions from the grid, queues their writes, and keeps barriers and ownership around what passes through.
//! Does; `plan` and `eval` decide what a statement means, the grid decides what becomes of rows. Never parses or evaluates by itself.

mod away;
mod block;
mod dead;
mod errors;
mod foreign_keys;
mod forwarded;
mod holds;
mod home;
mod hosted;
mod joins;
pub mod keeper;
pub mod outliving;
mod plans;
pub mod publisher;
mod reads;
mod remote;
mod rewiring;
mod sequences;
mod status;
mod words;

use crate::config::Config;
use crate::eval::{CommandTag, EvalError, Formats, Now, Params};
use crate::limits::CATALOG_WAIT;
use crate::metrics::{ClientStatus, Status};
use crate::plan::{
    self, LocalCall, LocalPlan, Mode, PassPlan, Plan, ReadPlan, Reason, ScopeTemplate,
    SessionFacts, WritePlan,
};
use crate::session::answerer::{Answerer, Asker, Outcome, Planned, Refusal, Snapshot};
use away::Kept;
use block::Block;
use bytes::BytesMut;
use foreign_keys::Named;
use forwarded::{Forwarded, Forwarding};
use hosted::Hosting;
use keeper::Keeper;
use outliving::Word;
use plans::PlanCache;
use publisher::Publisher;
use remote::{Remote, Remotes};
use rewiring::Rewiring;
use ripen_cachestore::catalog::{Catalog, Relation, Sequence};
use ripen_cachestore::flush::redo::Redo;
use ripen_cachestore::home::Server;
use ripen_grid::change::RowId;
use ripen_grid::cluster::status::MemberStatus;
use ripen_grid::desk::{Answer, Asked};
use ripen_grid::grid::{Grid, GridError, Hold};
use ripen_grid::scope::Scope;
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::sqlstate::ErrorFields;
use ripen_pg::value::Settings;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

pub use holds::Holds;
pub use sequences::Sequences;
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
    /// Values of sequences that were drawn in advance.
    pub sequences: Sequences,
    rewiring: Arc<Rewiring<Hold>>,
    sources: OnceLock<Sources>,
    outliving: mpsc::UnboundedSender<Word>,
    /// Blocks of sessions here that live where the log is led.
    pub remotes: Arc<Remotes>,
    /// Blocks of all nodes' sessions that live here.
    hosting: Hosting,
}

impl Engine {
    /// An engine over these parts.
    /// `outliving`: where transactions go that outlive their sessions, see [`outliving::end_outliving`].
    pub fn new(
        grid: Arc<Grid>,
        keeper: Arc<Keeper>,
        config: Arc<Config>,
        outliving: mpsc::UnboundedSender<Word>,
        sequences: Sequences,
    ) -> Engine {
        let publisher = Publisher::new(keeper.store().clone(), grid.clone());
        Engine {
            grid,
            keeper,
            publisher: Arc::new(publisher),
            config,
            counters: Counters::default(),
            plans: PlanCache::default(),
            sequences,
            rewiring: Arc::default(),
            sources: OnceLock::new(),
            outliving,
            remotes: Arc::default(),
            hosting: Hosting::default(),
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

    /// Whether something of the table may be in memory: it may be cached, or could be when what is pending was queued.
    fn cached(&self, table: TableOid) -> bool {
        let catalog = self.keeper.catalog();
        let may_be = catalog.relations.get(&table).is_none_or(|relation| {
            keeper::cacheable(&self.config, relation) || keeper::appends(&self.config, relation)
        });
        may_be || self.grid.has_pending(&Scope::Tables([table].into()))
    }

    /// Whether writes to the table may be queued now. What is only appended rests on nothing that the stream tells.
    fn serves(&self, table: &Relation) -> bool {
        table.appends() || self.grid.feed.serves(table.oid)
    }

    /// Whether the newest catalog is the one that a plan has the relation from.
    fn is_of_now(&self, relation: &Arc<Relation>) -> bool {
        is_of(&self.keeper.catalog(), relation)
    }

    /// The rows that a write names and refers to, and the catalog that its plan is of.
    fn writable(
        &self,
        plan: &WritePlan,
        params: &Params<'_>,
        settings: &Settings,
    ) -> Result<Named, Refusal> {
        let table = plan.table.oid;
        let keys = plan
            .keys(params, settings)
            .map_err(|EvalError::PassThrough(why)| passed("not-computed", why))?;
        self.followed(&plan.table)?;
        let catalog = self.keeper.catalog();
        if !is_of(&catalog, &plan.table) {
            return Err(passed("not-computed", "the schema has changed meanwhile"));
        }
        let rows = keys.into_iter().map(|key| RowId { table, key });
        let named = Named::new(rows.collect(), catalog);
        self.with_parents(named, plan, params, settings)
    }

    /// Whether changes of the table from outside are heard of, or do not matter.
    fn followed(&self, table: &Relation) -> Result<(), Refusal> {
        match self.serves(table) {
            true => Ok(()),
            false => Err(passed(
                "not-followed",
                "the table is not followed by the hot cache",
            )),
        }
    }

    /// Whether a write may still be decided after it has waited for rows or room: a plan knows the constraints of its catalog only.
    fn still_writable(&self, plan: &WritePlan) -> Result<(), EvalError> {
        let mut tables = std::iter::once(&plan.table).chain(plan.parent_tables());
        match tables.all(|table| self.is_of_now(table)) && self.keeper.is_fresh() {
            true => Ok(()),
            false => Err(EvalError::PassThrough("the schema has changed meanwhile")),
        }
    }

    /// From now on this node carries out writes of all nodes, where it leads.
    pub fn serve_writes(self: &Arc<Self>) {
        let engine = Arc::downgrade(self);
        self.grid.set_writer(Arc::new(move |asked, words| {
            let engine = engine.upgrade();
            Box::pin(async move {
                match (engine, Forwarded::decode(&words)) {
                    (Some(engine), Ok(write)) => engine.carry_out(asked, write).await,
                    _ => Answer::Elsewhere,
                }
            })
        }));
    }

    async fn carry_out(&self, asked: Asked, write: Forwarded) -> Answer {
        match self.write_once(asked, &write).await {
            Ok(answer) => answer,
            Err(refusal) => Answer::Done(forwarded::encode_refusal(&refusal)),
        }
    }

    async fn write_once(&self, asked: Asked, write: &Forwarded) -> Result<Answer, Refusal> {
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
        let named = self.writable(plan, &params, &write.settings)?;
        let (rows, catalog) = (&named.rows, &named.catalog);
        let (now, mut out) = (Now::of_statement(now_us()), BytesMut::new());
        let decided = self.grid.write_once(asked, catalog, rows, |images| {
            out.clear();
            self.still_writable(plan)?;
            let settings = &write.settings;
            let images = named.own(self, images)?;
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
            Err(GridError::Locked) => Err(passed("locked", forwarded::LOCKED)),
            Err(error) => Err(refused(error)),
        }
    }

    /// A write whose parameters are complete.
    async fn write_drawn(
        &self,
        asker: Asker<'_>,
        plan: &WritePlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<CommandTag, Refusal> {
        if self.grid.has_peers() {
            let text = (&plan.source, plan.shape());
            let forwarding = Forwarding::new(asker, text, (params, formats));
            let asked = self.grid.ask_write(forwarding.encode()).await;
            let answer = asked.map_err(|error| match error {
                GridError::NoLeader => Refusal::Error(errors::unknown_outcome()),
                error => refused(error),
            })?;
            let start = out.len();
            return match forwarded::decode_answer(&answer, out) {
                Err(refusal) if forwarded::is_locked(&refusal) => {
                    out.truncate(start);
                    self.write_after_locks(asker, plan, (params, formats), out)
                        .await
                }
                answer => answer,
            };
        }
        let named = self.writable(plan, params, asker.settings)?;
        let (now, start) = (Now::of_statement(now_us()), out.len());
        let decided = self.grid.write(&named.catalog, &named.rows, |images| {
            out.truncate(start);
            self.still_writable(plan)?;
            let images = named.own(self, images)?;
            let decision = plan.decide(params, images, now, asker.settings, formats, out)?;
            Ok::<_, EvalError>((decision.group, decision.tag))
        });
        match decided.await {
            Ok(Ok(tag)) => {
                self.counters.writes.fetch_add(1, Ordering::Relaxed);
                Ok(tag)
            }
            Ok(Err(EvalError::PassThrough(why))) => Err(passed("not-computed", why)),
            Err(GridError::Locked) => {
                out.truncate(start);
                self.write_after_locks(asker, plan, (params, formats), out)
                    .await
            }
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

fn passed(code: &'static str, text: &'static str) -> Refusal {
    Refusal::PassThrough(Reason::new(code, text))
}

/// A block that was not begun: in a cluster nothing may be done in it here.
fn stray() -> Refusal {
    passed("transaction", "the transaction is Postgres's")
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
        GridError::Crowded => passed("crowded", "there are too many row locks"),
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
    type Block = Kept;

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
            let plan = PassPlan::unknown(Reason::new("outdated", why)).with_text(sql);
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
                        let unknown = unknown.with_text(sql);
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
        self.read_by_key(asker.settings, (plan, None), params, formats, out)
            .await
    }

    fn keeps_blocks(&self) -> bool {
        true
    }

    fn begin(&self) -> Kept {
        match self.grid.has_peers() {
            true => Kept::There(Remote::new(&self.remotes, now_us())),
            false => Kept::Here(Block::new()),
        }
    }

    fn has_done(&self, block: &Kept) -> bool {
        match block {
            Kept::Here(block) => block.has_done(),
            Kept::There(remote) => remote.has_done(),
        }
    }

    async fn read_in(
        &self,
        asker: Asker<'_>,
        block: &mut Kept,
        plan: &ReadPlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<u64, Refusal> {
        match (block, plan.lock) {
            (Kept::Here(_), _) if self.grid.has_peers() => Err(stray()),
            (Kept::Here(block), None) => {
                let read = (plan, Some(&*block));
                self.read_by_key(asker.settings, read, params, formats, out)
                    .await
            }
            (Kept::Here(block), Some(lock)) => {
                let params = (params, formats);
                self.lock_in_block(asker.into(), block, (plan, lock), params, out)
                    .await
            }
            (Kept::There(remote), _) => {
                self.read_there(asker, remote, plan, (params, formats), out)
                    .await
            }
        }
    }

    async fn write_in(
        &self,
        asker: Asker<'_>,
        block: &mut Kept,
        plan: &WritePlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<CommandTag, Refusal> {
        match block {
            Kept::Here(_) if self.grid.has_peers() => Err(stray()),
            block => {
                self.write_in_kept(asker, block, plan, (params, formats), out)
                    .await
            }
        }
    }

    async fn savepoint(&self, block: &mut Kept, plan: &LocalPlan) -> Result<bool, Refusal> {
        self.savepoint_in(block, plan).await
    }

    async fn commit(&self, _: Asker<'_>, block: &mut Kept) -> Result<(), Refusal> {
        match block {
            Kept::Here(block) => self.commit_block(block).await,
            Kept::There(remote) => remote.commit(&self.grid).await,
        }
    }

    async fn roll_back(&self, block: &mut Kept) {
        if let Kept::There(remote) = block {
            // Who does not answer finds out otherwise.
            let _ = remote.end(&self.grid).await;
        }
    }

    fn fail(&self, block: &mut Kept) {
        match block {
            Kept::Here(block) => block.fail(),
            Kept::There(remote) if !remote.has_savepoints() => *remote = remote.anew(),
            Kept::There(_) => {}
        }
    }

    async fn nudged(&self, block: &Kept) {
        match block {
            Kept::Here(block) => block.nudged().await,
            Kept::There(remote) => remote.nudged().await,
        }
    }

    async fn promote(
        &self,
        asker: Asker<'_>,
        block: &mut Kept,
        holds: &mut Holds,
        why: &Reason,
    ) -> Result<Vec<Redo>, ErrorFields> {
        match block {
            Kept::Here(block) => self.promote_block(block, holds, why).await,
            Kept::There(remote) => self.promote_there(asker, remote, holds, why).await,
        }
    }

    async fn moved(&self, block: &mut Kept) -> Result<(), ErrorFields> {
        match block {
            Kept::Here(_) => Ok(()),
            Kept::There(remote) => remote.end(&self.grid).await.map_err(hosted::told),
        }
    }

    async fn write(
        &self,
        asker: Asker<'_>,
        plan: &WritePlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<CommandTag, Refusal> {
        if plan.draws.is_empty() {
            return self.write_drawn(asker, plan, params, formats, out).await;
        }
        let drawn = self.draw(asker, plan, params).await?;
        let all = drawn.behind(params);
        let params = all.params();
        let written = self.write_drawn(asker, plan, &params, formats, out).await;
        if written.is_ok() {
            asker.given.give(&drawn.given);
        }
        written
    }

    async fn next_value(&self, asker: Asker<'_>, sequence: &Arc<Sequence>) -> Option<i64> {
        self.give_next(asker, sequence).await
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
            | LocalPlan::Sequence(_)
            | LocalPlan::Begin { .. }
            | LocalPlan::Commit { .. }
            | LocalPlan::Rollback { .. }
            | LocalPlan::Savepoint(_)
            | LocalPlan::Release(_)
            | LocalPlan::RollbackTo(_) => {
                unreachable!("the session answers transaction commands and sequences itself")
            }
        }
    }

    fn describe_local(&self, plan: &LocalPlan, formats: Formats<'_>, out: &mut BytesMut) {
        status::describe(self, plan, formats, out);
    }
}
