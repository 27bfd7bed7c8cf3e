//! Transactions that are prepared (PREPARE TRANSACTION) in this database, and what they have locked. Never ends one.

use crate::error::StoreError;
use crate::store::Store;
use ripen_pg::ids::TableOid;
use std::collections::BTreeSet;

/// A prepared transaction, by its locks. Row locks stand in the rows themselves; whoever has some, or has changed rows, has locked the table, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Its name.
    pub gid: String,
    /// Tables (and other relations) of which it may have changed or locked rows. `None`: it may have done anything, the schema included.
    pub tables: Option<BTreeSet<TableOid>>,
}

/// Its locks are known by having no process, and its own number among them.
const LOCKS: &str = "SELECT p.gid, \
    count(own.transactionid) = 0 OR coalesce(bool_or(l.mode NOT IN ('RowShareLock', 'RowExclusiveLock')), false), \
    coalesce(array_agg(DISTINCT l.relation) FILTER (WHERE l.relation IS NOT NULL), '{}') \
    FROM pg_prepared_xacts p \
    LEFT JOIN pg_locks own ON own.locktype = 'transactionid' AND own.transactionid = p.transaction AND own.pid IS NULL AND own.granted \
    LEFT JOIN pg_locks l ON l.virtualtransaction = own.virtualtransaction AND l.pid IS NULL AND l.locktype = 'relation' \
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.mode NOT IN ('AccessShareLock', 'SIReadLock') \
    WHERE p.database = current_database() GROUP BY p.gid";

impl Store {
    /// The names of those that are prepared. One that is missing has ended, and what it has committed is visible. Cancel safe.
    pub async fn prepared_names(&self) -> Result<BTreeSet<String>, StoreError> {
        let client = self.client().await?;
        let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
        let rows = client.query(sql, &[]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Those that are prepared, with what they have locked: dearer to ask than the names. Cancel safe.
    pub async fn prepared(&self) -> Result<Vec<Prepared>, StoreError> {
        let client = self.client().await?;
        let rows = client.query(LOCKS, &[]).await?;
        rows.iter().map(prepared).collect()
    }
}

fn prepared(row: &tokio_postgres::Row) -> Result<Prepared, StoreError> {
    let (anything, tables): (bool, Vec<u32>) = (row.try_get(1)?, row.try_get(2)?);
    Ok(Prepared {
        gid: row.try_get(0)?,
        tables: (!anything).then(|| tables.into_iter().map(TableOid).collect()),
    })
}
