//! Which members have a voice in the log: grows to an odd number as nodes come, and replaces who is gone. Decides only; the leader carries it out, one step at a
//! time, and asks again.
//!
//! A voice is never taken without one given, except from who leaves: a dead voter without a successor may come back, with what it has on disk.

use crate::log::Members;
use std::collections::{BTreeMap, BTreeSet};

/// What the leader knows of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// When it was last heard of, in milliseconds of the leader's steady clock. `None`: not since this node leads.
    pub heard_ms: Option<u64>,
    /// Whether it has the log up to a moment ago.
    pub caught_up: bool,
    /// Whether it has said that it will go for good.
    pub leaves: bool,
}

/// What the cluster shall be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Most voices: 1, 3, 5 or 7.
    pub voters: usize,
    /// A voter not heard of for so long loses its voice to another, in milliseconds.
    pub replace_after_ms: u64,
}

/// What the leader should do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Change whose voices count.
    Voters(BTreeSet<u64>),
    /// Let another lead, so that this node can go.
    HandOver(u64),
    /// Remove who has left and has no voice.
    Remove(u64),
}

/// A node not heard of for so long is not given a voice, and counts as away.
pub(super) const SILENT_MS: u64 = 1_000;

/// The members, seen by the leader.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The log's members.
    pub members: &'a Members,
    /// This node.
    pub leader: u64,
    /// What is known of each.
    pub sights: &'a BTreeMap<u64, Sight>,
    /// Since when this node leads: who has not been heard of has been silent since then at the least.
    pub since_ms: u64,
    /// The leader's steady clock.
    pub now_ms: u64,
}

impl View<'_> {
    /// The next step, if there is one to take.
    pub fn next(&self, wish: Wish) -> Option<Step> {
        let voters = &self.members.voters;
        self.replacement(wish)
            .or_else(|| self.farewell())
            .or_else(|| self.shrinking(wish))
            .or_else(|| self.growth(wish))
            .map(
                |next| match next.contains(&self.leader) || next.is_empty() {
                    true => Step::Voters(next),
                    // Who leads cannot take its own voice: another does.
                    false => self.heir().map_or(Step::Voters(next), Step::HandOver),
                },
            )
            .or_else(|| {
                let mut gone = self.nodes().filter(|node| self.leaves(*node));
                gone.find(|node| !voters.contains(node)).map(Step::Remove)
            })
    }

    /// Somebody else for a voter that leaves or has been silent for too long.
    fn replacement(&self, wish: Wish) -> Option<BTreeSet<u64>> {
        let lost =
            |node: &u64| self.leaves(*node) || self.silent_ms(*node) >= wish.replace_after_ms;
        let lost = self.members.voters.iter().copied().find(lost)?;
        let successor = self.successors().next()?;
        Some(self.voters_but(lost).chain([successor]).collect())
    }

    /// Nobody comes for a voter that leaves: the others go on without it, as long as there are any.
    fn farewell(&self) -> Option<BTreeSet<u64>> {
        let leaving = self
            .members
            .voters
            .iter()
            .copied()
            .find(|node| self.leaves(*node))?;
        let left: BTreeSet<u64> = self.voters_but(leaving).collect();
        (!left.is_empty()).then_some(left)
    }

    /// Fewer voices than there were are wanted.
    fn shrinking(&self, wish: Wish) -> Option<BTreeSet<u64>> {
        let voters = &self.members.voters;
        let others = voters.iter().copied().filter(|node| *node != self.leader);
        let most_silent = others.max_by_key(|node| self.silent_ms(*node))?;
        (voters.len() > wish.voters).then(|| self.voters_but(most_silent).collect())
    }

    /// An even number of voices costs a node and saves none, so they grow by two, or by one to an odd number.
    fn growth(&self, wish: Wish) -> Option<BTreeSet<u64>> {
        let voters = &self.members.voters;
        let possible = wish.voters.min(voters.len() + self.successors().count());
        let size = if possible.is_multiple_of(2) {
            possible.saturating_sub(1)
        } else {
            possible
        };
        let more = size.checked_sub(voters.len()).filter(|more| *more > 0)?;
        Some(
            voters
                .iter()
                .copied()
                .chain(self.successors().take(more))
                .collect(),
        )
    }

    fn nodes(&self) -> impl Iterator<Item = u64> {
        self.members.addresses.keys().copied()
    }

    fn voters_but(&self, one: u64) -> impl Iterator<Item = u64> {
        let voters = self.members.voters.iter().copied();
        voters.filter(move |node| *node != one)
    }

    /// Members that could be given a voice at once.
    fn successors(&self) -> impl Iterator<Item = u64> {
        self.nodes()
            .filter(|node| !self.members.voters.contains(node) && self.fit(*node))
    }

    /// A voter that can lead now.
    fn heir(&self) -> Option<u64> {
        self.voters_but(self.leader).find(|node| self.fit(*node))
    }

    fn fit(&self, node: u64) -> bool {
        let caught_up = self.sights.get(&node).is_some_and(|sight| sight.caught_up);
        caught_up && !self.leaves(node) && self.silent_ms(node) < SILENT_MS
    }

    fn leaves(&self, node: u64) -> bool {
        self.sights.get(&node).is_some_and(|sight| sight.leaves)
    }

    fn silent_ms(&self, node: u64) -> u64 {
        if node == self.leader {
            return 0;
        }
        let heard_ms = self.sights.get(&node).and_then(|sight| sight.heard_ms);
        let heard_ms = heard_ms.unwrap_or(self.since_ms);
        self.now_ms.saturating_sub(heard_ms)
    }
}

#[cfg(test)]
mod tests;
