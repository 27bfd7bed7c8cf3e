//! Cancel requests: for a session of this node, else of another one, else whatever Postgres makes of them. Never tells the client anything, as Postgres does not.
//!
//! A key is whatever Postgres (or, while it is away, Ripen) told the client at its login, so it does not say which node has the session: a node that does not know a key
//! asks the others. Only who brings a key as a whole, its secret too, cancels anything.

use crate::accept::Front;
use crate::limits;
use crate::registry::Cancel;
use crate::relay::link::Link;
use bytes::{BufMut, Bytes, BytesMut};
use ripen_cachestore::dial::{DialTarget, dial};
use ripen_pg::wire::startup::{self, CancelKey, FirstPacket};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

/// Turns to ask other nodes.
#[derive(Debug)]
pub struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Turns {
        Turns(Semaphore::new(limits::CANCELS_ELSEWHERE_MAX))
    }
}

impl<A> Front<A> {
    /// Does what a client asks for. Bounded in time.
    pub(crate) async fn cancel(&self, key: CancelKey) {
        let mut body = BytesMut::with_capacity(4 + key.secret.len());
        body.put_u32(key.pid);
        body.put_slice(&key.secret);
        let body = body.freeze();
        if !self.cancel_here(&body).await && !self.cancel_elsewhere(&body).await {
            // Postgres may know it: a replication connection, or one in its login.
            ask_postgres(&self.target, &body).await;
        }
    }

    /// False: no session of this process has that key.
    async fn cancel_here(&self, key: &[u8]) -> bool {
        match self.registry.cancel(key) {
            Cancel::Upstream(key) => {
                ask_postgres(&self.target, &key).await;
                true
            }
            Cancel::Done => true,
            Cancel::Unknown => false,
        }
    }

    /// False: no other node has said that it has such a session.
    async fn cancel_elsewhere(&self, key: &Bytes) -> bool {
        let (Some(member), true) = (&self.member, key.len() <= limits::CANCEL_KEY_BYTES_MAX) else {
            return false;
        };
        let asking = async {
            let _turn = self.cancels.0.acquire().await.ok()?;
            let patience = limits::CANCEL_ELSEWHERE_TIMEOUT;
            Some(member.cancel_elsewhere(key.clone(), patience).await)
        };
        let asked = timeout(limits::CANCEL_TIMEOUT, asking).await;
        asked.ok().flatten().unwrap_or(false)
    }
}

impl<A: Send + Sync + 'static> Front<A> {
    /// From now on, cancel requests that came to other nodes are answered for the sessions of this one.
    pub fn serve_cancels(self: &Arc<Self>) {
        let Some(member) = &self.member else { return };
        let front = Arc::downgrade(self);
        member.serve_cancels(Arc::new(move |key| {
            let front = front.upgrade();
            Box::pin(async move {
                match front {
                    Some(front) => front.cancel_here(&key).await,
                    None => false,
                }
            })
        }));
    }
}

async fn ask_postgres(target: &DialTarget, key: &[u8]) {
    let asking = timeout(limits::CANCEL_TIMEOUT, hand_over(target, key));
    if asking.await.is_err() {
        debug!("a cancel request could not be handed over in time");
    }
}

async fn hand_over(target: &DialTarget, key: &[u8]) {
    let Ok(stream) = dial(target).await else {
        return;
    };
    let Some((pid, secret)) = key.split_first_chunk::<4>() else {
        return;
    };
    let key = CancelKey {
        pid: u32::from_be_bytes(*pid),
        secret: secret.to_vec(),
    };
    let mut link = Link::new(stream);
    startup::encode(&mut link.output, &FirstPacket::CancelRequest(key));
    if link.write_all().await.is_ok() {
        // Postgres closes once it has signalled: whoever waits for our close may rely on that, too.
        while link.read_more().await {
            link.input.clear();
        }
    }
}
