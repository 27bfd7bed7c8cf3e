//! What is decided about sets, without rows and locks around it.

use super::*;
use crate::change::Change;
use crate::rows::layer::Layer;
use crate::rows::slot::{Base, Seen};
use ripen_pg::ids::{Lsn, Xid};

const INT8: TypeOid = TypeOid(20);
fn key(number: i64) -> Key {
    let mut key = Key::new();
    key.push_fixed(&number.to_be_bytes());
    key
}

fn columns() -> SetColumns {
    SetColumns::new([(1, INT8)])
}

fn tuple(id: i64, group: Option<i64>) -> Tuple {
    let (id, group) = (id.to_be_bytes(), group.map(i64::to_be_bytes));
    let group = group
        .as_ref()
        .map_or(Datum::Null, |bytes| Datum::Value(bytes));
    [Datum::Value(&id), group].into_iter().collect()
}

fn clean(row: Option<Tuple>) -> Slot {
    let seen = Seen::Lsn(Lsn(1));
    Slot::Clean(Base { row, seen })
}

fn moment() -> Arc<Moment> {
    let snapshot = Snapshot {
        xmin: Xid(100),
        xmax: Xid(100),
        running: Vec::new().into(),
    };
    let wal = Lsn(1);
    Arc::new(Moment { snapshot, wal })
}

struct World {
    sets: Sets,
    loads: u64,
}

impl World {
    fn new() -> World {
        let mut sets = Sets::default();
        assert!(sets.begin_family(&columns(), crate::limits::SET_ROWS_MAX));
        sets.complete(&columns());
        World { sets, loads: 0 }
    }

    fn begin(&mut self, value: i64) -> (u64, Begun, watch::Sender<()>) {
        self.begin_all(&[value])
    }

    fn begin_all(&mut self, values: &[i64]) -> (u64, Begun, watch::Sender<()>) {
        self.loads += 1;
        let (sender, ended) = watch::channel(());
        let nothing = std::iter::empty();
        let values: Vec<Key> = values.iter().copied().map(key).collect();
        let named = (&columns(), &values[..]);
        let must_see = (Arc::default(), Lsn(0));
        let begun = self
            .sets
            .begin_load(named, (self.loads, &ended), nothing, must_see, 0);
        (self.loads, begun, sender)
    }

    /// One of the sets of a load.
    fn found(&mut self, load: u64, value: i64, found: Option<&[i64]>) -> bool {
        let found = found.map(|found| found.iter().copied().map(key).collect());
        let named = (load, &columns(), &key(value));
        self.sets.finish_load(named, &moment(), found, 0)
    }

    fn finish(&mut self, load: u64, value: i64, found: Option<&[i64]>) -> bool {
        let kept = self.found(load, value, found);
        self.sets.end_load(&columns(), &[key(value)], load);
        kept
    }

    fn load(&mut self, value: i64, found: &[i64]) {
        let (load, begun, _ended) = self.begin(value);
        assert!(matches!(begun, Begun::Mine(_)));
        assert!(self.finish(load, value, Some(found)));
    }

    fn candidates(&mut self, value: i64) -> Option<Vec<Key>> {
        match self.sets.gather(&columns(), &[key(value)], 0) {
            Has::Sets(gathered) => Some(gathered.candidates),
            _ => None,
        }
    }

    fn change(&mut self, row: i64, before: &Slot, after: &Slot) {
        let before = self.sets.standing(before);
        self.sets.changed(&key(row), &before, after);
    }
}

fn keys(rows: &[i64]) -> Option<Vec<Key>> {
    Some(rows.iter().copied().map(key).collect())
}

#[test]
fn a_row_is_added_to_the_set_of_its_new_value() {
    let mut world = World::new();
    world.load(7, &[1, 2]);
    world.change(3, &Slot::Gone, &clean(Some(tuple(3, Some(7)))));
    world.change(4, &Slot::Gone, &clean(Some(tuple(4, Some(8)))));
    world.change(5, &Slot::Gone, &clean(Some(tuple(5, None))));
    world.sets.told(&key(6), &After::Row(tuple(6, Some(7))));
    assert_eq!(world.candidates(7), keys(&[1, 2, 3, 6]));
    assert_eq!(world.candidates(8), None);
}

#[test]
fn what_changes_while_a_set_is_loaded_is_in_it_and_its_row_is_not_taken_from_the_load() {
    let mut world = World::new();
    let (load, _, _ended) = world.begin(7);
    world.sets.told(&key(3), &After::Row(tuple(3, Some(7))));
    world.sets.told(&key(4), &After::Absent);
    let snapshot = &moment().snapshot;
    let sets = &world.sets;
    let untouched = |row| sets.is_untouched((load, &key(7)), snapshot, Lsn(0), &key(row));
    assert_eq!([1, 3, 4].map(untouched), [true, false, false]);
    assert!(world.finish(load, 7, Some(&[1, 4])));
    assert_eq!(world.candidates(7), keys(&[1, 3, 4]));
}

#[test]
fn a_row_with_a_change_on_its_way_is_in_a_set_that_is_loaded_later_until_it_has_come() {
    let mut world = World::new();
    let mut busy = clean(Some(tuple(1, Some(6))));
    let before = clean(Some(tuple(1, Some(6))));
    let put = Change::Put {
        image: tuple(1, Some(7)),
    };
    busy.change(|busy| busy.restore(Layer::pending(put)));
    world.change(1, &before, &busy);
    world.load(7, &[]);
    assert_eq!(world.candidates(7), keys(&[1]));
    let settled = clean(Some(tuple(1, Some(7))));
    world.change(1, &busy, &settled);
    world.sets.clear();
    world.load(7, &[]);
    assert_eq!(world.candidates(7), keys(&[]));
}

#[test]
fn a_forgotten_row_is_a_candidate_everywhere_until_it_is_known_again() {
    let mut world = World::new();
    world.load(7, &[1]);
    world.load(8, &[2]);
    let known = clean(Some(tuple(1, Some(7))));
    world.change(1, &known, &Slot::Gone);
    assert_eq!(world.candidates(8), keys(&[1, 2]));
    world.change(1, &Slot::Gone, &clean(Some(tuple(1, Some(9)))));
    assert_eq!(world.candidates(8), keys(&[2]));
    assert_eq!(world.candidates(7), keys(&[1]));
    for row in 0..=limits::SET_STRAYS_MAX as i64 {
        world.sets.stray(&key(row));
    }
    assert_eq!(world.candidates(7), None, "too many: the sets are given up");
}

#[test]
fn readers_notice_what_is_added_behind_them() {
    let mut world = World::new();
    world.load(7, &[1]);
    let values = [key(7)];
    let gathered = |world: &mut World| match world.sets.gather(&columns(), &values, 0) {
        Has::Sets(gathered) => gathered,
        other => panic!("{other:?}"),
    };
    let before = gathered(&mut world);
    assert!(world.sets.still(&columns(), &values, &before));
    world.sets.told(&key(2), &After::Row(tuple(2, Some(7))));
    assert!(!world.sets.still(&columns(), &values, &before));
    let before = gathered(&mut world);
    world.sets.stray(&key(3));
    assert!(!world.sets.still(&columns(), &values, &before));
    world.sets.prune(&columns(), &values, &[(&key(1), None)]);
    assert_eq!(world.candidates(7), keys(&[2, 3]));
}

#[test]
fn a_set_is_loaded_once_and_a_spoilt_load_is_not_kept() {
    let mut world = World::new();
    let (load, _, _first) = world.begin(7);
    let (_, begun, _second) = world.begin(7);
    assert!(matches!(begun, Begun::Others(_)));
    world.sets.clear();
    assert!(!world.finish(load, 7, Some(&[1])));
    assert_eq!(world.candidates(7), None);
    world.load(7, &[2]);
    let (_, begun, _third) = world.begin(7);
    assert!(matches!(begun, Begun::Known));
}

#[test]
fn a_set_that_is_too_large_is_looked_at_again_after_a_while() {
    let mut world = World::new();
    let (load, _, _ended) = world.begin(7);
    assert!(world.finish(load, 7, None));
    let mut has = |now_ms| world.sets.gather(&columns(), &[key(7)], now_ms);
    assert!(matches!(
        has(limits::SET_TOO_LARGE_PAUSE_MS - 1),
        Has::TooLarge
    ));
    assert!(matches!(has(limits::SET_TOO_LARGE_PAUSE_MS), Has::Lacks(_)));
}

#[test]
fn sets_that_were_not_read_lately_are_given_up_and_weigh_nothing_then() {
    let mut world = World::new();
    for value in 0..10 {
        world.load(value, &[value, value + 100]);
    }
    world.sets.shed(1);
    let before = world.sets.weigh();
    assert!(before.sets < 10 && before.evictions > 0, "{before:?}");
    world.sets.shed(u64::MAX);
    let after = world.sets.weigh();
    assert_eq!((after.sets, after.candidates, after.bytes), (0, 0, 0));
}

#[test]
fn a_value_that_is_not_known_leaves_no_set_to_be_told() {
    let mut world = World::new();
    world.load(7, &[1]);
    let short: Tuple = [Datum::Value(&1i64.to_be_bytes())].into_iter().collect();
    assert_eq!(columns().value_of(&short), Value::Missing);
    world.change(1, &Slot::Gone, &clean(Some(short)));
    assert_eq!(world.candidates(7), None);
}

#[test]
fn several_sets_are_loaded_at_once_but_for_those_that_are_known_or_being_loaded() {
    let mut world = World::new();
    world.load(1, &[10]);
    let (_, _, _others) = world.begin(2);
    let (load, begun, _ended) = world.begin_all(&[1, 2, 3, 4]);
    assert!(matches!(begun, Begun::Mine(values) if values == [key(3), key(4)]));
    let (_, begun, _waits) = world.begin_all(&[1, 2, 3]);
    assert!(matches!(begun, Begun::Others(loads) if loads.len() == 2));
    // What moves between two of them while they are loaded is a candidate of both.
    world.sets.told(&key(30), &After::Row(tuple(30, Some(4))));
    assert!(world.found(load, 3, Some(&[30])) && world.found(load, 4, Some(&[40])));
    world.sets.end_load(&columns(), &[key(3), key(4)], load);
    let values = [1, 3, 4].map(key);
    let Has::Sets(gathered) = world.sets.gather(&columns(), &values, 0) else {
        panic!("all of them are there");
    };
    assert_eq!(Some(gathered.candidates), keys(&[10, 30, 40]));
    assert!(gathered.overlap);
    let seen = (&key(30), Some(&key(4)));
    world.sets.prune(&columns(), &values, &[seen]);
    assert_eq!(world.candidates(3), keys(&[]));
    assert_eq!(world.candidates(4), keys(&[30, 40]));
    let lacks = world.sets.gather(&columns(), &[1, 2, 5].map(key), 0);
    assert!(matches!(lacks, Has::Lacks(values) if values == [key(2), key(5)]));
}

#[test]
fn a_load_of_several_sets_that_is_broken_off_leaves_only_what_it_has_finished() {
    let mut world = World::new();
    let (load, _, ended) = world.begin_all(&[1, 2]);
    assert!(world.found(load, 1, Some(&[10])));
    world.sets.end_load(&columns(), &[key(1), key(2)], load);
    drop(ended);
    assert_eq!(world.candidates(1), keys(&[10]));
    let (_, begun, _ended) = world.begin_all(&[1, 2]);
    assert!(matches!(begun, Begun::Mine(values) if values == [key(2)]));
}

#[test]
fn sets_with_too_many_rows_together_are_not_told() {
    let mut world = World::new();
    let each = limits::SET_ROWS_MAX as i64;
    let sets = (limits::SETS_ROWS_MAX / limits::SET_ROWS_MAX) as i64;
    for value in 0..=sets {
        let rows: Vec<i64> = (value * each..(value + 1) * each).collect();
        world.load(value, &rows);
    }
    let mut has = |sets: i64| {
        let values: Vec<Key> = (0..sets).map(key).collect();
        world.sets.gather(&columns(), &values, 0)
    };
    assert!(matches!(has(sets), Has::Sets(_)));
    assert!(matches!(has(sets + 1), Has::TooLarge));
}
