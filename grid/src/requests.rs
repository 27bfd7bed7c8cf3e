//! What nodes have asked of the log's leader, as the log has it: scopes that they hold for transactions in Postgres, and answers that they may ask for again.
//! The same on every replica. Decides; fences and rows are somebody else's.
//!
//! A request has a number; its process says with each new one below which number it will never ask again. So what is over is forgotten, and a late copy of a
//! request does nothing.

use crate::log::{Answered, HeldScope, HoldEnd, RequestId};
use crate::mistake::Mistake;
use crate::scope::Scope;
use bytes::Bytes;
use ripen_pg::ids::TableOid;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    pub(crate) processes: BTreeMap<u64, Process>,
    pub(crate) holds: BTreeMap<RequestId, HeldScope>,
    pub(crate) lingering: Vec<Lingering>,
}

/// What a process has asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Process {
    /// What it asked below this number is over.
    pub below: u64,
    /// What became of requests that it may repeat.
    pub answers: BTreeMap<u64, Bytes>,
    /// Holds that have ended, or must not begin.
    pub ended: BTreeSet<u64>,
}

/// A hold that has ended for its transaction and lasts for others, which may do more than they have said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lingering {
    pub scope: Scope,
    pub changed: bool,
    pub awaits: BTreeSet<RequestId>,
}

/// A scope that is the grid's again.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Which.
    pub scope: Scope,
    /// Whether it may have been changed.
    pub changed: bool,
}

impl Requests {
    /// Whether the request, and all before its like, are over: whoever sends it has been answered.
    pub fn is_over(&self, id: RequestId) -> bool {
        let process = self.processes.get(&id.process);
        process.is_some_and(|process| id.number < process.below)
    }

    /// What the request came to, if it has been carried out.
    pub fn answer(&self, id: RequestId) -> Option<&Bytes> {
        self.processes.get(&id.process)?.answers.get(&id.number)
    }

    /// The request has been carried out. False: it had been before. (The leader proposes nothing that is over or on its way.)
    pub fn answered(&mut self, answered: Answered) -> bool {
        let Answered { id, below, answer } = answered;
        let process = self.process(id.process, below);
        if process.answers.contains_key(&id.number) && !Mistake::TwiceDone.is_made() {
            return false;
        }
        // Nobody may wait for it any more; it was decided all the same, and others build on it.
        if id.number >= process.below {
            process.answers.insert(id.number, answer);
        }
        true
    }

    fn process(&mut self, process: u64, below: u64) -> &mut Process {
        let process = self.processes.entry(process).or_default();
        if process.below < below {
            process.below = below;
            process.answers = process.answers.split_off(&below);
            process.ended = process.ended.split_off(&below);
        }
        process
    }

    /// A scope is to be held. Answers whether it is from now on: a copy of a request that was answered does nothing.
    pub fn hold(&mut self, held: HeldScope) -> bool {
        let id = held.id;
        let process = self.process(id.process, held.below);
        let over = id.number < process.below || process.ended.contains(&id.number);
        if over || self.holds.contains_key(&id) {
            return false;
        }
        self.holds.insert(id, held);
        true
    }

    /// Whether the scope is held.
    pub fn stands(&self, id: RequestId) -> bool {
        self.holds.contains_key(&id)
    }

    /// Holds have ended. Answers the scopes that are free by that.
    pub fn release(&mut self, ids: &[RequestId], end: HoldEnd) -> Vec<Ended> {
        let changed = end == HoldEnd::Changed;
        let mut free = Vec::new();
        for id in ids {
            let process = self.processes.entry(id.process).or_default();
            if id.number >= process.below {
                process.ended.insert(id.number);
            }
            let Some(held) = self.holds.remove(id) else {
                continue;
            };
            let awaits = match held.rewires {
                true => self.holds.keys().copied().collect(),
                false => BTreeSet::new(),
            };
            let scope = held.scope;
            self.lingering.push(Lingering {
                scope,
                changed,
                awaits,
            });
        }
        self.lingering.retain_mut(|lingering| {
            ids.iter().for_each(|id| {
                lingering.awaits.remove(id);
            });
            let over = lingering.awaits.is_empty();
            if over {
                free.push(Ended {
                    scope: std::mem::replace(&mut lingering.scope, Scope::Nothing),
                    changed: lingering.changed,
                });
            }
            !over
        });
        free
    }

    /// A process has ended, and holds nothing any more.
    pub fn forget(&mut self, process: u64) {
        self.processes.remove(&process);
    }

    /// All scopes that are fenced, those that linger too.
    pub fn scopes(&self) -> impl Iterator<Item = &Scope> {
        let held = self.holds.values().map(|held| &held.scope);
        held.chain(self.lingering.iter().map(|lingering| &lingering.scope))
    }

    /// Whether a transaction of another process than this may make statements touch more than they name.
    pub fn is_rewired_by_others(&self, process: u64) -> bool {
        let mut held = self.holds.values();
        held.any(|held| held.rewires && held.id.process != process)
    }

    /// Tables that are taken out of the publication.
    pub fn withdrawn(&self) -> BTreeSet<TableOid> {
        let held = self.holds.values();
        held.flat_map(|held| held.withdrawn.iter().copied())
            .collect()
    }

    /// Whether anything is held for transactions of that process.
    pub fn holds_for(&self, process: u64) -> bool {
        self.holds.keys().any(|id| id.process == process)
    }

    /// All scopes that are held for transactions.
    pub fn held(&self) -> Vec<HeldScope> {
        self.holds.values().cloned().collect()
    }

    /// Processes that have asked for something.
    pub fn known(&self) -> BTreeSet<u64> {
        self.processes.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(process: u64, number: u64) -> RequestId {
        RequestId { process, number }
    }

    fn held(id: RequestId, below: u64, rewires: bool) -> HeldScope {
        HeldScope {
            id,
            node: 1,
            below,
            scope: Scope::Everything,
            backend: None,
            rewires,
            withdrawn: Vec::new(),
        }
    }

    fn answered(id: RequestId, below: u64) -> Answered {
        let answer = Bytes::from(id.number.to_le_bytes().to_vec());
        Answered { id, below, answer }
    }

    #[test]
    fn a_request_is_carried_out_once() {
        let mut requests = Requests::default();
        assert!(requests.answered(answered(id(1, 5), 5)));
        assert!(!requests.answered(answered(id(1, 5), 5)));
        assert!(requests.answer(id(1, 5)).is_some());
        assert!(requests.answered(answered(id(1, 6), 6)));
        assert_eq!(requests.answer(id(1, 5)), None);
        assert!(requests.is_over(id(1, 5)));
        assert!(requests.answered(answered(id(2, 5), 5)), "another process");
    }

    #[test]
    fn what_was_decided_counts_though_nobody_waits_for_it_any_more() {
        let mut requests = Requests::default();
        assert!(requests.answered(answered(id(1, 9), 9)));
        assert!(requests.answered(answered(id(1, 5), 5)));
        assert_eq!(requests.answer(id(1, 5)), None);
    }

    #[test]
    fn a_late_copy_of_a_hold_holds_nothing() {
        let mut requests = Requests::default();
        assert!(requests.hold(held(id(1, 1), 1, false)));
        assert!(!requests.hold(held(id(1, 1), 1, false)));
        assert_eq!(requests.release(&[id(1, 1)], HoldEnd::Changed).len(), 1);
        assert!(!requests.hold(held(id(1, 1), 1, false)));
        // A request that was given up ends before it comes.
        assert_eq!(requests.release(&[id(1, 2)], HoldEnd::Unchanged), []);
        assert!(!requests.hold(held(id(1, 2), 1, false)));
        assert!(!requests.holds_for(1));
        assert!(requests.hold(held(id(1, 9), 9, false)));
        assert!(requests.holds_for(1) && !requests.holds_for(2));
        assert!(!requests.hold(held(id(1, 2), 1, false)));
    }

    #[test]
    fn what_rewires_lasts_until_those_are_over_that_were_there() {
        let mut requests = Requests::default();
        requests.hold(held(id(1, 1), 1, false));
        requests.hold(held(id(1, 2), 1, true));
        assert_eq!(requests.release(&[id(1, 2)], HoldEnd::Changed), []);
        requests.hold(held(id(1, 3), 1, false));
        assert_eq!(requests.release(&[id(1, 3)], HoldEnd::Unchanged).len(), 1);
        assert_eq!(requests.scopes().count(), 2);
        assert_eq!(requests.release(&[id(1, 1)], HoldEnd::Unchanged).len(), 2);
        assert_eq!(requests.scopes().count(), 0);
    }
}
