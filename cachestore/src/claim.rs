//! The claim of a process on the logs of one number: a session's advisory lock on a connection of its own, so that a second Ripen hears at its start that
//! there is one. Correctness never rests on it (a pooler or a lost connection may give it to two, or leave it behind): that is the epoch of `ripen.progress`.

use crate::advisory;
use crate::error::StoreError;
use crate::progress::{self, Owner};
use crate::store::{Store, connect};
use deadpool_postgres::ClientWrapper;

/// A connection that may hold the claim. Dropped, it gives it up.
pub struct Claim {
    client: ClientWrapper,
    number: i32,
}

/// Who has it instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The backend that holds the lock.
    pub backend: i32,
    /// Who led last: most likely the same process. `None` if that has not come so far.
    pub owner: Option<Owner>,
}

impl Store {
    /// A connection to claim the logs of that number by. Not of the pool.
    pub async fn claim(&self, number: i32) -> Result<Claim, StoreError> {
        let client = connect(self.upstream()).await?;
        Ok(Claim { client, number })
    }
}

impl Claim {
    /// Takes the lock if nobody has it. `None`: it is ours. Must not be repeated once it is. Cancelled, drop the claim.
    pub async fn take(&self) -> Result<Option<Claimant>, StoreError> {
        let sql = "SELECT pg_try_advisory_lock($1, $2)";
        let taken = self
            .client
            .query_one(sql, &[&advisory::CLAIM, &self.number])
            .await?;
        if taken.try_get(0)? {
            return Ok(None);
        }
        let sql = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid::int8 = $1 AND objid::int8 = $2 AND objsubid = 2 \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let key = [i64::from(advisory::CLAIM), i64::from(self.number)];
        let holder = self.client.query_opt(sql, &[&key[0], &key[1]]).await?;
        let Some(holder) = holder else {
            // Given up just now: whoever asks again gets it.
            return Ok(Some(Claimant {
                backend: 0,
                owner: None,
            }));
        };
        Ok(Some(Claimant {
            backend: holder.try_get(0)?,
            owner: self.owner().await?,
        }))
    }

    /// Who leads; `None` also while the schema `ripen` is not there yet. An error means that the lock is lost. Cancel safe.
    pub async fn owner(&self) -> Result<Option<Owner>, StoreError> {
        let sql = "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('ripen.progress') AND attname = 'holder'";
        let known = self.client.query_one(sql, &[]).await?;
        match known.try_get(0)? {
            0i64 => Ok(None),
            _ => progress::owner(&*self.client, self.number).await,
        }
    }
}
