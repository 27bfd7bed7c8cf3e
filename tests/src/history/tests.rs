//! The judge is judged: faults put into histories by hand must be found, and for small random histories it must say what trying all orders says.

use super::search::{Verdict, judge};
use super::{Did, History, Operation, Value};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::time::Duration;

fn at(who: &str, did: Did, called: u64, returned: u64) -> Operation {
    Operation {
        who: who.to_owned(),
        did,
        called: Duration::from_millis(called),
        returned: Some(Duration::from_millis(returned)),
    }
}

fn unknown(who: &str, did: Did, called: u64) -> Operation {
    Operation {
        returned: None,
        ..at(who, did, called, 0)
    }
}

/// What is wrong with a key that begins with 0.
fn wrong(operations: &[Operation]) -> Vec<String> {
    let mut history = History::default();
    history.begin("row 1", Some(0));
    for operation in operations {
        history.push("row 1", operation.clone());
    }
    history.violations()
}

#[track_caller]
fn fine(operations: &[Operation]) {
    let wrong = wrong(operations);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Something is found, and the arrow points at the answer that shows it.
#[track_caller]
fn found(operations: &[Operation], culprit: &str) {
    let wrong = wrong(operations);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    let line = wrong[0].lines().find(|line| line.contains('→'));
    let line = line.unwrap_or(&wrong[0]);
    assert!(line.contains(culprit), "{}", wrong[0]);
}

use Did::{Add, AddTold, Delete, Found, Insert, Read, Write};

#[test]
fn answers_that_one_copy_could_give_are_fine() {
    fine(&[]);
    fine(&[
        at("a1", Read(Some(0)), 0, 1),
        at("a1", Write(Some(5)), 2, 8),
        // While the write is on its way both may be told.
        at("b1", Read(Some(5)), 3, 4),
        at("b2", Read(Some(0)), 2, 4),
        at("b1", Read(Some(5)), 5, 6),
        at("b1", Delete(true), 9, 10),
        at("a1", Found(false), 11, 12),
        at("a1", Insert(6), 13, 14),
        at("b1", Found(true), 15, 16),
        at("b1", Read(Some(6)), 17, 18),
    ]);
}

#[test]
fn a_stale_read_through_another_node_is_found() {
    let operations = [
        at("node 1", Write(Some(5)), 0, 2),
        at("node 2", Read(Some(0)), 3, 4),
    ];
    found(&operations, "node 2: Read(Some(0))");
    let operations = [
        at("node 1", Write(Some(5)), 0, 2),
        at("node 1", Write(Some(6)), 3, 5),
        at("node 2", Read(Some(5)), 6, 7),
        at("node 1", Read(Some(6)), 8, 9),
    ];
    found(&operations, "node 2: Read(Some(5))");
}

#[test]
fn newer_then_older_is_found_even_while_the_write_is_on_its_way() {
    let operations = [
        at("node 1", Write(Some(5)), 0, 20),
        at("node 2", Read(Some(5)), 3, 4),
        at("node 3", Read(Some(0)), 5, 6),
    ];
    found(&operations, "node 3: Read(Some(0))");
    let unanswered = [
        unknown("node 1", Write(Some(5)), 0),
        at("node 2", Read(Some(5)), 3, 4),
        at("node 3", Read(Some(0)), 5, 6),
    ];
    found(&unanswered, "node 3: Read(Some(0))");
}

#[test]
fn a_lost_write_is_found_at_the_end_at_the_latest() {
    let operations = [
        at("node 1", Write(Some(5)), 0, 2),
        at("node 1", Write(Some(6)), 3, 4),
        at("Postgres", Read(Some(5)), 100, 101),
    ];
    found(&operations, "Postgres: Read(Some(5))");
    let inserted = [
        at("node 1", Delete(true), 0, 2),
        at("node 1", Insert(6), 3, 4),
        at("Postgres", Read(None), 100, 101),
    ];
    found(&inserted, "Postgres: Read(None)");
}

#[test]
fn a_value_that_was_rolled_back_or_never_written_is_found() {
    found(&[at("node 1", Read(Some(7)), 0, 2)], "Read(Some(7))");
}

#[test]
fn what_is_unknown_may_have_happened_late_or_never_but_only_once() {
    fine(&[
        unknown("node 1", Write(Some(5)), 0),
        at("node 2", Read(Some(0)), 5, 6),
        at("node 2", Read(Some(5)), 7, 8),
        at("node 2", Read(Some(5)), 9, 10),
    ]);
    fine(&[
        unknown("node 1", Write(Some(5)), 0),
        at("node 2", Read(Some(0)), 5, 6),
    ]);
    let twice = [
        unknown("node 1", Write(Some(5)), 0),
        at("node 2", Read(Some(5)), 1, 2),
        at("node 2", Write(Some(6)), 3, 4),
        at("node 2", Read(Some(6)), 5, 6),
        at("node 2", Read(Some(5)), 7, 8),
    ];
    found(&twice, "node 2: Read(Some(5))");
    let before_its_call = [
        at("node 2", Read(Some(5)), 1, 2),
        unknown("node 1", Write(Some(5)), 3),
    ];
    found(&before_its_call, "node 2: Read(Some(5))");
}

#[test]
fn counters_hold_what_was_acknowledged_and_perhaps_what_is_unknown() {
    let adds = [
        at("node 1", Add(1), 0, 5),
        at("node 2", Add(1), 1, 4),
        unknown("node 3", Add(1), 2),
        unknown("node 3", AddTold(1, 77), 3),
    ];
    let and = |last: i64| [&adds[..], &[at("Postgres", Read(Some(last)), 90, 91)]].concat();
    for last in 2..=4 {
        fine(&and(last));
    }
    found(&and(1), "1 at last");
    found(&and(5), "5 at last");
    assert_eq!(judge(Some(0), &and(1)), Verdict::Broken);
    assert_eq!(judge(Some(0), &and(5)), Verdict::Broken);
}

#[test]
fn an_increment_applied_twice_is_found_by_what_comes_back() {
    let operations = [
        at("node 1", AddTold(1, 1), 0, 2),
        at("node 2", AddTold(1, 3), 3, 4),
    ];
    found(&operations, "node 2: AddTold(1, 3)");
    let same = [
        at("node 1", AddTold(1, 1), 0, 2),
        at("node 2", AddTold(1, 1), 1, 4),
    ];
    found(&same, "AddTold(1, 1)");
}

#[test]
fn two_inserts_of_one_row_cannot_both_succeed() {
    let operations = [
        at("node 1", Delete(true), 0, 1),
        at("node 1", Insert(5), 2, 6),
        at("node 2", Insert(6), 3, 7),
    ];
    found(&operations, "node 2: Insert(6)");
    let refused_without_a_row = [
        at("node 1", Delete(true), 0, 1),
        at("node 1", Found(true), 2, 6),
    ];
    found(&refused_without_a_row, "node 1: Found(true)");
}

#[test]
fn keys_are_judged_on_their_own() {
    let mut history = History::default();
    history.begin("a", Some(0));
    history.push("a", at("x", Read(Some(0)), 0, 1));
    history.push("b", at("x", Read(None), 0, 1));
    history.push("c", at("x", Read(Some(1)), 0, 1));
    assert_eq!(history.len(), 3);
    let violations = history.violations();
    assert_eq!(violations.len(), 1);
    assert!(violations[0].starts_with("c: "), "{violations:?}");
}

/// All orders, one after the other. Unknown ones may stand anywhere after what returned before their call, or be left out.
fn by_trying_all(state: Value, left: &[Operation]) -> bool {
    if left.iter().all(|operation| operation.returned.is_none()) {
        return true;
    }
    (0..left.len()).any(|index| {
        let first = &left[index];
        let earlier = |other: &Operation| {
            other
                .returned
                .is_some_and(|returned| returned < first.called)
        };
        if left.iter().any(earlier) {
            return false;
        }
        let did = match (first.did, first.returned) {
            (Did::AddTold(n, _), None) => Did::Add(n),
            (Did::Delete(_), None) => Did::Write(None),
            (did, _) => did,
        };
        let after = match did {
            Did::Read(told) if told == state => Some(state),
            Did::Found(told) if told == state.is_some() => Some(state),
            Did::Write(value) => Some(value),
            Did::Insert(value) if state.is_none() => Some(Some(value)),
            Did::Delete(told) if told == state.is_some() => Some(None),
            Did::Add(n) if state.is_some() => Some(state.map(|v| v + n)),
            Did::AddTold(n, told) if state.map(|v| v + n) == Some(told) => Some(Some(told)),
            _ => None,
        };
        let rest = [&left[..index], &left[index + 1..]].concat();
        after.is_some_and(|state| by_trying_all(state, &rest))
    })
}

fn random_operation(rng: &mut StdRng, kinds: usize) -> Did {
    let value = rng.random_range(0..3);
    match rng.random_range(0..kinds) {
        0 => Read(Some(value)),
        1 => Write(Some(value)),
        2 => Read(None),
        3 => Add(1),
        4 => AddTold(1, value),
        5 => Delete(rng.random()),
        6 => Insert(value),
        _ => Found(rng.random()),
    }
}

#[test]
fn small_histories_are_judged_as_by_trying_all_orders() {
    let mut verdicts = [0; 2];
    for seed in 0..6000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let kinds = if rng.random() { 2 } else { 8 };
        let operations: Vec<Operation> = (0..rng.random_range(1..7))
            .map(|_| {
                let called = rng.random_range(0..20);
                let did = random_operation(&mut rng, kinds);
                if rng.random_range(0..4) == 0 {
                    unknown("x", did, called)
                } else {
                    at("x", did, called, called + rng.random_range(0..10))
                }
            })
            .collect();
        let expected = by_trying_all(Some(0), &operations);
        let verdict = judge(Some(0), &operations);
        let told = verdict == Verdict::Linear;
        assert_eq!(told, expected, "seed {seed}: {verdict:?} {operations:#?}");
        verdicts[usize::from(expected)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 500), "{verdicts:?}");
}

/// What one real copy would tell eight clients, some of whom never hear.
fn of_one_copy(rng: &mut StdRng, count: u64, kind: u32) -> Vec<Operation> {
    let mut operations = Vec::new();
    let mut state = Some(0);
    for moment in 0..count {
        let moment_us = (moment + 10) * 1000;
        let fresh = moment as i64 * 1000;
        let did = match (kind, rng.random_range(0..4)) {
            (0, 0) => Write(Some(fresh)),
            (1, 0) => Add(1),
            (1, 1) => AddTold(1, state.unwrap_or(0) + 1),
            (2, 0) if state.is_none() => Insert(fresh),
            (2, 0) => Delete(true),
            (2, 1) => Write(Some(fresh)),
            _ => Read(state),
        };
        state = match did {
            Write(value) => value,
            Add(n) | AddTold(n, _) => state.map(|v| v + n),
            Insert(value) => Some(value),
            Delete(_) => None,
            Read(_) | Found(_) => state,
        };
        let returned = moment_us + rng.random_range(0..8000);
        operations.push(Operation {
            who: "x".to_owned(),
            did,
            called: Duration::from_micros(moment_us - rng.random_range(0..8000)),
            returned: (rng.random_range(0..50) > 0).then_some(Duration::from_micros(returned)),
        });
    }
    operations.shuffle(rng);
    operations
}

#[test]
fn long_histories_are_judged_and_one_stale_read_in_them_is_found() {
    for seed in 0..9 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut operations = of_one_copy(&mut rng, 1500, seed as u32 % 3);
        assert_eq!(judge(Some(0), &operations), Verdict::Linear, "seed {seed}");
        let reads = |operation: &&mut Operation| {
            matches!(operation.did, Read(Some(_))) && operation.returned.is_some()
        };
        let old = operations
            .iter_mut()
            .filter(reads)
            .min_by_key(|operation| operation.called);
        let old = old.map(|operation| operation.did).expect("somebody read");
        let last = operations
            .iter_mut()
            .filter(reads)
            .max_by_key(|operation| operation.called);
        last.expect("somebody read").did = old;
        assert_eq!(judge(Some(0), &operations), Verdict::Broken, "seed {seed}");
    }
}
