//! A table that is altered behind Ripen's back while rows of it are pending: bytes are never taken for another type's, whatever Ripen knew when. What can be
//! converted as ALTER TABLE itself converts is; anything else is a dead letter.

use anyhow::{Context, ensure};
use ripen_tests::pair::queue;
use ripen_tests::{Pair, wait};
use tokio_postgres::{Client, SimpleQueryMessage};

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "1h")];

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, note text); INSERT INTO t SELECT g, 0, 'old' FROM generate_series(1, 20) g;
    CREATE TABLE other (id int PRIMARY KEY, v int NOT NULL); INSERT INTO other VALUES (1, 0)";

/// All rows as text, columns and rows separated by blanks.
async fn shown(client: &Client, sql: &str) -> anyhow::Result<String> {
    let answers = client.simple_query(sql).await.context(sql.to_owned())?;
    let rows = answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let values = rows.flat_map(|row| (0..row.len()).map(|at| row.get(at).unwrap_or("null")));
    Ok(values.collect::<Vec<_>>().join(" "))
}

async fn letters(pair: &Pair) -> anyhow::Result<String> {
    let sql =
        "SELECT sqlstate, changes FROM ripen.dead_letter WHERE resolution IS NULL ORDER BY id";
    shown(&pair.direct, sql).await
}

/// Whether Ripen has read the catalog again by itself.
async fn noticed(pair: &Pair, before: f64) -> anyhow::Result<()> {
    wait::until("Ripen has noticed", || async {
        let loads = pair.ripen.number("catalog_loads").await?;
        Ok((loads > before).then_some(()))
    })
    .await
}

/// Writes, then DDL behind Ripen's back, noticed or not before the flush; what Postgres and a client of Ripen have afterwards, and the dead letters.
async fn altered(
    writes: &[&str],
    ddl: &str,
    notice: bool,
    read: &str,
) -> anyhow::Result<(String, String)> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    for sql in writes {
        queue(&pair.proxied, sql).await?;
    }
    let loads = pair.ripen.number("catalog_loads").await?;
    pair.direct.batch_execute(ddl).await?;
    let mut early = None;
    if notice {
        noticed(&pair, loads).await?;
        early = Some(shown(&pair.proxied, read).await?);
    }
    pair.flush().await?;
    noticed(&pair, loads).await?;
    let found = shown(&pair.direct, read).await?;
    let told = shown(&pair.proxied, read).await?;
    ensure!(found == told, "Postgres has {found}, Ripen tells {told}");
    let early = early.unwrap_or_else(|| found.clone());
    ensure!(found == early, "Postgres has {found}, Ripen told {early}");
    Ok((found, letters(&pair).await?))
}

const V: &str = "SELECT v FROM t WHERE id = 1";

#[tokio::test]
async fn numbers_become_what_alter_table_makes_of_them() -> anyhow::Result<()> {
    for notice in [false, true] {
        for (type_name, wanted) in [
            ("float4", "7"),
            ("int8", "7"),
            ("numeric", "7"),
            ("text", "7"),
        ] {
            let ddl = format!("ALTER TABLE t ALTER v TYPE {type_name}");
            let write = ["UPDATE t SET v = 7 WHERE id = 1"];
            let found = altered(&write, &ddl, notice, V).await?;
            ensure!(
                found == (wanted.to_owned(), String::new()),
                "{ddl}: {found:?}"
            );
        }
        let ddl = "ALTER TABLE t ALTER v TYPE int8";
        let added = ["UPDATE t SET v = v + 7 WHERE id = 1"];
        let found = altered(&added, ddl, notice, V).await?;
        ensure!(found == ("7".to_owned(), String::new()), "{found:?}");
        let key = "ALTER TABLE t ALTER id TYPE int8";
        let writes = [
            "UPDATE t SET v = 5 WHERE id = 1",
            "DELETE FROM t WHERE id = 2",
            "INSERT INTO t VALUES (300, 6, 'new')",
        ];
        let found = altered(
            &writes,
            key,
            notice,
            "SELECT id, v FROM t WHERE id IN (1, 2, 300) ORDER BY id",
        )
        .await?;
        ensure!(
            found == ("1 5 300 6".to_owned(), String::new()),
            "{found:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_no_cast_converts_is_a_dead_letter() -> anyhow::Result<()> {
    let cases = [
        (
            "ALTER TABLE t ALTER v TYPE date USING date '2000-01-01' + v",
            "v = 7",
            "2000-01-01",
            "7",
        ),
        (
            "ALTER TABLE t ALTER v TYPE date USING date '2000-01-01' + v",
            "v = v + 7",
            "2000-01-01",
            "+7",
        ),
        ("ALTER TABLE t ALTER v TYPE float4", "v = v + 7", "0", "+7"),
        ("ALTER TABLE t ALTER v TYPE oid", "v = 7", "0", "7"),
    ];
    for notice in [false, true] {
        for (ddl, set, kept, told) in cases {
            let write = format!("UPDATE t SET {set} WHERE id = 1");
            let (found, letters) = altered(&[&write], ddl, notice, V).await?;
            ensure!(found == kept, "{ddl}: {found}");
            ensure!(
                letters.starts_with("42804") && letters.contains(&format!("\"v\": \"{told}\"")),
                "{ddl}: {letters}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn values_go_to_the_columns_that_they_were_written_to() -> anyhow::Result<()> {
    let both = "SELECT v, note FROM t WHERE id = 1";
    let write = ["UPDATE t SET v = 7, note = 'new' WHERE id = 1"];
    for notice in [false, true] {
        let renamed = "ALTER TABLE t RENAME v TO w; ALTER TABLE t ADD v int; ALTER TABLE t RENAME v TO x; ALTER TABLE t RENAME w TO v";
        let found = altered(&write, renamed, notice, both).await?;
        ensure!(found == ("7 new".to_owned(), String::new()), "{found:?}");
        let swapped = "ALTER TABLE t ADD w int DEFAULT 1; ALTER TABLE t RENAME v TO tmp; ALTER TABLE t RENAME w TO v; ALTER TABLE t RENAME tmp TO w";
        let found = altered(
            &write,
            swapped,
            notice,
            "SELECT v, w, note FROM t WHERE id = 1",
        )
        .await?;
        ensure!(found == ("1 7 new".to_owned(), String::new()), "{found:?}");
        let anew = "ALTER TABLE t DROP v; ALTER TABLE t ADD v int DEFAULT 3";
        let found = altered(&write, anew, notice, both).await?;
        ensure!(found == ("3 new".to_owned(), String::new()), "{found:?}");
        // The row's key is another column by now, with a row that has the same value there.
        let rekeyed = "ALTER TABLE t ADD k int; UPDATE t SET k = 21 - id; ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (k)";
        let found = altered(
            &write,
            rekeyed,
            notice,
            "SELECT v FROM t WHERE k IN (1, 20) ORDER BY k",
        )
        .await?;
        // Never the row that has the value there.
        let written = found == ("0 7".to_owned(), String::new());
        let refused = found.0 == "0 0" && found.1.starts_with("42P10");
        ensure!(written || refused, "{found:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_made_anew_is_another_one() -> anyhow::Result<()> {
    for notice in [false, true] {
        let anew = "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, note text); INSERT INTO t VALUES (1, 1, 'anew')";
        let writes = [
            "UPDATE t SET v = 7 WHERE id = 1",
            "UPDATE other SET v = 7 WHERE id = 1",
        ];
        let read = "SELECT (SELECT v FROM t WHERE id = 1), (SELECT v FROM other WHERE id = 1)";
        let found = altered(&writes, anew, notice, read).await?;
        ensure!(
            found.0 == "1 7" && found.1.starts_with("42P01"),
            "{found:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_log_says_what_its_bytes_mean_after_a_crash() -> anyhow::Result<()> {
    let mut pair = Pair::start(SCHEMA, SETTINGS).await?;
    queue(&pair.proxied, "UPDATE t SET v = 7 WHERE id = 1").await?;
    queue(&pair.proxied, "UPDATE t SET v = 8 WHERE id = 2").await?;
    pair.ripen.kill9().await?;
    pair.direct
        .batch_execute("ALTER TABLE t ALTER v TYPE float4")
        .await?;
    pair.ripen.restart().await?;
    pair.proxied = pair.ripen.connect().await?;
    let read = "SELECT v FROM t WHERE id IN (1, 2) ORDER BY id";
    ensure!(shown(&pair.proxied, read).await? == "7 8");
    pair.flush().await?;
    ensure!(shown(&pair.direct, read).await? == "7 8");
    ensure!(letters(&pair).await?.is_empty());
    wait::until("writes are queued under the new types", || async {
        Ok(queue(&pair.proxied, "UPDATE t SET v = 1.5 WHERE id = 1")
            .await
            .ok())
    })
    .await?;
    pair.flush().await?;
    ensure!(shown(&pair.direct, read).await? == "1.5 8");
    Ok(())
}

#[tokio::test]
async fn a_dead_letter_of_other_types_is_not_replayed() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, SETTINGS).await?;
    queue(&pair.proxied, "UPDATE t SET v = 7 WHERE id = 1").await?;
    let forbid = "ALTER TABLE t ADD CONSTRAINT small CHECK (v < 5)";
    pair.direct.batch_execute(forbid).await?;
    pair.flush().await?;
    let change = "ALTER TABLE t DROP CONSTRAINT small, ALTER v TYPE float4";
    pair.proxied.batch_execute(change).await?;
    let id = shown(&pair.direct, "SELECT id FROM ripen.dead_letter").await?;
    let error = pair
        .proxied
        .batch_execute(&format!("CALL ripen.replay({id})"))
        .await;
    let error = error.expect_err("the bytes are an integer's");
    ensure!(
        error.code().is_some_and(|code| code.code() == "55000"),
        "{error:?}"
    );
    ensure!(!letters(&pair).await?.is_empty());
    ensure!(shown(&pair.proxied, V).await? == "0");
    Ok(())
}

/// The values of a column change with its table, not row by row: the stream of changes does not tell of that, nor does the column's type.
#[tokio::test]
async fn rows_in_memory_are_dropped_when_a_table_is_rewritten() -> anyhow::Result<()> {
    let settings = &[("write_behind", "public.*"), ("write_delay", "20ms")];
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, n numeric(8,3)); INSERT INTO t SELECT g, g, 1.234 FROM generate_series(1, 20) g";
    let pair = Pair::start(schema, settings).await?;
    let read = "SELECT v, n FROM t WHERE id = 1";
    let in_memory = async || {
        wait::until("the row is served from memory", || async {
            shown(&pair.proxied, read).await?;
            let route = shown(&pair.proxied, "SHOW ripen.route").await?;
            Ok(route.starts_with("read ").then_some(()))
        })
        .await
    };
    for (ddl, wanted) in [
        ("ALTER TABLE t ALTER v TYPE int USING v + 100", "101 1.234"),
        ("ALTER TABLE t ALTER n TYPE numeric(8,1)", "101 1.2"),
    ] {
        in_memory().await?;
        pair.proxied.batch_execute(ddl).await?;
        let told = shown(&pair.proxied, read).await?;
        ensure!(told == wanted, "{told} after {ddl}");
    }
    let ddl = "ALTER TABLE t ALTER v TYPE int USING v + 100";
    in_memory().await?;
    let loads = pair.ripen.number("catalog_loads").await?;
    pair.direct.batch_execute(ddl).await?;
    noticed(&pair, loads).await?;
    let told = shown(&pair.proxied, read).await?;
    ensure!(told == "201 1.2", "{told} after {ddl} behind Ripen's back");
    Ok(())
}
