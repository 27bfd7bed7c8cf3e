//! Flushes in which Postgres refuses something: guilty groups become dead letters, the others arrive, nothing is lost.

use crate::changes::{Bench, V, big, int, text};
use crate::server::connect;
use ripen_cachestore::store::StoreSettings;
use ripen_cachestore::{Class, Store, StoreError};
use std::time::Duration;

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, name varchar(5), n int CHECK (n < 1000))";

fn row(id: i32, name: &str, n: i32) -> Vec<V> {
    vec![int(id), text(name), int(n)]
}

async fn letters(bench: &Bench) -> String {
    bench.rows("SELECT id, log, flush, sqlstate FROM ripen.dead_letter WHERE resolution IS NULL ORDER BY id").await
}

#[tokio::test]
async fn guilty_groups_die_whole_and_the_others_arrive() {
    let mut bench = Bench::new(T).await;
    let mut groups: Vec<_> = (0..40)
        .map(|id| {
            vec![
                bench.insert("t", &row(id, "ok", 1)),
                bench.insert("t", &row(id + 100, "ok", 2)),
            ]
        })
        .collect();
    groups[7][1] = bench.insert("t", &row(107, "too long", 1));
    groups[8][0] = bench.insert("t", &row(8, "x", 5000));
    groups[31][1] = bench.insert("t", &row(131, "x", 5000));
    let dead = [groups[7].clone(), groups[8].clone(), groups[31].clone()];
    let outcome = bench.try_flush(groups).await.unwrap();
    let found: Vec<_> = outcome
        .dead
        .iter()
        .map(|dead| (dead.sqlstate.as_str(), dead.group.rows.clone()))
        .collect();
    let expected: Vec<_> = ["22001", "23514", "23514"].into_iter().zip(dead).collect();
    assert_eq!(found, expected);
    assert_eq!(outcome.rows, 74);
    assert_eq!(
        bench
            .rows("SELECT count(*), count(*) FILTER (WHERE id % 100 IN (7, 8, 31)) FROM t")
            .await,
        "74|0"
    );
    assert_eq!(letters(&bench).await, "1|0|1|22001;2|0|1|23514;3|0|1|23514");
    assert_eq!(bench.rows("SELECT applied FROM ripen.progress").await, "1");
}

#[tokio::test]
async fn letters_can_be_read_by_people() {
    let mut bench = Bench::new(&format!(
        "{T}; INSERT INTO t VALUES (1, 'a', 1), (3, 'c', 9)"
    ))
    .await;
    let group = vec![
        bench.update("t", &row(1, "longer", 1), &[1]),
        bench.add("t", &row(3, "c", 4), &[], &[(2, 23, int(5))]),
        bench.delete("t", &[int(4)]),
        bench.insert("t", &[int(5), None, int(5)]),
    ];
    bench.try_flush(vec![group]).await.unwrap();
    let letters = bench.store().dead_letters(0, false).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].sqlstate, "22001");
    assert!(
        letters[0].message.contains("value too long"),
        "{}",
        letters[0].message
    );
    let changes: serde_json::Value = serde_json::from_str(&letters[0].changes).unwrap();
    let expected = serde_json::json!([
        {"table": "public.t", "key": {"id": "1"}, "operation": "update", "columns": {"name": "longer"}},
        {"table": "public.t", "key": {"id": "3"}, "operation": "update", "columns": {"n": "+5"}},
        {"table": "public.t", "key": {"id": "4"}, "operation": "delete", "columns": {}},
        {"table": "public.t", "key": {"id": "5"}, "operation": "insert", "columns": {"id": "5", "name": null, "n": "5"}},
    ]);
    assert_eq!(changes, expected);
}

#[tokio::test]
async fn updates_of_rows_deleted_outside_are_dead() {
    let mut bench = Bench::new(&format!(
        "{T}; INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)"
    ))
    .await;
    let groups = (1..=6)
        .map(|id| vec![bench.update("t", &row(id, "new", 1), &[1])])
        .collect();
    let outcome = bench.try_flush(groups).await.unwrap();
    assert_eq!(outcome.dead.len(), 4);
    assert!(
        outcome
            .dead
            .iter()
            .all(|dead| dead.sqlstate == "02000" && dead.message.contains("deleted outside"))
    );
    assert_eq!(
        bench.rows("SELECT * FROM t ORDER BY id").await,
        "1|new|1;2|new|2"
    );
}

#[tokio::test]
async fn what_depends_on_a_dead_group_dies_too() {
    let mut bench = Bench::new(
        "CREATE TABLE p (id int PRIMARY KEY CHECK (id < 10)); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    let groups = vec![
        vec![bench.insert("p", &[int(1)])],
        vec![bench.insert("p", &[int(50)])],
        vec![bench.insert("c", &[int(1), int(1)])],
        vec![bench.insert("c", &[int(2), int(50)])],
        vec![bench.insert("c", &[int(3), int(1)])],
    ];
    let outcome = bench.try_flush(groups).await.unwrap();
    let states: Vec<_> = outcome
        .dead
        .iter()
        .map(|dead| dead.sqlstate.as_str())
        .collect();
    assert_eq!(states, ["23514", "23503"]);
    assert_eq!(bench.rows("SELECT id FROM c ORDER BY id").await, "1;3");
}

#[tokio::test]
async fn tables_that_are_gone_or_another_kill_only_their_groups() {
    let mut bench = Bench::new(&format!("{T}; CREATE TABLE gone (id int PRIMARY KEY); CREATE TABLE swapped (id int PRIMARY KEY); CREATE TABLE keyless (id int PRIMARY KEY, a int)")).await;
    bench.database.sql.batch_execute("DROP TABLE gone; ALTER TABLE swapped RENAME TO old; CREATE TABLE swapped (id int PRIMARY KEY)").await.unwrap();
    let unknown = {
        let mut change = bench.insert("t", &row(9, "x", 1));
        change.row.table = ripen_pg::ids::TableOid(1);
        change
    };
    let groups = vec![
        vec![bench.insert("t", &row(1, "a", 1))],
        vec![bench.insert("gone", &[int(1)])],
        vec![bench.insert("swapped", &[int(1)])],
        vec![unknown],
        vec![bench.insert("t", &row(2, "b", 1))],
    ];
    let outcome = bench.try_flush(groups).await.unwrap();
    let states: Vec<_> = outcome
        .dead
        .iter()
        .map(|dead| dead.sqlstate.as_str())
        .collect();
    assert_eq!(states, ["42P01", "42P01", "42P01"]);
    assert_eq!(bench.rows("SELECT id FROM t ORDER BY id").await, "1;2");
    assert_eq!(
        bench
            .rows("SELECT (SELECT count(*) FROM swapped), (SELECT count(*) FROM old)")
            .await,
        "0|0"
    );
}

#[tokio::test]
async fn values_of_another_type_are_dead_not_a_lost_connection() {
    let mut bench = Bench::new("CREATE TABLE t (id int PRIMARY KEY, a int)").await;
    let groups = vec![
        vec![bench.insert("t", &[int(1), big(5)])],
        vec![bench.insert("t", &[int(2), Some(vec![7])])],
        vec![bench.insert("t", &[int(3), int(5)])],
    ];
    let outcome = bench.try_flush(groups).await.unwrap();
    assert_eq!(outcome.dead.len(), 2);
    assert_eq!(bench.rows("SELECT id FROM t").await, "3");
}

#[tokio::test]
async fn locks_held_by_others_are_waited_for_and_then_retried() {
    let bench = Bench::new(&format!("{T}; INSERT INTO t VALUES (1, 'a', 1)")).await;
    let settings = StoreSettings {
        lock_timeout: Duration::from_millis(100),
        ..StoreSettings::default()
    };
    let store = Store::with_settings(bench.store().upstream().clone(), settings);
    let other = connect("postgres", &bench.database.name).await;
    other
        .batch_execute("BEGIN; UPDATE t SET n = 2")
        .await
        .unwrap();
    let batch = bench.batch(vec![vec![bench.update("t", &row(1, "b", 1), &[1])]]);
    let error = store
        .flush(&bench.catalog, &batch, |_| {})
        .await
        .unwrap_err();
    assert_eq!(
        (error.sqlstate(), error.class(), error.retry()),
        ("55P03", Class::Lock, true)
    );
    assert_eq!(bench.rows("SELECT applied FROM ripen.progress").await, "0");
    other.batch_execute("COMMIT").await.unwrap();
    store.flush(&bench.catalog, &batch, |_| {}).await.unwrap();
    assert_eq!(bench.rows("SELECT * FROM t").await, "1|b|2");
}

#[tokio::test]
async fn groups_behind_a_lock_are_named_whole_and_no_others() {
    let schema = format!(
        "{T}; CREATE TABLE c (id int PRIMARY KEY, t int REFERENCES t DEFERRABLE); INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 1), (3, 'c', 1)"
    );
    let bench = Bench::new(&schema).await;
    let other = connect("postgres", &bench.database.name).await;
    let update = |id| bench.update("t", &row(id, "new", 1), &[1]);
    let groups = vec![
        vec![update(1), bench.insert("t", &row(9, "x", 1))],
        vec![update(2)],
        vec![bench.insert("c", &[int(1), int(3)])],
        vec![bench.insert("c", &[int(2), int(2)])],
        vec![bench.insert("t", &row(7, "x", 1))],
    ];
    let batch = bench.batch(groups.clone());
    let cases: [(&str, &[usize]); 4] = [
        ("SELECT FROM t WHERE id = 1 FOR UPDATE", &[0]),
        ("SELECT FROM t WHERE id = 3 FOR UPDATE", &[2]),
        ("INSERT INTO t VALUES (7)", &[4]),
        ("LOCK TABLE c", &[2, 3]),
    ];
    for (lock, behind) in cases {
        other.batch_execute("BEGIN").await.unwrap();
        other.batch_execute(lock).await.unwrap();
        let flushed = bench.store().flush(&bench.catalog, &batch, |_| {}).await;
        let Err(StoreError::HeldUp { rows, by }) = flushed else {
            panic!("{lock}: {flushed:?}");
        };
        let groups = behind.iter().flat_map(|at| &groups[*at]);
        let expected: Vec<_> = groups.map(|change| change.row.clone()).collect();
        assert_eq!((rows, by.class()), (expected, Class::Lock), "{lock}");
        other.batch_execute("ROLLBACK").await.unwrap();
    }
    let flushed = bench.store().flush(&bench.catalog, &batch, |_| {}).await;
    assert!(flushed.unwrap().dead.is_empty());
}

#[tokio::test]
async fn a_missing_right_blames_no_change() {
    let bench = Bench::new(&format!("{T}; CREATE ROLE flush_weak LOGIN; GRANT USAGE ON SCHEMA ripen TO flush_weak; GRANT ALL ON ALL TABLES IN SCHEMA ripen TO flush_weak; GRANT SELECT ON t TO flush_weak")).await;
    let store = Store::new(crate::server::upstream("flush_weak", &bench.database.name));
    let batch = bench.batch(vec![vec![bench.insert("t", &row(1, "a", 1))]]);
    let error = store
        .flush(&bench.catalog, &batch, |_| {})
        .await
        .unwrap_err();
    assert_eq!(
        (error.class(), error.retry()),
        (Class::Rights, true),
        "{error}"
    );
    assert_eq!(letters(&bench).await, "");
}

#[tokio::test]
async fn letters_are_replayed_once_or_discarded() {
    let mut bench = Bench::new(T).await;
    let guilty = vec![
        bench.insert("t", &row(1, "ok", 5000)),
        bench.insert("t", &row(2, "ok", 1)),
    ];
    bench
        .try_flush(vec![guilty, vec![bench.insert("t", &row(3, "x", 9999))]])
        .await
        .unwrap();
    let store = bench.store().clone();
    assert_eq!(store.dead_letters_open().await.unwrap(), 2);
    // What Postgres refuses again stays open, and nothing of it is there.
    let refused = store.replay(&bench.catalog, 1).await.unwrap_err();
    assert_eq!(refused.sqlstate(), "23514");
    assert!(store.is_open(1).await.unwrap());
    assert_eq!(bench.rows("SELECT count(*) FROM t").await, "0");
    let allow = "ALTER TABLE t DROP CONSTRAINT t_n_check";
    bench.database.sql.batch_execute(allow).await.unwrap();
    assert!(store.replay(&bench.catalog, 1).await.unwrap());
    assert!(!store.is_open(1).await.unwrap());
    assert_eq!(bench.rows("SELECT id FROM t ORDER BY id").await, "1;2");
    assert!(!store.replay(&bench.catalog, 1).await.unwrap());
    assert!(!store.discard(1).await.unwrap());
    assert!(store.discard(2).await.unwrap());
    assert!(!store.replay(&bench.catalog, 2).await.unwrap());
    assert!(!store.replay(&bench.catalog, 77).await.unwrap());
    assert_eq!(bench.rows("SELECT id FROM t ORDER BY id").await, "1;2");
    assert_eq!(store.dead_letters_open().await.unwrap(), 0);
    assert!(store.dead_letters(0, false).await.unwrap().is_empty());
    let all = store.dead_letters(0, true).await.unwrap();
    let states: Vec<_> = all
        .iter()
        .map(|letter| letter.resolution.as_deref())
        .collect();
    assert_eq!(states, [Some("replayed"), Some("discarded")]);
    assert_eq!(store.dead_letters(1, true).await.unwrap().len(), 1);
    let damaged = "INSERT INTO ripen.dead_letter (log, identity, flush, sqlstate, message, changes, payload) VALUES (0, 7, 1, 'x', 'x', '[]', '\\x09')";
    bench.database.sql.batch_execute(damaged).await.unwrap();
    assert!(matches!(
        store.replay(&bench.catalog, 3).await,
        Err(StoreError::Unexpected(_))
    ));
    assert_eq!(store.dead_letters_open().await.unwrap(), 1);
}

#[tokio::test]
async fn a_schema_that_changed_meanwhile_blames_no_change_until_it_was_read_anew() {
    let mut bench = Bench::new(T).await;
    let other = connect("postgres", &bench.database.name).await;
    let rename = "ALTER TABLE t RENAME COLUMN name TO title";
    other.batch_execute(rename).await.unwrap();
    let mut batch = bench.batch(vec![vec![bench.insert("t", &row(1, "a", 1))]]);
    batch.catalog_is_new = false;
    let refused = bench.store().flush(&bench.catalog, &batch, |_| {}).await;
    assert_eq!(refused.unwrap_err().class(), Class::Schema);
    assert_eq!(letters(&bench).await, "");
    bench.catalog = bench
        .store()
        .load_catalog(bench.catalog.epoch)
        .await
        .unwrap();
    batch.catalog_is_new = true;
    let outcome = bench.store().flush(&bench.catalog, &batch, |_| {}).await;
    assert!(outcome.unwrap().dead.is_empty());
    assert_eq!(bench.rows("SELECT id, title, n FROM t").await, "1|a|1");
}
