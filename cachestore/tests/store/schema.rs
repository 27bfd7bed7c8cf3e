//! The schema `ripen`, facts about the server, marks.

use crate::server::{bare_database, connect, database, upstream};
use ripen_cachestore::{Store, StoreError, migrate};

#[tokio::test]
async fn processes_that_start_at_once_migrate_once() {
    let database = bare_database("").await;
    let stores: Vec<Store> = (0..6)
        .map(|_| Store::new(upstream("postgres", &database.name)))
        .collect();
    let tasks: Vec<_> = stores
        .into_iter()
        .map(|store| tokio::spawn(async move { store.migrate().await }))
        .collect();
    let mut applied = 0;
    for task in tasks {
        applied += task.await.unwrap().unwrap();
    }
    let all = migrate::print().matches("DO $migration$").count();
    assert_eq!(applied, all);
    let rows = database
        .sql
        .query("SELECT version, success FROM ripen._sqlx_migrations", &[])
        .await
        .unwrap();
    assert_eq!(rows.len(), all);
    assert_eq!(
        migrate::migrate(database.store.upstream()).await.unwrap(),
        0
    );
}

#[tokio::test]
async fn without_rights_the_way_out_is_named_and_works() {
    let database = bare_database("").await;
    database
        .sql
        .batch_execute("CREATE ROLE schema_weak LOGIN")
        .await
        .unwrap();
    let weak = Store::new(upstream("schema_weak", &database.name));
    let error = weak.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::Migration(_)), "{error}");
    assert!(
        error.to_string().contains("ripen migrate --print"),
        "{error}"
    );
    database.sql.batch_execute(&migrate::print()).await.unwrap();
    database.sql.batch_execute("GRANT USAGE ON SCHEMA ripen TO schema_weak; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ripen TO schema_weak").await.unwrap();
    assert_eq!(weak.migrate().await.unwrap(), 0);
    weak.take_over(crate::changes::taker(1)).await.unwrap();
    assert!(weak.dead_letters(0, true).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_printed_script_brings_an_older_schema_up_to_date() {
    let database = bare_database("").await;
    let script = migrate::print();
    let (first, _) = script.split_once("DO $migration$ BEGIN IF NOT EXISTS (SELECT FROM ripen._sqlx_migrations WHERE version = 2)").unwrap();
    let running = "INSERT INTO ripen.progress (log, epoch, applied) VALUES (0, 3, 41); COMMIT";
    for script in [&format!("{first}{running}"), &script, &script] {
        database.sql.batch_execute(script).await.unwrap();
    }
    assert_eq!(database.store.migrate().await.unwrap(), 0);
    let taker = ripen_cachestore::progress::Taker {
        has_flushed: true,
        ..crate::changes::taker(4)
    };
    let taken = database.store.take_over(taker).await.unwrap();
    assert_eq!(taken.applied.0, 41);
}

#[tokio::test]
async fn a_schema_of_another_version_is_refused() {
    let database = database("").await;
    let spoil = "INSERT INTO ripen._sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', true, '', 0)";
    database.sql.batch_execute(spoil).await.unwrap();
    let error = database.store.migrate().await.unwrap_err();
    assert!(error.to_string().contains("version 9999"), "{error}");
    database.sql.batch_execute("DELETE FROM ripen._sqlx_migrations WHERE version = 9999; UPDATE ripen._sqlx_migrations SET checksum = ''").await.unwrap();
    let error = database.store.migrate().await.unwrap_err();
    assert!(error.to_string().contains("migration 1"), "{error}");
}

#[tokio::test]
async fn server_facts_are_the_servers() {
    let database = database("CREATE ROLE facts_weak LOGIN").await;
    let facts = database.store.server_facts().await.unwrap();
    assert!(
        facts.version >= 130_000
            && facts.rights.superuser
            && facts.rights.create
            && facts.rights.replication
    );
    assert_eq!(
        (
            facts.encoding.as_str(),
            facts.wal_level.as_str(),
            facts.slot_wal_keep_bytes
        ),
        ("UTF8", "logical", None)
    );
    assert!(
        facts.system_identifier.is_some() && !facts.in_recovery && facts.replication_slots_max > 0
    );
    let weak = Store::new(upstream("facts_weak", &database.name))
        .server_facts()
        .await
        .unwrap();
    assert!(
        !weak.rights.superuser
            && !weak.rights.replication
            && !weak.rights.bypass_rls
            && !weak.rights.create
    );
}

#[tokio::test]
async fn marks_stand_in_the_wal_behind_what_was_committed() {
    let database = database("CREATE TABLE t (id int PRIMARY KEY)").await;
    let sql = connect("postgres", &database.name).await;
    sql.batch_execute("SELECT pg_create_logical_replication_slot('marks', 'test_decoding')")
        .await
        .unwrap();
    sql.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let before = database.store.current_lsn().await.unwrap();
    let mark = database.store.emit_mark(42).await.unwrap();
    assert!(mark > before);
    let rows = sql
        .query(
            "SELECT data FROM pg_logical_slot_get_changes('marks', NULL, NULL)",
            &[],
        )
        .await
        .unwrap();
    let text: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let insert = text
        .iter()
        .position(|line| line.contains("INSERT"))
        .unwrap();
    let mark = text
        .iter()
        .position(|line| line.contains("prefix: ripen") && line.contains("content:42"))
        .unwrap();
    assert!(insert < mark, "{text:?}");
    sql.batch_execute("SELECT pg_drop_replication_slot('marks')")
        .await
        .unwrap();
}
