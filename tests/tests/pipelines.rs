//! The transactions of pipelines, message by message, on Postgres and through Ripen: the same to the byte, one write to the log for several statements, all or nothing.

use anyhow::ensure;
use ripen_tests::wire::{self, Wire};
use ripen_tests::{Pair, postgres, wait};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, note text);
    INSERT INTO t SELECT g, 10 * g, 'n' || g FROM generate_series(1, 9) g;
    CREATE TABLE p (id int PRIMARY KEY);
    CREATE TABLE c (id int PRIMARY KEY, of int REFERENCES p DEFERRABLE INITIALLY DEFERRED)";

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.t"), ("write_delay", "100ms")];

/// Parse, Bind, Describe, Execute.
fn one(sql: &str) -> Vec<u8> {
    [
        wire::parse("", sql, &[]),
        wire::bind("", "", &[], 0),
        wire::describe(b'P', ""),
        wire::execute("", 0),
    ]
    .concat()
}

/// Statements up to Sync.
fn pipeline(statements: &[&str]) -> Vec<u8> {
    let statements = statements.iter().map(|sql| one(sql));
    statements.chain([wire::sync()]).flatten().collect()
}

/// Without the places in Postgres's source that errors come from.
fn without_place(transcript: &str) -> String {
    let words = transcript.replace('\n', " \n");
    let words = words.split(' ');
    let words = words.filter(|word| !["F=", "L=", "R="].iter().any(|of| word.starts_with(of)));
    words.collect::<Vec<&str>>().join(" ")
}

struct Both {
    pair: Pair,
    plain: String,
}

impl Both {
    async fn start() -> anyhow::Result<Both> {
        let pair = Pair::start(SCHEMA, SETTINGS).await?;
        let plain = pair.postgres.create_database("plain").await?;
        let client = postgres::connect(&plain).await?;
        client.batch_execute(SCHEMA).await?;
        Ok(Both { pair, plain })
    }

    /// Sends each of the texts, waits for ReadyForQuery as often as it must come, and compares what is said and left. Answers how many blocks have moved to Postgres.
    async fn same(&self, sent: &[Vec<u8>]) -> anyhow::Result<u64> {
        let before: u64 = self.pair.promotions().await?.values().sum();
        let mut plain = Wire::connect(self.pair.postgres.port(), "plain").await?;
        let mut proxied = Wire::connect(self.pair.ripen.port(), "postgres").await?;
        for bytes in sent {
            let left = without_place(&plain.exchange(bytes).await?);
            let right = without_place(&proxied.exchange(bytes).await?);
            let text = String::from_utf8_lossy(bytes);
            ensure!(left == right, "{text}\nPostgres:\n{left}\nRipen:\n{right}");
        }
        drop((plain, proxied));
        self.pair.flush().await?;
        let direct = postgres::connect(&self.plain).await?;
        for sql in [
            "SELECT string_agg(t::text, ' ' ORDER BY id) FROM t",
            "SELECT string_agg(c::text, ' ' ORDER BY id) FROM c",
        ] {
            let left: Option<String> = direct.query_one(sql, &[]).await?.get(0);
            let right: Option<String> = self.pair.direct.query_one(sql, &[]).await?.get(0);
            ensure!(
                left == right,
                "Postgres:\n{left:?}\nbehind Ripen:\n{right:?}"
            );
        }
        let after: u64 = self.pair.promotions().await?.values().sum();
        Ok(after - before)
    }

    /// What the rows of these keys hold in the Postgres behind Ripen.
    async fn values(&self, ids: [i32; 2]) -> anyhow::Result<Vec<i32>> {
        let sql = "SELECT v FROM t WHERE id = ANY ($1) ORDER BY id";
        let rows = self.pair.direct.query(sql, &[&ids.as_slice()]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

/// Writes two rows and waits for both answers, without Sync.
async fn begin_by_pipeline(wire: &mut Wire) -> anyhow::Result<()> {
    let sent = [
        one("UPDATE t SET v = 1000 WHERE id = 1"),
        one("UPDATE t SET v = 1000 WHERE id = 2"),
        wire::flush(),
    ];
    wire.send(&sent.concat()).await?;
    wire.read_until(b'C').await?;
    wire.read_until(b'C').await?;
    Ok(())
}

#[tokio::test]
async fn several_writes_of_a_pipeline_are_one_transaction_in_memory() -> anyhow::Result<()> {
    let both = Both::start().await?;
    let moved = both
        .same(&[
            pipeline(&[
                "UPDATE t SET v = v + 1 WHERE id = 1",
                "SELECT * FROM t WHERE id = 1",
                "UPDATE t SET v = v + 1 WHERE id = 1 RETURNING v",
                "INSERT INTO t VALUES (20, 1, 'new')",
                "DELETE FROM t WHERE id = 2",
            ]),
            pipeline(&["SELECT * FROM t WHERE id = 20"]),
            pipeline(&["BEGIN", "UPDATE t SET v = 3 WHERE id = 3"]),
            pipeline(&["UPDATE t SET v = 4 WHERE id = 3", "ROLLBACK"]),
            // What was begun by a pipeline is nobody's when BEGIN comes behind it.
            pipeline(&[
                "UPDATE t SET v = 5 WHERE id = 4",
                "BEGIN ISOLATION LEVEL READ COMMITTED",
            ]),
            pipeline(&["UPDATE t SET v = 6 WHERE id = 5"]),
            pipeline(&["COMMIT"]),
            pipeline(&[
                "UPDATE t SET v = 7 WHERE id = 6",
                "UPDATE t SET v = 8 WHERE id = 7",
                "ROLLBACK",
                "UPDATE t SET v = 9 WHERE id = 8",
            ]),
            pipeline(&[
                "UPDATE t SET v = 7 WHERE id = 6",
                "UPDATE t SET v = 8 WHERE id = 7",
                "COMMIT",
                "UPDATE t SET v = 10 WHERE id = 8",
            ]),
            pipeline(&["SELECT * FROM t WHERE id IN (4, 5, 6, 7, 8)"]),
            pipeline(&[
                "UPDATE t SET v = 1 WHERE id = 9",
                "UPDATE t SET v = 2 WHERE id = 9",
                "SAVEPOINT s",
                "UPDATE t SET v = 3 WHERE id = 9",
            ]),
            pipeline(&["SELECT * FROM t WHERE id = 9"]),
        ])
        .await?;
    let reasons = both.pair.promotions().await?;
    ensure!(moved == 0, "moved to Postgres: {reasons:?}");
    Ok(())
}

/// JDBC asks for at most one row of whatever has none.
#[tokio::test]
async fn a_limit_of_rows_stops_no_write() -> anyhow::Result<()> {
    let both = Both::start().await?;
    let limited = |sql: &str| {
        [
            wire::parse("", sql, &[]),
            wire::bind("", "", &[], 0),
            wire::describe(b'P', ""),
            wire::execute("", 1),
        ]
        .concat()
    };
    let moved = both
        .same(&[
            [
                limited("BEGIN"),
                limited("UPDATE t SET v = v + 1 WHERE id IN (1, 2, 3)"),
                wire::sync(),
            ]
            .concat(),
            [limited("DELETE FROM t WHERE id = 9"), wire::sync()].concat(),
            [limited("COMMIT"), wire::sync()].concat(),
            [
                limited("INSERT INTO t VALUES (10, 1, ''), (11, 2, '')"),
                wire::sync(),
            ]
            .concat(),
            pipeline(&["SELECT * FROM t WHERE id IN (1, 2, 3, 9, 10, 11)"]),
        ])
        .await?;
    let reasons = both.pair.promotions().await?;
    ensure!(moved == 0, "moved to Postgres: {reasons:?}");
    // Rows are kept back.
    both.same(&[[
        limited("UPDATE t SET v = v + 1 WHERE id IN (1, 2, 3) RETURNING id"),
        wire::execute("", 5),
        wire::sync(),
    ]
    .concat()])
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_pipeline_that_needs_postgres_goes_on_there_and_ends_with_sync() -> anyhow::Result<()> {
    let both = Both::start().await?;
    let moved = both
        .same(&[
            pipeline(&[
                "UPDATE t SET v = v + 1 WHERE id = 1",
                "UPDATE t SET v = v + 1 WHERE id = 2",
                "SELECT sum(v) FROM t",
                "UPDATE t SET v = v + 1 WHERE id = 3",
            ]),
            pipeline(&["SELECT * FROM t WHERE id = 3"]),
            // All or nothing: a duplicate key, an error in Postgres behind it, and one of a text.
            pipeline(&[
                "UPDATE t SET v = v + 1 WHERE id = 1",
                "UPDATE t SET v = v + 1 WHERE id = 2",
                "INSERT INTO t VALUES (3, 0, 'again')",
                "UPDATE t SET v = v + 1 WHERE id = 4",
            ]),
            pipeline(&[
                "UPDATE t SET v = v + 1 WHERE id = 1",
                "UPDATE t SET v = v + 1 WHERE id = 2",
                "SELECT 1 / (v - v) FROM t",
            ]),
            pipeline(&["SELECT * FROM t WHERE id IN (1, 2, 3, 4)"]),
            // Refused at COMMIT only.
            pipeline(&[
                "UPDATE t SET v = 100 WHERE id = 1",
                "UPDATE t SET v = 100 WHERE id = 2",
                "INSERT INTO c VALUES (1, 77)",
            ]),
            pipeline(&["SELECT * FROM t WHERE id IN (1, 2)"]),
            // A simple query ends what the pipeline has begun.
            [
                one("UPDATE t SET v = 200 WHERE id = 1"),
                one("UPDATE t SET v = 200 WHERE id = 2"),
                wire::query("SELECT sum(v) FROM t"),
            ]
            .concat(),
            [
                one("UPDATE t SET v = 300 WHERE id = 1"),
                one("UPDATE t SET v = 300 WHERE id = 2"),
                one("COPY t FROM STDIN"),
                wire::copy_data(b"50\t1\tx\n"),
                wire::copy_done(),
                wire::sync(),
            ]
            .concat(),
            pipeline(&["SELECT * FROM t WHERE id IN (1, 2, 50)"]),
        ])
        .await?;
    ensure!(moved > 0, "never moved to Postgres");
    Ok(())
}

#[tokio::test]
async fn the_statements_of_a_text_are_one_transaction_in_memory() -> anyhow::Result<()> {
    let both = Both::start().await?;
    let moved = both
        .same(&[
            wire::query("UPDATE t SET v = v + 1 WHERE id = 1; SELECT * FROM t WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (20, 1, 'a;b')"),
            wire::query("SELECT v FROM t WHERE id = 1;\n SELECT v FROM t WHERE id = 3;"),
            wire::query("BEGIN; UPDATE t SET v = 3 WHERE id = 3; SAVEPOINT s; UPDATE t SET v = 4 WHERE id = 3; ROLLBACK TO s"),
            wire::query("UPDATE t SET v = 4 WHERE id = 4; COMMIT; UPDATE t SET v = 5 WHERE id = 5"),
            wire::query("UPDATE t SET v = 6 WHERE id = 6; UPDATE t SET v = 7 WHERE id = 7; ROLLBACK; UPDATE t SET v = 8 WHERE id = 8"),
            wire::query("UPDATE t SET v = 1 WHERE id = 9; SAVEPOINT s; UPDATE t SET v = 2 WHERE id = 9"),
            wire::query("UPDATE t SET v = 1 WHERE id = 9; BEGIN; UPDATE t SET v = 2 WHERE id = 9"),
            wire::query("ROLLBACK; SELECT v FROM t WHERE id = 9"),
            wire::query("SELECT * FROM t WHERE id IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 20)"),
        ])
        .await?;
    let reasons = both.pair.promotions().await?;
    ensure!(moved == 0, "moved to Postgres: {reasons:?}");
    Ok(())
}

#[tokio::test]
async fn the_rest_of_a_text_goes_to_postgres_from_what_needs_it() -> anyhow::Result<()> {
    let both = Both::start().await?;
    let moved = both
        .same(&[
            // Keys that are taken: nobody knows that before the row is looked at.
            wire::query("UPDATE t SET v = 1 WHERE id = 1; INSERT INTO t VALUES (2, 0, 'x'); UPDATE t SET v = 3 WHERE id = 3"),
            wire::query("SELECT v FROM t WHERE id IN (1, 2, 3)"),
            wire::query("UPDATE t SET v = 1 WHERE id = 1; UPDATE t SET v = 'ä'::text::int WHERE id = 2; UPDATE t SET v = 3 WHERE id = 3"),
            wire::query("BEGIN; UPDATE t SET v = 9 WHERE id = 1; INSERT INTO t VALUES (2, 0, 'x'); COMMIT"),
            wire::query("ROLLBACK"),
            wire::query("UPDATE t SET v = 1 WHERE id = 1; SELECT count(*) FROM t; UPDATE t SET v = 3 WHERE id = 3"),
            wire::query("UPDATE t SET v = 1 WHERE id = 1; UPDATE t SET nothing = 3 WHERE id = 3"),
            wire::query("UPDATE t SET v = 2 WHERE id = 1; UPDATE t SET v = "),
            wire::query("SELECT v FROM t WHERE id IN (1, 2, 3)"),
        ])
        .await?;
    ensure!(moved > 0, "never moved to Postgres");
    Ok(())
}

/// Postgres ends transactions that stay idle for too long, so none begin here; what is no transaction of its own is served all the same.
#[tokio::test]
async fn a_session_whose_idle_transactions_are_watched_keeps_texts_whole() -> anyhow::Result<()> {
    let both = Both::start().await?;
    let watched = "SET idle_in_transaction_session_timeout = '1h'";
    both.same(&[
        wire::query(watched),
        wire::query("UPDATE t SET v = 1 WHERE id = 1; INSERT INTO t VALUES (2, 0, 'x')"),
        pipeline(&[
            "UPDATE t SET v = 1 WHERE id = 3",
            "INSERT INTO t VALUES (2, 0, 'x')",
        ]),
        wire::query("SELECT v FROM t WHERE id IN (1, 2, 3)"),
    ])
    .await?;
    let client = both.pair.ripen.connect().await?;
    client.batch_execute(watched).await?;
    wait::until("reads are answered from memory", || async {
        client.query("SELECT v FROM t WHERE id = 5", &[]).await?;
        let route: String = client.query_one("SHOW ripen.route", &[]).await?.get(0);
        Ok((route == "read").then_some(()))
    })
    .await
}

#[tokio::test]
async fn begin_behind_what_has_moved_to_postgres_makes_it_a_block() -> anyhow::Result<()> {
    let both = Both::start().await?;
    let mut wire = Wire::connect(both.pair.ripen.port(), "postgres").await?;
    let moved = pipeline(&[
        "UPDATE t SET v = 1 WHERE id = 5",
        "UPDATE t SET v = 1 WHERE id = 6",
        "SELECT sum(v) FROM t",
        "BEGIN",
    ]);
    let said = wire.exchange(&moved).await?;
    ensure!(said.ends_with("Z \"T\"\n"), "{said}");
    let said = wire.exchange(&pipeline(&["ROLLBACK"])).await?;
    ensure!(said.ends_with("Z \"I\"\n"), "{said}");
    ensure!(both.values([5, 6]).await? == [50, 60]);
    Ok(())
}

#[tokio::test]
async fn what_never_comes_to_sync_leaves_nothing() -> anyhow::Result<()> {
    let both = Both::start().await?;
    let mut wire = Wire::connect(both.pair.ripen.port(), "postgres").await?;
    // Both are answered, and others wait.
    begin_by_pipeline(&mut wire).await?;
    let waits = both
        .pair
        .proxied
        .batch_execute("SET lock_timeout = '100ms'; UPDATE t SET v = 0 WHERE id = 1");
    ensure!(waits.await.is_err(), "nobody has locked the row");
    drop(wire);
    wait::until("the rows are free", || async {
        let written = both
            .pair
            .proxied
            .batch_execute("UPDATE t SET v = v + 1 WHERE id = 1");
        Ok(written.await.ok())
    })
    .await?;
    both.pair.flush().await?;
    ensure!(both.values([1, 2]).await? == [11, 20]);
    Ok(())
}

#[tokio::test]
async fn a_block_of_a_pipeline_steps_aside_and_is_committed_there() -> anyhow::Result<()> {
    let both = Both::start().await?;
    let mut wire = Wire::connect(both.pair.ripen.port(), "postgres").await?;
    begin_by_pipeline(&mut wire).await?;
    // Somebody in Postgres wants the rows.
    let other = both.pair.ripen.connect().await?;
    let counting = tokio::spawn(async move {
        other
            .query_one(
                "UPDATE t SET v = v + 1 WHERE v >= 0 RETURNING (SELECT count(*) FROM t)",
                &[],
            )
            .await
            .map(|_| ())
            .err()
    });
    wait::until("the block has moved", || async {
        let moved: u64 = both.pair.promotions().await?.values().sum();
        Ok((moved > 0).then_some(()))
    })
    .await?;
    wire.send(&wire::sync()).await?;
    let said = wire::transcript(&wire.read_until_ready().await?);
    ensure!(said.contains('Z') && !said.contains('C'), "{said}");
    drop(counting.await?);
    both.pair.flush().await?;
    ensure!(both.values([1, 2]).await? == [1001, 1001]);
    Ok(())
}

/// Clients do not look at the answer to a Close.
#[tokio::test]
async fn a_block_that_cannot_go_on_in_postgres_says_so_where_clients_look() -> anyhow::Result<()> {
    let both = Both::start().await?;
    let mut wire = Wire::connect(both.pair.ripen.port(), "postgres").await?;
    let update = "UPDATE t SET v = 1000 WHERE id = 1";
    let said = wire
        .exchange(&[wire::parse("s", update, &[]), wire::sync()].concat())
        .await?;
    ensure!(said.ends_with("Z \"I\"\n"), "{said}");
    wire.exchange(&wire::query("BEGIN")).await?;
    let run = [
        wire::bind("", "s", &[], 0),
        wire::execute("", 0),
        wire::sync(),
    ];
    let said = wire.exchange(&run.concat()).await?;
    ensure!(said.ends_with("Z \"T\"\n"), "{said}");
    // Somebody beside Ripen changes the row, and somebody in Postgres wants it.
    let beside = both.pair.connect_direct().await?;
    beside
        .batch_execute("UPDATE t SET v = 7 WHERE id = 1")
        .await?;
    let other = both.pair.ripen.connect().await?;
    let counting = tokio::spawn(async move {
        other
            .batch_execute("UPDATE t SET note = 'all' WHERE v >= 0")
            .await
    });
    wait::until("the block has moved", || async {
        let moved: u64 = both.pair.promotions().await?.values().sum();
        Ok((moved > 0).then_some(()))
    })
    .await?;
    let said = wire
        .exchange(&[wire::close(b'S', "s"), wire::sync()].concat())
        .await?;
    ensure!(said.starts_with('3') && said.contains('Z'), "{said}");
    let said = wire.exchange(&wire::query("COMMIT")).await?;
    ensure!(said.contains("40001"), "{said}");
    let said = wire.exchange(&wire::query("ROLLBACK")).await?;
    ensure!(said.ends_with("Z \"I\"\n"), "{said}");
    counting.await??;
    ensure!(both.values([1, 2]).await? == [7, 20]);
    Ok(())
}
