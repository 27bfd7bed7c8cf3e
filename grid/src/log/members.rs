//! Who belongs to the log: asks openraft to change that, on the leader. Decides nothing; what the membership should be is decided by the cluster.

use super::command::LogIndex;
use super::error::LogError;
use super::{Log, raft::Membership};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::BasicNode;
use openraft::{ChangeMembers, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The log's members, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Where each is reached.
    pub addresses: BTreeMap<u64, String>,
    /// Those whose voices count. While they change, both the old and the new ones.
    pub voters: BTreeSet<u64>,
}

impl Members {
    pub(super) fn of(membership: &Membership) -> Members {
        let nodes = membership.nodes();
        Members {
            addresses: nodes.map(|(id, node)| (*id, node.addr.clone())).collect(),
            voters: membership.voter_ids().collect(),
        }
    }
}

/// What the leader knows of another member.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// How long ago it was asked what it has last answered.
    pub silent: Option<Duration>,
    /// Up to which entry its log is known to be the leader's.
    pub matched: u64,
}

impl Log {
    /// On the leader: the last entry of its log, and how far the members have come.
    pub fn reach(&self) -> (u64, BTreeMap<u64, Reach>) {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref();
        let heard = |node| heard.and_then(|heard| heard.get(node).copied().flatten());
        let replication = metrics.replication.iter().flatten();
        let reach = replication.map(|(node, matched)| {
            let reach = Reach {
                silent: heard(node).map(|at| at.elapsed()),
                matched: matched.as_ref().map_or(0, |id| id.index),
            };
            (*node, reach)
        });
        (metrics.last_log_index.unwrap_or_default(), reach.collect())
    }

    /// On the leader: how long ago it sent what a majority has last confirmed.
    pub(crate) fn confirmed(&self) -> Option<Duration> {
        let metrics = self.inner.raft.metrics();
        let confirmed = metrics.borrow_watched().last_quorum_acked;
        confirmed.map(|at| at.elapsed())
    }

    /// The last entry of this node's log, committed or not.
    pub(crate) fn end(&self) -> LogIndex {
        let metrics = self.inner.raft.metrics();
        let end = metrics.borrow_watched().last_log_index;
        LogIndex(end.unwrap_or_default())
    }

    /// This node's number.
    pub fn node(&self) -> u64 {
        *self.inner.raft.node_id()
    }

    /// Whether voices are being changed: both the old and the new ones count.
    pub fn changes_voters(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership.get_joint_config().len() > 1
    }

    /// Whether no other node has a voice.
    pub(crate) fn votes_alone(&self) -> bool {
        let raft = &self.inner.raft;
        raft.voter_ids().eq([*raft.node_id()])
    }

    /// Where a member is reached.
    pub fn address_of(&self, node: u64) -> Option<String> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let known = metrics.membership_config.membership().get_node(&node);
        known.map(|known| known.addr.clone())
    }

    /// Who belongs to the log, as this node knows.
    pub fn members(&self) -> Members {
        let metrics = self.inner.raft.metrics();
        Members::of(metrics.borrow_watched().membership_config.membership())
    }

    /// Adds a node, or changes its address; it gets all of the log, but no voice. On the leader. Returns when that is committed, not when it has caught up.
    ///
    /// # Errors
    /// [`LogError::NotLeader`], or what ended the log.
    pub async fn add_member(&self, node: u64, address: &str) -> Result<(), LogError> {
        let addr = address.to_owned();
        let raft = &self.inner.raft;
        let added = match self.members().addresses.contains_key(&node) {
            false => raft.add_learner(node, BasicNode { addr }, false).await,
            true => {
                let moved = BTreeMap::from([(node, BasicNode { addr })]);
                let moved = ChangeMembers::SetNodes(moved);
                raft.change_membership(moved, true).await
            }
        };
        added.map(drop).map_err(refused)
    }

    /// Says whose voices count; those who lose theirs stay members. On the leader. Returns when that is committed. Cancelled, it may go on.
    ///
    /// # Errors
    /// [`LogError::NotLeader`], or what ended the log.
    pub async fn set_voters(&self, voters: BTreeSet<u64>) -> Result<(), LogError> {
        let raft = &self.inner.raft;
        let changed = raft.change_membership(voters, true).await;
        changed.map(drop).map_err(refused)
    }

    /// Removes nodes, which must have no voice. On the leader.
    ///
    /// # Errors
    /// [`LogError::NotLeader`], or what ended the log.
    pub async fn remove_members(&self, nodes: BTreeSet<u64>) -> Result<(), LogError> {
        let raft = &self.inner.raft;
        let removal = ChangeMembers::RemoveNodes(nodes);
        let changed = raft.change_membership(removal, false).await;
        changed.map(drop).map_err(refused)
    }

    /// Asks another voter to lead instead of this node. It has happened when [`Log::leadership`] says so; if it does not, this node goes on.
    ///
    /// # Errors
    /// What ended the log.
    pub async fn hand_over(&self, to: u64) -> Result<(), LogError> {
        let trigger = self.inner.raft.trigger();
        let begun = trigger.transfer_leader(to).await;
        begun.map_err(super::open::consensus)
    }
}

fn refused(error: RaftError<super::raft::Types, ClientWriteError<super::raft::Types>>) -> LogError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => LogError::NotLeader,
        error => super::open::consensus(error),
    }
}
