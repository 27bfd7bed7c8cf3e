//! A cluster has one slot. Nodes of earlier versions had their own, and those must go, since a slot that nobody reads keeps WAL until Postgres's disk is full.
//! Never touches a slot that is in use, of another database, or of another name.

use crate::slot;
use std::collections::BTreeSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// What became of the slots of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// They are gone.
    pub dropped: BTreeSet<String>,
    /// Somebody reads them: a node of an earlier version.
    pub in_use: BTreeSet<String>,
}

const OTHERS: &str = "SELECT slot_name::text, active FROM pg_replication_slots \
    WHERE slot_type = 'logical' AND plugin = 'pgoutput' AND NOT temporary AND database = current_database() AND slot_name::text <> ALL($2) \
    AND (slot_name = $1 OR (starts_with(slot_name, $1) AND substr(slot_name::text, length($1) + 1) ~ '^_[0-9a-f]{16}$')) ORDER BY 1";

/// object_in_use, undefined_object.
const IN_USE: &str = "55006";
const GONE: &str = "42704";

/// What slots are called, with more behind it, where the configuration gives no name.
pub const OWN_NAME: &str = "ripen";

/// The name of the slot, by which name it was given, if any. Cancel safe.
pub async fn name(client: &Client, given: Option<&str>) -> Result<String, Error> {
    client
        .query_one(&slot::name_query(given), &[])
        .await?
        .try_get(0)
}

/// Drops the slots that the name `slot` has been used for and that are not to be kept: those of single nodes too. Only who has the claim on
/// the database knows that they are nobody else's. Needs REPLICATION. Cancel safe.
pub async fn drop_others(
    client: &Client,
    slot: &str,
    keep: &BTreeSet<String>,
) -> Result<Leftovers, Error> {
    let keep: Vec<&str> = keep.iter().map(String::as_str).collect();
    let mut leftovers = Leftovers::default();
    for row in client.query(OTHERS, &[&slot, &keep]).await? {
        let (name, active): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
        if active {
            leftovers.in_use.insert(name);
            continue;
        }
        let sql = "SELECT pg_drop_replication_slot($1::text::name)";
        match client.execute(sql, &[&name]).await {
            Ok(_) => {
                leftovers.dropped.insert(name);
            }
            Err(error) => match error.code().map(SqlState::code) {
                Some(IN_USE) => {
                    leftovers.in_use.insert(name);
                }
                // Another node was faster.
                Some(GONE) => {}
                _ => return Err(error),
            },
        }
    }
    Ok(leftovers)
}
