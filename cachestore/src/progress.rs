//! The rows of `ripen.progress`, one per log: which of its flushes Postgres has, and who may flush next. Never creates or skips a flush.
//!
//! `applied` counts the flushes of one log alone. `epoch` fences: a take-over raises it in the rows of all logs of that number, so whoever led before, of
//! whatever log, finds no row to move.

use crate::advisory;
use crate::change::FlushSeq;
use crate::error::StoreError;
use crate::store::{Connection, Store};
use clearance::Clearance;
use tokio_postgres::{GenericClient, Transaction};

mod clearance;
pub(crate) mod succession;

/// A log as the system of record knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogKey {
    /// Its number: logs of one number write the same tables, so only one of them is led at a time.
    pub number: i32,
    /// Drawn when it was made.
    pub identity: LogIdentity,
}

/// Tells a log from all others, in whatever folder or database. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity(pub u64);

impl LogIdentity {
    /// As `ripen.progress` has it: the same bits with a sign.
    pub fn stored(self) -> i64 {
        self.0.cast_signed()
    }
}

/// A row of `ripen.progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last flush that Postgres has.
    pub applied: FlushSeq,
    /// The leader who may flush.
    pub epoch: u64,
}

/// Who took over last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Since that epoch.
    pub epoch: u64,
    /// In words for people, as it described itself.
    pub holder: String,
    /// Of which log.
    pub identity: LogIdentity,
}

/// Who takes a log over.
#[derive(Clone, Copy, Debug)]
pub struct Taker<'a> {
    /// The log.
    pub log: LogKey,
    /// Larger than any before.
    pub epoch: u64,
    /// The process, in words for people.
    pub holder: &'a str,
    /// Whether the log has ever flushed. Then a row from before logs had identities is its own.
    pub has_flushed: bool,
    /// Logs of whose last copy this one was made, the oldest first: it goes on with their count, and they end.
    pub formers: &'a [LogIdentity],
}

/// What a take-over found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The last flush of this log that Postgres has.
    pub applied: FlushSeq,
    /// Who led another log of that number until now.
    pub other: Option<String>,
}

/// What became of a flush whose COMMIT was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushFate {
    /// It is in Postgres.
    Applied,
    /// It is not, and never will be: flush again.
    NotApplied,
}

impl Store {
    /// The log's progress; `None` before its first take-over. Does not wait for a running flush. Cancel safe.
    pub async fn progress(&self, log: LogKey) -> Result<Option<Progress>, StoreError> {
        find(&**self.client().await?, log, "").await
    }

    /// The newest epoch of that number's logs. Cancel safe.
    pub async fn newest_epoch(&self, number: i32) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(max(epoch), 0) FROM ripen.progress WHERE log = $1";
        let client = self.client().await?;
        unsigned(client.query_one(sql, &[&number]).await?.try_get(0)?)
    }

    /// Makes the taker the leader. A flush transaction still running is waited for, but not long: then its connection is ended. When this returns, no older leader's flush
    /// can commit any more. `Fenced` when a newer leader exists, `Hindered` when somebody keeps the row locked who is not Ripen. Repeatable.
    pub async fn take_over(&self, taker: Taker<'_>) -> Result<Taken, StoreError> {
        let mut borrowed = self.borrow().await?;
        let number = taker.log.number;
        let clearance = Clearance::of(self, borrowed.client(), number, taker.epoch).await?;
        let taken = clearance.during(take(borrowed.client_mut(), taker)).await;
        borrowed.give_back();
        taken
    }

    /// What became of flush `seq` after [`StoreError::UnknownOutcome`] or [`StoreError::OutOfOrder`]. Waits for the old transaction to end, and ends it when that takes
    /// long (its connection may be lost on one side only), so the answer is final.
    /// `Fenced` when a newer leader exists and the flush is not applied: then it is the new leader's to repeat.
    pub async fn outcome(
        &self,
        log: LogKey,
        epoch: u64,
        seq: FlushSeq,
    ) -> Result<FlushFate, StoreError> {
        let borrowed = self.borrow().await?;
        let client = borrowed.client();
        let clearance = Clearance::of(self, client, log.number, epoch).await?;
        let locked = find(&***client, log, "FOR UPDATE");
        let found = clearance.during(locked).await;
        let fate = match found? {
            None => FlushFate::NotApplied,
            Some(found) if found.applied >= seq => FlushFate::Applied,
            Some(found) if found.epoch > epoch => return Err(fenced(&***client, log.number).await?),
            Some(_) => FlushFate::NotApplied,
        };
        borrowed.give_back();
        Ok(fate)
    }
}

async fn take(client: &mut Connection, taker: Taker<'_>) -> Result<Taken, StoreError> {
    let transaction = client.build_transaction().start().await?;
    let other = fence_others(&transaction, taker).await?;
    adopt(&transaction, taker).await?;
    succession::settle(&transaction, taker).await?;
    let sql = "INSERT INTO ripen.progress (log, identity, epoch, applied, holder) VALUES ($1, $2, $3, 0, $4) \
         ON CONFLICT (log, identity) DO UPDATE SET epoch = excluded.epoch, holder = excluded.holder, at = now() RETURNING applied";
    let (number, identity) = (taker.log.number, taker.log.identity.stored());
    let own = transaction
        .query_one(
            sql,
            &[&number, &identity, &signed(taker.epoch), &taker.holder],
        )
        .await?;
    let applied = FlushSeq(unsigned(own.try_get(0)?)?);
    transaction.commit().await?;
    Ok(Taken { applied, other })
}

/// Locks the rows of all logs of the number, and ends the turn of the others. Answers who of them had it. Who has drawn the same epoch has it for good:
/// it would not fence them off.
async fn fence_others(
    transaction: &Transaction<'_>,
    taker: Taker<'_>,
) -> Result<Option<String>, StoreError> {
    let (number, epoch) = (taker.log.number, signed(taker.epoch));
    let identity = taker.log.identity.stored();
    // Two that begin at once would not see each other's first row.
    let lock = "SELECT pg_advisory_xact_lock($1)";
    transaction.execute(lock, &[&advisory::TAKE_OVER]).await?;
    let sql = "SELECT epoch, holder, identity FROM ripen.progress WHERE log = $1 ORDER BY identity FOR UPDATE";
    let mut other = None;
    for row in transaction.query(sql, &[&number]).await? {
        let (theirs, holder): (i64, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let of: i64 = row.try_get(2)?;
        let another = of != identity;
        if theirs > epoch || (another && theirs == epoch && holder.is_some()) {
            return Err(fenced(transaction, number).await?);
        }
        let former = taker.formers.iter().any(|former| former.stored() == of);
        if another && !former {
            other = holder.or(other);
        }
    }
    let sql =
        "UPDATE ripen.progress SET epoch = $3, holder = NULL WHERE log = $1 AND identity <> $2";
    transaction
        .execute(sql, &[&number, &identity, &epoch])
        .await?;
    Ok(other)
}

/// What was written before logs had identities belongs to the log that went on flushing. A log that never has, has no part in it unless there was nothing.
async fn adopt(transaction: &Transaction<'_>, taker: Taker<'_>) -> Result<(), StoreError> {
    let (number, identity) = (taker.log.number, taker.log.identity.stored());
    let sql = "UPDATE ripen.progress SET identity = $2 WHERE log = $1 AND identity = 0 AND ($3 OR applied = 0) \
         AND NOT EXISTS (SELECT FROM ripen.progress WHERE log = $1 AND identity = $2)";
    let adopted = transaction
        .execute(sql, &[&number, &identity, &taker.has_flushed])
        .await?;
    if adopted > 0 {
        let sql = "UPDATE ripen.dead_letter SET identity = $2 WHERE log = $1 AND identity = 0";
        transaction.execute(sql, &[&number, &identity]).await?;
    }
    Ok(())
}

/// The log's row; `lock` may be `FOR UPDATE`.
pub(crate) async fn find(
    client: &impl GenericClient,
    log: LogKey,
    lock: &str,
) -> Result<Option<Progress>, StoreError> {
    let sql = format!(
        "SELECT applied, epoch FROM ripen.progress WHERE log = $1 AND identity = $2 {lock}"
    );
    let row = client
        .query_opt(&sql, &[&log.number, &log.identity.stored()])
        .await?;
    let progress = |row: tokio_postgres::Row| {
        Ok(Progress {
            applied: FlushSeq(unsigned(row.try_get(0)?)?),
            epoch: unsigned(row.try_get(1)?)?,
        })
    };
    row.map(progress).transpose()
}

/// Who leads the logs of that number.
pub(crate) async fn owner(
    client: &impl GenericClient,
    number: i32,
) -> Result<Option<Owner>, StoreError> {
    let sql = "SELECT epoch, holder, identity FROM ripen.progress WHERE log = $1 AND holder IS NOT NULL ORDER BY epoch DESC LIMIT 1";
    let row = client.query_opt(sql, &[&number]).await?;
    let owner = |row: tokio_postgres::Row| {
        Ok(Owner {
            epoch: unsigned(row.try_get(0)?)?,
            holder: row.try_get(1)?,
            identity: LogIdentity(row.try_get::<_, i64>(2)?.cast_unsigned()),
        })
    };
    row.map(owner).transpose()
}

/// The error of one whose turn is over.
pub(crate) async fn fenced(
    client: &impl GenericClient,
    number: i32,
) -> Result<StoreError, StoreError> {
    let owner = owner(client, number).await?;
    let identity = owner.as_ref().map(|owner| owner.identity);
    let unknown = || "a newer leader".to_owned();
    let by = owner.map_or_else(unknown, |owner| owner.holder);
    Ok(StoreError::Fenced { by, identity })
}

/// Epochs and sequence numbers are bigint in Postgres; none comes near the sign.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("epochs and flush numbers stay below 2^63")
}

pub(crate) fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Unexpected(format!("{number} in ripen.progress")))
}
