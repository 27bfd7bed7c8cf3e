use super::*;
use crate::rows::Moment;
use crate::rows::WalChange;
use crate::rows::sets::SetColumns;
use crate::rows::{SetLoad, TableBounds};
use ripen_pg::ids::{TableOid, TypeOid, Xid, Xid32};
use ripen_pg::tuple::Datum;
use std::convert::Infallible;
use std::sync::Arc;

const INT8: TypeOid = TypeOid(20);

fn row(table: u32, key: i64) -> RowId {
    let mut bytes = Key::new();
    ripen_pg::value::key::append(INT8, &key.to_be_bytes(), &mut bytes).unwrap();
    RowId {
        table: TableOid(table),
        key: bytes,
    }
}

/// A row of a key and what it refers to; 0: nothing.
fn tuple(key: i64, refers: i64) -> Tuple {
    let columns = [key.to_be_bytes(), refers.to_be_bytes()];
    columns.iter().map(|bytes| Datum::Value(bytes)).collect()
}

fn int8(tuple: &Tuple, at: usize) -> i64 {
    i64::from_be_bytes(tuple.get(at).value().unwrap().try_into().unwrap())
}

fn rows() -> Rows {
    let rows = Rows::new(1 << 30, Arc::new(|| 0));
    rows.note_xid(Xid(5));
    rows.bound_tables(&BTreeMap::from([(TableOid(1), TableBounds::default())]));
    rows
}

fn load(rows: &Rows, table: u32, wal: u64, found: &[(i64, Option<i64>)]) {
    let moment = Arc::new(Moment {
        snapshot: "10:10:".parse().unwrap(),
        wal: Lsn(wal),
    });
    let ids: Vec<RowId> = found.iter().map(|(key, _)| row(table, *key)).collect();
    let (ticket, _) = rows.begin_load(&ids);
    rows.finish_load(ticket, &moment, |asked| {
        let known = found.iter().find(|(key, _)| row(table, *key) == *asked);
        known.and_then(|(key, refers)| Some(tuple(*key, (*refers)?)))
    });
}

/// From each row of table 1 to what it refers to in table 2, and from there in table 3. Keys of all, row by row.
fn join(
    rows: &Rows,
    keys: &[i64],
    needed: [bool; 2],
    (fenced, followed): (Option<RowId>, u64),
) -> SetRead<Vec<[Option<i64>; 3]>> {
    let firsts: Vec<RowId> = keys.iter().map(|key| row(1, *key)).collect();
    read(rows, &First::Rows(&firsts), needed, (fenced, followed))
}

fn read(
    rows: &Rows,
    first: &First<'_>,
    needed: [bool; 2],
    (fenced, followed): (Option<RowId>, u64),
) -> SetRead<Vec<[Option<i64>; 3]>> {
    let along = Along {
        needed: &needed,
        referred: |step: usize, first: &Tuple, beside: &[Option<&Tuple>]| {
            assert_eq!(beside.len(), step);
            let from = beside.last().copied().unwrap_or(Some(first));
            let refers = from.map(|from| int8(from, 1)).filter(|refers| *refers != 0);
            Ok::<_, Infallible>(refers.map(|key| row(step as u32 + 2, key)))
        },
        own: |_: &RowId| None,
    };
    let key = |tuple: &Tuple| int8(tuple, 0);
    let told = rows.read_joined(
        first,
        &along,
        |row| Some(row) == fenced.as_ref(),
        || Lsn(followed),
        |firsts, beside| {
            let beside = beside.chunks(2);
            let all = firsts
                .iter()
                .zip(beside)
                .map(|(first, beside)| [Some(key(first)), beside[0].map(key), beside[1].map(key)]);
            Ok(all.collect())
        },
    );
    let Ok(told) = told;
    match told {
        SetRead::Done((told, _)) => SetRead::Done(told),
        SetRead::Fenced => SetRead::Fenced,
        SetRead::Apart => SetRead::Apart,
        SetRead::Missing(sets) => SetRead::Missing(sets),
        SetRead::Unknown(rows) => SetRead::Unknown(rows),
        SetRead::TooLarge => SetRead::TooLarge,
        SetRead::Obscure => SetRead::Obscure,
    }
}

#[test]
fn rows_stand_beside_what_they_refer_to() {
    let rows = rows();
    load(
        &rows,
        1,
        0,
        &[
            (1, Some(10)),
            (2, Some(11)),
            (3, Some(0)),
            (4, Some(12)),
            (5, None),
        ],
    );
    load(&rows, 2, 0, &[(10, Some(20)), (11, Some(21)), (12, None)]);
    load(&rows, 3, 0, &[(20, Some(0)), (21, None)]);
    let all = [1, 2, 3, 4, 5];
    let told = |needed| join(&rows, &all, needed, (None, 0));
    let whole = [Some(1), Some(10), Some(20)];
    assert_eq!(told([true, true]), SetRead::Done(vec![whole]));
    let left = [
        whole,
        [Some(2), Some(11), None],
        [Some(3), None, None],
        [Some(4), None, None],
    ];
    assert_eq!(told([false, false]), SetRead::Done(left.to_vec()));
    assert_eq!(told([true, false]), SetRead::Done(left[..2].to_vec()));
    assert_eq!(told([false, true]), SetRead::Done(left[..1].to_vec()));
}

#[test]
fn what_is_not_known_is_asked_for_along_the_way() {
    let rows = rows();
    let told = || join(&rows, &[1, 2, 3], [true, true], (None, 0));
    let unknown = |mut rows: Vec<RowId>| {
        rows.sort();
        SetRead::Unknown(rows)
    };
    assert_eq!(told(), unknown(vec![row(1, 1), row(1, 2), row(1, 3)]));
    load(&rows, 1, 0, &[(1, Some(10)), (2, Some(10)), (3, Some(11))]);
    assert_eq!(told(), unknown(vec![row(2, 10), row(2, 11)]));
    load(&rows, 2, 0, &[(10, Some(20)), (11, None)]);
    assert_eq!(told(), unknown(vec![row(3, 20)]));
    load(&rows, 3, 0, &[(20, Some(0))]);
    let both = vec![[Some(1), Some(10), Some(20)], [Some(2), Some(10), Some(20)]];
    assert_eq!(told(), SetRead::Done(both));
}

#[test]
fn a_fence_around_any_of_them_counts() {
    let rows = rows();
    load(&rows, 1, 0, &[(1, Some(10))]);
    load(&rows, 2, 0, &[(10, Some(20))]);
    load(&rows, 3, 0, &[(20, None)]);
    for fenced in [row(1, 1), row(2, 10), row(3, 20)] {
        let told = join(&rows, &[1], [false, false], (Some(fenced), 0));
        assert_eq!(told, SetRead::Fenced);
    }
    let told = join(&rows, &[1], [false, false], (Some(row(2, 11)), 0));
    assert_eq!(told, SetRead::Done(vec![[Some(1), Some(10), None]]));
}

#[test]
fn loads_of_different_moments_are_told_together_when_the_stream_has_passed_both() {
    let rows = rows();
    load(&rows, 1, 100, &[(1, Some(10)), (2, Some(0))]);
    load(&rows, 2, 200, &[(10, Some(0))]);
    let told = |keys: &[i64], followed| join(&rows, keys, [false, false], (None, followed));
    assert_eq!(told(&[1], 150), SetRead::Apart);
    assert_eq!(
        told(&[1], 200),
        SetRead::Done(vec![[Some(1), Some(10), None]])
    );
    // One load alone is one moment.
    assert_eq!(told(&[2], 50), SetRead::Done(vec![[Some(2), None, None]]));
    // So is what is absent: it was told of, too.
    load(&rows, 1, 300, &[(3, Some(11))]);
    load(&rows, 2, 400, &[(11, None)]);
    assert_eq!(told(&[3], 350), SetRead::Apart);
    let one = join(&rows, &[3], [true, true], (None, 350));
    assert_eq!(one, SetRead::Apart);
}

#[test]
fn a_row_that_refers_to_another_by_now_is_shown_with_that_one() {
    let rows = rows();
    load(&rows, 1, 0, &[(1, Some(10))]);
    load(&rows, 2, 0, &[(10, Some(0)), (11, Some(0))]);
    let change = WalChange {
        row: row(1, 1),
        image: Some(tuple(1, 11)),
    };
    rows.wal_transaction(Xid32(11), Lsn(50), &[change]);
    let told = join(&rows, &[1], [true, false], (None, 50));
    assert_eq!(told, SetRead::Done(vec![[Some(1), Some(11), None]]));
}

#[test]
fn sets_are_told_with_what_their_rows_refer_to() {
    let rows = rows();
    let sets = SetIds::new(
        TableOid(1),
        SetColumns::new([(1, INT8)]),
        vec![row(1, 10).key],
    );
    let (own, fenced) = (BTreeMap::new(), std::cell::Cell::new(false));
    let told = |followed| {
        let first = First::Sets {
            sets: &sets,
            own: &own,
            fenced: &|| fenced.get(),
        };
        read(&rows, &first, [true, false], (None, followed))
    };
    assert_eq!(told(0), SetRead::Missing(sets.clone()));
    let SetLoad::Mine(ticket) = rows.begin_set_load(&sets) else {
        panic!("nobody else loads it");
    };
    let moment = Arc::new(Moment {
        snapshot: "10:10:".parse().unwrap(),
        wal: Lsn(100),
    });
    let found = vec![(row(1, 1).key, tuple(1, 10)), (row(1, 2).key, tuple(2, 10))];
    rows.finish_set_load(ticket, &moment, Some(found), |_| false);
    assert_eq!(told(0), SetRead::Unknown(vec![row(2, 10)]));
    load(&rows, 2, 200, &[(10, Some(0))]);
    assert_eq!(told(100), SetRead::Apart);
    fenced.set(true);
    assert_eq!(told(200), SetRead::Fenced);
    fenced.set(false);
    let SetRead::Done(mut both) = told(200) else {
        panic!("all is known");
    };
    both.sort();
    assert_eq!(both, [[Some(1), Some(10), None], [Some(2), Some(10), None]]);
}
