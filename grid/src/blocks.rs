//! Transaction blocks that a leader keeps for clients of all nodes: which are open, whose turn it is in one, which nobody comes for any more. Decides; what a block is
//! (`T`), nobody looks at here, and time comes in as an argument.
//!
//! Invariants: a step of a block is taken once, and none after a later one; a block that has ended, or whose process has said that it is over, never begins again; all blocks are of
//! one term.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// A block of a node's process. Blocks are numbered in the order in which they began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    /// Drawn when the process began.
    pub process: u64,
    /// Which of its blocks.
    pub number: u64,
}

/// One thing that is asked of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Of which.
    pub block: BlockId,
    /// The term of the leader that has it. Another one does not.
    pub term: u64,
    /// Counts from 0, with which the block begins.
    pub number: u64,
}

/// What a process says of its blocks, again and again: that it lives, which it still has, and of which it knows that they are wanted elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Which process.
    pub process: u64,
    /// The term of the leader that is asked.
    pub term: u64,
    /// Every block numbered up to this one is over, but for those in `open`.
    pub upto: u64,
    /// Its blocks, and whether it knows that somebody in Postgres wants their rows.
    pub open: BTreeMap<u64, bool>,
    /// Whether it waits for one that it does not know of.
    pub waits: bool,
}

/// What becomes of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<T> {
    /// It is to be done. Whatever was asked before is not waited for any more.
    Take(T),
    /// It is a copy of one that was taken, or comes after a later one.
    Past,
    /// There is no such block here.
    Gone,
    /// There are as many blocks as there may be.
    Full,
}

#[derive(Debug)]
struct Open<T> {
    kept: T,
    /// The last step that was taken.
    step: u64,
}

#[derive(Debug)]
struct Process<T> {
    heard: Instant,
    upto: u64,
    open: BTreeMap<u64, Open<T>>,
}

/// See the module.
#[derive(Debug)]
pub struct Blocks<T> {
    term: u64,
    max: usize,
    processes: BTreeMap<u64, Process<T>>,
}

impl<T: Clone> Blocks<T> {
    /// None yet; `max` of them at most.
    pub fn new(max: usize) -> Blocks<T> {
        Blocks {
            term: 0,
            max,
            processes: BTreeMap::new(),
        }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.processes
            .values()
            .map(|process| process.open.len())
            .sum()
    }

    /// This node leads in that term. Answers the blocks of earlier ones, which are over.
    #[must_use = "they are to be dropped where nothing is locked"]
    pub fn lead(&mut self, term: u64) -> Vec<T> {
        if term <= self.term {
            return Vec::new();
        }
        self.term = term;
        self.clear()
    }

    /// This node does not lead. Answers all blocks, which are over.
    #[must_use = "they are to be dropped where nothing is locked"]
    pub fn clear(&mut self) -> Vec<T> {
        let before = std::mem::take(&mut self.processes);
        let before = before.into_values().flat_map(|process| process.open);
        before.map(|(_, open)| open.kept).collect()
    }

    /// A step has come. The first one begins the block, by `begin`.
    pub fn step(&mut self, step: Step, now: Instant, begin: impl FnOnce() -> T) -> Turn<T> {
        if step.term != self.term {
            return Turn::Gone;
        }
        let full = self.count() >= self.max;
        let BlockId { process, number } = step.block;
        let process = self.processes.entry(process).or_insert_with(|| Process {
            heard: now,
            upto: 0,
            open: BTreeMap::new(),
        });
        process.heard = now;
        match process.open.get_mut(&number) {
            Some(open) if step.number <= open.step => Turn::Past,
            Some(open) => {
                open.step = step.number;
                Turn::Take(open.kept.clone())
            }
            None if step.number > 0 || number <= process.upto => Turn::Gone,
            None if full => Turn::Full,
            None => {
                let kept = begin();
                let open = Open {
                    kept: kept.clone(),
                    step: 0,
                };
                process.open.insert(number, open);
                Turn::Take(kept)
            }
        }
    }

    /// The last step of a block has come, which may come again until it is answered: by whom it is carried out once, somebody else knows.
    pub fn last(&mut self, step: Step, now: Instant) -> Turn<T> {
        if step.term != self.term {
            return Turn::Gone;
        }
        let Some(process) = self.processes.get_mut(&step.block.process) else {
            return Turn::Gone;
        };
        process.heard = now;
        match process.open.get_mut(&step.block.number) {
            None => Turn::Gone,
            Some(open) if step.number < open.step => Turn::Past,
            Some(open) => {
                open.step = step.number;
                Turn::Take(open.kept.clone())
            }
        }
    }

    /// A block has ended.
    #[must_use = "it is to be dropped where nothing is locked"]
    pub fn end(&mut self, block: BlockId) -> Option<T> {
        let process = self.processes.get_mut(&block.process)?;
        process.open.remove(&block.number).map(|open| open.kept)
    }

    /// A process has said which blocks it has. Answers those that it has not any more.
    #[must_use = "they are to be dropped where nothing is locked"]
    pub fn watched(&mut self, watch: &Watch, now: Instant) -> Vec<T> {
        let Some(process) = self.processes.get_mut(&watch.process) else {
            return Vec::new();
        };
        process.heard = now;
        process.upto = process.upto.max(watch.upto);
        let over = |number: &u64| *number <= watch.upto && !watch.open.contains_key(number);
        let over: Vec<u64> = process.open.keys().copied().filter(over).collect();
        let over = over.iter().filter_map(|number| process.open.remove(number));
        over.map(|open| open.kept).collect()
    }

    /// The blocks of a process.
    pub fn of(&self, process: u64) -> impl Iterator<Item = (u64, &T)> {
        let process = self.processes.get(&process).into_iter();
        let open = process.flat_map(|process| &process.open);
        open.map(|(number, open)| (*number, &open.kept))
    }

    /// Answers the blocks of processes that have not been heard of for so long: they are over.
    #[must_use = "they are to be dropped where nothing is locked"]
    pub fn silent(&mut self, now: Instant, patience: Duration) -> Vec<T> {
        let silent = |process: &Process<T>| now.duration_since(process.heard) >= patience;
        let numbers = self.processes.iter();
        let numbers = numbers.filter(|(_, process)| silent(process));
        let numbers: BTreeSet<u64> = numbers.map(|(number, _)| *number).collect();
        let processes = numbers
            .iter()
            .filter_map(|number| self.processes.remove(number));
        let open = processes.flat_map(|process| process.open);
        open.map(|(_, open)| open.kept).collect()
    }
}

#[cfg(test)]
mod tests;
