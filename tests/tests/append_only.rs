//! Tables without a primary key behind a queue that only appends: each acknowledged row arrives once, whoever dies meanwhile; whoever reads or changes such a table in another
//! way sees all of them.

mod append_only {
    pub mod ask;
    pub mod faults;
    pub mod tpc_b;
}
use anyhow::{Context, ensure};
use append_only::ask::{SCHEMA, SOON, STILL, free, passes, pending, route, shown, state};
use ripen_tests::pair::queue;
use ripen_tests::{Both, Pair, wait};
use tokio_postgres::SimpleQueryMessage;

const ALL: &str = "SELECT what, n FROM log ORDER BY ctid";

#[tokio::test]
async fn every_row_arrives_once_as_it_was_written() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, STILL).await?;
    let client = &pair.proxied;
    queue(client, "INSERT INTO log (what) VALUES ('a')").await?;
    // The same once more is one more row.
    queue(client, "INSERT INTO log (what) VALUES ('a')").await?;
    let several = "INSERT INTO log (what, n, parent) VALUES ('b', 1, 1), ('b', 1, 1), ('c', 2, NULL), ('d', DEFAULT, 2)";
    queue(client, several).await?;
    let returned = shown(
        client,
        "INSERT INTO log (what) VALUES ('e') RETURNING what, n * 2",
    )
    .await?;
    ensure!(returned == "e 14", "{returned}");
    ensure!(route(client).await?.starts_with("write"));
    let sql = "INSERT INTO log (what, n) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    ensure!(client.execute(sql, &[&"f", &5]).await? == 1);
    ensure!(route(client).await?.starts_with("write"));
    let drawn = shown(
        client,
        "INSERT INTO numbered (tags) VALUES ('{1,NULL}'), ('{}') RETURNING number",
    )
    .await?;
    ensure!(drawn == "1, 2", "{drawn}");
    ensure!(route(client).await?.starts_with("write"));
    ensure!(shown(&pair.direct, ALL).await?.is_empty());
    ensure!(pending(&pair).await? == 10.0);

    pair.flush().await?;
    let found = shown(&pair.direct, ALL).await?;
    ensure!(found == "a 7, a 7, b 1, b 1, c 2, d 7, e 7, f 5", "{found}");
    let numbered = "SELECT number, tags, token IS NOT NULL FROM numbered ORDER BY number";
    let found = shown(&pair.direct, numbered).await?;
    ensure!(found == "1 {1,NULL} t, 2 {} t", "{found}");
    let times = "SELECT count(DISTINCT made), bool_and(made BETWEEN now() - '1 minute'::interval AND now()) FROM log";
    let found = shown(&pair.direct, times).await?;
    ensure!(found == "5 t", "each statement has its own time: {found}");
    // Nothing of it stays in memory.
    let tables = client.simple_query("SHOW ripen.tables").await?;
    let log = tables.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) if row.get("name") == Some("log") => Some(row),
        _ => None,
    });
    let log = log.context("it is shown")?;
    let obstacle = log.get("obstacle").unwrap_or_default();
    ensure!(obstacle.starts_with("no primary key"), "{obstacle}");
    let rows = ["pending_rows", "cached_rows"].map(|column| log.get(column));
    ensure!(rows == [Some("0"), Some("0")], "{rows:?}");
    pair.flush().await?;
    ensure!(shown(&pair.direct, "SELECT count(*) FROM log").await? == "8");
    Ok(())
}

#[tokio::test]
async fn whoever_goes_by_postgres_finds_all_rows_there() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, STILL).await?;
    let (client, other) = (&pair.proxied, pair.ripen.connect().await?);
    let log = |what: &str| format!("INSERT INTO log (what) VALUES ('{what}')");
    queue(client, &log("a")).await?;
    ensure!(shown(&other, "SELECT what FROM log").await? == "a");
    queue(client, &log("b")).await?;
    ensure!(shown(&other, "SELECT count(*) FROM (SELECT 1 FROM log) x").await? == "2");
    queue(client, &log("c")).await?;
    passes(
        &other,
        "UPDATE log SET n = 8 WHERE what = 'c'",
        "primary key",
    )
    .await?;
    free(&pair).await?;
    queue(client, &log("d")).await?;
    passes(
        &other,
        "DELETE FROM log WHERE what IN ('a', 'd')",
        "primary key",
    )
    .await?;
    free(&pair).await?;
    let found = shown(&pair.direct, ALL).await?;
    ensure!(found == "b 7, c 8", "{found}");
    queue(client, &log("e")).await?;
    passes(&other, "INSERT INTO log SELECT * FROM log", "query").await?;
    free(&pair).await?;
    ensure!(shown(&pair.direct, "SELECT count(*) FROM log").await? == "6");
    queue(client, &log("f")).await?;
    ensure!(shown(&other, "SELECT count(*) FROM parents").await? == "2");
    ensure!(
        pending(&pair).await? == 1.0,
        "what is not about the table waits for nothing"
    );
    other.batch_execute("TRUNCATE log").await?;
    ensure!(shown(&pair.direct, "SELECT count(*) FROM log").await? == "0");
    ensure!(pending(&pair).await? == 0.0);

    // While a transaction owns the table, inserts go by Postgres, and afterwards they are queued again.
    other.batch_execute("BEGIN; DELETE FROM log").await?;
    passes(client, &log("g"), "owned").await?;
    other.batch_execute("COMMIT").await?;
    free(&pair).await?;
    queue(client, &log("h")).await?;

    // It is not published, so nobody is refused who does not go by Ripen.
    let published = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = 'ripen'";
    let published = shown(&pair.direct, published).await?;
    ensure!(published == "parents progress t", "{published}");
    pair.flush().await?;
    pair.direct
        .batch_execute("UPDATE log SET n = 1; DELETE FROM log")
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_sure_is_postgres_s() -> anyhow::Result<()> {
    let schema = format!(
        "{SCHEMA}; CREATE TABLE single (v int UNIQUE); CREATE TABLE later (id int PRIMARY KEY DEFERRABLE);
         CREATE TABLE fires (v int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER x BEFORE INSERT ON fires FOR EACH ROW EXECUTE FUNCTION f();
         CREATE TABLE ruled (v int); CREATE RULE r AS ON INSERT TO ruled DO ALSO NOTHING;
         CREATE TABLE made (v int, w int GENERATED ALWAYS AS (v + 1) STORED);
         CREATE TABLE veiled (v int); ALTER TABLE veiled ENABLE ROW LEVEL SECURITY;
         CREATE TABLE parted (v int) PARTITION BY RANGE (v); CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (9);
         CREATE TABLE base (v int); CREATE TABLE derived () INHERITS (base);
         CREATE UNLOGGED TABLE unlogged (v int); CREATE TABLE odd (v int, CHECK (v = any (ARRAY[1, extract(year FROM now())::int])))"
    );
    let pair = Pair::start(&schema, STILL).await?;
    let client = &pair.proxied;
    for (table, why) in [
        ("single", "unique"),
        ("later", "unique"),
        ("fires", "has triggers"),
        ("ruled", "has rules"),
        ("made", "generated"),
        ("veiled", "row security"),
        ("parted", "plain table"),
        ("part", "partition"),
        ("base", "inheritance"),
        ("derived", "inheritance"),
        ("unlogged", "unlogged"),
        ("odd", "CHECK"),
    ] {
        let column = if table == "later" { "id" } else { "v" };
        let sql = format!("INSERT INTO {table} ({column}) VALUES (1)");
        passes(client, &sql, why).await.context(table)?;
    }
    for (sql, code) in [
        ("INSERT INTO log (what) VALUES (NULL)", "23502"),
        ("INSERT INTO log (what, n) VALUES ('x', 0)", "23514"),
        ("INSERT INTO log (what, parent) VALUES ('x', 99)", "23503"),
        ("INSERT INTO log (what, n) VALUES ('x', 'y')", "22P02"),
    ] {
        let found = state(client, sql).await;
        ensure!(found.as_deref() == Some(code), "{sql}: {found:?}");
    }
    ensure!(pending(&pair).await? == 0.0);
    free(&pair).await?;
    // The parent is there, and stays there for what refers to it.
    queue(client, "INSERT INTO log (what, parent) VALUES ('x', 1)").await?;
    let gone = state(client, "DELETE FROM parents WHERE id = 1").await;
    ensure!(gone.as_deref() == Some("23503"), "{gone:?}");
    ensure!(shown(&pair.direct, ALL).await? == "x 7");
    Ok(())
}

#[tokio::test]
async fn clients_are_told_what_postgres_tells() -> anyhow::Result<()> {
    let schema = "CREATE TABLE log (what text, n int DEFAULT 7, CHECK (n > 0)); CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)";
    let both = Both::start(schema, &["log", "t"], SOON).await?;
    both.same_from_memory(
        "a: BEGIN
         a: INSERT INTO log VALUES ('a', 1), ('a', 1) RETURNING *
         b: INSERT INTO log VALUES ('a', 1) RETURNING what || '!'
         a: SAVEPOINT s
         a: INSERT INTO log DEFAULT VALUES RETURNING n
         a: UPDATE t SET v = v + 1 WHERE id = 1
         b: BEGIN
         b~ UPDATE t SET v = v * 10 WHERE id = 1 RETURNING v
         a: ROLLBACK TO s
         a: INSERT INTO log (n, what) VALUES (2, NULL) ON CONFLICT DO NOTHING
         b: INSERT INTO log VALUES ('b', 3)
         b: COMMIT
         a: COMMIT",
    )
    .await?;
    both.same_with_promotion(
        "a: BEGIN
         a: INSERT INTO log VALUES ('c', 1), ('c', 2)
         a: SAVEPOINT s
         a: INSERT INTO log VALUES ('c', 3)
         b: SELECT count(*) FROM log WHERE what = 'c'
         a: SELECT count(*) FROM log WHERE what = 'c'
         a: ROLLBACK TO s
         a: UPDATE log SET n = n + 10 WHERE what = 'c'
         a: INSERT INTO log VALUES ('c', 0)
         a: ROLLBACK TO s
         a: COMMIT
         b: SELECT * FROM log WHERE what = 'c' ORDER BY n",
    )
    .await
}

#[tokio::test]
async fn blocks_append_with_their_commit_and_where_they_move_to_postgres() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, STILL).await?;
    let client = &pair.proxied;
    let run = async |script: &str| -> anyhow::Result<()> {
        for statement in script.lines() {
            client
                .batch_execute(statement)
                .await
                .context(statement.to_owned())?;
        }
        Ok(())
    };
    run("BEGIN
INSERT INTO log (what, n) VALUES ('a', 1), ('a', 1)
SAVEPOINT s
INSERT INTO log (what, n) VALUES ('gone', 1)
ROLLBACK TO s
UPDATE t SET v = v + 1 WHERE id = 1
INSERT INTO log (what, n) VALUES ('a', 2)
COMMIT
BEGIN
INSERT INTO log (what, n) VALUES ('gone', 1)
ROLLBACK")
    .await?;
    ensure!(pair.promotions().await?.is_empty());
    ensure!(pending(&pair).await? == 4.0);
    let found = shown(client, ALL).await?;
    ensure!(found == "a 1, a 1, a 2", "{found}");
    // All rows of a transaction have its time.
    let times = "SELECT count(DISTINCT made) FROM log";
    ensure!(shown(&pair.direct, times).await? == "1");

    // What it reads needs Postgres, which must have its rows by then, and in its savepoints.
    run("BEGIN
INSERT INTO log (what, n) VALUES ('b', 1)
SAVEPOINT s
INSERT INTO log (what, n) VALUES ('b', 2), ('b', 2)")
    .await?;
    let counted = "SELECT string_agg(n::text, ' ' ORDER BY n) FROM log WHERE what = 'b'";
    let found = shown(client, counted).await?;
    ensure!(found == "1 2 2", "{found}");
    let moved = pair.promotions().await?;
    ensure!(moved.values().sum::<u64>() == 1, "{moved:?}");
    // Others append meanwhile.
    let other = pair.ripen.connect().await?;
    queue(&other, "INSERT INTO log (what, n) VALUES ('c', 1)").await?;
    run("ROLLBACK TO s
INSERT INTO log (what, n) VALUES ('b', 3)
COMMIT")
    .await?;
    let found = shown(client, counted).await?;
    ensure!(found == "1 3", "{found}");
    ensure!(shown(&other, "SELECT n FROM log WHERE what = 'c'").await? == "1");

    // Whoever wants the whole table has the block come to Postgres, and waits for it there.
    run("BEGIN
INSERT INTO log (what, n) VALUES ('d', 1)")
    .await?;
    let clears = tokio::spawn(async move { other.batch_execute("TRUNCATE log").await });
    wait::until("the block has moved", || async {
        let moved: u64 = pair.promotions().await?.values().sum();
        Ok((moved == 2).then_some(()))
    })
    .await?;
    ensure!(!clears.is_finished());
    run("COMMIT").await?;
    clears.await??;
    ensure!(shown(client, "SELECT count(*) FROM log").await? == "0");
    Ok(())
}

#[tokio::test]
async fn what_postgres_refuses_in_the_end_is_a_dead_letter() -> anyhow::Result<()> {
    // Nobody else can have changed a row that nothing names, so changes of others never win.
    let settings = [STILL, &[("conflict", "database")]].concat();
    let pair = Pair::start(SCHEMA, &settings).await?;
    let client = &pair.proxied;
    queue(client, "INSERT INTO log (what, n) VALUES ('a', 1)").await?;
    queue(client, "INSERT INTO log (what, n) VALUES ('b', 500)").await?;
    queue(client, "INSERT INTO log (what, n) VALUES ('c', 2)").await?;
    // Behind Ripen's back.
    let narrow = "ALTER TABLE log ADD CONSTRAINT narrow CHECK (n < 100)";
    pair.direct.batch_execute(narrow).await?;
    pair.flush().await?;
    ensure!(shown(&pair.direct, ALL).await? == "a 1, c 2");
    let letters = "SELECT sqlstate, jsonb_array_length(changes), changes->0->>'table', changes->0->'key', changes->0->>'operation', changes->0->'columns'->>'n' \
         FROM ripen.dead_letter WHERE resolution IS NULL";
    let found = shown(&pair.direct, letters).await?;
    ensure!(found == "23514 1 public.log null insert 500", "{found}");
    let id = shown(&pair.direct, "SELECT id FROM ripen.dead_letter").await?;
    let replay = format!("CALL ripen.replay({id})");
    ensure!(
        state(client, &replay).await.is_some(),
        "it does not fit yet"
    );
    pair.direct
        .batch_execute("ALTER TABLE log DROP CONSTRAINT narrow")
        .await?;
    client.batch_execute(&replay).await?;
    let found = shown(client, "SELECT what, n FROM log ORDER BY what").await?;
    ensure!(found == "a 1, b 500, c 2", "{found}");
    ensure!(
        state(client, &replay).await.is_some(),
        "it was replayed twice"
    );
    Ok(())
}

#[tokio::test]
async fn keys_come_and_go_without_a_row_lost() -> anyhow::Result<()> {
    // By Ripen, and behind its back.
    for outside in [false, true] {
        let schema = "CREATE TABLE log (id int NOT NULL, what text)";
        let pair = Pair::start(schema, STILL).await?;
        let client = &pair.proxied;
        let alter = async |sql: &str| -> anyhow::Result<()> {
            let loads = pair.ripen.number("catalog_loads").await?;
            let by = if outside { &pair.direct } else { client };
            by.batch_execute(sql).await.context(sql.to_owned())?;
            wait::until("Ripen has noticed", || async {
                let now = pair.ripen.number("catalog_loads").await?;
                Ok((now > loads).then_some(()))
            })
            .await
        };
        queue(client, "INSERT INTO log VALUES (1, 'a'), (2, 'b')").await?;
        alter("ALTER TABLE log ADD PRIMARY KEY (id)").await?;
        let what = "SELECT id, what FROM log ORDER BY id";
        ensure!(
            shown(client, what).await? == "1 a, 2 b",
            "outside: {outside}"
        );
        ensure!(shown(&pair.direct, what).await? == "1 a, 2 b");
        // From now on rows have names.
        let update = "UPDATE log SET what = what || '!' WHERE id = 1";
        wait::until("writes by key are queued", || async {
            client.batch_execute(update).await?;
            Ok(route(client).await?.starts_with("write").then_some(()))
        })
        .await?;
        queue(client, "INSERT INTO log VALUES (3, 'c')").await?;
        ensure!(
            state(client, "INSERT INTO log VALUES (2, 'x')")
                .await
                .as_deref()
                == Some("23505")
        );
        ensure!(shown(client, "SELECT what FROM log WHERE id = 3").await? == "c");
        queue(client, "INSERT INTO log VALUES (4, 'd')").await?;
        alter("ALTER TABLE log DROP CONSTRAINT log_pkey").await?;
        let ids = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM log";
        if outside {
            // Nothing names the row any more under which it was queued.
            let found = shown(client, ids).await?;
            let letters = "SELECT count(*) FROM ripen.dead_letter WHERE resolution IS NULL";
            let letters: usize = shown(&pair.direct, letters).await?.parse()?;
            let rows = found.split(' ').count();
            ensure!(letters > 0 && rows >= 2, "{found}, {letters} letters");
        } else {
            ensure!(shown(client, ids).await? == "1 2 3 4");
            let tail = "SELECT count(*) FROM ripen.dead_letter";
            ensure!(shown(&pair.direct, tail).await? == "0");
        }
        wait::until("inserts are queued again", || async {
            client
                .batch_execute("INSERT INTO log VALUES (9, 'twice')")
                .await?;
            Ok(route(client).await?.starts_with("write").then_some(()))
        })
        .await?;
        queue(client, "INSERT INTO log VALUES (9, 'twice')").await?;
        let nines: usize = shown(client, "SELECT count(*) FROM log WHERE id = 9")
            .await?
            .parse()?;
        ensure!(nines >= 2, "{nines}");
    }
    Ok(())
}
