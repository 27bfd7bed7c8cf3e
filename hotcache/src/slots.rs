//! The slots of a cluster: each node has its own, and those of nodes that are gone must go, since a slot that nobody reads keeps WAL until Postgres's disk is full.
//! Never touches a slot that is in use, of another database, or of another name.

use crate::limits::{NAME_BYTES_MAX, NODE_SUFFIX_BYTES};
use std::collections::BTreeSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// A configured slot name to which no node's number can be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "slot name \"{0}\" is too long for a cluster, where each node adds its number: use at most {max} characters",
    max = NAME_BYTES_MAX - NODE_SUFFIX_BYTES
)]
pub struct TooLong(String);

/// What became of the slots of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// They are gone.
    pub dropped: BTreeSet<String>,
    /// Somebody reads them: a node that does not know yet that it is no member any more, or whose membership is not known here.
    pub in_use: BTreeSet<String>,
}

/// The slot of a node, where the configuration names that slot.
pub fn of_node(slot: &str, node: u64) -> Result<String, TooLong> {
    if slot.len() + NODE_SUFFIX_BYTES > NAME_BYTES_MAX {
        return Err(TooLong(slot.to_owned()));
    }
    Ok(format!("{slot}_{node:016x}"))
}

const OTHERS: &str = "SELECT slot_name::text, active FROM pg_replication_slots \
    WHERE slot_type = 'logical' AND plugin = 'pgoutput' AND NOT temporary AND database = current_database() AND slot_name::text <> ALL($2) \
    AND (slot_name = $1 OR (starts_with(slot_name, $1) AND substr(slot_name::text, length($1) + 1) ~ '^_[0-9a-f]{16}$')) ORDER BY 1";

/// object_in_use, undefined_object.
const IN_USE: &str = "55006";
const GONE: &str = "42704";

/// Drops the slots that the configured name `slot` has been used for and that are not to be kept: those of nodes, and that of a Ripen alone. Only who has the claim on
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_adds_its_number_to_the_name() {
        let name = of_node("ripen", 0xab).unwrap();
        assert_eq!(name, "ripen_00000000000000ab");
        let longest = "x".repeat(46);
        assert_eq!(of_node(&longest, u64::MAX).unwrap().len(), NAME_BYTES_MAX);
        let error = of_node(&format!("{longest}x"), 1).unwrap_err().to_string();
        assert!(error.contains("at most 46"), "{error}");
    }
}
