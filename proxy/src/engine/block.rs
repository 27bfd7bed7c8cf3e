//! Transaction blocks of sessions that Postgres knows nothing of: reads with their own writes on top, writes under the grid's row locks, COMMIT as one group of the log, and
//! what it takes to go on in Postgres. Does; the grid decides about rows, plans about values. In a cluster they live where the log is led (`hosted.rs`), and sessions have handles on
//! them (`remote.rs`, `away.rs`).

use super::foreign_keys::Named;
use super::words::Point;
use super::{Engine, errors, is_of, now_us, passed, refused};
use crate::eval::{CommandTag, EvalError, Formats, Now, Params};
use crate::limits::{SAVEPOINTS_MAX, TABLES_OF_BLOCK_MAX};
use crate::plan::read::{Meets, RowLock, Strength};
use crate::plan::write::Action;
use crate::plan::{LocalPlan, ReadPlan, Reason, SessionFacts, WritePlan};
use crate::session::answerer::{Answerer, Asker, Refusal};
use bytes::BytesMut;
use ripen_cachestore::catalog::{Catalog, Relation};
use ripen_cachestore::flush::redo::{self, Redo};
use ripen_grid::change::{RowId, Shape};
use ripen_grid::grid::transaction::{Deeds, Meeting, Nudge, Patience, Statement, Transaction};
use ripen_grid::grid::{Grid, GridError};
use ripen_grid::locks::Mode;
use ripen_grid::log::{Answered, HeldScope};
use ripen_grid::scope::Scope;
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use ripen_pg::tuple::Tuple;
use ripen_pg::value::Settings;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// See the module.
#[derive(Default)]
pub struct Block {
    /// When BEGIN came: what `now()` means.
    begun_us: i64,
    transaction: Option<Transaction>,
    /// The tables that it has written to or locked rows of, as they were then.
    tables: BTreeMap<TableOid, Arc<Relation>>,
}

/// Of whoever asks for a statement, what it depends on.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    pub facts: &'a SessionFacts,
    pub settings: &'a Settings,
    pub patience: Patience,
}

impl<'a> From<Asker<'a>> for Terms<'a> {
    fn from(asker: Asker<'a>) -> Terms<'a> {
        Terms {
            facts: asker.facts,
            settings: asker.settings,
            patience: asker.patience,
        }
    }
}

impl Block {
    pub(super) fn new() -> Block {
        Block {
            begun_us: now_us(),
            ..Block::default()
        }
    }

    /// One of another node's client, which began then; and what tells that it is wanted in Postgres.
    pub(super) fn hosted(grid: &Arc<Grid>, begun_us: i64) -> (Block, Arc<Nudge>) {
        let transaction = grid.begin();
        let nudge = transaction.nudge();
        let block = Block {
            begun_us,
            transaction: Some(transaction),
            ..Block::default()
        };
        (block, nudge)
    }

    /// SAVEPOINT and its kin. False: there is no such savepoint.
    pub(super) fn apply(&mut self, point: &Point) -> bool {
        let Some(transaction) = &mut self.transaction else {
            return false;
        };
        match point {
            Point::Set(name) => {
                transaction.savepoint(name.as_bytes());
                true
            }
            Point::Release(name) => transaction.release(name.as_bytes()),
            Point::BackTo(name) => transaction.back_to(name.as_bytes()),
        }
    }

    pub(super) fn has_done(&self) -> bool {
        self.transaction.is_some()
    }

    /// A row as the block has written it.
    pub(super) fn image(&self, row: &RowId) -> Option<Option<&Tuple>> {
        self.transaction.as_ref()?.image(row)
    }

    /// What the block has made of these rows, where it has written to them.
    pub(super) fn own(&self, rows: &[RowId]) -> Vec<Option<Option<Tuple>>> {
        let image = |row| self.image(row).map(|image| image.cloned());
        rows.iter().map(image).collect()
    }

    /// What the block has made of rows of the table.
    pub(super) fn written_of(&self, table: TableOid) -> BTreeMap<Key, Option<Tuple>> {
        let transaction = self.transaction.as_ref();
        transaction.map_or_else(BTreeMap::new, |transaction| transaction.images_of(table))
    }

    /// Whether it has written at all.
    pub(super) fn has_written(&self) -> bool {
        let transaction = self.transaction.as_ref();
        transaction.is_some_and(Transaction::has_written)
    }

    /// Whether what the block has done to the table, if anything, was done to the table as it is.
    pub(super) fn knows(&self, table: &Arc<Relation>) -> Result<(), Refusal> {
        match self.tables.get(&table.oid) {
            Some(known) if !Arc::ptr_eq(known, table) => {
                Err(passed("not-computed", "the schema has changed meanwhile"))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn nudged(&self) {
        match &self.transaction {
            Some(transaction) => transaction.nudged().await,
            None => std::future::pending().await,
        }
    }

    /// A statement has failed. What no savepoint leads back to is undone at once, as Postgres would: others may be waiting for it.
    pub(super) fn fail(&mut self) {
        let savepoints = self.transaction.as_ref().map_or(0, Transaction::savepoints);
        if savepoints == 0 {
            *self = Block::default();
        }
    }

    fn begin(&mut self, grid: &Arc<Grid>, table: &Arc<Relation>) -> &mut Transaction {
        self.tables.insert(table.oid, Arc::clone(table));
        self.transaction.get_or_insert_with(|| grid.begin())
    }
}

/// A write may take whichever rows it changes from an open transaction, or wait for it.
fn statement<'a>(terms: Terms<'_>, plan: &WritePlan, named: &'a Named) -> Statement<'a> {
    Statement {
        catalog: &named.catalog,
        rows: &named.rows,
        named: named.count(),
        inserts: matches!(plan.query.action, Action::Insert { .. }),
        patience: terms.patience,
    }
}

/// Statements that are done again in Postgres name things of pg_catalog by their plain names.
fn may_redo(facts: &SessionFacts) -> bool {
    let named = facts
        .search_path
        .iter()
        .position(|schema| schema == "pg_catalog");
    named.is_none_or(|place| place == 0)
}

impl Engine {
    /// Whether blocks do here what would have to be done again in Postgres if they went on there.
    pub(super) fn keeps_block(
        &self,
        terms: Terms<'_>,
        block: &Block,
        table: &Arc<Relation>,
    ) -> Result<(), Refusal> {
        if !may_redo(terms.facts) {
            let why = "search_path names pg_catalog behind other schemas";
            return Err(passed("transaction", why));
        }
        block.knows(table)?;
        let known = block.tables.contains_key(&table.oid);
        if !known && block.tables.len() >= TABLES_OF_BLOCK_MAX {
            return Err(passed(
                "too-large",
                "the transaction is about too many tables",
            ));
        }
        Ok(())
    }

    /// A write whose parameters are complete.
    pub(super) async fn write_drawn_in_block(
        &self,
        terms: Terms<'_>,
        block: &mut Block,
        plan: &WritePlan,
        (params, formats): (&Params<'_>, Formats<'_>),
        out: &mut BytesMut,
    ) -> Result<CommandTag, Refusal> {
        self.keeps_block(terms, block, &plan.table)?;
        let named = self.writable(plan, params, terms.settings)?;
        let now = Now {
            statement_us: now_us(),
            transaction_us: block.begun_us,
        };
        let start = out.len();
        let statement = statement(terms, plan, &named);
        let transaction = block.begin(&self.grid, &plan.table);
        let decided = transaction.write(&statement, |images| {
            out.truncate(start);
            self.still_writable(plan)?;
            let images = named.own(self, images)?;
            let decision = plan.decide(params, images, now, terms.settings, formats, out)?;
            Ok::<_, EvalError>((decision.group, decision.tag))
        });
        match decided.await {
            Ok(Ok(tag)) => {
                self.prove(&named.rows).await?;
                self.counters.writes.fetch_add(1, Ordering::Relaxed);
                Ok(tag)
            }
            Ok(Err(EvalError::PassThrough(why))) => Err(passed("not-computed", why)),
            Err(error) => Err(refused_of(error, &plan.table)),
        }
    }

    /// A write that is its own transaction, and met rows that an open one has locked: it waits for them. Its parameters are complete.
    pub(super) async fn write_after_locks(
        &self,
        asker: Asker<'_>,
        plan: &WritePlan,
        (params, formats): (&Params<'_>, Formats<'_>),
        out: &mut BytesMut,
    ) -> Result<CommandTag, Refusal> {
        let mut block = Answerer::begin(self);
        let writing = self.write_complete(asker, &mut block, plan, (params, formats), out);
        match asker.unless_cancelled(writing).await {
            Some(written) => {
                let tag = written?;
                Answerer::commit(self, asker, &mut block).await?;
                Ok(tag)
            }
            None => Err(Refusal::Error(ErrorFields::error(
                SqlState::QUERY_CANCELED,
                "canceling statement due to user request",
            ))),
        }
    }

    /// A SELECT that locks its rows.
    pub(super) async fn lock_in_block(
        &self,
        terms: Terms<'_>,
        block: &mut Block,
        (plan, lock): (&ReadPlan, RowLock),
        (params, formats): (&Params<'_>, Formats<'_>),
        out: &mut BytesMut,
    ) -> Result<u64, Refusal> {
        self.keeps_block(terms, block, &plan.table)?;
        let settings = terms.settings;
        let (rows, catalog) = self.readable(plan, params, settings)?;
        let statement = Statement {
            catalog: &catalog,
            rows: &rows,
            named: rows.len(),
            inserts: false,
            patience: terms.patience,
        };
        let start = out.len();
        let transaction = block.begin(&self.grid, &plan.table);
        let locked = transaction.lock(&statement, how(lock), |images| {
            out.truncate(start);
            if !self.is_of_now(&plan.table) {
                return Err(EvalError::PassThrough("the schema has changed meanwhile"));
            }
            let images: Vec<Option<&Tuple>> = images.iter().map(Option::as_ref).collect();
            let picked = plan.picks(&images, params, settings)?;
            let sent = plan.render(&images, params, formats, settings, out)?;
            Ok((picked, sent))
        });
        match locked.await {
            Ok(Ok(sent)) => {
                self.prove(&rows).await?;
                self.counters.reads.fetch_add(1, Ordering::Relaxed);
                Ok(sent)
            }
            Ok(Err(EvalError::PassThrough(why))) => Err(passed("not-computed", why)),
            Err(error) => Err(refused_of(error, &plan.table)),
        }
    }

    /// The rows that a locking read names, and the catalog that its plan is of.
    fn readable(
        &self,
        plan: &ReadPlan,
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
        if !is_of(&catalog, &plan.table) || !self.keeper.is_fresh() {
            return Err(passed("not-computed", "the schema has changed meanwhile"));
        }
        let rows = keys.into_iter().map(|key| RowId { table, key });
        Ok((rows.collect(), catalog))
    }

    /// See [`crate::session::answerer::Answerer::savepoint`].
    pub(super) fn savepoint_in_block(&self, block: &mut Block, plan: &LocalPlan) -> bool {
        match plan {
            LocalPlan::Savepoint(name) => {
                let transaction = block.transaction.get_or_insert_with(|| self.grid.begin());
                let room = transaction.savepoints() < SAVEPOINTS_MAX;
                if room {
                    transaction.savepoint(name.as_bytes());
                }
                room
            }
            LocalPlan::Release(name) => {
                let transaction = block.transaction.as_mut();
                transaction.is_some_and(|transaction| transaction.release(name.as_bytes()))
            }
            LocalPlan::RollbackTo(name) => {
                let transaction = block.transaction.as_mut();
                transaction.is_some_and(|transaction| transaction.back_to(name.as_bytes()))
            }
            _ => false,
        }
    }

    /// In a cluster, what was seen of these rows is told only if this node leads, and nobody else tells anything older.
    async fn prove(&self, rows: &[RowId]) -> Result<(), Refusal> {
        match self.grid.has_peers() {
            true => self.grid.prove(rows).await.map_err(refused),
            false => Ok(()),
        }
    }

    /// See [`crate::session::answerer::Answerer::commit`].
    pub(super) async fn commit_block(&self, block: &mut Block) -> Result<(), Refusal> {
        self.try_commit(block, None).await?.map_err(refused)
    }

    /// The same; `once`: see [`Transaction::commit`]. The outer error: Postgres is to do it.
    pub(super) async fn try_commit(
        &self,
        block: &mut Block,
        once: Option<Answered>,
    ) -> Result<Result<(), GridError>, Refusal> {
        let Some(transaction) = &mut block.transaction else {
            return Ok(Ok(()));
        };
        let catalog = self.keeper.catalog();
        if transaction.has_written() {
            let mut tables = block.tables.values();
            if !self.keeper.is_fresh() || !tables.all(|table| is_of(&catalog, table)) {
                return Err(passed("not-computed", "the schema has changed meanwhile"));
            }
            let mut tables = block.tables.values();
            if !tables.all(|table| self.serves(table)) {
                let why = "a table is not followed by the hot cache any more";
                return Err(passed("not-followed", why));
            }
        }
        Ok(transaction.commit(&catalog, once).await)
    }

    /// See [`crate::session::answerer::Answerer::promote`].
    pub(super) async fn promote_block(
        &self,
        block: &mut Block,
        holds: &mut super::Holds,
        why: &Reason,
    ) -> Result<Vec<Redo>, ErrorFields> {
        let Some(transaction) = &mut block.transaction else {
            return Ok(Vec::new());
        };
        self.counters.promoted(why);
        self.at_work(holds);
        let promoted = transaction.promote(&self.keeper.catalog()).await;
        let (hold, deeds) = promoted.map_err(|error| errors::of_grid(&error))?;
        holds.add(hold);
        self.redo_of(block, deeds)
    }

    /// The same for a block of another node's client: what it has locked is held as `held` says, and answered, too.
    pub(super) async fn promote_hosted(
        &self,
        block: &mut Block,
        held: HeldScope,
    ) -> Result<(Scope, Vec<Redo>), ErrorFields> {
        let Some(transaction) = &mut block.transaction else {
            return Err(errors::of_grid(&GridError::LocksLost));
        };
        let promoted = transaction.promote_for(&self.keeper.catalog(), held).await;
        let (scope, deeds) = promoted.map_err(|error| errors::of_grid(&error))?;
        Ok((scope, self.redo_of(block, deeds)?))
    }

    fn redo_of(&self, block: &Block, deeds: Deeds) -> Result<Vec<Redo>, ErrorFields> {
        let catalog = self.keeper.catalog();
        if !block.tables.values().all(|table| is_like(&catalog, table)) {
            return Err(misfit("a table has other columns than it had then"));
        }
        redone(&catalog, deeds).map_err(|why| misfit(&why))
    }
}

/// Whether rows of the relation, as it was, mean the same now.
fn is_like(catalog: &Catalog, relation: &Arc<Relation>) -> bool {
    is_of(catalog, relation)
        || catalog.relations.get(&relation.oid).is_some_and(|known| {
            let shape = |relation: &Relation| Shape::of(catalog, relation);
            shape(relation).agrees(&shape(known))
        })
}

fn misfit(why: &str) -> ErrorFields {
    let message = "could not serialize access due to concurrent update";
    let detail = format!("What the transaction has written does not fit: {why}.");
    ErrorFields::error(SqlState::SERIALIZATION_FAILURE, message)
        .detail(detail)
        .hint("Retry the transaction.")
}

/// What a block has done, as statements for Postgres.
fn redone(catalog: &Catalog, deeds: Deeds) -> Result<Vec<Redo>, String> {
    let mut all = Vec::new();
    let strengths = [
        (Mode::KeyShare, "KEY SHARE"),
        (Mode::Share, "SHARE"),
        (Mode::NoKeyUpdate, "NO KEY UPDATE"),
        (Mode::Update, "UPDATE"),
    ];
    for (mode, strength) in strengths {
        let rows = deeds.locked.iter().filter(|(_, locked)| *locked == mode);
        let rows: Vec<RowId> = rows.map(|(row, _)| row.clone()).collect();
        all.extend(redo::locking(catalog, &rows, strength)?);
    }
    for stretch in deeds.stretches {
        if let Some(name) = stretch.savepoint {
            let name = String::from_utf8(name).map_err(|_| "a name is not UTF-8".to_owned())?;
            all.push(redo::savepoint(&name));
        }
        all.extend(redo::writing(catalog, &stretch.group)?);
    }
    Ok(all)
}

fn how(lock: RowLock) -> (Mode, Meeting) {
    let mode = match lock.strength {
        Strength::KeyShare => Mode::KeyShare,
        Strength::Share => Mode::Share,
        Strength::NoKeyUpdate => Mode::NoKeyUpdate,
        Strength::Update => Mode::Update,
    };
    let meeting = match lock.meets {
        Meets::Wait => Meeting::Wait,
        Meets::NoWait => Meeting::Refuse,
        Meets::SkipLocked => Meeting::Skip,
    };
    (mode, meeting)
}

/// As [`refused`], where the error names the table.
fn refused_of(error: GridError, table: &Relation) -> Refusal {
    match error {
        GridError::Locked => {
            let message = format!(
                "could not obtain lock on row in relation \"{}\"",
                table.name
            );
            let error = ErrorFields::error(SqlState::LOCK_NOT_AVAILABLE, message);
            Refusal::Error(error)
        }
        other => refused(other),
    }
}
