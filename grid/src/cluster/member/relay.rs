//! The way of the hot cache's stream from the leader to the other nodes: they ask for more, again and again. Never looks into what is asked and told.

use super::{Handle, Shared};
use crate::cluster::control::Question;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Answers wait until there is something to tell, and may be large.
const RELAY_LANE: u8 = 6;

/// Answers what another node asks of this node's stream; an error is told to it in words.
pub type Relay = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// Told that this node was without a lease, before it answers anything under a new one. Must be quick.
pub type Returned = Arc<dyn Fn() + Send + Sync>;

impl Handle {
    /// Who tells the others of the stream. Set once.
    pub fn serve_relay(&self, relay: Relay) {
        // A second one would be our own mistake, and harmless.
        let _ = self.shared.relay.set(relay);
    }

    /// Who must know that this node was without a lease: it may have stood still. Set once.
    pub fn watch_returns(&self, returned: Returned) {
        // A second one would be our own mistake, and harmless.
        let _ = self.shared.returned.set(returned);
    }

    /// Asks the leader, if it is another node and known, what its stream has told. Cancel safe: asked again, it tells the same.
    ///
    /// # Errors
    /// When it cannot be reached, or does not know the question.
    pub async fn ask_relay(&self, question: Bytes, patience: Duration) -> io::Result<Bytes> {
        let question = Question::Relay(question).encode();
        self.question_leader(0, question, RELAY_LANE, patience)
            .await
    }
}

impl Shared {
    pub(super) async fn relay(&self, question: Bytes) -> Result<Bytes, String> {
        let relay = self.relay.get();
        let relay = relay.ok_or("this node has not started yet")?;
        relay(question).await
    }
}
