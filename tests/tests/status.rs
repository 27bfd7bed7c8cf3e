//! What Ripen says of itself: readiness, and the numbers of `SHOW ripen.status`, `/status` and `/metrics`. Each is compared with something that the test did.

use anyhow::ensure;
use ripen_tests::postgres::{self, Options};
use ripen_tests::{Pair, Postgres, Ripen, wait};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g";

async fn route(client: &tokio_postgres::Client) -> anyhow::Result<String> {
    let row = client.query_one("SHOW ripen.route", &[]).await?;
    Ok(row.get(0))
}

#[tokio::test]
async fn whoever_is_ready_serves_from_memory() -> anyhow::Result<()> {
    let settings = [("write_behind", "public.*"), ("write_delay", "1h")];
    let mut pair = Pair::start(SCHEMA, &settings).await?;
    for round in 1..=4 {
        // The first statement of all: nothing else has waited for anything.
        let sql = "UPDATE t SET v = v + 1 WHERE id = 1";
        ensure!(pair.proxied.execute(sql, &[]).await? == 1);
        let queued = route(&pair.proxied).await?;
        ensure!(
            queued == "write",
            "round {round}: {queued}\n{}",
            pair.ripen.log()
        );
        let read = "SELECT v FROM t WHERE id = 1";
        let row = pair.proxied.query_one(read, &[]).await?;
        ensure!(row.get::<_, i32>(0) == round);
        let read = route(&pair.proxied).await?;
        ensure!(
            read == "read",
            "round {round}: {read}\n{}",
            pair.ripen.log()
        );
        pair.ripen.kill9().await?;
        pair.ripen.restart().await?;
        pair.proxied = pair.ripen.connect().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_healthy_first_start_warns_of_nothing() -> anyhow::Result<()> {
    let options = Options::default().set("max_slot_wal_keep_size", "1GB");
    let pair = Pair::start_with(options, SCHEMA, &[("write_behind", "public.*")]).await?;
    pair.flush().await?;
    let log = pair.ripen.log();
    let warns = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    let warnings: Vec<&str> = log.lines().filter(warns).collect();
    ensure!(warnings.is_empty(), "{warnings:#?}");
    Ok(())
}

#[tokio::test]
async fn without_a_replication_stream_ripen_is_ready_all_the_same() -> anyhow::Result<()> {
    let options = Options::default().set("wal_level", "replica");
    let pair = Pair::start_with(options, SCHEMA, &[]).await?;
    let row = pair
        .proxied
        .query_one("SELECT v FROM t WHERE id = 1", &[])
        .await?;
    ensure!(row.get::<_, i32>(0) == 0);
    ensure!(route(&pair.proxied).await? == "pass");
    Ok(())
}

#[tokio::test]
async fn an_old_transaction_delays_readiness_but_not_for_ever() -> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default()).await?;
    let mut other = postgres.connect().await?;
    other.batch_execute(SCHEMA).await?;
    let old = other.transaction().await?;
    // A stream cannot begin, and a table cannot be followed, before it has ended.
    old.execute("UPDATE t SET v = 1 WHERE id = 2", &[]).await?;
    let ripen = Ripen::start(&postgres.url(), &[]).await?;
    let client = ripen.connect().await?;
    client
        .query_one("SELECT v FROM t WHERE id = 1", &[])
        .await?;
    ensure!(
        route(&client).await? == "pass",
        "served before it is followed"
    );
    old.commit().await?;
    wait::until("the table is served", || async {
        client
            .query_one("SELECT v FROM t WHERE id = 1", &[])
            .await?;
        Ok((route(&client).await? == "read").then_some(()))
    })
    .await
}

/// Everything that `/status` tells as one number each.
async fn numbers(ripen: &Ripen) -> anyhow::Result<serde_json::Value> {
    let answer = ripen.admin("/status").await?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let status: serde_json::Value = serde_json::from_str(body)?;
    Ok(status["totals"].clone())
}

#[tokio::test]
async fn each_number_tells_what_was_done() -> anyhow::Result<()> {
    let settings = [
        ("write_behind", "public.*"),
        ("write_delay", "1h"),
        ("max_clients", "3"),
        ("pending_wait", "10ms"),
    ];
    let pair = Pair::start(SCHEMA, &settings).await?;
    let number = async |name: &str| pair.ripen.number(name).await;
    let before = numbers(&pair.ripen).await?;
    ensure!(
        before["loads"] == 0 && before["barrier_waits"] == 0 && before["flush_seconds"] == 0.0,
        "{before}"
    );
    ensure!(before["process_bytes"].as_u64() > Some(4 << 20), "{before}");
    ensure!(before["upstream_available"] == 1, "{before}");

    for id in [1, 2] {
        pair.proxied
            .query_one("SELECT v FROM t WHERE id = $1", &[&id])
            .await?;
        pair.proxied
            .query_one("SELECT v FROM t WHERE id = $1", &[&id])
            .await?;
    }
    ensure!(
        number("loads").await? == 2.0,
        "two rows were loaded one after the other"
    );
    let syncs = number("log_syncs").await?;
    pair.proxied
        .execute("UPDATE t SET v = 1 WHERE id = 1", &[])
        .await?;
    ensure!(number("log_syncs").await? > syncs);
    ensure!(number("log_sync_seconds").await? > 0.0);

    // It reads what is pending, so it waits for a flush, and it writes nothing: no fence.
    let fences = number("fences").await?;
    pair.proxied.query_one("SELECT sum(v) FROM t", &[]).await?;
    ensure!(number("barrier_waits").await? == 1.0);
    ensure!(number("flushes").await? == 1.0 && number("flushed_rows").await? == 1.0);
    let (barrier, flush) = (
        number("barrier_seconds").await?,
        number("flush_seconds").await?,
    );
    ensure!(
        flush > 0.0 && barrier > flush / 2.0 && barrier < 30.0,
        "barrier {barrier} s, flush {flush} s"
    );
    ensure!(number("fences").await? == fences);
    pair.proxied
        .execute("UPDATE t SET v = v + 1 WHERE v = 0 AND id < 5", &[])
        .await?;
    ensure!(number("fences").await? == fences + 1.0);

    let (dials, accepted) = (
        number("upstream_dials").await?,
        number("client_connections").await?,
    );
    let second = pair.ripen.connect().await?;
    second
        .batch_execute("CREATE TEMP TABLE mine (n int)")
        .await?;
    let third = pair.ripen.connect().await?;
    ensure!(number("clients").await? == 3.0);
    ensure!(number("upstream_dials").await? >= dials + 2.0);
    ensure!(number("client_connections").await? == accepted + 2.0);
    ensure!(
        pair.ripen.connect().await.is_err(),
        "a fourth client is admitted"
    );
    ensure!(number("client_refusals").await? == 1.0);
    ensure!(number("upstream_connections").await? >= 1.0);
    drop((second, third));
    wait::until("the connections are gone", || async {
        let gone = number("clients").await? == 1.0 && number("upstream_connections").await? <= 1.0;
        Ok(gone.then_some(()))
    })
    .await?;
    ensure!(number("hotcache_lag_bytes").await? < 1e9);

    // The same numbers in SQL and for Prometheus.
    let rows = pair.proxied.query("SHOW ripen.queue", &[]).await?;
    let shown = rows
        .iter()
        .find(|row| row.get::<_, &str>(0) == "barrier_waits");
    ensure!(
        shown.is_some_and(|row| row.get::<_, &str>(1) == "1"),
        "{rows:?}"
    );
    let metrics = pair.ripen.admin("/metrics").await?;
    ensure!(metrics.contains("ripen_barrier_waits_total 1"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn a_full_queue_is_counted() -> anyhow::Result<()> {
    let settings = [
        ("write_behind", "public.*"),
        ("write_delay", "1h"),
        ("max_pending_bytes", "1MB"),
        ("pending_wait", "20ms"),
    ];
    let schema = "CREATE TABLE big (id int PRIMARY KEY, note text)";
    let pair = Pair::start(schema, &settings).await?;
    let note = "x".repeat(100_000);
    let mut refused = None;
    for id in 0..30 {
        let insert = "INSERT INTO big VALUES ($1, $2)";
        if let Err(error) = pair.proxied.execute(insert, &[&id, &note]).await {
            refused = error.code().map(|code| code.code().to_owned());
            break;
        }
    }
    ensure!(
        refused
            .as_deref()
            .is_some_and(|code| code.starts_with("53")),
        "{refused:?}"
    );
    ensure!(pair.ripen.number("pending_waits").await? >= 1.0);
    ensure!(pair.ripen.number("pending_refusals").await? == 1.0);
    Ok(())
}

#[tokio::test]
async fn every_client_is_listed_as_it_logged_in() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let url = format!("{}?application_name=counting", pair.ripen.url());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    // Postgres says no other than what the client was told at its login.
    let told: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .await?
        .get(0);
    let rows = client.query("SHOW ripen.clients", &[]).await?;
    let mine = rows
        .iter()
        .find(|row| row.get::<_, &str>("application") == "counting");
    let Some(mine) = mine else {
        anyhow::bail!("{} clients, none of them is this one", rows.len());
    };
    ensure!(mine.get::<_, &str>("pid") == told.to_string());
    ensure!(mine.get::<_, &str>("user") == "postgres");
    ensure!(mine.get::<_, &str>("upstream") == "true");
    ensure!(
        rows.len() > 1,
        "the other session of the test is there, too"
    );
    Ok(())
}

#[tokio::test]
async fn a_node_alone_leads_and_nobody_could_take_over() -> anyhow::Result<()> {
    let pair = Pair::start(SCHEMA, &[]).await?;
    let rows = pair.proxied.query("SHOW ripen.nodes", &[]).await?;
    ensure!(rows.len() == 1, "{} rows", rows.len());
    let value = |column: &str| rows[0].get::<_, Option<String>>(column);
    for column in ["here", "leads", "votes"] {
        ensure!(value(column).as_deref() == Some("true"), "{column}");
    }
    for column in ["silent_seconds", "behind_entries"] {
        ensure!(value(column).as_deref() == Some("0"), "{column}");
    }
    for name in ["node_leads", "node_may_read", "node_members", "node_voters"] {
        ensure!(pair.ripen.number(name).await? == 1.0, "{name}");
    }
    let leader = pair.ripen.admin("/leader").await?;
    ensure!(leader.starts_with("HTTP/1.1 200"), "{leader}");
    let safe = pair.ripen.admin("/safe").await?;
    ensure!(
        safe.starts_with("HTTP/1.1 503") && safe.contains("a node alone"),
        "{safe}"
    );
    let metrics = pair.ripen.admin("/metrics").await?;
    ensure!(
        metrics.contains("\nripen_node_silent_seconds{"),
        "{metrics}"
    );

    let told = pair.ripen.ask_node("status").await?;
    let words = String::from_utf8(told.stdout)?;
    ensure!(
        told.status.success() && words.contains(": leads, in term"),
        "{words}"
    );
    for ask in ["drain", "leave"] {
        let refused = pair.ripen.ask_node(ask).await?;
        let why = String::from_utf8(refused.stderr)?;
        ensure!(
            !refused.status.success() && why.starts_with("a node alone"),
            "{why}"
        );
    }
    let ready = pair.ripen.admin("/ready").await?;
    ensure!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    Ok(())
}

#[tokio::test]
async fn a_node_that_was_not_told_which_cluster_is_its_says_what_to_do() -> anyhow::Result<()> {
    let settings = [("cluster_listen", "127.0.0.1:0")];
    let mut ripen = Ripen::start_unready("postgres://postgres@127.0.0.1:1/postgres", &settings)?;
    let said = ripen.wait_refusal().await?;
    ensure!(
        said.contains("belongs to no cluster yet") && said.contains("--bootstrap"),
        "{said}"
    );
    Ok(())
}

/// What a client with this URL sees of the session named `watched`: its address, and whether it holds a connection to Postgres.
async fn watch(client: &tokio_postgres::Client) -> anyhow::Result<[Option<String>; 3]> {
    let rows = client.query("SHOW ripen.clients", &[]).await?;
    let watched = rows
        .iter()
        .find(|row| row.get::<_, &str>("application") == "watched");
    let Some(row) = watched else {
        anyhow::bail!("{} clients, none of them is the watched one", rows.len());
    };
    ensure!(row.get::<_, &str>("user") == "alice" && row.get::<_, &str>("pid") != "0");
    Ok(["address", "upstream", "connected_seconds"].map(|column| row.get(column)))
}

#[tokio::test]
async fn what_others_do_is_shown_to_those_who_see_it_in_postgres() -> anyhow::Result<()> {
    let schema = format!(
        "{SCHEMA}; CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher"
    );
    let pair = Pair::start(&schema, &[]).await?;
    let as_user = |user: &str| pair.ripen.url().replace("postgres@", &format!("{user}@"));
    let url = format!("{}?application_name=watched", as_user("alice"));
    let alice = postgres::connect(&url).await?;
    let (bob, watcher) = (
        postgres::connect(&as_user("bob")).await?,
        postgres::connect(&as_user("watcher")).await?,
    );
    let seen = |shown: &[Option<String>; 3]| shown.iter().all(Option::is_some);
    let hidden = |shown: &[Option<String>; 3]| shown.iter().all(Option::is_none);

    for (who, client) in [
        ("alice", &alice),
        ("watcher", &watcher),
        ("postgres", &pair.proxied),
    ] {
        let shown = watch(client).await?;
        ensure!(seen(&shown), "{who}: {shown:?}");
    }
    ensure!(hidden(&watch(&bob).await?));

    // It is the effective role that counts, and in a transaction of Postgres's it is not known.
    pair.proxied.batch_execute("SET ROLE bob").await?;
    ensure!(hidden(&watch(&pair.proxied).await?));
    pair.proxied.batch_execute("RESET ROLE").await?;
    ensure!(seen(&watch(&pair.proxied).await?));
    pair.proxied
        .batch_execute("BEGIN; SET LOCAL ROLE bob; SELECT count(*) FROM pg_class")
        .await?;
    ensure!(hidden(&watch(&pair.proxied).await?));
    pair.proxied.batch_execute("ROLLBACK").await?;

    // A right that is given or taken counts as soon as the catalog has been read.
    pair.proxied
        .batch_execute("GRANT pg_read_all_stats TO bob")
        .await?;
    ensure!(seen(&watch(&bob).await?));
    pair.proxied
        .batch_execute("REVOKE pg_read_all_stats FROM bob")
        .await?;
    ensure!(hidden(&watch(&bob).await?));

    // Without a role nobody is told.
    ensure!(!pair.ripen.admin("/status").await?.contains("watched"));
    ensure!(!pair.ripen.admin("/metrics").await?.contains("watched"));
    Ok(())
}
