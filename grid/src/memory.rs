//! How many bytes rows may take, so that the whole process stays within `memory_max`. Decides only: it is told what was measured, and somebody else sees to it.
//!
//! What rows weigh is an estimate, and the process holds other things: sessions, plans, the log's index, the program. All that is not rows is
//! `others = process − rows`. Two things make it more than a subtraction:
//! - Rows that are given up do not shrink the process at once, and sometimes never: the allocator keeps their memory for the next ones. Were that memory
//!   taken for `others`, less room would be left for rows, more would be given up, and so on until none is left. So `others` only grows when the process grows
//!   beyond its last peak, and memory that rows have left counts as room for rows. Only while the process is above its bound is that memory, little by little, taken
//!   for lost: then it will not come down otherwise.
//! - A row may take more than estimated. So rows are only let half way towards the aim, measured anew, let half way again: no overshoot up to twice the estimate.
//!
//! The aim is below the bound, for what the others take between two measurements; between the two nothing is done, so that a trembling measure moves no rows. Rows that cannot be given up, and a floor of clean ones above them, stay in any case:
//! a cache that vanishes because of something else would only add its load to whatever is wrong.

use crate::limits;

/// What is known at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// What the process takes, as the system tells it.
    pub process: u64,
    /// What rows are estimated to take, pinned ones included.
    pub rows: u64,
    /// Those of them that cannot be given up now: pending, flushing, being loaded.
    pub pinned: u64,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Rows may take so many bytes, by the estimate.
    pub rows_max: u64,
    /// Said once, when rows have given up all that they can and the process is above its bound all the same.
    pub complaint: Option<Complaint>,
}

/// Who takes the memory then, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The process.
    pub process: u64,
    /// Rows that cannot be given up.
    pub pinned: u64,
    /// What is not rows.
    pub others: u64,
}

/// See the module.
#[derive(Debug)]
pub struct MemoryBound {
    max: u64,
    others: u64,
    peak: u64,
    rounds_exceeded: u32,
}

impl MemoryBound {
    /// Keeps the process within `max` bytes.
    pub fn new(max: u64) -> MemoryBound {
        MemoryBound {
            max,
            others: 0,
            peak: 0,
            rounds_exceeded: 0,
        }
    }

    /// To be called regularly: [`limits::MEMORY_LOST_PART`] and [`limits::MEMORY_PATIENCE_ROUNDS`] count calls.
    pub fn decide(&mut self, now: &Measured) -> Verdict {
        self.learn(now);
        let aim = self.max - self.max / limits::MEMORY_MARGIN_PART;
        let held = now.process.saturating_sub(self.others).max(now.rows);
        let wanted = match now.process {
            process if process <= aim => held + (aim - process) / 2,
            process if process <= self.max => held,
            process => held.saturating_sub(process - aim),
        };
        let floor = now.pinned + self.max / limits::MEMORY_FLOOR_PART;
        let rows_max = wanted.min(self.max).max(floor);
        Verdict {
            rows_max,
            complaint: self.complain(now, wanted <= floor, aim),
        }
    }

    fn learn(&mut self, now: &Measured) {
        let apart = now.process.saturating_sub(now.rows);
        let growth = now.process.saturating_sub(self.peak);
        self.others = apart.min(self.others + growth);
        self.peak = self.peak.max(now.process);
        if self.others == apart {
            // Nothing is held for rows but rows, so any growth from here on is seen.
            self.peak = now.process;
        } else if now.process > self.max {
            self.others += (apart - self.others).div_ceil(limits::MEMORY_LOST_PART);
        }
    }

    fn complain(&mut self, now: &Measured, at_floor: bool, aim: u64) -> Option<Complaint> {
        if now.process <= aim {
            self.rounds_exceeded = 0;
        } else if now.process > self.max && at_floor {
            self.rounds_exceeded = self.rounds_exceeded.saturating_add(1);
            if self.rounds_exceeded == limits::MEMORY_PATIENCE_ROUNDS {
                return Some(Complaint {
                    process: now.process,
                    pinned: now.pinned,
                    others: now.process.saturating_sub(now.rows),
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
