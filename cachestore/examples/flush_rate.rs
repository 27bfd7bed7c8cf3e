//! Measures flushes of 1000 rows, catalog loads and row loads: `cargo run --release --example flush_rate -- postgres://user@host/scratch`.
//! Writes into a table `flush_rate` of that database, which must not exist, and into the schema `ripen`. Not for production databases.

use anyhow::Context;
use ripen_cachestore::catalog::Epoch;
use ripen_cachestore::change::{Change, CommitGroup, FlushSeq, Increment, RowChange, RowId};
use ripen_cachestore::flush::FlushBatch;
use ripen_cachestore::progress::{LogIdentity, LogKey, Taker};
use ripen_cachestore::{Store, Upstream};
use ripen_pg::ids::TypeOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use std::time::Instant;

const ROWS: i64 = 1000;
const ROUNDS: u64 = 50;
const LOG: LogKey = LogKey {
    number: 999,
    identity: LogIdentity(1),
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).context("usage: flush_rate URL")?;
    let store = Store::new(url.parse::<Upstream>()?);
    store.migrate().await?;
    let client = store.client().await?;
    client
        .batch_execute("CREATE TABLE public.flush_rate (id bigint PRIMARY KEY, name text, n int, at timestamptz)")
        .await?;
    let started = Instant::now();
    let catalog = store.load_catalog(Epoch(1)).await?;
    println!(
        "catalog of {} relations: {:?}",
        catalog.relations.len(),
        started.elapsed()
    );
    let started = Instant::now();
    store.catalog_fingerprint().await?;
    println!("fingerprint: {:?}", started.elapsed());
    let namespace = catalog.namespaces["public"].oid;
    let table = catalog.names[&(namespace, "flush_rate".to_owned())];

    let taker = Taker {
        log: LOG,
        epoch: 1,
        holder: "flush_rate",
        has_flushed: false,
        formers: &[],
    };
    let mut seq = store.take_over(taker).await?.applied;
    for kind in ["insert", "update", "increment", "put", "delete"] {
        let mut batches = Vec::new();
        for round in 0..ROUNDS as i64 {
            let ids = (0..ROWS).map(|id| round * ROWS + id);
            let rows = ids.map(|id| CommitGroup {
                rows: vec![RowChange {
                    row: RowId {
                        table,
                        key: Key::from_bytes(&id.to_be_bytes()),
                    },
                    change: change(kind, id),
                }],
            });
            seq = FlushSeq(seq.0 + 1);
            batches.push(FlushBatch {
                log: LOG,
                epoch: 1,
                seq,
                groups: rows.collect(),
                shapes: Default::default(),
                guards: Default::default(),
                catalog_is_new: true,
            });
        }
        let started = Instant::now();
        for batch in &batches {
            let outcome = store.flush(&catalog, batch, |_| {}).await?;
            anyhow::ensure!(outcome.dead.is_empty(), "{:?}", outcome.dead[0].message);
        }
        let seconds = started.elapsed().as_secs_f64();
        let rate = (ROWS as f64 * ROUNDS as f64 / seconds) as u64;
        println!(
            "{kind}: {rate} rows/s, {:.2} ms per flush of {ROWS}",
            seconds * 1000.0 / ROUNDS as f64
        );
        if kind == "put" {
            load(&store, &catalog, &catalog.relations[&table]).await?;
        }
    }
    client.batch_execute("DROP TABLE public.flush_rate").await?;
    Ok(())
}

async fn load(
    store: &Store,
    catalog: &ripen_cachestore::catalog::Catalog,
    relation: &ripen_cachestore::catalog::Relation,
) -> anyhow::Result<()> {
    for keys in [1i64, 100] {
        let started = Instant::now();
        for round in 0..500 {
            let keys = (0..keys).map(|id| Key::from_bytes(&(round * 50 + id).to_be_bytes()));
            let keys: Vec<Key> = keys.collect();
            store.load_rows(catalog, relation, &keys).await?;
        }
        println!("load of {keys} rows: {:?}", started.elapsed() / 500);
    }
    Ok(())
}

fn change(kind: &str, id: i64) -> Change {
    let id = id.to_be_bytes();
    let columns = [
        Datum::Value(&id),
        Datum::Value(b"a name of some length"),
        Datum::Value(&[0, 0, 0, 7]),
        Datum::Null,
    ];
    let image: Tuple = columns.into_iter().collect();
    match kind {
        "insert" => Change::Insert { image },
        "put" => Change::Put { image },
        "update" => Change::Update {
            image,
            set: vec![1, 3],
            add: vec![],
        },
        "increment" => {
            let amount = bytes::Bytes::from_static(&[0, 0, 0, 1]);
            let add = vec![Increment {
                position: 2,
                type_oid: TypeOid(23),
                amount,
            }];
            Change::Update {
                image,
                set: vec![],
                add,
            }
        }
        _ => Change::Delete,
    }
}
