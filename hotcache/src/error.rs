//! What can go wrong with the stream, and what a person must do about what does not heal by itself. Never hides Postgres's own words.

use crate::stream::StreamError;
use ripen_cachestore::dial::DialError;
use ripen_pg::auth::AuthError;
use ripen_pg::sqlstate::{ErrorFields, Field, SqlState};
use ripen_pg::wire::WireError;
use std::fmt;

/// Why the stream ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// No login.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The connection broke.
    #[error("connection to the system of record failed: {0}")]
    Io(#[from] std::io::Error),
    /// It took too long to connect and log in.
    #[error("connecting to the system of record timed out")]
    Timeout,
    /// Postgres ended the stream.
    #[error("the system of record closed the replication stream")]
    Closed,
    /// Postgres refused something.
    #[error("{0}")]
    Server(ErrorFields),
    /// Bytes that are no message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Messages that make no sense together.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Another node reads the cluster's slot, or did so a moment ago.
    #[error("the replication slot is still read by another node")]
    InUse,
    /// An answer that makes no sense.
    #[error("unexpected answer to {0}")]
    Unexpected(&'static str),
    /// Somebody must change something in Postgres.
    #[error("{0}")]
    Unavailable(Unavailable),
}

/// Replication is not possible until somebody changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// What is wrong.
    pub message: String,
    /// What to do, as sentences.
    pub hint: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.hint)
    }
}

impl Unavailable {
    /// `wal_level` is too low.
    pub(crate) fn wal_level(found: &str) -> Unavailable {
        Unavailable {
            message: format!("wal_level is \"{found}\", the hot cache needs \"logical\""),
            hint: "Run ALTER SYSTEM SET wal_level = 'logical' and restart Postgres, or mark the cached tables as exclusive.".into(),
        }
    }

    /// The slot's name is taken.
    pub(crate) fn foreign_slot(slot: &str, owner: &str) -> Unavailable {
        Unavailable {
            message: format!("replication slot \"{slot}\" belongs to {owner}"),
            hint: "Slots belong to the whole server: set \"slot\" to a name of this Ripen's own, or leave it out; or drop that slot with pg_drop_replication_slot(), if nobody needs it.".into(),
        }
    }

    /// The publication is not there.
    pub(crate) fn publication(name: &str) -> Unavailable {
        Unavailable {
            message: format!("publication \"{name}\" does not exist"),
            hint: "Ripen creates it at start; its role needs CREATE on the database.".into(),
        }
    }

    /// Whether Postgres's refusal while a stream is being opened is one that only a person can end.
    pub(crate) fn of(error: &ErrorFields, user: &str) -> Option<Unavailable> {
        let hint = match error.state() {
            SqlState::INSUFFICIENT_PRIVILEGE => format!(
                "Run ALTER ROLE \"{user}\" REPLICATION, or mark the cached tables as exclusive."
            ),
            SqlState::CONFIGURATION_LIMIT_EXCEEDED => {
                "Raise max_replication_slots, or drop a slot that is no longer used.".into()
            }
            SqlState::TOO_MANY_CONNECTIONS => {
                "Raise max_wal_senders if no other replica can be spared.".into()
            }
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION => {
                "Check user and password of the upstream URL, and pg_hba.conf.".into()
            }
            _ => return None,
        };
        Some(Unavailable {
            message: error.message().into_owned(),
            hint: match error.text(Field::Hint) {
                Some(theirs) => format!("{theirs} {hint}"),
                None => hint,
            },
        })
    }
}
