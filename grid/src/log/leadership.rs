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

/// What a node is for what only the leader does, and tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does that.
    Leads,
    /// It hears of it from that node.
    Hears(u64),
    /// Nobody does that now, as far as it knows.
    Waits,
}

impl Leadership {
    /// What `node` is, to which this was told.
    pub fn role(&self, node: u64) -> Role {
        match self.leader {
            _ if self.here => Role::Leads,
            Some(leader) if leader != node => Role::Hears(leader),
            _ => Role::Waits,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_elected_waits_until_it_leads() {
        let role = |here, leader| {
            let leadership = Leadership {
                here,
                leader,
                ..Leadership::default()
            };
            leadership.role(1)
        };
        assert_eq!(role(true, Some(1)), Role::Leads);
        assert_eq!(role(false, Some(2)), Role::Hears(2));
        assert_eq!(role(false, Some(1)), Role::Waits);
        assert_eq!(role(false, None), Role::Waits);
    }
}
