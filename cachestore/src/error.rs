//! What can go wrong with the system of record, and whether trying again can help. Classifies only; never retries.

use crate::change::{FlushSeq, RowId};
use crate::dial::DialError;
use crate::home::Server;
use crate::progress::LogIdentity;
use std::error::Error as _;

/// The error of everything in this crate that asks Postgres.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The server could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Postgres answered with an error, or the connection broke before an answer that mattered.
    #[error("{}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// No connection of the pool became free in time.
    #[error("all {0} connections of Ripen to the upstream are busy")]
    PoolTimeout(usize),
    /// A newer leader has taken over: step down.
    #[error("taken over by {by}")]
    Fenced {
        /// Who, in words.
        by: String,
        /// Its log, if it has said: a newer leader of the same log is another node of the same cluster.
        identity: Option<LogIdentity>,
    },
    /// A row of `ripen.progress` is locked by somebody who is not to be ended, or may not be by Ripen's role.
    #[error(
        "{by} keeps \"ripen.progress\" locked, without which nothing can be flushed; its transaction must end, for instance by pg_terminate_backend"
    )]
    Hindered {
        /// Who, in words.
        by: String,
    },
    /// The progress row is ours but not at the flush before this one: ask [`crate::Store::outcome`].
    #[error("flush {asked:?} cannot follow flush {applied:?}")]
    OutOfOrder {
        /// The flush asked for.
        asked: FlushSeq,
        /// The last one Postgres has.
        applied: FlushSeq,
    },
    /// The connection broke while COMMIT was on its way: it may have happened. Ask [`crate::Store::outcome`].
    #[error("the outcome of a commit is unknown")]
    UnknownOutcome(#[source] tokio_postgres::Error),
    /// Ripen's own role may not do what it must.
    #[error("Ripen's role lacks a privilege: {0}")]
    Privilege(String),
    /// The connection leads to another server than the one that is the system of record now: nothing was done.
    #[error(
        "the connection leads to another server ({0}) than the system of record, which may lack what was flushed"
    )]
    Strange(Server),
    /// The other nodes could not be told which transaction carries the flush; it was rolled back.
    #[error("the other nodes could not be told of the flush's transaction")]
    Untold,
    /// Some groups of a flush cannot be written for now (a lock of somebody else, a right that Ripen's role lacks); nothing of it is written.
    #[error("{by}")]
    HeldUp {
        /// All rows of those groups.
        rows: Vec<RowId>,
        /// What Postgres says about the last of them.
        by: Box<StoreError>,
    },
    /// The schema `ripen` is missing, old or newer than this program.
    #[error("{0}")]
    Migration(String),
    /// The schema kept changing while the catalog was read, or has changed since.
    #[error("the schema changes faster than it can be read")]
    CatalogUnsteady,
    /// A row change and the catalog do not fit (a table that is gone, a value without a type).
    #[error("{message}")]
    Change {
        /// Five characters.
        sqlstate: &'static str,
        /// What does not fit.
        message: String,
    },
    /// Postgres sent what it should not, or a stored payload is damaged.
    #[error("unexpected data: {0}")]
    Unexpected(String),
}

/// What an error is about, hence what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No connection: retry with backoff.
    Connection,
    /// Postgres lacks something (disk, memory, connections, time): retry with backoff.
    Resource,
    /// Lost against somebody else's lock or snapshot: retry soon.
    Lock,
    /// Ripen's role lacks a right, or the server is read-only: retry slowly and raise the alarm; no change is guilty of it.
    Rights,
    /// A value is refused: the change is guilty.
    Data,
    /// A constraint refuses: the change is guilty.
    Constraint,
    /// The table is not what it was: the change is guilty.
    Schema,
    /// A newer leader exists: step down.
    Fenced,
    /// May have happened: ask before going on.
    Unknown,
    /// Ours: neither retry nor blame a change.
    Bug,
}

impl Class {
    /// Whether a single commit group is to blame, so that the others may go on without it.
    pub fn guilty(self) -> bool {
        matches!(self, Class::Data | Class::Constraint | Class::Schema)
    }

    /// Whether the same call may succeed later, unchanged.
    pub fn retry(self) -> bool {
        matches!(
            self,
            Class::Connection | Class::Resource | Class::Lock | Class::Rights
        )
    }
}

impl StoreError {
    /// What the error is about.
    pub fn class(&self) -> Class {
        match self {
            StoreError::Dial(_) => Class::Connection,
            StoreError::Postgres(error) => match error.code() {
                Some(code) => classify(code.code()),
                None => Class::Connection,
            },
            StoreError::PoolTimeout(_)
            | StoreError::CatalogUnsteady
            | StoreError::Untold
            | StoreError::Strange(_) => Class::Resource,
            StoreError::Fenced { .. } => Class::Fenced,
            StoreError::Hindered { .. } => Class::Lock,
            StoreError::OutOfOrder { .. } | StoreError::UnknownOutcome(_) => Class::Unknown,
            StoreError::Privilege(_) | StoreError::Migration(_) => Class::Rights,
            StoreError::HeldUp { by, .. } => by.class(),
            StoreError::Change { sqlstate, .. } => classify(sqlstate),
            StoreError::Unexpected(_) => Class::Bug,
        }
    }

    /// The SQLSTATE for a client or a dead letter.
    pub fn sqlstate(&self) -> &str {
        match self {
            StoreError::Dial(error) => error.sqlstate(),
            StoreError::Postgres(error) => error.code().map_or("08006", |code| code.code()),
            StoreError::PoolTimeout(_) => "53300",
            StoreError::Fenced { .. } | StoreError::OutOfOrder { .. } => "40001",
            StoreError::UnknownOutcome(_) => "08007",
            StoreError::Privilege(_) => "42501",
            StoreError::HeldUp { by, .. } => by.sqlstate(),
            StoreError::Migration(_) => "55000",
            StoreError::CatalogUnsteady | StoreError::Hindered { .. } => "55P03",
            StoreError::Untold => "57P01",
            StoreError::Strange(_) => "57P03",
            StoreError::Change { sqlstate, .. } => sqlstate,
            StoreError::Unexpected(_) => "XX000",
        }
    }

    /// Whether the same call may succeed later, unchanged. `UnknownOutcome` is not such a case: ask first.
    pub fn retry(&self) -> bool {
        self.class().retry()
    }

    /// Whether one change is to blame.
    pub fn guilty(&self) -> bool {
        self.class().guilty()
    }
}

/// The class of a SQLSTATE (Appendix A of the manual).
pub fn classify(sqlstate: &str) -> Class {
    match sqlstate {
        // A binary value shorter than its type reads past the end of the message: the value's fault, not the connection's.
        "08P01" => return Class::Data,
        // query_canceled: a timeout or an administrator.
        "57014" => return Class::Resource,
        // object_in_use, lock_not_available.
        "55006" | "55P03" => return Class::Lock,
        "42501" | "25006" => return Class::Rights,
        // invalid_sql_statement_name: the connection lost its prepared statements (a pooler in between).
        "26000" => return Class::Connection,
        _ => {}
    }
    match sqlstate.get(..2).unwrap_or("") {
        "08" | "57" => Class::Connection,
        "53" | "58" | "55" | "XX" | "F0" | "72" => Class::Resource,
        "40" => Class::Lock,
        "28" | "3D" | "0P" | "0L" => Class::Rights,
        "23" | "44" | "27" => Class::Constraint,
        "42" | "3F" | "0A" => Class::Schema,
        "25" => Class::Bug,
        // 22 data, 21 cardinality, 54 limits of one row, P0 raised by user code, 38/39 external routines, 2F, 02…
        _ => Class::Data,
    }
}

/// tokio-postgres says only "db error"; the message is in the source.
fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{}: {} ({})", db.severity(), db.message(), db.code().code());
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_changes_own_faults_are_blamed_on_it() {
        for guilty in [
            "22P02", "23505", "23503", "42P01", "0A000", "54000", "P0001", "08P01",
        ] {
            assert!(
                classify(guilty).guilty() && !classify(guilty).retry(),
                "{guilty}"
            );
        }
        for innocent in [
            "08006", "57P01", "57014", "53100", "40P01", "40001", "55P03", "42501", "25006",
            "XX000", "28P01", "26000",
        ] {
            assert!(
                !classify(innocent).guilty() && classify(innocent).retry(),
                "{innocent}"
            );
        }
    }
}
