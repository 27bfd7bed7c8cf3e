//! Writes that this leader has been asked for in its term and that the log does not tell of: a copy of one at work waits, and one that was refused stays refused. Whoever
//! asked may long have had Postgres do it, so a copy that comes late must not be carried out. Never decides the writes themselves.

use crate::log::RequestId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// See the module.
#[derive(Debug, Default)]
pub struct Taken {
    processes: HashMap<u64, Process>,
}

#[derive(Debug, Default)]
struct Process {
    /// Below this number it asks no more.
    below: u64,
    at_work: BTreeSet<u64>,
    /// What was answered, of what is not in the log.
    answers: BTreeMap<u64, Bytes>,
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Taking {
    /// It is to be carried out, and [`Taken::end`] called.
    New,
    /// It was answered with this.
    Answered(Bytes),
    /// A copy of it is at work, or nobody waits for it any more.
    Known,
}

impl Taken {
    /// A request has come.
    pub fn take(&mut self, id: RequestId, below: u64) -> Taking {
        let process = self.processes.entry(id.process).or_default();
        if process.below < below {
            process.below = below;
            process.answers = process.answers.split_off(&below);
        }
        if let Some(answer) = process.answers.get(&id.number) {
            return Taking::Answered(answer.clone());
        }
        match id.number >= process.below && process.at_work.insert(id.number) {
            true => Taking::New,
            false => Taking::Known,
        }
    }

    /// It is not at work any more. `answer`: what its copies are to be told; `None`: the log tells, or it may be taken up again.
    pub fn end(&mut self, id: RequestId, answer: Option<Bytes>) {
        let Some(process) = self.processes.get_mut(&id.process) else {
            return;
        };
        process.at_work.remove(&id.number);
        let answer = answer.filter(|_| id.number >= process.below);
        process
            .answers
            .extend(answer.map(|answer| (id.number, answer)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> RequestId {
        RequestId { process: 7, number }
    }

    #[test]
    fn a_copy_of_what_is_at_work_waits() {
        let mut taken = Taken::default();
        assert_eq!(taken.take(id(3), 3), Taking::New);
        assert_eq!(taken.take(id(3), 3), Taking::Known);
        taken.end(id(3), None);
        assert_eq!(taken.take(id(3), 3), Taking::New);
    }

    #[test]
    fn what_was_refused_stays_refused_as_long_as_anybody_may_ask() {
        let mut taken = Taken::default();
        let no = Bytes::from_static(b"no");
        assert_eq!(taken.take(id(3), 3), Taking::New);
        taken.end(id(3), Some(no.clone()));
        assert_eq!(taken.take(id(3), 3), Taking::Answered(no));
        assert_eq!(taken.take(id(5), 5), Taking::New);
        assert_eq!(taken.take(id(3), 3), Taking::Known);
    }

    #[test]
    fn nothing_is_kept_of_what_nobody_asks_for_any_more() {
        let mut taken = Taken::default();
        assert_eq!(taken.take(id(3), 3), Taking::New);
        assert_eq!(taken.take(id(4), 4), Taking::New);
        taken.end(id(3), Some(Bytes::from_static(b"no")));
        assert!(taken.processes[&7].answers.is_empty());
        assert_eq!(taken.take(id(3), 3), Taking::Known);
    }
}
