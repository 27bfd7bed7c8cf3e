//! The session's transaction: where it stands, what ends with it. A transaction block may begin here, at no cost, and is begun in Postgres by its
//! first statement that needs it. Never lets the client see the end of one before its holds are given back.

use super::answerer::{Answerer, Outcome};
use super::{Copies, Segment, Session};
use crate::plan::{Effects, Isolation, TxControl};
use bytes::Bytes;
use ripen_pg::wire::backend::TransactionStatus;

/// Where the transaction stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tx {
    /// In none.
    Idle,
    /// In a block that Postgres knows nothing of yet; the text that began it.
    Here(Bytes),
    /// In a block in Postgres, with the status it last said (`T` or `E`).
    Upstream(u8),
}

impl Tx {
    /// As ReadyForQuery says it.
    pub(super) fn status(&self) -> TransactionStatus {
        match self {
            Tx::Idle => TransactionStatus::Idle,
            Tx::Here(_) => TransactionStatus::InTransaction,
            Tx::Upstream(status) => tx_status(*status),
        }
    }
}

/// The status that a byte of ReadyForQuery means.
pub(super) fn tx_status(byte: u8) -> TransactionStatus {
    TransactionStatus::from_byte(byte).unwrap_or(TransactionStatus::Idle)
}

impl<A: Answerer> Session<A> {
    /// Postgres is ready for the next pipeline: ends what ended there, then tells the client.
    pub(super) async fn transaction_status(&mut self, status: u8) {
        if status == b'I' {
            self.tx = Tx::Idle;
            self.names.clear_portals();
            self.release(Outcome::Committed).await;
        } else {
            self.tx = Tx::Upstream(status);
        }
        self.segment = Segment::Here;
        self.skipping = false;
        self.asked = false;
        self.copies = Copies::default();
        self.put_ready();
    }

    /// Gives back what is held. What is in the buffers goes out meanwhile.
    pub(super) async fn release(&mut self, outcome: Outcome) {
        if !std::mem::take(&mut self.holding) {
            return;
        }
        let holds = std::mem::take(&mut self.holds);
        let leaving = self.front.answerer.leave(holds, outcome);
        self.io.while_waiting(leaving).await;
    }

    /// The strictest isolation level at which this text may run, noted for what follows in its transaction.
    pub(super) fn isolation_for(&mut self, effects: &Effects) -> Isolation {
        let default = self.known.default_isolation;
        let mut now = match self.tx {
            Tx::Upstream(_) => self.isolation,
            Tx::Here(_) => Isolation::ReadCommitted,
            Tx::Idle => default,
        };
        let mut strictest = now;
        for control in &effects.transaction {
            now = match control {
                TxControl::Begin(modes) | TxControl::Set(modes) if modes.other => {
                    Isolation::Serializable
                }
                TxControl::Begin(modes) => modes.isolation.unwrap_or(default),
                TxControl::Set(modes) => modes.isolation.unwrap_or(now),
                TxControl::Commit { chain: false }
                | TxControl::Rollback { chain: false }
                | TxControl::Prepare => default,
                _ => now,
            };
            if rank(now) > rank(strictest) {
                strictest = now;
            }
        }
        self.isolation = strictest;
        strictest
    }
}

fn rank(isolation: Isolation) -> u8 {
    match isolation {
        Isolation::ReadUncommitted => 0,
        Isolation::ReadCommitted => 1,
        Isolation::RepeatableRead => 2,
        Isolation::Serializable => 3,
    }
}
