//! What clients were told, held against what one single copy of the data could have told them. Each key (a row, or rows that are only written together) is judged on its own: there
//! must be one order of its operations, each at some moment between its call and its return, in which each tells what was told (linearizability, Herlihy and Wing 1990).
//! Decides; who does what when, others say. An operation without an answer may have happened at any time after its call, or never: never counts it as absent.

mod search;

use search::Verdict;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A row's value; `None`: there is no row.
pub type Value = Option<i64>;

/// What an operation did to its key, with what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// Was told this value.
    Read(Value),
    /// Was told only whether there is a row, as by an INSERT that is refused as a duplicate.
    Found(bool),
    /// Set it, whatever was there. Values of different writes differ, else a stale one cannot be told from a fresh one.
    Write(Value),
    /// Set it where there was no row.
    Insert(i64),
    /// Removed the row, and was told whether there was one.
    Delete(bool),
    /// Added to it, and was not told what came of it.
    Add(i64),
    /// Added the first number to it, and was told the second as the sum.
    AddTold(i64, i64),
}

/// One operation of one client on one key. Times are counted from the same moment by the same clock.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who asked, and through what; only for people.
    pub who: String,
    /// What it did, or, without an answer, may have done.
    pub did: Did,
    /// Just before it was sent.
    pub called: Duration,
    /// Just after it was answered. `None`: it failed, and nobody knows whether it happened.
    pub returned: Option<Duration>,
}

/// All operations of a run, by key.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<String, Key>,
}

#[derive(Debug, Default)]
struct Key {
    begins_with: Value,
    operations: Vec<Operation>,
}

impl History {
    /// Says what a key holds before its first operation; without this there is no row.
    pub fn begin(&mut self, key: &str, value: Value) {
        self.keys.entry(key.to_owned()).or_default().begins_with = value;
    }

    /// Takes note of an operation; in any order.
    pub fn push(&mut self, key: &str, operation: Operation) {
        let key = self.keys.entry(key.to_owned()).or_default();
        key.operations.push(operation);
    }

    /// How many operations it has.
    pub fn len(&self) -> usize {
        self.keys.values().map(|key| key.operations.len()).sum()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that is wrong, for people; at most one for each key.
    pub fn violations(&self) -> Vec<String> {
        let judged = self.keys.iter().filter_map(|(name, key)| {
            let found = key.miscount().or_else(|| key.violation());
            Some(format!("{name}: {}", found?))
        });
        judged.collect()
    }
}

impl Key {
    /// A counter's last reading is not the sum of what was acknowledged and some of what is unknown. The search finds this, too; this says it in numbers.
    fn miscount(&self) -> Option<String> {
        let (mut acked, mut unknown) = (0, 0);
        let mut last = None;
        let adds =
            |operation: &Operation| matches!(operation.did, Did::Add(_) | Did::AddTold(_, _));
        if !self.operations.iter().any(adds) {
            return None;
        }
        for operation in &self.operations {
            match (operation.did, operation.returned) {
                (Did::Add(n) | Did::AddTold(n, _), Some(_)) => acked += n,
                (Did::Add(n) | Did::AddTold(n, _), None) => unknown += n,
                (Did::Read(Some(v)), Some(_))
                    if last.is_none_or(|(at, _)| at < operation.called) =>
                {
                    last = Some((operation.called, v));
                }
                (Did::Read(_), _) => {}
                _ => return None,
            }
        }
        let (at, found) = last?;
        let after =
            |operation: &Operation| operation.returned.is_none_or(|returned| returned >= at);
        let busy =
            |operation: &Operation| !matches!(operation.did, Did::Read(_)) && after(operation);
        // Unknown ones may come yet.
        if self
            .operations
            .iter()
            .any(|operation| operation.returned.is_some() && busy(operation))
        {
            return None;
        }
        let sum = self.begins_with? + acked;
        let wrong = !(sum..=sum + unknown).contains(&found);
        wrong.then(|| {
            format!("{found} at last, but it began with {:?}, {acked} were acknowledged and {unknown} are unknown", self.begins_with)
        })
    }

    fn violation(&self) -> Option<String> {
        match search::judge(self.begins_with, &self.operations) {
            Verdict::Linear => None,
            Verdict::Undecided => Some(format!(
                "its {} operations are too many to be judged; use more keys",
                self.operations.len()
            )),
            Verdict::Broken => Some(self.explain()),
        }
    }

    /// The first answer that no order explains, and what went on around it.
    fn explain(&self) -> String {
        let mut ends: Vec<Duration> = self
            .operations
            .iter()
            .filter_map(|operation| operation.returned)
            .collect();
        ends.sort();
        // A history whose beginning is broken is broken.
        let broken = |end: &Duration| {
            let known = self.until(*end);
            search::judge(self.begins_with, &known) == Verdict::Broken
        };
        let first = ends.partition_point(|end| !broken(end));
        let Some(end) = ends.get(first) else {
            return "no order explains it".to_owned();
        };
        let mut around: Vec<&Operation> = self
            .operations
            .iter()
            .filter(|operation| operation.called <= *end)
            .collect();
        around.sort_by_key(|operation| operation.called);
        let from = around.len().saturating_sub(SHOWN);
        let lines = around[from..].iter().map(|operation| {
            let culprit = operation.returned == Some(*end);
            format!("\n  {}{operation}", if culprit { "→ " } else { "  " })
        });
        format!(
            "no order explains this, with {:?} at the beginning and {from} operations before:{}",
            self.begins_with,
            lines.collect::<String>()
        )
    }

    /// What was known at that moment: answers to come are not.
    fn until(&self, end: Duration) -> Vec<Operation> {
        let begun = self
            .operations
            .iter()
            .filter(|operation| operation.called <= end);
        let known = begun.map(|operation| Operation {
            returned: operation.returned.filter(|returned| *returned <= end),
            ..operation.clone()
        });
        known.collect()
    }
}

/// Operations that a violation is shown with.
const SHOWN: usize = 16;

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |at: Duration| at.as_secs_f64() * 1000.0;
        write!(out, "{:10.3} – ", ms(self.called))?;
        match self.returned {
            Some(returned) => write!(out, "{:10.3} ms", ms(returned))?,
            None => write!(out, "   unknown ms")?,
        }
        write!(out, "  {}: {:?}", self.who, self.did)
    }
}

#[cfg(test)]
mod tests;
