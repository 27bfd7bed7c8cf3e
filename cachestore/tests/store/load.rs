//! Loads: rows, absences and the snapshot they were seen by.

use crate::changes::{Bench, big, int, text};
use crate::server::{connect, upstream};
use ripen_cachestore::{Class, Store, StoreError};
use ripen_pg::ids::Xid32;
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use std::collections::BTreeMap;

async fn load(bench: &Bench, table: &str, keys: &[Key]) -> BTreeMap<Key, Tuple> {
    let relation = bench.table(table);
    let loaded = bench
        .store()
        .load_rows(&bench.catalog, &relation, keys)
        .await
        .unwrap();
    loaded.rows.into_iter().collect()
}

#[tokio::test]
async fn one_and_many_keys_find_their_rows() {
    let bench = Bench::new("CREATE TABLE t (id bigint PRIMARY KEY, name text, n int); INSERT INTO t SELECT g, 'row ' || g, nullif(g, 3) FROM generate_series(1, 9) g").await;
    let key = |number| bench.key("t", &[big(number)]);
    let one = load(&bench, "t", &[key(2)]).await;
    assert_eq!(one.len(), 1);
    assert_eq!(one[&key(2)].get(1), Datum::Value(b"row 2"));
    let many = load(&bench, "t", &[key(3), key(77), key(9)]).await;
    assert_eq!(many.keys().collect::<Vec<_>>(), [&key(3), &key(9)]);
    assert_eq!(many[&key(3)].get(2), Datum::Null);
    assert_eq!(many[&key(9)].get(2), Datum::Value(&9i32.to_be_bytes()));
    assert!(load(&bench, "t", &[key(77)]).await.is_empty());
}

#[tokio::test]
async fn snapshot_comes_with_rows_and_without() {
    let bench = Bench::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let other = connect("postgres", &bench.database.name).await;
    other
        .batch_execute("BEGIN; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let xid = other
        .query_one("SELECT pg_current_xact_id()::text::bigint", &[])
        .await
        .unwrap();
    let xid = Xid32(xid.get::<_, i64>(0) as u32);
    let relation = bench.table("t");
    let key = bench.key("t", &[int(1)]);
    let before = bench
        .store()
        .load_rows(&bench.catalog, &relation, std::slice::from_ref(&key))
        .await
        .unwrap();
    assert!(before.rows.is_empty() && !before.snapshot.saw(xid));
    other.batch_execute("COMMIT").await.unwrap();
    let after = bench
        .store()
        .load_rows(&bench.catalog, &relation, &[key])
        .await
        .unwrap();
    assert!(after.rows.len() == 1 && after.snapshot.saw(xid));
}

#[tokio::test]
async fn keys_of_many_types_and_columns_are_found() {
    let bench = Bench::new(
        "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN code AS varchar(5); \
         CREATE TABLE \"Odd \"\"Name\" (\"Key\" mood, a code COLLATE \"C\", b numeric, c uuid, d timestamptz, e char(4), PRIMARY KEY (e, \"Key\", a, b, c, d)); \
         INSERT INTO \"Odd \"\"Name\" VALUES ('sad', 'x', 1.50, '00000000-0000-0000-0000-000000000001', '2024-01-01Z', 'ab'), ('happy', 'x', 1.5, '00000000-0000-0000-0000-000000000001', '2024-01-01Z', 'ab')",
    )
    .await;
    let numeric = Some(vec![0, 2, 0, 0, 0, 0, 0, 2, 0, 1, 0x13, 0x88]);
    let uuid = Some([[0; 15].as_slice(), &[1]].concat());
    let stamp = big(757_382_400_000_000);
    let key = |mood| {
        let values = [
            text("ab"),
            text(mood),
            text("x"),
            numeric.clone(),
            uuid.clone(),
            stamp.clone(),
        ];
        bench.key("Odd \"Name", &values)
    };
    let one = load(&bench, "Odd \"Name", &[key("happy")]).await;
    assert_eq!(one[&key("happy")].get(0), Datum::Value(b"happy"));
    let two = load(&bench, "Odd \"Name", &[key("happy"), key("sad")]).await;
    assert_eq!(two.len(), 2);
    assert_eq!(two[&key("sad")].get(5), Datum::Value(b"ab  "));
}

#[tokio::test]
async fn columns_without_exact_renderer_are_missing() {
    let bench = Bench::new(
        "CREATE TYPE pair AS (a int, b int); CREATE TABLE t (id int PRIMARY KEY, gone int, p point, f pair, ok int[], m int GENERATED ALWAYS AS (id + 1) STORED); \
         ALTER TABLE t DROP COLUMN gone; INSERT INTO t VALUES (1, '(1,2)', '(1,2)', '{7}')",
    )
    .await;
    let key = bench.key("t", &[int(1)]);
    let row = load(&bench, "t", std::slice::from_ref(&key))
        .await
        .remove(&key)
        .unwrap();
    assert_eq!(row.len(), 6);
    for position in [1, 2, 3] {
        assert_eq!(row.get(position), Datum::Missing, "{position}");
    }
    assert!(row.get(4).value().is_some());
    assert_eq!(row.get(5), Datum::Value(&2i32.to_be_bytes()));
}

#[tokio::test]
async fn altered_tables_are_noticed() {
    let bench =
        Bench::new("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 2)").await;
    let key = [bench.key("t", &[int(1)])];
    let relation = bench.table("t");
    let load = || bench.store().load_rows(&bench.catalog, &relation, &key);
    load().await.unwrap();
    let sql = &bench.database.sql;
    let refused = |result: Result<_, StoreError>| {
        let error = result
            .map(|_: ripen_cachestore::load::Loaded| ())
            .unwrap_err();
        assert_eq!(error.class(), Class::Schema, "{error}");
    };
    sql.batch_execute("ALTER TABLE t ALTER a TYPE bigint")
        .await
        .unwrap();
    refused(load().await);
    sql.batch_execute("ALTER TABLE t ALTER a TYPE int")
        .await
        .unwrap();
    assert_eq!(load().await.unwrap().rows.len(), 1);
    sql.batch_execute("ALTER TABLE t RENAME TO u; CREATE TABLE t (id int PRIMARY KEY, a int)")
        .await
        .unwrap();
    refused(load().await);
    sql.batch_execute("DROP TABLE t").await.unwrap();
    refused(load().await);
}

#[tokio::test]
async fn missing_privilege_is_said_plainly() {
    let bench =
        Bench::new("CREATE ROLE load_nobody LOGIN; CREATE TABLE t (id int PRIMARY KEY)").await;
    let store = Store::new(upstream("load_nobody", &bench.database.name));
    let key = [bench.key("t", &[int(1)])];
    let error = store
        .load_rows(&bench.catalog, &bench.table("t"), &key)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Privilege(_)), "{error}");
    assert!(
        error.to_string().contains("SELECT on \"public\".\"t\""),
        "{error}"
    );
    assert_eq!((error.sqlstate(), error.class()), ("42501", Class::Rights));
}
