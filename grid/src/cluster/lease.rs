//! Who may answer from memory, and when a commit may be acknowledged. Decides only; all times are arguments, in milliseconds of the asked node's own clock, which
//! must never go back nor stand still while the machine sleeps.
//!
//! A node that holds a lease answers reads without asking anybody. So a commit is acknowledged only when every holder has applied it, or its lease is over:
//!
//! - A lease is counted by the holder from when it *asked*, by the leader from when it answered. So it ends for the holder first, however long the messages took.
//! - A leader grants no longer than [`LEASE_MS`] after a majority last confirmed it. Whoever is elected after that knows until when that can have been (one of the
//!   majority voted for it, and a voice is not given for a while after a confirmation), and acknowledges nothing until [`LEASE_MS`] later. So no lease of an earlier leader
//!   outlives the first acknowledgement of a later one.
//! - What a holder shows may not be news to the others: a row whose last change some holder lacks is read only when [`Lessor::everywhere`] has come so far.

use crate::log::{LogIndex, PROMISE_MS};
use crate::mistake::Mistake;
use std::collections::{BTreeMap, VecDeque};

/// How long a node may answer from memory without hearing from its leader: short, since a dead node holds up commits for so long.
pub const LEASE_MS: u64 = 300;

/// What the leader adds when it waits for the end of a lease: clocks may differ in speed by a hundredth (real ones do by a ten-thousandth), and are read in whole milliseconds.
const MARGIN_MS: u64 = LEASE_MS / 100 + 2;

/// When a voice is free again, leases that rest on it are over, by any clock.
const _: () = assert!(PROMISE_MS * 99 / 100 > LEASE_MS + MARGIN_MS);

/// Log entries that a node may lack and still get a lease: those that come while it asks. One that lacks more would hold up every commit until it has caught up.
const LACKING_MAX: u64 = 64;

/// How long a node may lack an entry that the leader has applied and still get a lease. One that is stuck shall not hold up the others for ever.
const LACKING_MS: u64 = LEASE_MS / 2;

/// How often the leader remembers how far it was.
const REMEMBER_MS: u64 = 10;

/// The leader's side, for as long as it leads.
#[derive(Debug)]
pub struct Lessor {
    /// Nothing is acknowledged before: leases of an earlier leader may last.
    silent_until_ms: u64,
    /// Up to where this leader, or one before it, may have acknowledged commits.
    acknowledged: LogIndex,
    holders: BTreeMap<u64, Holder>,
    /// When this node had applied how much, for the last [`LACKING_MS`] and the moment before.
    was: VecDeque<(u64, LogIndex)>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    until_ms: u64,
    applied: LogIndex,
}

/// What a node may do that asked for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How long after it asked it may answer from memory, in milliseconds.
    pub length_ms: u64,
    /// If it has applied the log up to here by then.
    pub from: LogIndex,
}

impl Lessor {
    /// For a leader whose log ended at `end` when it was elected: earlier leaders may have acknowledged all of that. No majority has confirmed one of them after
    /// `confirmed_ms`.
    pub fn new(confirmed_ms: u64, end: LogIndex) -> Lessor {
        Lessor {
            silent_until_ms: confirmed_ms + LEASE_MS + MARGIN_MS,
            acknowledged: end,
            holders: BTreeMap::new(),
            was: VecDeque::new(),
        }
    }

    /// A node that has applied the log up to `applied` asks for a lease. `confirmed_ms`: when this leader *sent* what a majority last confirmed.
    pub fn grant(
        &mut self,
        node: u64,
        applied: LogIndex,
        confirmed_ms: u64,
        now_ms: u64,
    ) -> Option<Grant> {
        self.report(node, applied);
        let over_ms = confirmed_ms + LEASE_MS;
        let length_ms = over_ms.checked_sub(now_ms).filter(|ms| *ms > 0)?;
        let lacks_many = applied.0 + LACKING_MAX < self.acknowledged.0;
        let lacks_long = self
            .was
            .front()
            .is_some_and(|(at_ms, was)| at_ms + LACKING_MS <= now_ms && applied < *was);
        if lacks_many || lacks_long {
            return None;
        }
        let until_ms = now_ms + length_ms + MARGIN_MS;
        let holder = self.holders.entry(node);
        let holder = holder.or_insert(Holder { until_ms, applied });
        holder.until_ms = holder.until_ms.max(until_ms);
        Some(Grant {
            length_ms,
            from: self.acknowledged,
        })
    }

    /// A node has applied the log up to `applied`.
    pub fn report(&mut self, node: u64, applied: LogIndex) {
        if let Some(holder) = self.holders.get_mut(&node) {
            holder.applied = holder.applied.max(applied);
        }
    }

    /// Up to where commits may be acknowledged, this node having applied the log up to `applied`. `None`: nothing yet. Never goes back.
    pub fn acknowledge(&mut self, applied: LogIndex, now_ms: u64) -> Option<LogIndex> {
        self.remember(applied, now_ms);
        if now_ms < self.silent_until_ms {
            return None;
        }
        self.holders.retain(|_, holder| holder.until_ms > now_ms);
        let held = self.holders.values().map(|holder| holder.applied);
        let everywhere = match Mistake::EarlyAck.is_made() {
            true => applied,
            false => held.fold(applied, LogIndex::min),
        };
        self.acknowledged = self.acknowledged.max(everywhere);
        Some(self.acknowledged)
    }

    fn remember(&mut self, applied: LogIndex, now_ms: u64) {
        let newest_ms = self.was.back().map_or(0, |(at_ms, _)| *at_ms);
        if newest_ms + REMEMBER_MS <= now_ms {
            self.was.push_back((now_ms, applied));
        }
        // The first is the newest of those that are old enough.
        while self
            .was
            .get(1)
            .is_some_and(|(at_ms, _)| at_ms + LACKING_MS <= now_ms)
        {
            self.was.pop_front();
        }
    }

    /// When [`Lessor::acknowledge`] may answer more although nobody reports: the next end of a lease, or of the silence.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let ends = self.holders.values().map(|holder| holder.until_ms);
        let silence = [self.silent_until_ms]
            .into_iter()
            .filter(|end| *end > now_ms);
        ends.chain(silence).min()
    }
}

/// The holder's side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lease {
    until_ms: u64,
    from: LogIndex,
}

impl Lease {
    /// The answer to what was asked at `asked_ms`. Answers may come in any order.
    pub fn granted(&mut self, grant: Grant, asked_ms: u64) {
        self.until_ms = self.until_ms.max(asked_ms + grant.length_ms);
        self.from = self.from.max(grant.from);
    }

    /// Whether there is none, for whatever the node has applied.
    pub fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.until_ms
    }

    /// Whether a read that begins now may be answered from memory, which contains the log up to `applied`.
    pub fn holds(&self, applied: LogIndex, now_ms: u64) -> bool {
        let lasts = now_ms < self.until_ms || Mistake::EndlessLease.is_made();
        lasts && applied >= self.from
    }
}

#[cfg(test)]
mod tests;
