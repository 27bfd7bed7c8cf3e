//! Which server is the system of record: nothing is taken from another, and nothing written there.

use crate::changes::{Bench, LOG, big, int};
use ripen_cachestore::change::FlushSeq;
use ripen_cachestore::flush::Again;
use ripen_cachestore::home::{SERVER, Server};
use ripen_cachestore::{Store, StoreError};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0)";

async fn server(store: &Store) -> Server {
    store.standing(LOG).await.unwrap().server
}

fn is_strange<T: std::fmt::Debug>(result: Result<T, StoreError>, found: Server) -> bool {
    matches!(result, Err(StoreError::Strange(server)) if server == found)
}

#[tokio::test]
async fn nothing_is_loaded_or_written_elsewhere() {
    let bench = Bench::new(T).await;
    let guarded = bench.store().clone().guarded(true);
    let here = server(&guarded).await;
    assert!(!here.is_standby());
    let other = Server {
        timeline: here.timeline + 1,
        ..here
    };
    let (relation, key) = (bench.table("t"), bench.key("t", &[int(1)]));
    let keys = std::slice::from_ref(&key);
    let batch = bench.batch(vec![vec![bench.insert("t", &[int(1), big(7)])]]);
    for home in [None, Some(other)] {
        guarded.home().set(home, false);
        let doubts = guarded.home().doubts();
        let loaded = guarded.load_rows(&bench.catalog, &relation, keys).await;
        assert!(is_strange(loaded, here), "loaded while home is {home:?}");
        let flushed = guarded.flush(&bench.catalog, &batch, |_| {}).await;
        assert!(is_strange(flushed, here), "flushed while home is {home:?}");
        let replayed = guarded.replay(&bench.catalog, 1).await;
        assert!(
            is_strange(replayed, here),
            "replayed while home is {home:?}"
        );
        assert!(doubts.has_changed().unwrap(), "nobody is told");
        assert_eq!(bench.rows("SELECT id FROM t").await, "");
    }
    guarded.home().set(Some(here), false);
    let flushed = guarded.flush(&bench.catalog, &batch, |_| {}).await;
    assert_eq!(flushed.unwrap().rows, 1);
    let loaded = guarded.load_rows(&bench.catalog, &relation, keys).await;
    assert_eq!(loaded.unwrap().rows.len(), 1);
    // Without standbys nobody asks.
    let loaded = bench.store().load_rows(&bench.catalog, &relation, keys);
    assert_eq!(loaded.await.unwrap().rows.len(), 1);
}

#[tokio::test]
async fn a_flush_is_written_again_where_it_is_lacking_and_nowhere_else() {
    let bench = Bench::new(T).await;
    let guarded = bench.store().clone().guarded(true);
    let here = server(&guarded).await;
    let batch = bench.batch(vec![
        vec![bench.insert("t", &[int(1), big(7)])],
        vec![bench.insert("t", &[int(2), big(7)])],
    ]);
    let refused = [batch.groups[1].rows[0].row.clone()].into();
    let mut again = Again {
        server: Some(Server {
            started: here.started + 1,
            ..here
        }),
        refused,
    };
    let elsewhere = guarded.flush_again(&bench.catalog, &batch, &again).await;
    assert!(is_strange(elsewhere, here));
    again.server = Some(here);
    let written = guarded.flush_again(&bench.catalog, &batch, &again).await;
    let written = written.unwrap();
    assert_eq!((written.rows, written.dead.len()), (1, 1));
    assert_eq!(written.dead[0].sqlstate, "55000");
    assert_eq!(bench.rows("SELECT id FROM t").await, "1");
    let letters = "SELECT sqlstate, flush FROM ripen.dead_letter";
    assert_eq!(bench.rows(letters).await, "55000|1");
    let twice = guarded.flush_again(&bench.catalog, &batch, &again).await;
    assert!(matches!(twice, Err(StoreError::OutOfOrder { .. })));
    let standing = guarded.standing(LOG).await.unwrap();
    let progress = standing.progress.unwrap();
    assert_eq!((progress.applied, progress.epoch), (FlushSeq(1), 1));
    assert!(standing.wal.is_some() && standing.standbys.is_empty());
}

#[tokio::test]
async fn the_server_is_the_same_for_every_role_and_setting() {
    let bench = Bench::new(T).await;
    let here = server(bench.store()).await;
    let sql = &bench.database.sql;
    sql.batch_execute(
        "CREATE SCHEMA own; CREATE FUNCTION own.concat(VARIADIC text[]) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$; \
         CREATE ROLE anybody; SET search_path = own, pg_catalog; SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET ROLE anybody",
    )
    .await
    .unwrap();
    let row = sql.query_one(&format!("SELECT {SERVER}"), &[]).await;
    assert_eq!(row.unwrap().get::<_, &str>(0).parse(), Ok(here));
    sql.batch_execute("RESET ROLE; DROP ROLE anybody")
        .await
        .unwrap();
}
