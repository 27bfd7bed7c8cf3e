//! Sequences: what the catalog says of them and of foreign keys, and blocks drawn from them.

use crate::server::{Database, database};
use ripen_cachestore::catalog::{Catalog, Epoch, Relation, Sequence};
use ripen_pg::ids::TableOid;
use std::sync::Arc;

const SETUP: &str = "
    CREATE SEQUENCE plain INCREMENT 5 START 100; CREATE SEQUENCE round CYCLE; CREATE SEQUENCE cached CACHE 9;
    CREATE SEQUENCE down INCREMENT -1 MINVALUE -9000; CREATE SEQUENCE tiny MAXVALUE 50;
    CREATE TABLE p (a int, b text, PRIMARY KEY (b, a));
    CREATE TABLE t (id serial PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY, n int DEFAULT nextval('plain'),
        two int DEFAULT nextval('plain') + nextval('round'), a int, b text, FOREIGN KEY (a, b) REFERENCES p (a, b));";

async fn catalog(database: &Database) -> Catalog {
    database.store.load_catalog(Epoch(1)).await.unwrap()
}

fn relation<'a>(catalog: &'a Catalog, name: &str) -> &'a Arc<Relation> {
    let mut all = catalog.relations.values();
    let found = all.find(|relation| relation.name == name && relation.schema == "public");
    found.unwrap_or_else(|| panic!("no {name}"))
}

fn sequence<'a>(catalog: &'a Catalog, name: &str) -> &'a Arc<Sequence> {
    &catalog.sequences[&relation(catalog, name).oid]
}

#[tokio::test]
async fn the_catalog_knows_sequences_and_who_draws_from_them() {
    let database = database(SETUP).await;
    let catalog = catalog(&database).await;
    let oid = |name: &str| Some(relation(&catalog, name).oid);
    let of = |column: &str| {
        let table = relation(&catalog, "t");
        table.column_named(column).unwrap().sequence
    };
    assert_eq!(of("id"), oid("t_id_seq"));
    assert_eq!(of("i"), oid("t_i_seq"));
    assert_eq!(of("n"), oid("plain"));
    assert_eq!((of("two"), of("a")), (None::<TableOid>, None));
    let plain = |name| sequence(&catalog, name).plain;
    assert!(plain("plain") && plain("t_id_seq") && plain("down"));
    assert!(!plain("round") && !plain("cached"));
    assert_eq!(sequence(&catalog, "plain").increment, 5);
    assert_eq!(sequence(&catalog, "down").limit, -9000);
    let [key] = &relation(&catalog, "t").foreign_keys[..] else {
        panic!("one foreign key");
    };
    assert_eq!(
        (&key.columns[..], &key.referenced[..]),
        (&[4, 5][..], &[0, 1][..])
    );
    assert!(key.simple && key.parent == relation(&catalog, "p").oid);
    assert!(!catalog.asks_sequences);
}

#[tokio::test]
async fn code_that_asks_for_last_values_is_seen() {
    for code in [
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN LastVal(); END'",
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT currval('plain'); END",
        "CREATE VIEW v AS SELECT currval('plain')",
        "CREATE TABLE d (x bigint DEFAULT lastval())",
    ] {
        let database = database(SETUP).await;
        database.sql.batch_execute(code).await.unwrap();
        assert!(catalog(&database).await.asks_sequences, "{code}");
    }
}

#[tokio::test]
async fn a_sequence_that_was_altered_is_another_one_and_one_that_was_drawn_from_is_not() {
    let database = database(SETUP).await;
    let before = catalog(&database).await;
    database
        .sql
        .batch_execute("SELECT nextval('plain'), setval('plain', 300)")
        .await
        .unwrap();
    assert_eq!(
        database.store.catalog_fingerprint().await.unwrap(),
        before.fingerprint
    );
    for change in [
        "ALTER SEQUENCE plain RESTART",
        "ALTER SEQUENCE plain INCREMENT 6",
        "ALTER SEQUENCE plain CACHE 2",
        "TRUNCATE t RESTART IDENTITY",
    ] {
        let before = catalog(&database).await;
        database.sql.batch_execute(change).await.unwrap();
        let after = catalog(&database).await;
        assert_ne!(before.fingerprint, after.fingerprint, "{change}");
        let name = if change.contains("plain") {
            "plain"
        } else {
            "t_id_seq"
        };
        assert_ne!(sequence(&before, name), sequence(&after, name), "{change}");
    }
}

#[tokio::test]
async fn blocks_are_drawn_once_each_and_not_near_the_end() {
    let database = database(SETUP).await;
    let catalog = catalog(&database).await;
    let draw = |name: &'static str, left| {
        let (store, sequence) = (&database.store, sequence(&catalog, name));
        async move { store.draw_block(sequence, 3, left).await.unwrap() }
    };
    assert_eq!(draw("plain", 10).await, [100, 105, 110]);
    database
        .sql
        .batch_execute("SELECT nextval('plain')")
        .await
        .unwrap();
    assert_eq!(draw("plain", 10).await, [120, 125, 130]);
    assert_eq!(draw("down", 10).await, [-1, -2, -3]);
    assert_eq!(draw("tiny", 46).await, [1, 2, 3]);
    // 47 are left.
    assert!(draw("tiny", 47).await.is_empty());
    assert_eq!(draw("tiny", 46).await, [4, 5, 6]);
    let next = database
        .sql
        .query_one("SELECT nextval('tiny')", &[])
        .await
        .unwrap();
    assert_eq!(next.get::<_, i64>(0), 7);
    assert!(draw("round", 1).await.is_empty());
    assert!(draw("cached", 1).await.is_empty());
    database
        .sql
        .batch_execute("DROP SEQUENCE tiny")
        .await
        .unwrap();
    assert!(
        database
            .store
            .draw_block(sequence(&catalog, "tiny"), 3, 1)
            .await
            .unwrap()
            .is_empty()
    );
}
