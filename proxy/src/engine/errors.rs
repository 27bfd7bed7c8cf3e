//! The errors that Ripen itself gives clients. Postgres's own errors never come here; they pass unchanged.

use ripen_cachestore::StoreError;
use ripen_grid::grid::GridError;
use ripen_pg::sqlstate::{ErrorFields, SqlState};

/// What a client is told when the grid did not do it.
pub fn of_grid(error: &GridError) -> ErrorFields {
    match error {
        GridError::Full => ErrorFields::error(SqlState::INSUFFICIENT_RESOURCES, "too many changes are waiting to be written to Postgres")
            .detail("The queue has been at its bound for longer than \"pending_wait\". Nothing was changed.")
            .hint("Retry later. If Postgres is up, raise \"max_pending_bytes\" or look at SHOW ripen.queue for the reason."),
        GridError::BarrierTimeout => ErrorFields::error(SqlState::LOCK_NOT_AVAILABLE, "canceling statement because acknowledged changes could not be written to Postgres in time")
            .detail("The statement must see changes that are still in Ripen's queue. It was not started.")
            .hint("Postgres may be away or a row may be locked: see SHOW ripen.queue. The bound is \"barrier_timeout\"."),
        GridError::Log(_) => ErrorFields::error(SqlState::IO_ERROR, "the write-ahead log cannot take the change")
            .detail("Whether the change was made is known only after a restart of Ripen.")
            .hint("See Ripen's log for the cause."),
        GridError::NoLeader => ErrorFields::error(SqlState::CANNOT_CONNECT_NOW, "no leader of the cluster can be reached from this node")
            .detail("Whether acknowledged changes of other nodes are in Postgres is not known here. The statement was not started.")
            .hint("Retry, or connect to a node of the majority: its /ready answers 200."),
        GridError::RowsLocked => ErrorFields::error(SqlState::LOCK_NOT_AVAILABLE, "canceling statement because rows are locked by open transactions")
            .detail("The statement is carried out by Postgres, and the transactions that have locked its rows in Ripen neither ended nor moved to Postgres in time. It was not started.")
            .hint("Retry later. The bound is \"barrier_timeout\"."),
        GridError::Locked => ErrorFields::error(SqlState::LOCK_NOT_AVAILABLE, "could not obtain lock on row"),
        GridError::Deadlock => ErrorFields::error(SqlState::DEADLOCK_DETECTED, "deadlock detected")
            .detail("Transactions that wait for this one have locked a row that the statement wants."),
        GridError::LockTimeout => ErrorFields::error(SqlState::LOCK_NOT_AVAILABLE, "canceling statement due to lock timeout"),
        GridError::StatementTimeout => ErrorFields::error(SqlState::QUERY_CANCELED, "canceling statement due to statement timeout"),
        GridError::LocksLost => ErrorFields::error(SqlState::SERIALIZATION_FAILURE, "could not serialize access because the transaction's locks are lost")
            .detail("The node that had them leads no more. Nothing of the transaction was written.")
            .hint("Retry the transaction."),
        GridError::Overtaken => ErrorFields::error(SqlState::SERIALIZATION_FAILURE, "could not serialize access due to concurrent update")
            .detail("A row that the transaction has written was changed in Postgres by somebody who does not go through Ripen.")
            .hint("Retry the transaction."),
        GridError::Crowded | GridError::Elsewhere | GridError::Owned | GridError::TooLarge | GridError::NotLoadable(_) => ErrorFields::error(SqlState::INTERNAL_ERROR, error.to_string()),
    }
}

/// What a client is told of a write that may have been made.
pub fn unknown_outcome() -> ErrorFields {
    ErrorFields::error(
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        "no leader of the cluster has answered in time",
    )
    .detail("Whether the change was made is not known here.")
    .hint("Look before trying again, on a node of the majority: its /ready answers 200.")
}

/// What a client is told when Ripen could not ask Postgres for itself.
pub fn of_store(error: &StoreError) -> ErrorFields {
    let state =
        SqlState::from_bytes(error.sqlstate().as_bytes()).unwrap_or(SqlState::INTERNAL_ERROR);
    ErrorFields::error(state, format!("Ripen could not ask Postgres: {error}"))
}
