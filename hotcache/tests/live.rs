//! The hot cache on a real Postgres: what it tells of real transactions, and how it survives what can happen to a server.

#[path = "live/following.rs"]
mod following;
#[path = "live/nodes.rs"]
mod nodes;
#[path = "live/server.rs"]
mod server;

use anyhow::{Context, Result};
use following::{DEADLINE, Following, catalog, hot_cache, log, oid};
use ripen_cachestore::change::{FlushSeq, RowId};
use ripen_cachestore::progress::Taker;
use ripen_cachestore::{Store, migrate};
use ripen_hotcache::publication::{self, Author, Published, Wish};
use ripen_hotcache::{Event, Outcome, OwnFlush, Sink, Transaction};
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::{Datum, Tuple};
use server::Server;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, gone int, v text, w text);
    ALTER TABLE t DROP COLUMN gone;
    CREATE TABLE g (id int PRIMARY KEY, v int, d int GENERATED ALWAYS AS (v * 2) STORED);
    CREATE TABLE unkeyed (v int);";

fn taker(number: i32, epoch: u64) -> Taker<'static> {
    Taker {
        log: log(number),
        epoch,
        holder: "a test",
        has_flushed: false,
        formers: &[],
    }
}

/// A server with tables, Ripen's schema and a publication of `t` and `g`.
async fn prepared(settings: &[&str]) -> Result<(Server, Client)> {
    let server = Server::start(settings).await?;
    let mut client = server.client().await?;
    client.batch_execute(TABLES).await?;
    migrate::migrate(&server.url("postgres").parse()?).await?;
    let tables = [oid(&client, "t").await?, oid(&client, "g").await?];
    publish(&mut client, &tables).await?;
    Ok((server, client))
}

/// Makes the publication contain exactly the usable ones of these tables.
async fn publish(client: &mut Client, tables: &[TableOid]) -> Result<Published> {
    let wish = || Wish {
        tables: tables.iter().copied().collect(),
        ..Wish::default()
    };
    Ok(publication::ensure(client, "ripen", Author(1), &wish).await?)
}

fn row(table: TableOid, id: i32) -> RowId {
    let mut key = Key::new();
    key.push_fixed(&id.to_be_bytes());
    RowId { table, key }
}

fn image(id: i32, v: &[u8], w: Datum<'_>) -> Tuple {
    let id = id.to_be_bytes();
    [Datum::Value(&id), Datum::Missing, Datum::Value(v), w]
        .into_iter()
        .collect()
}

fn outcomes(transaction: &Transaction) -> Vec<(RowId, Outcome)> {
    let pair = |told: &ripen_hotcache::RowOutcome| (told.row.clone(), told.outcome.clone());
    transaction.rows.iter().map(pair).collect()
}

#[tokio::test]
async fn every_kind_of_change_is_told() -> Result<()> {
    let (server, client) = prepared(&[]).await?;
    let (t, g) = (oid(&client, "t").await?, oid(&client, "g").await?);
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    assert!(!following.connected().await?, "nothing was told before");

    let before = client
        .query_one("SELECT pg_current_snapshot()::text", &[])
        .await?;
    let before: ripen_pg::ids::Snapshot = before.get::<_, &str>(0).parse()?;
    client
        .execute("INSERT INTO t VALUES (1, 'a', NULL)", &[])
        .await?;
    let told = following.transaction().await?;
    assert_eq!(
        outcomes(&told),
        [(row(t, 1), Outcome::Put(image(1, b"a", Datum::Null)))]
    );
    assert!(
        !before.saw(told.xid),
        "the id is the one that snapshots speak of"
    );
    let after = client
        .query_one("SELECT pg_current_snapshot()::text", &[])
        .await?;
    assert!(
        after
            .get::<_, &str>(0)
            .parse::<ripen_pg::ids::Snapshot>()?
            .saw(told.xid)
    );

    // A value that is stored out of line is not repeated when it does not change.
    let long = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i)";
    client
        .batch_execute(&format!("UPDATE t SET w = {long} WHERE id = 1"))
        .await?;
    let told = following.transaction().await?;
    let Outcome::Put(whole) = &told.rows[0].outcome else {
        panic!("{told:?}")
    };
    assert_eq!(whole.get(3).value().map(<[u8]>::len), Some(32_000));
    client
        .batch_execute("UPDATE t SET v = 'b' WHERE id = 1")
        .await?;
    let told = following.transaction().await?;
    assert_eq!(
        outcomes(&told),
        [(row(t, 1), Outcome::Put(image(1, b"b", Datum::Missing)))]
    );

    client
        .batch_execute("UPDATE t SET id = 2 WHERE id = 1")
        .await?;
    let told = following.transaction().await?;
    let expected = [(row(t, 1), Outcome::Delete), (row(t, 2), Outcome::Unknown)];
    assert_eq!(outcomes(&told), expected);

    client.batch_execute("DELETE FROM t WHERE id = 2").await?;
    assert_eq!(
        outcomes(&following.transaction().await?),
        [(row(t, 2), Outcome::Delete)]
    );

    client.batch_execute("BEGIN; INSERT INTO t VALUES (3, 'x', ''); INSERT INTO g VALUES (1, 5); SAVEPOINT s; \
        INSERT INTO t VALUES (4, 'never', ''); ROLLBACK TO s; UPDATE t SET v = 'y' WHERE id = 3; COMMIT").await?;
    let expected = [
        (row(t, 3), Outcome::Put(image(3, b"y", Datum::Value(b"")))),
        (row(g, 1), Outcome::Unknown),
    ];
    assert_eq!(outcomes(&following.transaction().await?), expected);

    client.batch_execute("TRUNCATE t, g").await?;
    let told = following.transaction().await?;
    let mut both = [t, g];
    both.sort_unstable();
    assert_eq!((told.rows.len(), told.truncated), (0, both.to_vec()));
    following.stop().await
}

#[tokio::test]
async fn flushes_take_overs_and_marks_are_recognised() -> Result<()> {
    let (server, client) = prepared(&[]).await?;
    let t = oid(&client, "t").await?;
    let store = Store::new(server.url("postgres").parse()?);
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    following.connected().await?;

    store.take_over(taker(1, 7)).await?;
    store.take_over(taker(2, 1)).await?;
    let flush = |log: i32, seq: i64, id: i32| {
        format!(
            "BEGIN; UPDATE ripen.progress SET applied = {seq}, epoch = 7 WHERE log = {log}; \
        INSERT INTO t VALUES ({id}, 'flushed', ''); COMMIT"
        )
    };
    client.batch_execute(&flush(1, 1, 1)).await?;
    let told = following.transaction().await?;
    let own = OwnFlush {
        log: 1,
        seq: FlushSeq(1),
    };
    assert_eq!((told.own_flush, told.rows.len()), (Some(own), 0));
    store.take_over(taker(1, 8)).await?;
    client.batch_execute(&flush(2, 1, 2)).await?;
    let told = following.transaction().await?;
    assert_eq!(
        (told.own_flush, told.rows[0].row.clone()),
        (None, row(t, 2))
    );

    let mark = store.emit_mark(77).await?;
    let position = following
        .until(|event| match event {
            Event::Mark { id: 77, position } => Some(position),
            _ => None,
        })
        .await?;
    assert!(position >= mark);

    let now = store.current_lsn().await?;
    following.prober.probe();
    following
        .until(|event| matches!(event, Event::Position(lsn) if lsn >= now).then_some(()))
        .await?;
    store.close();
    following.stop().await
}

#[tokio::test]
async fn a_restart_of_the_server_loses_and_repeats_nothing() -> Result<()> {
    for mode in ["fast", "immediate"] {
        let (server, client) = prepared(&[]).await?;
        let t = oid(&client, "t").await?;
        let mut following =
            Following::begin(&server, "postgres", catalog(&client, 1).await?, true)?;
        following.connected().await?;
        client
            .batch_execute("INSERT INTO t VALUES (1, 'before', '')")
            .await?;
        assert_eq!(following.transaction().await?.rows[0].row, row(t, 1));

        let asked = Instant::now();
        server.down(mode).await?;
        let took = asked.elapsed();
        assert!(
            took < Duration::from_secs(20),
            "the server waited {took:?} for us"
        );
        following
            .until(|event| matches!(event, Event::Disconnected { .. }).then_some(()))
            .await?;
        server.up().await?;
        let client = server.client().await?;
        client
            .batch_execute("INSERT INTO t VALUES (2, 'after', '')")
            .await?;
        assert!(
            following.connected().await?,
            "the slot still had everything ({mode})"
        );
        assert_eq!(following.transaction().await?.rows[0].row, row(t, 2));

        following.stop().await?;
        let slots = client
            .query_one("SELECT count(*) FROM pg_replication_slots", &[])
            .await?;
        assert_eq!(slots.get::<_, i64>(0), 0, "the slot is dropped on request");
    }
    Ok(())
}

#[tokio::test]
async fn a_slot_survives_a_stop_and_acknowledges_what_was_told() -> Result<()> {
    let (server, client) = prepared(&[]).await?;
    let t = oid(&client, "t").await?;
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    following.connected().await?;
    client
        .batch_execute("INSERT INTO t VALUES (1, 'before', '')")
        .await?;
    let told = following.transaction().await?;
    following.stop().await?;
    let sql = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots";
    // The walsender may read our last message a moment after we have gone.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !client
        .query_one(sql, &[&told.commit.to_string()])
        .await?
        .get::<_, bool>(0)
    {
        assert!(
            Instant::now() < deadline,
            "what was told was never acknowledged"
        );
        tokio::task::yield_now().await;
    }

    client
        .batch_execute("INSERT INTO t VALUES (2, 'while away', '')")
        .await?;
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    assert!(
        !following.connected().await?,
        "this process cannot know what was told before"
    );
    assert_eq!(following.transaction().await?.rows[0].row, row(t, 2));
    following.stop().await
}

/// Waits for ever where it is told a transaction.
struct Stuck(tokio::sync::mpsc::UnboundedSender<()>);

impl Sink for Stuck {
    async fn take(&self, event: Event) {
        if matches!(event, Event::Transaction(_)) {
            let _ = self.0.send(());
            std::future::pending::<()>().await;
        }
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever_and_what_was_not_taken_comes_again() -> Result<()> {
    let (server, client) = prepared(&[]).await?;
    let t = oid(&client, "t").await?;
    let known = std::sync::Arc::new(catalog(&client, 1).await?);
    let stop = CancellationToken::new();
    let (stuck, mut told) = tokio::sync::mpsc::unbounded_channel();
    let cache = hot_cache("ripen_1", &server, "postgres", false)?;
    let run = cache.run(move || known.clone(), Stuck(stuck), stop.clone());
    let task = tokio::spawn(run);
    let write = async {
        loop {
            let sql = "INSERT INTO t VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = t.v";
            client.batch_execute(sql).await?;
            if let Ok(told) = timeout(Duration::from_millis(200), told.recv()).await {
                return told.context("the hot cache has ended");
            }
        }
    };
    timeout(DEADLINE, write).await??;
    stop.cancel();
    timeout(DEADLINE, task).await??;
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    following.connected().await?;
    let again = following.transaction().await?;
    assert_eq!(again.rows[0].row, row(t, 1));
    following.stop().await
}

#[tokio::test]
async fn a_lost_slot_is_made_anew() -> Result<()> {
    let (server, client) = prepared(&[
        "max_slot_wal_keep_size = 1MB",
        "max_wal_size = 32MB",
        "min_wal_size = 32MB",
    ])
    .await?;
    let following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    let mut following = following;
    following.connected().await?;
    following.stop().await?;
    for _ in 0..4 {
        client.batch_execute("INSERT INTO t VALUES (1, 'x', '') ON CONFLICT (id) DO UPDATE SET v = 'y'; SELECT pg_switch_wal(); CHECKPOINT").await?;
    }
    let status = client
        .query_one("SELECT wal_status FROM pg_replication_slots", &[])
        .await?;
    assert_eq!(status.get::<_, &str>(0), "lost");
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    assert!(!following.connected().await?);
    client.batch_execute("DELETE FROM t").await?;
    assert_eq!(following.transaction().await?.rows.len(), 1);
    following.stop().await
}

#[tokio::test]
async fn a_slot_older_than_its_publication_is_made_anew() -> Result<()> {
    let (server, mut client) = prepared(&[]).await?;
    let t = oid(&client, "t").await?;
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    following.connected().await?;
    following.stop().await?;
    publication::drop(&client, "ripen").await?;
    client
        .batch_execute("INSERT INTO t VALUES (1, 'unpublished', '')")
        .await?;
    publish(&mut client, &[t]).await?;
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    following.connected().await?;
    following
        .until(|event| matches!(event, Event::Disconnected { .. }).then_some(()))
        .await?;
    assert!(!following.connected().await?);
    client.batch_execute("DELETE FROM t").await?;
    assert_eq!(following.transaction().await?.rows[0].row, row(t, 1));
    following.stop().await
}

#[tokio::test]
async fn a_huge_row_is_passed_over_and_its_table_invalidated() -> Result<()> {
    let (server, client) = prepared(&[]).await?;
    let t = oid(&client, "t").await?;
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    following.connected().await?;
    client
        .batch_execute("INSERT INTO t VALUES (1, repeat('x', 20000000), ''), (2, 'a', 'b')")
        .await?;
    let told = following.transaction().await?;
    assert_eq!((told.rows.len(), told.invalidated), (0, vec![t]));
    client.batch_execute("DELETE FROM t WHERE id = 2").await?;
    assert_eq!(following.transaction().await?.rows[0].row, row(t, 2));
    following.stop().await
}

#[tokio::test]
async fn every_kind_of_password_is_accepted_and_a_wrong_one_is_told() -> Result<()> {
    let (server, client) = prepared(&[]).await?;
    client
        .batch_execute(
            "CREATE ROLE scram LOGIN REPLICATION PASSWORD 'secret'; CREATE ROLE clear LOGIN REPLICATION PASSWORD 'secret'; \
             SET password_encryption = 'md5'; CREATE ROLE md LOGIN REPLICATION PASSWORD 'secret'",
        )
        .await?;
    server
        .authenticate("local all scram scram-sha-256\nlocal all md md5\nlocal all clear password")
        .await?;
    let catalog = || catalog(&client, 1);
    for login in ["scram:secret", "md:secret", "clear:secret"] {
        let mut following = Following::begin(&server, login, catalog().await?, true)?;
        following.connected().await?;
        following.stop().await?;
    }
    let mut following = Following::begin(&server, "scram:wrong", catalog().await?, true)?;
    let refused = following.next().await?;
    assert!(matches!(refused, Event::Unavailable(_)), "{refused:?}");
    following.stop().await
}

#[tokio::test]
async fn what_a_person_must_do_is_said() -> Result<()> {
    let (server, client) = prepared(&[]).await?;
    client.batch_execute("CREATE ROLE plain LOGIN").await?;
    let empty = catalog(&client, 1).await?;
    let mut following = Following::begin(&server, "plain", empty, false)?;
    let hint = following
        .until(|event| match event {
            Event::Unavailable(unavailable) => Some(unavailable.hint),
            _ => None,
        })
        .await?;
    assert!(hint.contains("ALTER ROLE \"plain\" REPLICATION"), "{hint}");
    following.stop().await?;

    client
        .batch_execute("ALTER SYSTEM SET wal_level = replica")
        .await?;
    server.down("fast").await?;
    server.up().await?;
    let mut following = Following::begin(&server, "postgres", Default::default(), false)?;
    let hint = following
        .until(|event| match event {
            Event::Unavailable(unavailable) => Some(unavailable.hint),
            _ => None,
        })
        .await?;
    assert!(
        hint.contains("ALTER SYSTEM SET wal_level = 'logical'"),
        "{hint}"
    );
    following.stop().await
}

#[tokio::test]
async fn changed_columns_are_reported_and_followed_with_the_new_catalog() -> Result<()> {
    let (server, client) = prepared(&[]).await?;
    let t = oid(&client, "t").await?;
    let mut following = Following::begin(&server, "postgres", catalog(&client, 1).await?, false)?;
    following.connected().await?;
    client
        .batch_execute("ALTER TABLE t ADD COLUMN n int; INSERT INTO t VALUES (1, 'a', 'b', 5)")
        .await?;
    let told = following.transaction().await?;
    assert_eq!((told.schema_changed, told.invalidated), (vec![t], vec![t]));
    following.use_catalog(catalog(&client, 2).await?);
    client.batch_execute("UPDATE t SET n = 6").await?;
    let told = following.transaction().await?;
    let Outcome::Put(image) = &told.rows[0].outcome else {
        panic!("{told:?}")
    };
    assert_eq!(image.get(4), Datum::Value(&6i32.to_be_bytes()));
    following.stop().await
}

#[tokio::test]
async fn the_publication_holds_only_what_can_be_followed() -> Result<()> {
    let (server, mut client) = prepared(&[]).await?;
    client.batch_execute("CREATE TABLE n (id int PRIMARY KEY); ALTER TABLE n REPLICA IDENTITY NOTHING; CREATE UNLOGGED TABLE u (id int PRIMARY KEY)").await?;
    let mut tables = Vec::new();
    for name in ["t", "g", "unkeyed", "n", "u"] {
        tables.push(oid(&client, name).await?);
    }
    let Published {
        followed,
        added,
        refused,
        horizon,
    } = publish(&mut client, &tables).await?;
    assert_eq!(followed, tables[..2].iter().copied().collect());
    assert_eq!(refused.keys().copied().collect::<Vec<_>>(), tables[2..]);
    assert!(added.is_empty() && horizon.is_none());

    // Whoever wrote before the table was published must end first.
    let mut writer = server.client().await?;
    let open = writer.transaction().await?;
    open.batch_execute("INSERT INTO n VALUES (1)").await?;
    client
        .batch_execute("ALTER TABLE unkeyed ADD COLUMN id int PRIMARY KEY")
        .await?;
    let published = publish(&mut client, &tables).await?;
    assert_eq!(published.added, [tables[2]].into_iter().collect());
    let horizon = published.horizon.expect("a table was added");
    let early = timeout(
        Duration::from_millis(500),
        publication::wait_until_followed(&client, horizon),
    );
    assert!(early.await.is_err(), "an old writer still runs");
    open.commit().await?;
    publication::wait_until_followed(&client, horizon).await?;

    client.batch_execute("INSERT INTO unkeyed VALUES (1, 1); UPDATE unkeyed SET v = 2; INSERT INTO n VALUES (2); DELETE FROM n").await?;
    let published = publish(&mut client, &tables[..1]).await?;
    assert_eq!(
        (published.followed, published.added.len()),
        (tables[..1].iter().copied().collect(), 0)
    );
    let count = client
        .query_one(
            "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'ripen'",
            &[],
        )
        .await?;
    assert_eq!(count.get::<_, i64>(0), 2, "t and ripen.progress");
    Ok(())
}
