//! What a session was given from sequences here, which Postgres's backend of it knows nothing of: `currval` and `lastval` must tell it all the same.
//! Decides; never asks Postgres, `recall.rs` does.
//!
//! Invariant: a value is told here only when the backend cannot have drawn a newer one; and a text that may ask the backend reaches it only when the backend knows what was
//! given here. From then on the session's values come from Postgres.

use crate::plan::SequenceUse;
use parking_lot::Mutex;
use ripen_pg::ids::TableOid;
use std::collections::BTreeMap;

/// See the module. One lock that nobody waits for: a session does one thing at a time.
#[derive(Debug, Default)]
pub struct Given(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The last value of each sequence. Bounded by the number of sequences.
    values: BTreeMap<TableOid, Value>,
    last: Option<TableOid>,
    /// How many values were given.
    count: u64,
    /// The session has asked Postgres: from now on its values come from there.
    elsewhere: bool,
}

#[derive(Clone, Copy, Debug)]
struct Value {
    value: i64,
    /// The how-manieth it was.
    place: u64,
    /// Whether it is newer than all that the backend may have drawn.
    sure: bool,
}

/// Whether a text may go to Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MayPass {
    /// It may.
    Yes,
    /// When these have been made known to the backend, in this order, and [`Given::recalled`].
    Recalled(Vec<(TableOid, i64)>),
    /// Nobody knows which values are the last.
    No,
}

impl Given {
    /// Whether the session may be given values here.
    pub fn may_give(&self) -> bool {
        !self.0.lock().elsewhere
    }

    /// These were given, in this order.
    pub fn give(&self, values: &[(TableOid, i64)]) {
        let mut state = self.0.lock();
        for (sequence, value) in values {
            state.count += 1;
            let given = Value {
                value: *value,
                place: state.count,
                sure: true,
            };
            state.values.insert(*sequence, given);
            state.last = Some(*sequence);
        }
    }

    /// The last value of a sequence, or of any (`None`), if it was given here and nothing newer can have been drawn.
    pub fn value(&self, sequence: Option<TableOid>) -> Option<i64> {
        let state = self.0.lock();
        let given = state.values.get(&sequence.or(state.last)?)?;
        given.sure.then_some(given.value)
    }

    /// A text is to go to Postgres.
    pub(super) fn may_pass(&self, text: SequenceUse) -> MayPass {
        let mut state = self.0.lock();
        match text {
            SequenceUse::None => {}
            SequenceUse::Moves => state
                .values
                .values_mut()
                .for_each(|given| given.sure = false),
            SequenceUse::Asks if state.values.is_empty() => state.elsewhere = true,
            SequenceUse::Asks if state.values.values().all(|given| given.sure) => {
                return MayPass::Recalled(state.in_order());
            }
            SequenceUse::Asks => return MayPass::No,
        }
        MayPass::Yes
    }

    /// The backend knows all that was given.
    pub(super) fn recalled(&self) {
        *self.0.lock() = State {
            elsewhere: true,
            ..State::default()
        };
    }
}

impl State {
    /// What was given last comes last.
    fn in_order(&self) -> Vec<(TableOid, i64)> {
        let mut values: Vec<_> = self.values.iter().collect();
        values.sort_by_key(|(_, given)| given.place);
        let known = |(sequence, given): (&TableOid, &Value)| (*sequence, given.value);
        values.into_iter().map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TableOid = TableOid(1);
    const B: TableOid = TableOid(2);

    #[test]
    fn the_last_value_of_each_sequence_and_of_all_is_told() {
        let given = Given::default();
        assert_eq!(given.value(None), None);
        given.give(&[(A, 1), (A, 2), (B, 7)]);
        given.give(&[(A, 3)]);
        assert_eq!(given.value(Some(A)), Some(3));
        assert_eq!(given.value(Some(B)), Some(7));
        assert_eq!(given.value(None), Some(3));
        assert_eq!(given.value(Some(TableOid(9))), None);
    }

    #[test]
    fn nothing_is_told_after_the_backend_may_have_drawn() {
        let given = Given::default();
        given.give(&[(A, 1)]);
        assert_eq!(given.may_pass(SequenceUse::None), MayPass::Yes);
        assert_eq!(given.value(None), Some(1));
        assert_eq!(given.may_pass(SequenceUse::Moves), MayPass::Yes);
        assert_eq!(given.value(None), None);
        assert_eq!(given.value(Some(A)), None);
        given.give(&[(A, 5)]);
        assert_eq!(given.value(None), Some(5));
    }

    #[test]
    fn the_backend_is_asked_when_it_knows_all_in_its_order() {
        let given = Given::default();
        given.give(&[(A, 1), (B, 2), (A, 3)]);
        let all = MayPass::Recalled(vec![(B, 2), (A, 3)]);
        assert_eq!(given.may_pass(SequenceUse::Asks), all);
        // It could not be made known.
        assert_eq!(given.value(None), Some(3));
        assert_eq!(given.may_pass(SequenceUse::Asks), all);
        given.recalled();
        assert_eq!(given.value(None), None);
        assert_eq!(given.may_pass(SequenceUse::Asks), MayPass::Yes);
        assert!(!given.may_give());
    }

    #[test]
    fn what_the_backend_may_have_drawn_since_is_not_undone() {
        let given = Given::default();
        given.give(&[(A, 1)]);
        assert_eq!(given.may_pass(SequenceUse::Moves), MayPass::Yes);
        assert_eq!(given.may_pass(SequenceUse::Asks), MayPass::No);
        given.give(&[(B, 1)]);
        assert_eq!(given.may_pass(SequenceUse::Asks), MayPass::No);
        given.give(&[(A, 2)]);
        let all = MayPass::Recalled(vec![(B, 1), (A, 2)]);
        assert_eq!(given.may_pass(SequenceUse::Asks), all);
        assert!(given.may_give());
    }

    #[test]
    fn who_has_asked_postgres_is_given_nothing_here() {
        let given = Given::default();
        assert!(given.may_give());
        assert_eq!(given.may_pass(SequenceUse::Asks), MayPass::Yes);
        assert!(!given.may_give());
        assert_eq!(given.may_pass(SequenceUse::Asks), MayPass::Yes);
    }
}
