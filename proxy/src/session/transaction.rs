//! The session's transaction: where it stands, what ends with it. A transaction block may begin here, at no cost, and is begun in Postgres by its
//! first statement that needs it. Never lets the client see the end of one before its holds are given back.

use super::answerer::{Answerer, Outcome};
use super::{Copies, Segment, Session};
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
        self.snapshots.ready(status);
        if self.commit_upstream(status) {
            return;
        }
        if let Some(parking) = &mut self.parking {
            parking.used();
        }
        if status == b'I' {
            self.tx = Tx::Idle;
            self.doomed = None;
            self.names.clear_portals();
            self.release(Outcome::Committed).await;
        } else {
            self.tx = Tx::Upstream(status);
        }
        self.segment = Segment::Here;
        self.skipping = false;
        self.unsure = false;
        self.asked = false;
        self.may_wait = false;
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
}
