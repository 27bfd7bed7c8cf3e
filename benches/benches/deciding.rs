//! What the deciding parts cost, without sockets, disk or Postgres: planning a text once, then key, render and decide for each execution, rows in memory,
//! ripening. `cargo bench -p ripen-benches --bench deciding`.

#![allow(clippy::unwrap_used)] // The catalog by hand is a helper of tests.

use bytes::BytesMut;
use criterion::{Criterion, criterion_group, criterion_main};
use ripen_cachestore::change::{Before, Change, CommitGroup, RowChange, RowId};
use ripen_grid::log::LogIndex;
use ripen_grid::ripening::Ripening;
use ripen_grid::rows::{Moment, Rows};
use ripen_grid::scope::Scope;
use ripen_pg::ids::{Lsn, TableOid};
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use ripen_pg::value::Settings;
use ripen_proxy::eval::{Formats, Now, Params};
use ripen_proxy::plan::{Plan, plan};
use std::hint::black_box;
use std::sync::Arc;

#[path = "../../proxy/tests/support/catalog.rs"]
mod catalog;

use catalog::{World, world};

const SCHEMA: &str = "table accounts | aid int4 notnull; bid int4; abalance int4; filler varchar(84) | pk=aid mode=wb";
const READ: &str = "SELECT abalance FROM accounts WHERE aid = $1";
const UPDATE: &str = "UPDATE accounts SET abalance = abalance + $1 WHERE aid = $2";
const NOW: Now = Now {
    statement_us: 0,
    transaction_us: 0,
};

fn planned(world: &World, sql: &str) -> Plan {
    plan(
        sql,
        &[],
        &world.catalog,
        &|relation| world.mode(relation),
        &world.facts,
    )
}

fn account(aid: i32) -> Tuple {
    let (aid, one) = (aid.to_be_bytes(), 1_i32.to_be_bytes());
    let columns = [&aid[..], &one, &one, &[b'x'; 84]];
    columns.into_iter().map(Datum::Value).collect()
}

fn planning(c: &mut Criterion) {
    let world = world(SCHEMA);
    for sql in [READ, UPDATE, "SELECT count(*) FROM accounts"] {
        c.bench_function(&format!("plan: {sql}"), |b| {
            b.iter(|| planned(&world, black_box(sql)));
        });
    }
}

fn executing(c: &mut Criterion) {
    let (world, settings) = (world(SCHEMA), Settings::default());
    let (Plan::Read(read), Plan::Write(update)) = (planned(&world, READ), planned(&world, UPDATE))
    else {
        panic!("these are the plans that are served here");
    };
    let (delta, aid) = (b"-4711".as_slice(), b"81234".as_slice());
    let row = account(81_234);
    let mut out = BytesMut::new();
    c.bench_function("read: key and row", |b| {
        b.iter(|| {
            let params = Params {
                values: &[Some(aid)],
                ..Params::default()
            };
            out.clear();
            let keys = read.keys(black_box(&params), &settings).expect("a key");
            let rendered = read.render(
                &[Some(&row)],
                &params,
                Formats::default(),
                &settings,
                &mut out,
            );
            (keys.len(), rendered.expect("a row"))
        });
    });
    let image = [Some(row)];
    c.bench_function("update: key and decision", |b| {
        b.iter(|| {
            let params = Params {
                values: &[Some(delta), Some(aid)],
                ..Params::default()
            };
            out.clear();
            let keys = update.keys(black_box(&params), &settings).expect("a key");
            let decided = update.decide(
                &params,
                &image,
                NOW,
                &settings,
                Formats::default(),
                &mut out,
            );
            (keys.len(), decided.expect("an update"))
        });
    });
}

const TABLE: TableOid = TableOid(16_384);
const ROWS: u32 = 100_000;

fn row(n: u32) -> RowId {
    RowId {
        table: TABLE,
        key: Key::from_bytes(&n.to_be_bytes()),
    }
}

/// Steps through all rows in an order that no cache line foresees.
fn next(n: &mut u32) -> RowId {
    *n = (*n + 61_291) % ROWS;
    row(*n)
}

fn memory(c: &mut Criterion) {
    let rows = Rows::new(1 << 30, Arc::new(|| 0));
    let all: Vec<RowId> = (0..ROWS).map(row).collect();
    let (ticket, _) = rows.begin_load(&all);
    let moment = Moment {
        snapshot: "10:10:".parse().expect("a snapshot"),
        wal: Lsn(0),
    };
    rows.finish_load(ticket, &Arc::new(moment), |_| Some(account(1)));
    let mut n = 0;
    c.bench_function("rows: read one", |b| {
        b.iter(|| {
            rows.read_one(
                &next(&mut n),
                || false,
                |found| found.tuple().map(Tuple::len),
            )
        });
    });
    c.bench_function("rows: read ten together", |b| {
        b.iter(|| {
            let asked: Vec<RowId> = (0..10).map(|_| next(&mut n)).collect();
            rows.read(&asked, || false, || Lsn(1), |found| found.len())
        });
    });
    c.bench_function("rows: apply an update", |b| {
        b.iter(|| {
            let change = Change::Put { image: account(2) };
            let rows_changed = vec![RowChange {
                row: next(&mut n),
                change,
            }];
            rows.apply_group(&CommitGroup { rows: rows_changed }, LogIndex(1))
        });
    });
}

fn ripening(c: &mut Criterion) {
    c.bench_function("ripening: 10,000 rows in, out", |b| {
        b.iter(|| {
            let mut ripening = Ripening::default();
            for n in 0..10_000 {
                ripening.note(u64::from(n / 100), [(row(n), 100, Before::Any)]);
            }
            ripening
                .take(&Scope::Everything, u64::MAX, usize::MAX)
                .len()
        });
    });
}

criterion_group!(deciding, planning, executing, memory, ripening);
criterion_main!(deciding);
