//! How the cluster is, as one node sees it; whether one more node may be lost; who could lead instead. Decides only; who asks whom, `operator` does.

use super::limits::CAUGHT_UP_ENTRIES;
use super::membership::SILENT_MS;
use serde::{Deserialize, Serialize};

/// What one node knows. Goes from node to node as JSON, so that nodes of several versions understand each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// Who says this.
    pub node: u64,
    /// Where other nodes reach it. Empty: there are none.
    pub address: String,
    /// Whether it leads, and has applied everything that was acknowledged under earlier leaders.
    pub leads: bool,
    /// Who leads, if it knows.
    pub leader: Option<Whereabouts>,
    /// The newest term that it has heard of.
    pub term: u64,
    /// Whether it may answer from memory now.
    pub may_read: bool,
    /// The last entry of the log of whoever has seen the members.
    pub last: u64,
    /// Whether voices are being changed: until that is done, both the old and the new ones count.
    pub changing: bool,
    /// Who belongs to the cluster, in the order of their numbers.
    pub members: Vec<Seen>,
}

/// A node and where it is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Whereabouts {
    /// Its number.
    pub node: u64,
    /// `host:port` for other nodes, if known.
    pub address: Option<String>,
}

/// A member, as the leader sees it; of what only the leader knows, others say `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Its number.
    pub node: u64,
    /// Where other nodes reach it.
    pub address: String,
    /// Whether its voice counts.
    pub votes: bool,
    /// How long ago it was asked what it has last answered, in milliseconds. `None` from a leader: nothing yet.
    pub silent_ms: Option<u64>,
    /// Up to which entry it has the leader's log.
    pub matched: Option<u64>,
}

/// Why no further node may be lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    /// There is only one.
    #[error("a node alone: there is no other that could go on")]
    Alone,
    /// An election, a partition, or too few nodes.
    #[error("this node knows no leader")]
    NoLeader,
    /// It is known, but not reached.
    #[error("the leader, node {node}, does not answer{}", at(address))]
    Silent {
        /// Its number.
        node: u64,
        /// Its address, if known.
        address: Option<String>,
    },
    /// Both the old and the new voters count.
    #[error("the voters are being changed")]
    Changing,
    /// Some voters are away or behind.
    #[error(
        "{fit} of {voters} voters are there and up to date, {needed} are needed before one may be lost{}",
        away(missing)
    )]
    Few {
        /// Voters that are there and up to date.
        fit: usize,
        /// All voters.
        voters: usize,
        /// How many must be fit.
        needed: usize,
        /// The others.
        missing: Vec<u64>,
    },
}

fn at(address: &Option<String>) -> String {
    let at = |address: &String| format!(" at {address}");
    address.as_ref().map(at).unwrap_or_default()
}

fn away(nodes: &[u64]) -> String {
    let words: Vec<String> = nodes.iter().map(|node| format!("node {node}")).collect();
    match words.is_empty() {
        true => String::new(),
        false => format!("; away or behind: {}", words.join(", ")),
    }
}

impl MemberStatus {
    /// Whether any one node may be lost and the others go on with all that is acknowledged. To be asked of the leader's own status: nobody else knows.
    ///
    /// # Errors
    /// Why not.
    pub fn safe(&self) -> Result<(), Unsafe> {
        if !self.leads {
            return Err(Unsafe::NoLeader);
        }
        if self.changing {
            return Err(Unsafe::Changing);
        }
        let voters = self.voters().count();
        if voters <= 1 {
            return Err(Unsafe::Alone);
        }
        let missing = self.voters().filter(|seen| !self.fit(seen));
        let missing: Vec<u64> = missing.map(|seen| seen.node).collect();
        let (fit, needed) = (voters - missing.len(), voters / 2 + 2);
        match fit >= needed {
            true => Ok(()),
            false => Err(Unsafe::Few {
                fit,
                voters,
                needed,
                missing,
            }),
        }
    }

    /// Which other voter should lead if this node, the leader, shall not: the one that lacks least.
    pub fn heir(&self) -> Option<u64> {
        let others = self.voters().filter(|seen| seen.node != self.node);
        let fit = others.filter(|seen| self.leads && self.fit(seen));
        fit.max_by_key(|seen| seen.matched).map(|seen| seen.node)
    }

    /// The same node's view, with what the leader sees of the members. What is not a leader's, or an earlier one's, changes nothing.
    pub fn completed(self, leaders: MemberStatus) -> MemberStatus {
        if !leaders.leads || leaders.term < self.term {
            return self;
        }
        MemberStatus {
            last: leaders.last,
            changing: leaders.changing,
            members: leaders.members,
            ..self
        }
    }

    /// Those whose voices count.
    pub fn voters(&self) -> impl Iterator<Item = &Seen> {
        self.members.iter().filter(|seen| seen.votes)
    }

    fn fit(&self, seen: &Seen) -> bool {
        let there = seen.silent_ms.is_some_and(|ms| ms < SILENT_MS);
        let matched = seen.matched.unwrap_or_default();
        there && matched + CAUGHT_UP_ENTRIES >= self.last
    }
}

#[cfg(test)]
mod tests;
