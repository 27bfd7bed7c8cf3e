//! What may be read at any moment. Values are bounds: a write that has begun may be seen, one that was acknowledged must be.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

pub const GROUPS: usize = 10;

/// Added to values that will be rolled back.
pub const NEVER: i64 = 1_000_000_000;

/// Three rows that are written together.
#[derive(Default)]
pub struct Group {
    /// Held by the one who writes.
    pub writer: tokio::sync::Mutex<()>,
    pub begun: AtomicI64,
    pub acked: AtomicI64,
    /// Odd while the rows may be absent.
    pub absences: AtomicU64,
}

/// What was true before a read.
#[derive(Clone, Copy)]
pub struct Before {
    acked: i64,
    absences: u64,
}

impl Group {
    pub fn before(&self) -> Before {
        Before {
            acked: self.acked.load(Ordering::SeqCst),
            absences: self.absences.load(Ordering::SeqCst),
        }
    }

    /// Says what is wrong with the values of a group as one statement showed them, `wanted` of them.
    pub fn judge(&self, before: Before, values: &[i64], wanted: usize) -> Option<String> {
        let begun = self.begun.load(Ordering::SeqCst);
        let absences = self.absences.load(Ordering::SeqCst);
        let Before {
            acked,
            absences: absences_before,
        } = before;
        if values.is_empty() {
            let possible = absences_before % 2 == 1 || absences != absences_before;
            return (!possible).then(|| format!("absent, acknowledged {acked}"));
        }
        let even = values.len() == wanted && values.iter().all(|v| *v == values[0]);
        if !even {
            return Some(format!(
                "torn: {values:?}, acknowledged {acked}, begun {begun}"
            ));
        }
        if !(acked..=begun).contains(&values[0]) {
            return Some(format!("{values:?} is not in {acked}..={begun}"));
        }
        None
    }
}

#[derive(Default)]
pub struct Model {
    pub groups: [Group; GROUPS],
    pub stop: AtomicBool,
    wrong: Mutex<Vec<String>>,
    kinds: Mutex<BTreeMap<&'static str, u64>>,
}

impl Model {
    /// Notes a violation; many of them end the run.
    pub fn report(&self, what: String) {
        let mut wrong = self.wrong.lock().expect("nobody panics with it");
        wrong.push(what);
        if wrong.len() >= 20 {
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().expect("nobody panics with it").clone()
    }

    pub fn count(&self, kind: &'static str) {
        *self
            .kinds
            .lock()
            .expect("nobody panics with it")
            .entry(kind)
            .or_default() += 1;
    }

    pub fn kinds(&self) -> BTreeMap<&'static str, u64> {
        self.kinds.lock().expect("nobody panics with it").clone()
    }

    pub fn statements(&self) -> u64 {
        self.kinds().values().sum()
    }
}
