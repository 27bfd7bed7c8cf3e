//! The claim of a process on the logs of one number: a session's advisory lock on a connection of its own, so that a second Ripen hears at its start that
//! there is one. Correctness never rests on it (a pooler or a lost connection may give it to two, or leave it behind): that is the epoch of `ripen.progress`.
//!
//! A Ripen alone has the lock exclusively. Nodes of one cluster share it; each has a second lock beforehand, whose key is the identity of their log, so who holds the
//! first without that second one is a foreigner. Of several who come at once, from two clusters, only the first finds nobody there. Who goes on for another cluster's log
//! (`ripen recover`) shares the lock with its nodes, so that it comes to take over from them, which ends them.

use crate::advisory;
use crate::error::StoreError;
use crate::progress::{self, LogIdentity, LogKey, Owner};
use crate::store::{Store, connect};
use deadpool_postgres::ClientWrapper;

/// A connection that may hold the claim. Dropped, it gives it up.
pub struct Claim {
    client: ClientWrapper,
    number: i32,
    /// Whose nodes share it: this one's log, then those that it was made of. None: nobody's.
    shared_by: Vec<LogIdentity>,
}

/// Who has it instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The backend that holds the lock.
    pub backend: i32,
    /// Whether it shares it, as nodes of a cluster do.
    pub of_cluster: bool,
    /// Who led last: most likely the same process. `None` if that has not come so far.
    pub owner: Option<Owner>,
}

/// Finds nobody there, or joins those who are. For a moment of this statement the lock is exclusive.
const JOIN: &str = "WITH alone AS MATERIALIZED (SELECT pg_try_advisory_lock($1, $2) AS first), \
     shared AS MATERIALIZED (SELECT first, pg_try_advisory_lock_shared($1, $2) AS joined FROM alone), \
     freed AS MATERIALIZED (SELECT first, joined, CASE WHEN first THEN pg_advisory_unlock($1, $2) END AS unlocked FROM shared) \
     SELECT first, joined, unlocked FROM freed";

/// One who holds the lock and has not said that it is of one of those logs.
const HOLDER: &str = "WITH locks AS MATERIALIZED (SELECT pid, mode, classid::int8 AS high, objid::int8 AS low, objsubid FROM pg_locks \
       WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) \
     SELECT pid, mode <> 'ExclusiveLock' FROM locks held WHERE high = $1::int4 AND low = $2::int4 AND objsubid = 2 AND pid <> pg_backend_pid() \
     AND NOT EXISTS (SELECT FROM locks said WHERE said.pid = held.pid AND said.objsubid = 1 AND (said.high << 32 | said.low) = ANY ($3::int8[])) LIMIT 1";

impl Store {
    /// A connection to claim the logs of that number by, for a Ripen alone. Not of the pool.
    pub async fn claim(&self, number: i32) -> Result<Claim, StoreError> {
        let client = connect(self.upstream()).await?;
        Ok(Claim {
            client,
            number,
            shared_by: Vec::new(),
        })
    }

    /// The same for a node of the cluster that has that log, which was made of the `formers`.
    pub async fn claim_as_member(
        &self,
        log: LogKey,
        formers: &[LogIdentity],
    ) -> Result<Claim, StoreError> {
        let client = connect(self.upstream()).await?;
        let sql = "SELECT pg_advisory_lock_shared($1)";
        client.execute(sql, &[&log.identity.stored()]).await?;
        Ok(Claim {
            client,
            number: log.number,
            shared_by: [&[log.identity], formers].concat(),
        })
    }
}

impl Claim {
    /// Takes the lock if nobody has it who must not. `None`: it is ours. Must not be repeated once it is. Cancelled, drop the claim.
    pub async fn take(&self) -> Result<Option<Claimant>, StoreError> {
        match self.shared_by.is_empty() {
            true => self.take_alone().await,
            false => self.join().await,
        }
    }

    async fn take_alone(&self) -> Result<Option<Claimant>, StoreError> {
        let sql = "SELECT pg_try_advisory_lock($1, $2)";
        let taken = self
            .client
            .query_one(sql, &[&advisory::CLAIM, &self.number])
            .await?;
        if taken.try_get(0)? {
            return Ok(None);
        }
        Ok(Some(self.holder().await?.unwrap_or(GIVEN_UP)))
    }

    async fn join(&self) -> Result<Option<Claimant>, StoreError> {
        let key: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&advisory::CLAIM, &self.number];
        let row = self.client.query_one(JOIN, &key).await?;
        let (first, joined): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
        if first {
            return Ok(None);
        }
        let foreigner = self.holder().await?;
        if !joined {
            return Ok(Some(foreigner.unwrap_or(GIVEN_UP)));
        }
        if foreigner.is_some() {
            let sql = "SELECT pg_advisory_unlock_shared($1, $2)";
            self.client.execute(sql, &key).await?;
        }
        Ok(foreigner)
    }

    /// One who has the lock, unless it may be shared with that one.
    async fn holder(&self) -> Result<Option<Claimant>, StoreError> {
        let holder = self
            .client
            .query_opt(
                HOLDER,
                &[&advisory::CLAIM, &self.number, &self.identities()],
            )
            .await?;
        let Some(holder) = holder else {
            return Ok(None);
        };
        Ok(Some(Claimant {
            backend: holder.try_get(0)?,
            of_cluster: holder.try_get(1)?,
            owner: self.owner().await?,
        }))
    }

    /// Whether the log of the claim, or one that it was made of, has ever led in this database. An error means that the lock is lost. Cancel safe.
    pub async fn is_known(&self) -> Result<bool, StoreError> {
        if !self.has_column("identity").await? {
            return Ok(false);
        }
        let sql =
            "SELECT EXISTS (SELECT FROM ripen.progress WHERE log = $1 AND identity = ANY ($2))";
        let known = self
            .client
            .query_one(sql, &[&self.number, &self.identities()])
            .await?;
        Ok(known.try_get(0)?)
    }

    /// Which log goes on for that one, if it was recovered as another; `None` also while the schema `ripen` does not know of such. An error means that the lock is lost.
    /// Cancel safe.
    pub async fn successor(&self, log: LogKey) -> Result<Option<LogIdentity>, StoreError> {
        match self.has_column("succeeded_by").await? {
            false => Ok(None),
            true => progress::succession::successor(&*self.client, log).await,
        }
    }

    /// Who leads; `None` also while the schema `ripen` is not there yet. An error means that the lock is lost. Cancel safe.
    pub async fn owner(&self) -> Result<Option<Owner>, StoreError> {
        match self.has_column("holder").await? {
            false => Ok(None),
            true => progress::owner(&*self.client, self.number).await,
        }
    }

    fn identities(&self) -> Vec<i64> {
        let identities = self.shared_by.iter().copied();
        identities.map(LogIdentity::stored).collect()
    }

    async fn has_column(&self, name: &str) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('ripen.progress') AND attname = $1::text)";
        Ok(self.client.query_one(sql, &[&name]).await?.try_get(0)?)
    }
}

/// Who had it has given it up just now: whoever asks again gets it.
const GIVEN_UP: Claimant = Claimant {
    backend: 0,
    of_cluster: false,
    owner: None,
};
