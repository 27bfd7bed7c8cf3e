//! Triggers, rules and foreign keys that are made behind Ripen's back and fire in its own flush: what they write is an outside change like any other.

use anyhow::ensure;
use ripen_tests::pair::queue;
use ripen_tests::{Pair, wait};
use tokio_postgres::Client;

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "1h")];

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t SELECT g, 0 FROM generate_series(1, 20) g;
    CREATE TABLE other (id int PRIMARY KEY, v int NOT NULL); INSERT INTO other SELECT g, 0 FROM generate_series(1, 20) g";

async fn v(client: &Client, table: &str, id: i32) -> anyhow::Result<Option<i32>> {
    let sql = format!("SELECT v FROM {table} WHERE id = {id}");
    let row = client.query_opt(&sql, &[]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// What is in memory before the flush, the DDL, what is queued, and what must be seen through Ripen afterwards.
async fn fired(ddl: &str, write: &str, seen: &[(&str, i32, Option<i32>)]) -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    for (table, id, _) in seen {
        v(&pair.proxied, table, *id).await?;
    }
    queue(&pair.proxied, write).await?;
    pair.direct.batch_execute(ddl).await?;
    pair.flush().await?;
    for (table, id, wanted) in seen {
        ensure!(
            v(&pair.direct, table, *id).await? == *wanted,
            "{ddl}: {table} {id}"
        );
        wait::until("memory has what Postgres has", || async {
            let found = v(&pair.proxied, table, *id).await?;
            Ok((found == *wanted).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn rows_that_a_trigger_writes_elsewhere_are_seen() -> anyhow::Result<()> {
    let ddl = "CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE public.other SET v = NEW.v WHERE id = NEW.id; UPDATE public.t SET v = 9 WHERE id = 7; RETURN NEW; END $$;
        CREATE TRIGGER copies AFTER UPDATE ON t FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION copy()";
    let seen = [("t", 1, Some(5)), ("other", 1, Some(5)), ("t", 7, Some(9))];
    fired(ddl, "UPDATE t SET v = 5 WHERE id = 1", &seen).await
}

#[tokio::test]
async fn what_a_trigger_makes_of_the_flushed_row_is_seen() -> anyhow::Result<()> {
    let ddl = "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := NEW.v + 100; RETURN NEW; END $$;
        CREATE TRIGGER more BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION more()";
    fired(
        ddl,
        "UPDATE t SET v = v + 5 WHERE id = 1",
        &[("t", 1, Some(105))],
    )
    .await?;
    fired(
        ddl,
        "INSERT INTO t VALUES (100, 5)",
        &[("t", 100, Some(105))],
    )
    .await
}

#[tokio::test]
async fn rows_that_a_rule_or_a_cascade_changes_are_seen() -> anyhow::Result<()> {
    let rule =
        "CREATE RULE also AS ON UPDATE TO t DO ALSO UPDATE other SET v = NEW.v WHERE id = NEW.id";
    let seen = [("t", 1, Some(5)), ("other", 1, Some(5))];
    fired(rule, "UPDATE t SET v = 5 WHERE id = 1", &seen).await?;
    let cascade = "ALTER TABLE other ADD FOREIGN KEY (id) REFERENCES t ON DELETE CASCADE";
    let seen = [("t", 1, None), ("other", 1, None)];
    fired(cascade, "DELETE FROM t WHERE id = 1", &seen).await?;
    let itself = "UPDATE t SET v = id; UPDATE t SET v = 1 WHERE id = 2; ALTER TABLE t ADD FOREIGN KEY (v) REFERENCES t ON DELETE CASCADE";
    let seen = [("t", 1, None), ("t", 2, None), ("t", 3, Some(3))];
    fired(itself, "DELETE FROM t WHERE id = 1", &seen).await
}
