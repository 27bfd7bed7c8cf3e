//! Flushes in which nothing is refused: every kind of change, every order.

use crate::changes::{Bench, V, big, int, text};
use ripen_pg::ids::Xid;
use ripen_pg::tuple::{Datum, Tuple};
use std::cell::Cell;

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, name text, n bigint NOT NULL DEFAULT 5, extra text DEFAULT 'none')";

fn row(id: i32, name: &str, n: i64) -> Vec<V> {
    vec![int(id), text(name), big(n), None]
}

#[tokio::test]
async fn every_kind_of_change_arrives() {
    let mut bench = Bench::new(&format!(
        "{T}; INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3), (4, 'd', 4)"
    ))
    .await;
    let groups = vec![
        vec![
            bench.insert("t", &row(9, "new", 9)),
            bench.delete("t", &[int(1)]),
        ],
        vec![bench.update("t", &row(2, "B", 77), &[1])],
        vec![
            bench.add("t", &row(3, "C", 13), &[1], &[(2, 20, big(10))]),
            bench.put("t", &row(4, "D", 44)),
        ],
        vec![bench.put("t", &row(5, "E", 55))],
    ];
    let outcome = bench.flush(groups).await;
    assert_eq!((outcome.rows, outcome.already_gone), (6, 0));
    let rows = bench.rows("SELECT * FROM t ORDER BY id").await;
    assert_eq!(
        rows,
        "2|B|2|none;3|C|13|none;4|D|44|NULL;5|E|55|NULL;9|new|9|NULL"
    );
    assert_eq!(
        bench
            .rows("SELECT applied, epoch FROM ripen.progress")
            .await,
        "1|1"
    );
}

#[tokio::test]
async fn xid_is_told_before_the_commit_and_is_the_transactions() {
    let bench = Bench::new(T).await;
    let told = Cell::new(Xid(0));
    let batch = bench.batch(vec![vec![bench.insert("t", &row(1, "a", 1))]]);
    let outcome = bench
        .store()
        .flush(&bench.catalog, &batch, |xid| told.set(xid))
        .await
        .unwrap();
    assert_eq!(outcome.xid, told.get());
    let xmin = bench.rows("SELECT xmin FROM ripen.progress").await;
    assert_eq!(xmin, told.get().low().0.to_string());
}

#[tokio::test]
async fn unassigned_columns_and_increments_spare_outside_changes() {
    let mut bench = Bench::new(&format!("{T}; INSERT INTO t VALUES (1, 'a', 10)")).await;
    bench
        .database
        .sql
        .batch_execute("UPDATE t SET n = 100, extra = 'outside'")
        .await
        .unwrap();
    let change = bench.add("t", &row(1, "b", 7), &[1], &[(2, 20, big(-3))]);
    bench.flush(vec![vec![change]]).await;
    assert_eq!(bench.rows("SELECT * FROM t").await, "1|b|97|outside");
}

#[tokio::test]
async fn same_row_in_several_groups_goes_in_order() {
    let mut bench = Bench::new(T).await;
    let groups = vec![
        vec![bench.insert("t", &row(1, "first", 1))],
        vec![bench.update("t", &row(1, "second", 1), &[1])],
        vec![
            bench.add("t", &row(1, "second", 3), &[], &[(2, 20, big(2))]),
            bench.insert("t", &row(2, "x", 0)),
        ],
        vec![bench.delete("t", &[int(2)])],
        vec![bench.insert("t", &row(2, "again", 0))],
    ];
    bench.flush(groups).await;
    assert_eq!(
        bench.rows("SELECT * FROM t ORDER BY id").await,
        "1|second|3|NULL;2|again|0|NULL"
    );
}

#[tokio::test]
async fn parents_come_first_and_go_last() {
    let mut bench = Bench::new(
        "CREATE TABLE z_parent (id int PRIMARY KEY); CREATE TABLE m_child (id int PRIMARY KEY, p int NOT NULL REFERENCES z_parent); \
         CREATE TABLE a_leaf (id int PRIMARY KEY, c int NOT NULL REFERENCES m_child); \
         CREATE TABLE left_side (id int PRIMARY KEY, other int); CREATE TABLE right_side (id int PRIMARY KEY, other int REFERENCES left_side DEFERRABLE); \
         ALTER TABLE left_side ADD FOREIGN KEY (other) REFERENCES right_side DEFERRABLE; \
         CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree)",
    )
    .await;
    let groups = vec![vec![
        bench.insert("a_leaf", &[int(1), int(1)]),
        bench.insert("m_child", &[int(1), int(1)]),
        bench.insert("z_parent", &[int(1)]),
        bench.insert("left_side", &[int(1), int(1)]),
        bench.insert("right_side", &[int(1), int(1)]),
        bench.insert("tree", &[int(1), int(2)]),
        bench.insert("tree", &[int(2), None]),
    ]];
    bench.flush(groups).await;
    let groups = vec![vec![
        bench.delete("z_parent", &[int(1)]),
        bench.delete("m_child", &[int(1)]),
        bench.delete("a_leaf", &[int(1)]),
    ]];
    bench.flush(groups).await;
    assert_eq!(bench.rows("SELECT count(*) FROM z_parent").await, "0");
}

#[tokio::test]
async fn types_of_all_sorts_are_carried() {
    let mut bench = Bench::new(
        "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN amount AS numeric(9,2) CHECK (VALUE > 0); CREATE SCHEMA far; CREATE TYPE far.\"Odd Mood\" AS ENUM ('x'); \
         CREATE TABLE t (id uuid PRIMARY KEY, m mood, a amount, tags text[], j jsonb, b bytea, v varchar(9), c char(3), d date, f float8, o far.\"Odd Mood\"); \
         INSERT INTO t SELECT md5(g::text)::uuid, 'happy', 12.30, '{{a,b},{c,d}}', '{\"k\": [1, null]}', '\\x00ff', 'v', 'c', '2024-02-29', 'NaN', 'x' FROM generate_series(1, 3) g; \
         CREATE TABLE plain (id uuid PRIMARY KEY, m mood, a amount, j jsonb, v varchar(9), c char(3), d date, f float8, o far.\"Odd Mood\", i interval, s \"char\", n name); \
         INSERT INTO plain SELECT md5(g::text)::uuid, 'happy', 12.30, '{\"k\": [1, null]}', 'v', 'c', '2024-02-29', 'NaN', 'x', '1 day', 'q', 'n' FROM generate_series(1, 3) g",
    )
    .await;
    for table in ["t", "plain"] {
        let before = bench
            .rows(&format!("SELECT * FROM {table} ORDER BY id"))
            .await;
        let uuids = bench
            .database
            .sql
            .query(&format!("SELECT uuid_send(id) FROM {table}"), &[])
            .await
            .unwrap();
        let keys: Vec<_> = uuids
            .iter()
            .map(|row| bench.key(table, &[Some(row.get(0))]))
            .collect();
        let relation = bench.table(table);
        let loaded = bench
            .store()
            .load_rows(&bench.catalog, &relation, &keys)
            .await
            .unwrap();
        let images: Vec<Tuple> = loaded.rows.into_iter().map(|(_, image)| image).collect();
        assert_eq!(images.len(), 3);
        // Everything was loaded, so everything can be written back.
        assert!(
            images
                .iter()
                .all(|image| image.iter().all(|datum| datum != Datum::Missing)),
            "{table}"
        );
        let values = |image: &Tuple| -> Vec<V> {
            image
                .iter()
                .map(|datum| datum.value().map(<[u8]>::to_vec))
                .collect()
        };
        let width = relation.width as u16;
        let all: Vec<u16> = (1..width).collect();
        let deletes = keys
            .iter()
            .map(|_| ())
            .zip(&images)
            .map(|(_, image)| vec![bench.delete(table, &[values(image)[0].clone()])]);
        let deletes: Vec<_> = deletes.collect();
        let inserts: Vec<_> = images
            .iter()
            .map(|image| vec![bench.insert(table, &values(image))])
            .collect();
        let updates: Vec<_> = images
            .iter()
            .map(|image| vec![bench.update(table, &values(image), &all)])
            .collect();
        let puts: Vec<_> = images
            .iter()
            .map(|image| vec![bench.put(table, &values(image))])
            .collect();
        for groups in [deletes, inserts, updates, puts] {
            bench.flush(groups).await;
        }
        assert_eq!(
            bench
                .rows(&format!("SELECT * FROM {table} ORDER BY id"))
                .await,
            before
        );
    }
}

#[tokio::test]
async fn generated_identity_and_added_columns_are_respected() {
    let mut bench = Bench::new(
        "CREATE TABLE g (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED); \
         CREATE TABLE side (id int PRIMARY KEY, number int GENERATED ALWAYS AS IDENTITY, a int); INSERT INTO side VALUES (1, DEFAULT, 1); \
         CREATE TABLE grows (id int PRIMARY KEY, a int); CREATE TABLE shrinks (id int PRIMARY KEY, a int, b int); CREATE TABLE bare (id int PRIMARY KEY)",
    )
    .await;
    bench.database.sql.batch_execute("ALTER TABLE grows ADD b text DEFAULT 'added'; ALTER TABLE shrinks DROP COLUMN a; INSERT INTO shrinks VALUES (2, 2)").await.unwrap();
    bench.catalog = bench
        .store()
        .load_catalog(ripen_cachestore::catalog::Epoch(2))
        .await
        .unwrap();
    let groups = vec![vec![
        bench.insert("g", &[int(7), int(3), int(99)]),
        bench.put("side", &[int(1), int(41), int(2)]),
        bench.insert("grows", &[int(1), int(1)]),
        bench.put("grows", &[int(2), int(1)]),
        bench.insert("shrinks", &[int(1), int(8), int(9)]),
        bench.update("shrinks", &[int(2), int(8), int(9)], &[1]),
        bench.put("bare", &[int(1)]),
    ]];
    bench.flush(groups).await;
    assert_eq!(bench.rows("SELECT * FROM g").await, "7|3|6");
    assert_eq!(bench.rows("SELECT * FROM side").await, "1|41|2");
    assert_eq!(
        bench.rows("SELECT * FROM grows ORDER BY id").await,
        "1|1|added;2|1|added"
    );
    assert_eq!(
        bench.rows("SELECT * FROM shrinks ORDER BY id").await,
        "1|9;2|2"
    );
    let again = vec![vec![
        bench.put("bare", &[int(1)]),
        bench.put("grows", &[int(1), int(5)]),
    ]];
    bench.flush(again).await;
    assert_eq!(
        bench.rows("SELECT * FROM grows ORDER BY id").await,
        "1|5|added;2|1|added"
    );
}

#[tokio::test]
async fn rows_gone_already_need_no_delete() {
    let mut bench = Bench::new(&format!("{T}; INSERT INTO t VALUES (1, 'a', 1)")).await;
    let groups = vec![vec![
        bench.delete("t", &[int(1)]),
        bench.delete("t", &[int(2)]),
        bench.insert("t", &row(3, "c", 3)),
    ]];
    let outcome = bench.flush(groups).await;
    assert_eq!(outcome.already_gone, 1);
    assert_eq!(bench.rows("SELECT id FROM t").await, "3");
}

#[tokio::test]
async fn large_batches_are_split_into_statements() {
    let mut bench = Bench::new(T).await;
    let count = ripen_cachestore::limits::STATEMENT_ROWS as i32 + 5;
    let groups = (0..count)
        .map(|id| vec![bench.insert("t", &row(id, "x", 0))])
        .collect();
    let outcome = bench.flush(groups).await;
    assert_eq!(outcome.rows, count as usize);
    assert_eq!(
        bench.rows("SELECT count(*) FROM t").await,
        count.to_string()
    );
}
