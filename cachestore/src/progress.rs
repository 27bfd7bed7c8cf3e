//! The one row per log in `ripen.progress`: which flush Postgres has, and who may flush next. Never creates or skips a flush.

use crate::change::FlushSeq;
use crate::error::StoreError;
use crate::store::Store;

/// A row of `ripen.progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last flush that Postgres has.
    pub applied: FlushSeq,
    /// The leader who may flush.
    pub epoch: u64,
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
    /// The log's progress; `None` before the first take-over. Does not wait for a running flush. Cancel safe.
    pub async fn progress(&self, log: i32) -> Result<Option<Progress>, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached("SELECT applied, epoch FROM ripen.progress WHERE log = $1")
            .await?;
        let row = client.query_opt(&statement, &[&log]).await?;
        row.map(|row| progress(row.try_get(0)?, row.try_get(1)?))
            .transpose()
    }

    /// Makes `epoch` the log's leader and returns the last flush that Postgres has. Waits (up to `lock_timeout`) for any flush transaction still running:
    /// when it returns, no older leader's flush can commit any more. `Fenced` when a newer leader exists. Repeatable.
    pub async fn take_over(&self, log: i32, epoch: u64) -> Result<FlushSeq, StoreError> {
        let client = self.client().await?;
        let row = client
            .query_opt(
                "INSERT INTO ripen.progress AS p (log, epoch, applied) VALUES ($1, $2, 0) \
                 ON CONFLICT (log) DO UPDATE SET epoch = excluded.epoch, at = now() WHERE p.epoch <= excluded.epoch RETURNING applied",
                &[&log, &signed(epoch)],
            )
            .await?;
        match row {
            Some(row) => Ok(FlushSeq(unsigned(row.try_get(0)?)?)),
            None => Err(self.fenced(log).await?),
        }
    }

    /// What became of flush `seq` after [`StoreError::UnknownOutcome`] or [`StoreError::OutOfOrder`]. Waits for the old transaction to end, so the answer is final.
    /// `Fenced` when a newer leader exists and the flush is not applied: then it is the new leader's to repeat.
    pub async fn outcome(
        &self,
        log: i32,
        epoch: u64,
        seq: FlushSeq,
    ) -> Result<FlushFate, StoreError> {
        let client = self.client().await?;
        let row = client
            .query_opt(
                "SELECT applied, epoch FROM ripen.progress WHERE log = $1 FOR UPDATE",
                &[&log],
            )
            .await?;
        let Some(row) = row else {
            return Ok(FlushFate::NotApplied);
        };
        let found = progress(row.try_get(0)?, row.try_get(1)?)?;
        if found.applied >= seq {
            return Ok(FlushFate::Applied);
        }
        if found.epoch > epoch {
            let epoch = found.epoch;
            return Err(StoreError::Fenced { log, epoch });
        }
        Ok(FlushFate::NotApplied)
    }

    async fn fenced(&self, log: i32) -> Result<StoreError, StoreError> {
        let epoch = self.progress(log).await?.map_or(0, |found| found.epoch);
        Ok(StoreError::Fenced { log, epoch })
    }
}

pub(crate) fn progress(applied: i64, epoch: i64) -> Result<Progress, StoreError> {
    Ok(Progress {
        applied: FlushSeq(unsigned(applied)?),
        epoch: unsigned(epoch)?,
    })
}

/// Epochs and sequence numbers are bigint in Postgres; none comes near the sign.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("epochs and flush numbers stay below 2^63")
}

pub(crate) fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Unexpected(format!("{number} in ripen.progress")))
}
