//! Schema changes that make the statements of others touch more than their plans name: a trigger, a rule, a view, a function. Whoever waits in Postgres for such
//! a change to be committed goes on by the new schema. Decides who is concerned; the holds are `holds.rs`'s. Never waits.
//!
//! - Who comes while such a change is open cannot rely on its plan ([`Stay::is_met`]); nor who was planned before the end of one and comes after it, which
//!   the catalog's epoch tells, for the catalog is read anew before the change's stay ends.
//! - Who was there before ([`Stay::rewires`]) is given something wide to hold until it ends.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All transactions that are at work in Postgres. `H` is what those hold who may touch more than they have named.
pub struct Rewiring<H>(Mutex<State<H>>);

/// What one of them was given to hold.
pub type Given<H> = Arc<Mutex<Vec<Arc<H>>>>;

struct State<H> {
    begun: u64,
    /// How many of those at work rewire.
    rewire: usize,
    at_work: BTreeMap<u64, Given<H>>,
}

impl<H> Default for Rewiring<H> {
    fn default() -> Rewiring<H> {
        Rewiring(Mutex::new(State {
            begun: 0,
            rewire: 0,
            at_work: BTreeMap::new(),
        }))
    }
}

impl<H> Rewiring<H> {
    /// One more is at work, until the answer is dropped.
    pub fn begin(self: &Arc<Self>) -> Stay<H> {
        let mut state = self.0.lock();
        state.begun += 1;
        let number = state.begun;
        state.at_work.insert(number, Given::default());
        Stay {
            of: self.clone(),
            number,
            rewires: false,
        }
    }
}

/// A transaction at work. When it is dropped, what it was given ends, too.
pub struct Stay<H> {
    of: Arc<Rewiring<H>>,
    number: u64,
    rewires: bool,
}

impl<H> Stay<H> {
    /// It is about to rewire, until its end. Answers the others at work.
    pub fn rewires(&mut self) -> Vec<Given<H>> {
        let mut state = self.of.0.lock();
        if !std::mem::replace(&mut self.rewires, true) {
            state.rewire += 1;
        }
        let others = state.at_work.iter();
        let others = others.filter(|(number, _)| **number != self.number);
        others.map(|(_, given)| given.clone()).collect()
    }

    /// Whether another one rewires.
    pub fn is_met(&self) -> bool {
        self.of.0.lock().rewire > usize::from(self.rewires)
    }
}

impl<H> Drop for Stay<H> {
    fn drop(&mut self) {
        let mut state = self.of.0.lock();
        state.rewire -= usize::from(self.rewires);
        let given = state.at_work.remove(&self.number);
        // What it was given ends outside of the lock.
        drop(state);
        drop(given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_met_by_others_until_it_ends() {
        let all: Arc<Rewiring<()>> = Arc::default();
        let (mut change, other) = (all.begin(), all.begin());
        assert!(!other.is_met());
        change.rewires();
        change.rewires();
        assert!(other.is_met() && !change.is_met() && all.begin().is_met());
        drop(change);
        assert!(!other.is_met());
    }

    #[test]
    fn what_is_given_lasts_until_the_last_who_was_there_has_ended() {
        let all: Arc<Rewiring<()>> = Arc::default();
        let (mut change, first, second) = (all.begin(), all.begin(), all.begin());
        let wide = Arc::new(());
        for given in change.rewires() {
            given.lock().push(wide.clone());
        }
        let later = all.begin();
        drop(change);
        drop(first);
        assert_eq!(Arc::strong_count(&wide), 2);
        drop(second);
        assert_eq!(Arc::strong_count(&wide), 1);
        drop(later);
    }
}
