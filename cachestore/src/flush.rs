//! Writes a batch of commit groups into Postgres, in one transaction with the log's progress. Carries out what `flush/plan.rs` decides; never decides what is ripe.
//!
//! ```text
//! BEGIN, progress, SAVEPOINT │ statements, check │ COMMIT            three round trips when nothing is refused
//!                            ├ refused: ROLLBACK TO, halve, again … until the guilty groups stand alone ─► dead letters
//!                            └ held up by a lock or a missing right: which groups? ROLLBACK, and without them next time
//! ```

mod again;
mod dead;
mod guard;
mod locks;
mod pipeline;
mod plan;
pub mod redo;
mod replay;
mod tables;
mod text;
mod write;
mod written;

use crate::catalog::Catalog;
use crate::change::{CommitGroup, FlushSeq, RowId, Shapes};
use crate::error::{Class, StoreError};
use crate::failpoint;
use crate::home::Server;
use crate::limits::{HELD_UP_FOUND_MAX, SHORT_LOCK_WAIT};
use crate::progress::{self, LogKey, signed};
use crate::standing::read_server;
use crate::store::{Connection, Store};
pub use again::Again;
use futures_util::future::BoxFuture;
use pipeline::pipeline;
use ripen_pg::ids::{TableOid, Xid};
use ripen_pg::tuple::Tuple;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::time::Duration;
use tokio_postgres::error::Severity;
use tokio_postgres::{Error, Row};
use write::Write;
use written::Written;

/// What one flush transaction is to write.
#[derive(Clone, Debug, PartialEq)]
pub struct FlushBatch {
    /// The log.
    pub log: LogKey,
    /// The leader's epoch.
    pub epoch: u64,
    /// One more than `ripen.progress.applied`.
    pub seq: FlushSeq,
    /// In the order of the log. A row may be in several groups.
    pub groups: Vec<CommitGroup>,
    /// What the groups' bytes mean.
    pub shapes: Shapes,
    /// Rows that must still be what they were (`None`: absent), or their groups are dead letters.
    pub guards: BTreeMap<RowId, Option<Tuple>>,
    /// The catalog was read after this batch had been refused for not fitting it: what does not fit now is the change's fault. Else the schema may just
    /// have changed, and such a refusal is an error of the whole flush.
    pub catalog_is_new: bool,
}

/// What became of it.
#[derive(Debug)]
pub struct FlushOutcome {
    /// The transaction.
    pub xid: Xid,
    /// Groups that Postgres refused; they stand in `ripen.dead_letter`, written by the same transaction.
    pub dead: Vec<DeadGroup>,
    /// Row changes carried out.
    pub rows: usize,
    /// Rows to be deleted that were gone already: as wanted, so not dead.
    pub already_gone: u64,
}

/// A refused group.
#[derive(Clone, Debug)]
pub struct DeadGroup {
    /// The group, whole.
    pub group: CommitGroup,
    /// Postgres's reason.
    pub sqlstate: String,
    /// See `sqlstate`.
    pub message: String,
}

impl Store {
    /// Writes the batch and returns when it is committed. `on_xid` is called before COMMIT is sent, so that the hot cache can recognise the transaction.
    ///
    /// Errors: retry the same batch when [`StoreError::retry`]; with a new catalog when the class is `Schema` or the error `CatalogUnsteady`; ask [`Store::outcome`] when the class is `Unknown`; step down when `Fenced`.
    /// Not cancel safe: a dropped future leaves the outcome unknown. Nothing is written under another schema than the catalog's.
    pub async fn flush(
        &self,
        catalog: &Catalog,
        batch: &FlushBatch,
        on_xid: impl FnOnce(Xid),
    ) -> Result<FlushOutcome, StoreError> {
        let told = |xid| {
            on_xid(xid);
            std::future::ready(Ok(()))
        };
        self.flush_told(catalog, batch, told).await
    }

    /// [`Store::flush`] where others must hear of the transaction before COMMIT is sent. If they cannot be told, it is rolled back.
    pub async fn flush_told<T>(
        &self,
        catalog: &Catalog,
        batch: &FlushBatch,
        tell_others: impl FnOnce(Xid) -> T,
    ) -> Result<FlushOutcome, StoreError>
    where
        T: Future<Output = Result<(), StoreError>>,
    {
        self.carry_out(catalog, batch, &Again::default(), tell_others)
            .await
    }

    async fn carry_out<T>(
        &self,
        catalog: &Catalog,
        batch: &FlushBatch,
        again: &Again,
        tell_others: impl FnOnce(Xid) -> T,
    ) -> Result<FlushOutcome, StoreError>
    where
        T: Future<Output = Result<(), StoreError>>,
    {
        let transaction = self.borrow().await?;
        failpoint::reach_on("flush-before-begin", transaction.client()).await?;
        let rows = batch.groups.iter().flat_map(|group| &group.rows);
        let tell = tables::reach_further(catalog, rows);
        let wait = self.flush_lock_wait();
        let progress = again.progress(self.home());
        let (xid, server) = begin(transaction.client(), batch, progress, tell, wait).await?;
        again.check(server, self.home())?;
        failpoint::reach_on("flush-begun", transaction.client()).await?;
        let written = Written {
            catalog,
            shapes: &batch.shapes,
        };
        let mut run = Run {
            client: transaction.client(),
            write: Write {
                client: transaction.client(),
                written,
            },
            batch,
            again,
            dead: Vec::new(),
            held_up: Vec::new(),
            hurries: false,
            already_gone: 0,
        };
        run.apply_all().await?;
        let (dead, already_gone) = (run.dead, run.already_gone);
        tell_others(xid).await?;
        commit(
            transaction.client(),
            ["flush-before-commit", "flush-committed"],
        )
        .await?;
        transaction.give_back();
        let lost: usize = dead.iter().map(|dead| dead.group.rows.len()).sum();
        let all: usize = batch.groups.iter().map(|group| group.rows.len()).sum();
        Ok(FlushOutcome {
            xid,
            dead,
            rows: all - lost,
            already_gone,
        })
    }
}

/// What a pipelined command answers: row counts or rows.
enum Answer {
    Done,
    Count(u64),
    Rows(Vec<Row>),
}

type Command<'a> = BoxFuture<'a, Result<Answer, Error>>;

fn simple<'a>(client: &'a Connection, sql: &'a str) -> Command<'a> {
    Box::pin(async move { client.batch_execute(sql).await.map(|()| Answer::Done) })
}

/// Constraints that may be deferred are, until all rows of an attempt are there: groups were consistent at their end, not at every statement.
const SAVEPOINT: &str = "SET CONSTRAINTS ALL DEFERRED; SAVEPOINT ripen";

const PROGRESS: &str = "UPDATE ripen.progress SET applied = $1::bigint, epoch = $2::bigint, at = now() \
     WHERE log = $3 AND identity = $4 AND epoch <= $2::bigint AND applied = $1::bigint - 1 RETURNING pg_current_xact_id()::text";

/// Outlives roll backs to a savepoint that is made after it.
fn lock_timeout(wait: Duration) -> String {
    format!("SET LOCAL lock_timeout = {}", wait.as_millis())
}

/// Tells the stream that this flush may change more than it carries.
const TELL: &str = "SELECT pg_logical_emit_message(true, 'ripen.tell', '')";

/// Opens the transaction, moves the progress row on and thereby keeps every other flush of the log out until the end.
async fn begin(
    client: &Connection,
    batch: &FlushBatch,
    progress: &str,
    tell: bool,
    lock_wait: Duration,
) -> Result<(Xid, Option<Server>), StoreError> {
    let lock_timeout = lock_timeout(lock_wait);
    let statement = client.prepare_cached(progress).await?;
    let (seq, epoch) = (signed(batch.seq.0), signed(batch.epoch));
    let (statement, log, identity) = (&statement, batch.log.number, batch.log.identity.stored());
    let mut commands = vec![
        simple(client, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"),
        Box::pin(async move {
            let rows = client
                .query(statement, &[&seq, &epoch, &log, &identity])
                .await;
            rows.map(Answer::Rows)
        }),
    ];
    if tell {
        commands.push(simple(client, TELL));
    }
    commands.push(simple(client, &lock_timeout));
    commands.push(simple(client, SAVEPOINT));
    let answers = pipeline(commands).await?;
    let Some(Answer::Rows(rows)) = answers.get(1) else {
        return Err(StoreError::Unexpected("answers out of order".into()));
    };
    let Some(row) = rows.first() else {
        return Err(refused(client, batch).await?);
    };
    let text: &str = row.try_get(0)?;
    let xid = text.parse().map(Xid);
    let xid = xid.map_err(|_| StoreError::Unexpected(format!("transaction id {text}")))?;
    let server = (row.len() > 1).then(|| read_server(row.try_get(1)?));
    Ok((xid, server.transpose()?))
}

/// Why the progress row was not ours to move.
async fn refused(client: &Connection, batch: &FlushBatch) -> Result<StoreError, StoreError> {
    let found = progress::find(&***client, batch.log, "").await?;
    if found.is_some_and(|found| found.epoch > batch.epoch) {
        return progress::fenced(&***client, batch.log.number).await;
    }
    Ok(StoreError::OutOfOrder {
        asked: batch.seq,
        applied: found.map_or(FlushSeq(0), |found| found.applied),
    })
}

/// An ERROR means rolled back; anything else (a lost connection, FATAL) may have come after the commit record. `places`: failpoints before and after.
async fn commit(client: &Connection, places: [&'static str; 2]) -> Result<(), StoreError> {
    // The two cuts look the same from here: in one Postgres has it, in the other it has not.
    let committed = async {
        failpoint::reach_on(places[0], client).await?;
        client.batch_execute("COMMIT").await?;
        failpoint::reach_on(places[1], client).await
    };
    committed.await.map_err(|error| {
        let severity = error
            .as_db_error()
            .and_then(|error| error.parsed_severity());
        match severity {
            Some(Severity::Error) => StoreError::Postgres(error),
            _ => StoreError::UnknownOutcome(error),
        }
    })
}

/// One flush between BEGIN and COMMIT.
struct Run<'a> {
    client: &'a Connection,
    write: Write<'a>,
    batch: &'a FlushBatch,
    again: &'a Again,
    dead: Vec<DeadGroup>,
    /// Groups that cannot be written for now, and why.
    held_up: Vec<(usize, StoreError)>,
    /// A lock was waited for in vain: no statement waits that long any more.
    hurries: bool,
    already_gone: u64,
}

impl Run<'_> {
    /// All groups, halving what is refused until the guilty ones stand alone. What remains is tried in the original order, so a group whose predecessor is
    /// dead is judged without it.
    async fn apply_all(&mut self) -> Result<(), StoreError> {
        let beaten = match guard::beaten(self).await {
            Err(error) if is_locked(&error) => {
                return Err(self.look_for_locks(error).await?);
            }
            other => other?,
        };
        let beaten = self.again.with_refused(self.batch, beaten);
        beaten
            .iter()
            .for_each(|(group, error)| self.bury(*group, error));
        let mut open = between(&beaten, self.batch.groups.len());
        while let Some(range) = open.pop() {
            let groups = &self.batch.groups[range.clone()];
            match self.write.groups(groups).await {
                Ok(gone) => {
                    self.already_gone += gone;
                    if !open.is_empty() {
                        self.keep().await?;
                    }
                }
                Err(error) if is_locked(&error) && !self.hurries => {
                    self.look_for_locks(error).await?;
                    // It was another lock than those of rows and tables (a key that somebody inserts, a row referred to), or has ended.
                    open.push(range);
                }
                Err(error) if !self.blames(&error) && !holds_up(&error) => return Err(error),
                Err(error) => {
                    self.roll_back().await?;
                    failpoint::reach_on("flush-bisecting", self.client).await?;
                    if range.len() == 1 && holds_up(&error) {
                        self.held_up.push((range.start, error));
                        if self.held_up.len() == HELD_UP_FOUND_MAX {
                            break;
                        }
                    } else if range.len() == 1 {
                        self.bury(range.start, &error);
                    } else {
                        let middle = range.start + range.len() / 2;
                        open.push(middle..range.end);
                        open.push(range.start..middle);
                    }
                }
            }
        }
        if let Some(held_up) = self.all_held_up() {
            return Err(held_up);
        }
        failpoint::reach_on("flush-written", self.client).await?;
        dead::write(self.client, self.write.written, self.batch, &self.dead).await?;
        if !self.dead.is_empty() {
            failpoint::reach_on("flush-buried", self.client).await?;
        }
        Ok(())
    }

    /// Once many groups were found, those that share a table with them count as well: to find each would take as long as what holds them up.
    fn all_held_up(&mut self) -> Option<StoreError> {
        let found = std::mem::take(&mut self.held_up);
        let many = found.len() == HELD_UP_FOUND_MAX;
        let groups = found.iter().map(|(at, _)| &self.batch.groups[*at]);
        let rows = groups.flat_map(|group| group.rows.iter().map(|change| &change.row));
        let rows: HashSet<&RowId> = rows.collect();
        let tables: HashSet<TableOid> = rows.iter().map(|row| row.table).collect();
        let groups = self.groups_with(|row| match many {
            true => tables.contains(&row.table),
            false => rows.contains(row),
        });
        let (_, error) = found.into_iter().next_back()?;
        Some(self.hold_up(groups, error))
    }

    fn groups_with(&self, wanted: impl Fn(&RowId) -> bool) -> Vec<&CommitGroup> {
        let groups = self.batch.groups.iter();
        let wanted = |group: &&CommitGroup| group.rows.iter().any(|change| wanted(&change.row));
        groups.filter(wanted).collect()
    }

    fn hold_up(&self, groups: Vec<&CommitGroup>, by: StoreError) -> StoreError {
        let rows = groups.into_iter().flat_map(|group| &group.rows);
        let rows = rows.map(|change| change.row.clone()).collect();
        let by = Box::new(by);
        StoreError::HeldUp { rows, by }
    }

    /// After a lock was waited for in vain. Fails with what is locked; else nothing is found, and from now on no statement waits long.
    async fn look_for_locks(&mut self, error: StoreError) -> Result<StoreError, StoreError> {
        self.roll_back().await?;
        self.hurries = true;
        self.keep_and(&lock_timeout(SHORT_LOCK_WAIT)).await?;
        let locked = locks::find(self).await?;
        let groups = self.groups_with(|row| locked.has(row));
        if groups.is_empty() {
            return Ok(error);
        }
        Err(self.hold_up(groups, error))
    }

    fn blames(&self, error: &StoreError) -> bool {
        error.guilty() && (self.batch.catalog_is_new || error.class() != Class::Schema)
    }

    /// Makes what was done so far safe from later roll backs to the savepoint.
    async fn keep(&self) -> Result<(), StoreError> {
        self.keep_and("").await
    }

    async fn keep_and(&self, set: &str) -> Result<(), StoreError> {
        let next = [
            simple(self.client, "RELEASE SAVEPOINT ripen"),
            simple(self.client, set),
            simple(self.client, SAVEPOINT),
        ];
        pipeline(next.into()).await?;
        Ok(())
    }

    async fn roll_back(&self) -> Result<(), Error> {
        let sql = "ROLLBACK TO SAVEPOINT ripen";
        self.client.batch_execute(sql).await
    }

    fn bury(&mut self, group: usize, error: &StoreError) {
        let message = match error {
            StoreError::Postgres(error) => match error.as_db_error() {
                Some(db) => match db.detail() {
                    Some(detail) => format!("{}\n{detail}", db.message()),
                    None => db.message().to_owned(),
                },
                None => error.to_string(),
            },
            other => other.to_string(),
        };
        self.dead.push(DeadGroup {
            group: self.batch.groups[group].clone(),
            sqlstate: error.sqlstate().to_owned(),
            message,
        });
    }
}

/// Whether it may be otherwise in a while, without anybody's fault.
fn holds_up(error: &StoreError) -> bool {
    is_denied(error) || is_locked(error)
}

/// Whether somebody else's lock was waited for in vain.
fn is_locked(error: &StoreError) -> bool {
    matches!(error, StoreError::Postgres(_)) && error.sqlstate() == "55P03"
}

/// Whether Ripen's role lacks a right on something that the statement names.
fn is_denied(error: &StoreError) -> bool {
    matches!(error, StoreError::Postgres(_)) && error.sqlstate() == "42501"
}

/// The ranges of groups that are not beaten, last first.
fn between(beaten: &BTreeMap<usize, StoreError>, groups: usize) -> Vec<Range<usize>> {
    let (mut ranges, mut end) = (Vec::new(), groups);
    for group in beaten.keys().rev().copied() {
        ranges.push(group + 1..end);
        end = group;
    }
    ranges.push(0..end);
    ranges.retain(|range| !range.is_empty());
    ranges
}
