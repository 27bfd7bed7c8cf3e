//! Who leads the log, as openraft tells it. Decides nothing.

use super::raft::Types;
use super::state::State;
use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, RaftMetrics};
use tokio::sync::watch;

/// Who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The newest term that this node has heard of.
    pub term: u64,
    /// Its leader, if known.
    pub leader: Option<u64>,
    /// Whether this node leads, and has applied everything that was acknowledged under earlier leaders.
    pub here: bool,
}

impl Leadership {
    pub(crate) fn now(raft: &Raft<Types, State>) -> Leadership {
        Leadership::of(&raft.metrics().borrow_watched())
    }

    pub(crate) fn of(metrics: &RaftMetrics<Types>) -> Leadership {
        let applied = metrics.last_applied.as_ref();
        // The first entry of a term comes behind all of earlier terms.
        let of_this_term = applied.is_some_and(|id| id.leader_id.term == metrics.current_term);
        Leadership {
            term: metrics.current_term,
            leader: metrics.current_leader,
            here: metrics.state.is_leader() && of_this_term,
        }
    }
}

/// Tells of changes until Raft ends; then nobody leads.
pub(crate) async fn watch(raft: Raft<Types, State>, told: watch::Sender<Leadership>) {
    let mut metrics = raft.metrics();
    drop(raft);
    loop {
        let now = Leadership::of(&metrics.borrow_and_update());
        told.send_if_modified(|known| std::mem::replace(known, now) != now);
        if metrics.changed().await.is_err() {
            break;
        }
    }
    told.send_modify(|known| {
        known.leader = None;
        known.here = false;
    });
}
