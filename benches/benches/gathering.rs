//! What sets cost: reading a table that is held whole, by its rows, and changing a row of a table, by the number of its sets in memory, which should not matter.
//! `cargo bench -p ripen-benches --bench gathering`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ripen_cachestore::change::{Change, CommitGroup, RowChange, RowId};
use ripen_grid::log::LogIndex;
use ripen_grid::rows::sets::{SetColumns, SetIds};
use ripen_grid::rows::{Moment, Rows, SetLoad, SetRead, TableBounds};
use ripen_pg::ids::{Lsn, TableOid, TypeOid};
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use std::collections::BTreeMap;
use std::sync::Arc;

const TABLE: TableOid = TableOid(16_384);
const INT4: TypeOid = TypeOid(23);
/// As many values as one statement loads.
const AT_ONCE: i32 = 1_000;

fn key(n: i32) -> Key {
    let mut key = Key::new();
    key.push_fixed(&n.to_be_bytes());
    key
}

fn tuple(id: i32, group: i32) -> Tuple {
    let (id, group) = (id.to_be_bytes(), group.to_be_bytes());
    let columns = [&id[..], &group, &[b'x'; 84]];
    columns.into_iter().map(Datum::Value).collect()
}

fn moment() -> Arc<Moment> {
    Arc::new(Moment {
        snapshot: "10:10:".parse().expect("a snapshot"),
        wal: Lsn(0),
    })
}

fn load(rows: &Rows, sets: &SetIds, found: Vec<(Key, Tuple)>) {
    match rows.begin_set_load(sets) {
        SetLoad::Mine(ticket) => rows.finish_set_load(ticket, &moment(), Some(found), |_| false),
        other => panic!("the sets are to be loaded, not {other:?}"),
    }
}

fn reading(c: &mut Criterion) {
    let mut group = c.benchmark_group("resident: read all rows");
    for count in [100, 1_000, 10_000] {
        let rows = Rows::new(1 << 30, Arc::new(|| 0));
        let bounds = TableBounds {
            resident_rows_max: Some(10_000),
            ..TableBounds::default()
        };
        rows.bound_tables(&BTreeMap::from([(TABLE, bounds)]));
        let whole = SetIds::whole(TABLE);
        let found = (0..count).map(|id| (key(id), tuple(id, id % 10)));
        load(&rows, &whole, found.collect());
        let own = BTreeMap::new();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let read = rows.read_sets(&whole, &own, || false, || Lsn(1), |rows| rows.len());
                assert!(matches!(read, SetRead::Done(read) if read == count as usize));
            });
        });
    }
}

fn changing(c: &mut Criterion) {
    let mut group = c.benchmark_group("sets: move a row");
    for count in [0, 10, 1_000, 100_000] {
        let rows = Rows::new(4 << 30, Arc::new(|| 0));
        let by_group = SetColumns::new([(1, INT4)]);
        for first in (0..count).step_by(AT_ONCE as usize) {
            let values = (first..count.min(first + AT_ONCE)).map(key).collect();
            load(
                &rows,
                &SetIds::new(TABLE, by_group.clone(), values),
                Vec::new(),
            );
        }
        assert_eq!(rows.set_stats().sets, count as u64);
        let mut n = 0_i32;
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                n = (n + 61_291) % 100_000;
                let (table, key) = (TABLE, key(n % 100));
                let image = tuple(n % 100, n % count.clamp(1, 100_000));
                let change = Change::Put { image };
                let row = RowId { table, key };
                let changed = vec![RowChange { row, change }];
                rows.apply_group(&CommitGroup { rows: changed }, LogIndex(1))
            });
        });
    }
}

criterion_group!(gathering, reading, changing);
criterion_main!(gathering);
