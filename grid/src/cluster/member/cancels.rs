//! Cancel requests that came to a node which does not know their keys: every other member is asked once. Never looks into a key, and never asks on behalf of another node.

use super::{Handle, Shared};
use crate::cluster::control::{Question, decode_done, encode_done};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;

/// What strangers can cause has a connection of its own: nobody else's questions wait behind it, or are given up with it.
const CANCEL_LANE: u8 = 5;

/// Cancels what the session with that key does, if it is this process's. False: there is no such session here.
pub type Cancels = Arc<dyn Fn(Bytes) -> BoxFuture<'static, bool> + Send + Sync>;

impl Handle {
    /// Who has this node's sessions. Set once.
    pub fn serve_cancels(&self, cancels: Cancels) {
        // A second one would be our own mistake, and harmless.
        let _ = self.shared.cancels.set(cancels);
    }

    /// Asks all other members at once whether the key is of a session of theirs, and to cancel what that does. True as soon as one has done it. Cancel safe: it may
    /// have been done. A node of an earlier version does not know the question, hence not the key.
    pub async fn cancel_elsewhere(&self, key: Bytes, patience: Duration) -> bool {
        let question = Question::Cancel(key).encode();
        let members = self.log.members().addresses.into_iter();
        let others = members.filter(|(node, _)| *node != self.shared.node);
        let mut asked: FuturesUnordered<_> = others
            .map(|(node, address)| {
                let question = question.clone();
                async move {
                    let links = &self.shared.links;
                    let asked = links.ask(Some(node), &address, CANCEL_LANE, question, patience);
                    asked.await.is_ok_and(|told| decode_done(&told))
                }
            })
            .collect();
        while let Some(done) = asked.next().await {
            if done {
                return true;
            }
        }
        false
    }
}

impl Shared {
    pub(super) async fn cancel(&self, key: Bytes) -> Bytes {
        let done = match self.cancels.get() {
            Some(cancels) => cancels(key).await,
            None => false,
        };
        encode_done(done)
    }
}
