//! Who waits for a row of `ripen.progress` does not wait for ever: a leader that was stopped or cut off in the middle of a flush keeps the row locked for as long as
//! Postgres believes in its connection. Ends such transactions, when the wait has taken a while. Never ends what is not Ripen's own work on that row, nor that of a
//! newer leader.
//!
//! A backend is ended if it blocks the one that waits, calls itself Ripen, and has itself locked rows of `ripen.progress` or the turn to take over. One that has committed
//! and waits for a standby is left alone, as are migrations: their ends do not hang on their clients.

use crate::advisory;
use crate::backends::BackendPid;
use crate::error::StoreError;
use crate::limits::PROGRESS_PATIENCE;
use crate::progress::signed;
use crate::store::{APPLICATION, Connection, Store};
use std::collections::BTreeSet;
use std::pin::pin;
use tokio_postgres::Row;

/// Watches over one connection that is about to wait.
pub(super) struct Clearance<'a> {
    store: &'a Store,
    /// The backend that waits.
    waiting: BackendPid,
    number: i32,
    epoch: u64,
    ended: BTreeSet<i32>,
    hindrance: Option<String>,
}

/// A transaction that is waited for.
struct Blocker {
    pid: i32,
    words: String,
    /// Whether it is a leader's work on the progress row.
    own: bool,
}

const BLOCKERS: &str = "SELECT a.pid, coalesce(a.usename, '?'), coalesce(a.application_name, ''), \
     coalesce(a.application_name, '') = $2 AND a.wait_event IS DISTINCT FROM 'SyncRep' AND ( \
       EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation' AND l.relation = 'ripen.progress'::regclass \
         AND l.mode IN ('RowShareLock', 'RowExclusiveLock')) \
       OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted AND l.locktype = 'advisory' \
         AND (l.classid::int8 << 32 | l.objid::int8) = $3 AND l.objsubid = 1)) \
     AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted AND l.relation = 'ripen.progress'::regclass AND l.mode = 'AccessExclusiveLock') \
     FROM pg_stat_activity a WHERE a.pid = ANY(pg_blocking_pids($1)) AND a.datname = current_database()";

const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE pid = $1 AND application_name = $2 AND pid = ANY(pg_blocking_pids($3)) AND NOT EXISTS (SELECT FROM ripen.progress WHERE log = $4 AND epoch > $5)";

impl<'a> Clearance<'a> {
    /// For what this connection does next, in the name of that epoch of the logs of that number.
    pub async fn of(
        store: &'a Store,
        client: &Connection,
        number: i32,
        epoch: u64,
    ) -> Result<Clearance<'a>, StoreError> {
        let row = client.query_one("SELECT pg_backend_pid()", &[]).await?;
        Ok(Clearance {
            store,
            waiting: BackendPid(row.try_get(0)?),
            number,
            epoch,
            ended: BTreeSet::new(),
            hindrance: None,
        })
    }

    /// Does the work, and ends what it waits for too long. When the lock could not be had all the same, the error says who has it.
    pub async fn during<T>(
        mut self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done.map_err(|error| self.explain(error)),
                () = tokio::time::sleep(PROGRESS_PATIENCE) => {}
            }
            tokio::select! {
                biased;
                done = &mut work => return done.map_err(|error| self.explain(error)),
                cleared = self.clear() => if let Err(error) = cleared {
                    tracing::debug!(%error, "Postgres does not say who has \"ripen.progress\" locked");
                }
            }
        }
    }

    async fn clear(&mut self) -> Result<(), StoreError> {
        let client = self.store.client().await?;
        let rows = client
            .query(
                BLOCKERS,
                &[&self.waiting.0, &APPLICATION, &advisory::TAKE_OVER],
            )
            .await?;
        for row in &rows {
            let blocker = Blocker::read(row)?;
            if blocker.own {
                self.end(&client, &blocker).await?;
            } else {
                self.hindrance = Some(blocker.words);
            }
        }
        Ok(())
    }

    async fn end(&mut self, client: &Connection, blocker: &Blocker) -> Result<(), StoreError> {
        let pid = blocker.pid;
        let epoch = signed(self.epoch);
        let ended = client
            .query_opt(
                END,
                &[&pid, &APPLICATION, &self.waiting.0, &self.number, &epoch],
            )
            .await;
        match ended {
            Ok(None) => {}
            Ok(Some(_)) if self.ended.contains(&pid) => {}
            Ok(Some(_)) => {
                self.ended.insert(pid);
                tracing::warn!(
                    backend = pid,
                    "ended the transaction of a leader that has been replaced, stopped or cut off: it kept \"ripen.progress\" locked"
                );
            }
            Err(error) if error.code().is_some_and(|code| code.code() == "42501") => {
                if self.hindrance.replace(blocker.words.clone()).is_none() {
                    tracing::warn!(backend = pid, %error, "cannot end the transaction of an earlier leader, which keeps \"ripen.progress\" locked");
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn explain(&mut self, error: StoreError) -> StoreError {
        match (error.sqlstate(), self.hindrance.take()) {
            ("55P03", Some(by)) => StoreError::Hindered { by },
            _ => error,
        }
    }
}

impl Blocker {
    fn read(row: &Row) -> Result<Blocker, StoreError> {
        let (pid, role, application): (i32, &str, &str) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(Blocker {
            pid,
            words: format!("backend {pid} (role \"{role}\", application \"{application}\")"),
            own: row.try_get(3)?,
        })
    }
}
