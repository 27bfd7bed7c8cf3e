//! Transactions at READ COMMITTED through a cluster: blocks of clients of all nodes, which live at the leader. They wait for each other as in Postgres, wherever their clients are, move
//! there when they must, and are whole or nothing whoever dies meanwhile.

use anyhow::{Context, ensure};
use ripen_tests::script::ask;
use ripen_tests::{Cluster, Three, postgres, wait};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, Error};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL, note text);
    INSERT INTO t SELECT g, 10 * g, 'n' || g FROM generate_series(1, 9) g;
    CREATE TABLE u (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO u SELECT g, g FROM generate_series(1, 9) g";

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "100ms")];

async fn three() -> anyhow::Result<Three> {
    Three::start(SCHEMA, &["t", "u"], SETTINGS).await
}

fn code<T>(answered: &Result<T, Error>) -> String {
    match answered {
        Ok(_) => "none".to_owned(),
        Err(error) => error
            .code()
            .map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_sees_its_own_writes_and_commits_them_together() -> anyhow::Result<()> {
    let mut three = three().await?;
    for _ in 0..3 {
        three
            .same_from_memory(
                "a: BEGIN
                 a: SELECT v FROM u WHERE id = 2
                 a: UPDATE t SET v = v + 1 WHERE id = 1
                 a: UPDATE t SET v = v + 1, note = 'again' WHERE id = 1 RETURNING *
                 a: DELETE FROM t WHERE id = 20
                 a: INSERT INTO t VALUES (20, 1, 'new')
                 a: UPDATE t SET v = v * 2 WHERE id = 20
                 a: UPDATE u SET v = v + 1 WHERE id = 3
                 a: SELECT * FROM t WHERE id = 20
                 a: SELECT v FROM u WHERE id = 3
                 b: SELECT * FROM t WHERE id = 1
                 b: SELECT v FROM u WHERE id = 3
                 a: COMMIT
                 b: SELECT * FROM t WHERE id = 1
                 c: SELECT * FROM t WHERE id = 20
                 c: SELECT v FROM u WHERE id = 3
                 b: BEGIN
                 b: UPDATE t SET v = 77 WHERE id = 5 RETURNING *
                 b: INSERT INTO t VALUES (30, 3) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v RETURNING v
                 b: UPDATE t SET v = 1 WHERE id = 99
                 b: ROLLBACK
                 c: SELECT * FROM t WHERE id = 5
                 a: SELECT * FROM t WHERE id = 30",
            )
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_all_nodes_wait_for_each_other() -> anyhow::Result<()> {
    let mut three = three().await?;
    // A block behind a block, then a lone statement behind one. (Of two that wait, Postgres lets now this one go first, now that one.)
    for _ in 0..3 {
        three
            .same_from_memory(
                "a: BEGIN
                 b: BEGIN
                 a: UPDATE t SET v = v + 1 WHERE id = 1
                 b~ UPDATE t SET v = v * 2 WHERE id = 1 RETURNING v
                 a: COMMIT
                 b: SELECT v FROM t WHERE id = 1
                 c~ UPDATE t SET v = v + 1000 WHERE id = 1 RETURNING v
                 b: COMMIT
                 c: SELECT v FROM t WHERE id = 1
                 c: UPDATE t SET v = 10 WHERE id = 1",
            )
            .await?;
    }
    // The row does not satisfy the condition any more, or is gone, or comes back as it was.
    three
        .same_from_memory(
            "a: BEGIN
             a: UPDATE t SET note = 'taken' WHERE id = 2
             a: DELETE FROM t WHERE id = 3
             b~ UPDATE t SET note = 'mine' WHERE id = 2 AND note = 'n2'
             c~ DELETE FROM t WHERE id = 3
             a: COMMIT
             b: SELECT * FROM t WHERE id = 2
             c: SELECT * FROM t WHERE id = 3
             a: BEGIN
             a: UPDATE t SET v = 0 WHERE id = 4
             b~ UPDATE t SET v = v + 1 WHERE id = 4 RETURNING v
             a: ROLLBACK
             b: SELECT v FROM t WHERE id = 4",
        )
        .await?;
    three
        .same_from_memory(
            "a: BEGIN
             a: INSERT INTO t VALUES (41, 1)
             b~ INSERT INTO t VALUES (41, 2)
             a: ROLLBACK
             b: SELECT v FROM t WHERE id = 41",
        )
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_locked_as_asked() -> anyhow::Result<()> {
    let mut three = three().await?;
    three
        .same_from_memory(
            "a: BEGIN
             a: SELECT v FROM t WHERE id = 1 FOR UPDATE
             b: SELECT v FROM t WHERE id = 1
             b~ UPDATE t SET v = v + 1 WHERE id = 1 RETURNING v
             a: UPDATE t SET v = v * 10 WHERE id = 1
             a: COMMIT
             b: SELECT v FROM t WHERE id = 1",
        )
        .await?;
    three
        .same_from_memory(
            "a: BEGIN
             b: BEGIN
             c: BEGIN
             a: SELECT v FROM t WHERE id = 2 FOR SHARE
             b: SELECT v FROM t WHERE id = 2 FOR SHARE
             c~ SELECT v FROM t WHERE id = 2 FOR NO KEY UPDATE
             a: COMMIT
             b: COMMIT
             c: UPDATE t SET v = 0 WHERE id = 2
             c: COMMIT",
        )
        .await?;
    three
        .same_from_memory(
            "a: BEGIN
             a: UPDATE t SET note = 'x' WHERE id = 3
             b: BEGIN
             b: SELECT id FROM t WHERE id = 3 FOR UPDATE SKIP LOCKED
             b: SELECT id FROM t WHERE id = 4 FOR UPDATE SKIP LOCKED
             c: BEGIN
             c: SELECT id FROM t WHERE id = 3 FOR KEY SHARE
             c: COMMIT
             a: COMMIT
             b: COMMIT
             a: BEGIN
             a: UPDATE t SET v = 3 WHERE id = 3
             a: ROLLBACK
             a: BEGIN
             a: SELECT id FROM t WHERE id = 3 FOR UPDATE NOWAIT
             a: COMMIT",
        )
        .await?;
    three
        .same(
            "a: BEGIN
             a: SELECT v FROM t WHERE id = 7 FOR UPDATE
             b: BEGIN
             b: UPDATE t SET v = 0 WHERE id = 8
             b: SELECT v FROM t WHERE id = 7 FOR UPDATE NOWAIT
             b: SELECT 1
             b: COMMIT
             a: COMMIT",
        )
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_end_with_timeouts_cancel_requests_and_deadlocks() -> anyhow::Result<()> {
    let mut three = three().await?;
    three
        .same(
            "b: SET lock_timeout = '200ms'
             c: SET statement_timeout = '200ms'
             a: BEGIN
             a: UPDATE t SET v = 0 WHERE id = 1
             b: UPDATE t SET v = 1 WHERE id = 1
             c: UPDATE t SET v = 1 WHERE id = 1
             b: BEGIN
             b: UPDATE t SET v = 1 WHERE id = 2
             b: UPDATE t SET v = 1 WHERE id = 1
             b: SELECT 1
             b: COMMIT
             a: COMMIT
             b: UPDATE t SET v = v + 2 WHERE id = 1
             c: UPDATE t SET v = v + 2 WHERE id = 1",
        )
        .await?;
    let cluster = &three.cluster;
    for node in 0..3 {
        let holder = cluster.connect((node + 1) % 3).await?;
        holder.batch_execute("BEGIN").await?;
        let sql = "UPDATE t SET v = 0 WHERE id = 5";
        holder.batch_execute(sql).await?;
        let waiter = cluster.connect(node).await?;
        let cancel = waiter.cancel_token();
        let waits = tokio::spawn(async move { waiter.batch_execute(sql).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        ensure!(!waits.is_finished(), "does not wait");
        cancel.cancel_query(tokio_postgres::NoTls).await?;
        let ended = tokio::time::timeout(wait::DEADLINE, waits).await??;
        ensure!(code(&ended) == "57014", "{ended:?}");
        holder.batch_execute("ROLLBACK").await?;
        // Who has given up has nothing.
        let next = cluster.connect((node + 2) % 3).await?;
        next.batch_execute("BEGIN").await?;
        let lock = "SELECT v FROM t WHERE id = 5 FOR UPDATE NOWAIT";
        wait::until("the row is free", || async {
            let locked = next.batch_execute(lock).await;
            if locked.is_err() {
                next.batch_execute("ROLLBACK; BEGIN").await?;
            }
            Ok(locked.is_ok().then_some(()))
        })
        .await?;
        next.batch_execute("COMMIT").await?;
    }
    let (a, b) = (cluster.connect(0).await?, cluster.connect(1).await?);
    for (client, id) in [(&a, 1), (&b, 2)] {
        client.batch_execute("BEGIN").await?;
        let own = format!("UPDATE t SET v = 5 WHERE id = {id}");
        client.batch_execute(&own).await?;
    }
    let waits = tokio::spawn(async move {
        let waited = a.batch_execute("UPDATE t SET v = 6 WHERE id = 2").await;
        (a, waited)
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(!waits.is_finished(), "does not wait");
    let victim = b.batch_execute("UPDATE t SET v = 6 WHERE id = 1").await;
    ensure!(code(&victim) == "40P01", "{victim:?}");
    let (a, waited) = waits.await?;
    waited.context("the other goes on at once")?;
    b.batch_execute("COMMIT").await?;
    a.batch_execute("COMMIT").await?;
    let row = b.query_one("SELECT v FROM t WHERE id = 2", &[]).await?;
    ensure!(row.get::<_, i32>(0) == 6);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn savepoints_lead_back() -> anyhow::Result<()> {
    let mut three = three().await?;
    for _ in 0..2 {
        three
            .same_from_memory(
                "a: BEGIN
                 a: SAVEPOINT before
                 a: UPDATE t SET v = 1 WHERE id = 1
                 a: SAVEPOINT s
                 a: UPDATE t SET v = 2 WHERE id = 1
                 a: UPDATE t SET v = 2 WHERE id = 2
                 b~ UPDATE t SET note = 'b' WHERE id = 2
                 a: ROLLBACK TO SAVEPOINT s
                 b: SELECT * FROM t WHERE id = 2
                 a: SELECT * FROM t WHERE id = 1
                 a: SAVEPOINT s
                 a: UPDATE t SET v = 4 WHERE id = 3
                 a: RELEASE s
                 a: UPDATE t SET v = 3 WHERE id = 4
                 a: ROLLBACK TO s
                 a: SELECT v FROM t WHERE id = 3
                 a: SELECT v FROM t WHERE id = 4
                 a: UPDATE t SET v = v + 1 WHERE id = 5
                 a: RELEASE before
                 a: COMMIT",
            )
            .await?;
    }
    // Whoever comes back from an error has what came before the savepoint.
    three
        .same_with_promotion(
            "a: BEGIN
             a: UPDATE t SET v = 100 WHERE id = 6
             a: SAVEPOINT \"Odd \"\" name\"
             a: UPDATE t SET v = 200 WHERE id = 6
             a: SAVEPOINT inner
             a: UPDATE t SET v = 300 WHERE id = 7
             a: INSERT INTO t VALUES (6, 0)
             a: SELECT 1
             a: ROLLBACK TO inner
             a: SELECT * FROM t WHERE id IN (6, 7) ORDER BY id
             a: ROLLBACK TO \"Odd \"\" name\"
             a: SELECT * FROM t WHERE id IN (6, 7) ORDER BY id
             a: RELEASE nowhere
             a: COMMIT",
        )
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_postgres_moves_there_and_steps_aside() -> anyhow::Result<()> {
    let mut three = three().await?;
    for _ in 0..3 {
        three
            .same_with_promotion(
                "a: BEGIN
                 a: UPDATE t SET v = v + 5, note = NULL WHERE id = 1
                 a: DELETE FROM t WHERE id = 60
                 a: INSERT INTO t VALUES (60, 6, 'six')
                 a: SELECT v FROM t WHERE id = 3 FOR UPDATE
                 a: SELECT sum(v), count(*) FROM t
                 a: UPDATE t SET v = v + 1 WHERE v > 50
                 a: SELECT * FROM t WHERE id IN (1, 2, 60) ORDER BY id
                 b: SELECT * FROM t WHERE id IN (1, 2) ORDER BY id
                 c~ UPDATE t SET v = v + 1 WHERE id = 1 RETURNING v
                 a: COMMIT
                 c: SELECT v FROM t WHERE id = 1
                 b: SELECT * FROM t WHERE id IN (1, 2, 60) ORDER BY id",
            )
            .await?;
    }
    // Rolled back there, nothing is left.
    three
        .same_with_promotion(
            "a: BEGIN
             a: UPDATE t SET v = 0 WHERE id = 3
             a: SELECT count(*) FROM t
             a: ROLLBACK
             b: SELECT * FROM t WHERE id = 3",
        )
        .await?;
    // Its client does nothing meanwhile: somebody in Postgres wants its row.
    for _ in 0..3 {
        three
            .same_with_promotion(
                "a: BEGIN
                 a: UPDATE t SET v = 1 WHERE id = 1
                 b~ UPDATE t SET v = v + 100 WHERE id + 0 = 1
                 c: SELECT count(*) FROM t
                 a: UPDATE t SET v = 2 WHERE id = 2
                 a: COMMIT
                 b: SELECT * FROM t WHERE id = 1",
            )
            .await?;
    }
    // The circle is closed across the two: Postgres sees it.
    three
        .same(
            "a: BEGIN
             b: BEGIN
             a: UPDATE t SET v = 5 WHERE id = 5
             b: UPDATE t SET v = 6 WHERE v = 60
             b~ UPDATE t SET v = 6 WHERE id = 5
             a: ROLLBACK
             b: COMMIT",
        )
        .await?;
    Ok(())
}

/// A block with a row of its own at each node: its client, and the row.
async fn open_blocks(cluster: &Cluster, nodes: &[usize]) -> anyhow::Result<Vec<(Client, i32)>> {
    let mut open = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let (client, id) = (cluster.connect(*node).await?, at as i32 + 1);
        client.batch_execute("BEGIN").await?;
        let sql = format!("UPDATE t SET v = -1 WHERE id = {id}");
        client.batch_execute(&sql).await?;
        open.push((client, id));
    }
    Ok(open)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_takes_its_blocks_along() -> anyhow::Result<()> {
    let mut three = three().await?;
    let cluster = &mut three.cluster;
    let leader = cluster.leader().await?;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let open = open_blocks(cluster, &[others[0], others[1], others[0]]).await?;
    let savepoint = &open[2].0;
    savepoint
        .batch_execute("SAVEPOINT s; UPDATE u SET v = -1 WHERE id = 1")
        .await?;
    cluster.kill9(leader).await?;
    // One commits, one goes on, one would come back to its savepoint: all are told, and nothing stays.
    let (committed, gone_on) = (
        open[0].0.batch_execute("COMMIT").await,
        open[1]
            .0
            .batch_execute("UPDATE t SET v = -1 WHERE id = 4")
            .await,
    );
    ensure!(code(&committed) == "40001", "{committed:?}");
    ensure!(code(&gone_on) == "40001", "{gone_on:?}");
    let failed = savepoint
        .batch_execute("UPDATE t SET v = -1 WHERE id = 5")
        .await;
    ensure!(code(&failed) == "40001", "{failed:?}");
    let back = savepoint.batch_execute("ROLLBACK TO s").await;
    ensure!(back.is_err(), "what came before the savepoint is lost");
    open[1].0.batch_execute("ROLLBACK").await?;
    savepoint.batch_execute("ROLLBACK").await?;
    // The same clients begin anew, and nothing is locked.
    for (client, id) in &open {
        client.batch_execute("BEGIN").await?;
        let sql = format!("UPDATE t SET v = v + 1 WHERE id = {id}");
        client.batch_execute(&sql).await?;
        client.batch_execute("COMMIT").await?;
    }
    cluster.drained().await?;
    let direct = cluster.postgres.connect().await?;
    let rows = direct.query("SELECT id, v FROM t ORDER BY id", &[]).await?;
    for row in rows {
        let (id, v): (i32, i32) = (row.get(0), row.get(1));
        ensure!(v == 10 * id + i32::from(id <= 3), "{id}: {v}");
    }
    let row = direct.query_one("SELECT min(v) FROM u", &[]).await?;
    ensure!(row.get::<_, i32>(0) == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_dead_node_s_clients_are_free_soon() -> anyhow::Result<()> {
    let mut three = three().await?;
    let cluster = &mut three.cluster;
    let leader = cluster.leader().await?;
    let follower = (0..3).find(|node| *node != leader).context("three nodes")?;
    let open = open_blocks(cluster, &[follower, follower]).await?;
    cluster.kill9(follower).await?;
    let killed = Instant::now();
    let client = cluster.connect(leader).await?;
    for (_, id) in &open {
        let sql = format!("UPDATE t SET v = v + 1 WHERE id = {id} RETURNING v");
        let row = tokio::time::timeout(wait::DEADLINE, client.query_one(&sql, &[])).await??;
        ensure!(row.get::<_, i32>(0) == 10 * id + 1);
    }
    let took = killed.elapsed();
    ensure!(took < Duration::from_secs(10), "{took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stood_still_has_lost_its_blocks() -> anyhow::Result<()> {
    let mut three = three().await?;
    let cluster = &mut three.cluster;
    let leader = cluster.leader().await?;
    let follower = (0..3).find(|node| *node != leader).context("three nodes")?;
    let open = open_blocks(cluster, &[follower, follower]).await?;
    cluster.pause(follower).await?;
    let client = cluster.connect(leader).await?;
    for (_, id) in &open {
        let sql = format!("UPDATE t SET v = v + 1 WHERE id = {id} RETURNING v");
        let row = tokio::time::timeout(wait::DEADLINE, client.query_one(&sql, &[])).await??;
        ensure!(row.get::<_, i32>(0) == 10 * id + 1);
    }
    cluster.resume(follower).await?;
    let committed = open[0].0.batch_execute("COMMIT").await;
    ensure!(code(&committed) == "40001", "{committed:?}");
    let gone_on = open[1].0.batch_execute("UPDATE t SET v = 0 WHERE id = 2");
    let gone_on = gone_on.await;
    ensure!(code(&gone_on) == "40001", "{gone_on:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_and_texts_of_several_statements_are_blocks_too() -> anyhow::Result<()> {
    let three = three().await?;
    for node in 0..3 {
        let client = three.cluster.connect(node).await?;
        let text = "UPDATE t SET v = v + 1 WHERE id = 1; UPDATE u SET v = v + 1 WHERE id = 1";
        client.batch_execute(text).await?;
        let half = "UPDATE t SET v = 0 WHERE id = 1; UPDATE t SET v = 1 / 0 WHERE id = 2";
        ensure!(code(&client.batch_execute(half).await) == "22012");
    }
    three.cluster.drained().await?;
    let direct = three.cluster.postgres.connect().await?;
    let sql = "SELECT t.v, u.v FROM t, u WHERE t.id = 1 AND u.id = 1";
    let row = direct.query_one(sql, &[]).await?;
    ensure!((row.get::<_, i32>(0), row.get::<_, i32>(1)) == (13, 4));
    Ok(())
}

const ACCOUNTS: &str = "CREATE TABLE accounts (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO accounts SELECT g, 0 FROM generate_series(0, 7) g;
    CREATE TABLE done (n bigint PRIMARY KEY)";

/// Moves one from an account to the next; the lower account first, so nobody deadlocks.
async fn transfer(client: &Client, number: i64) -> Result<(), (bool, Error)> {
    let early = |error| (false, error);
    let from = number % 7;
    client.batch_execute("BEGIN").await.map_err(early)?;
    for sql in [
        format!("UPDATE accounts SET v = v - 1 WHERE id = {from}"),
        format!("UPDATE accounts SET v = v + 1 WHERE id = {}", from + 1),
        format!("INSERT INTO done VALUES ({number})"),
    ] {
        client.batch_execute(&sql).await.map_err(early)?;
    }
    let committed = client.batch_execute("COMMIT").await;
    committed.map_err(|error| (true, error))
}

/// What became of a client's transfers.
#[derive(Default)]
struct Told {
    acknowledged: BTreeSet<i64>,
    refused: BTreeSet<i64>,
    /// Codes of what was refused.
    codes: BTreeMap<String, u64>,
}

/// Transfers until told to stop. A connection that breaks in COMMIT leaves its transfer in doubt.
async fn transfers(url: String, who: i64, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    let mut client = postgres::connect(&url).await.ok();
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let Some(connected) = &client else { break };
        let number = who * 1_000_000 + n;
        match transfer(connected, number).await {
            Ok(()) => drop(told.acknowledged.insert(number)),
            Err((at_commit, error)) => {
                *told.codes.entry(code::<()>(&Err(error))).or_default() += 1;
                let ended = connected.batch_execute("ROLLBACK").await.is_ok();
                if ended || !at_commit {
                    told.refused.insert(number);
                }
                if !ended {
                    client = None;
                }
            }
        }
    }
    told
}

/// Compares the tables in Postgres with what clients were told.
async fn judge(cluster: &Cluster, all: &[Told]) -> anyhow::Result<()> {
    cluster.drained().await?;
    let direct = cluster.postgres.connect().await?;
    let rows = direct.query("SELECT n FROM done", &[]).await?;
    let done: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    for told in all {
        let lost: Vec<_> = told.acknowledged.difference(&done).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let unknown = told.codes.contains_key("08007");
        let stayed: Vec<_> = told.refused.intersection(&done).collect();
        ensure!(
            stayed.is_empty() || unknown,
            "refused and there: {stayed:?}"
        );
    }
    let mut expected = [0i32; 8];
    for number in &done {
        let from = (number % 7) as usize;
        expected[from] -= 1;
        expected[from + 1] += 1;
    }
    let rows = direct.query("SELECT v FROM accounts ORDER BY id", &[]);
    let values: Vec<i32> = rows.await?.iter().map(|row| row.get(0)).collect();
    ensure!(values == expected, "{values:?} {expected:?}");
    let dead = ask(&direct, "SELECT count(*) FROM ripen.dead_letter").await;
    ensure!(dead.contains("  0\n"), "{dead}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_load_of_blocks_never_needs_postgres() -> anyhow::Result<()> {
    let cluster = Cluster::start(ACCOUNTS, 3, SETTINGS).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = (0..6).map(|who| {
        let url = cluster.url(who as usize % 3);
        tokio::spawn(transfers(url, who, stop.clone()))
    });
    let clients: Vec<_> = clients.collect();
    tokio::time::sleep(Duration::from_secs(8)).await;
    stop.store(true, Ordering::SeqCst);
    let mut all = Vec::new();
    for client in clients {
        all.push(client.await?);
    }
    judge(&cluster, &all).await?;
    for told in &all {
        ensure!(
            told.codes.is_empty(),
            "{:?}\n{}",
            told.codes,
            cluster.logs()
        );
        ensure!(told.acknowledged.len() > 3, "hardly anything was done");
    }
    for node in 0..3 {
        let moved = cluster.node(node).promotions().await?;
        ensure!(moved.is_empty(), "{moved:?}");
        // Nor are they there from the beginning.
        let client = cluster.connect(node).await?;
        client.batch_execute("BEGIN").await?;
        let sql = "UPDATE accounts SET v = v + 1 WHERE id = 0";
        ripen_tests::pair::queue(&client, sql).await?;
        client.batch_execute("ROLLBACK").await?;
    }
    Ok(())
}

/// What befalls the leader.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Dies,
    StandsStill,
    IsAskedToGo,
}

async fn befall(cluster: &mut Cluster, leader: usize, fate: Fate) -> anyhow::Result<()> {
    match fate {
        Fate::Dies => cluster.kill9(leader).await?,
        Fate::StandsStill => cluster.pause(leader).await?,
        Fate::IsAskedToGo => cluster.drain(leader).await?,
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    match fate {
        Fate::Dies => cluster.start_again(leader)?,
        Fate::StandsStill => cluster.resume(leader).await?,
        Fate::IsAskedToGo => {
            cluster.stop(leader).await?;
            cluster.start_again(leader)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_are_resolved_once_whatever_befalls_the_leader() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ACCOUNTS, 3, SETTINGS).await?;
    let mut all = Vec::new();
    let fates = [Fate::Dies, Fate::StandsStill, Fate::Dies, Fate::IsAskedToGo];
    for (round, fate) in (0i64..).zip(fates) {
        let leader = cluster.leader().await?;
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..6).map(|who| {
            let url = cluster.url(who as usize % 3);
            tokio::spawn(transfers(url, round * 6 + who, stop.clone()))
        });
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        befall(&mut cluster, leader, fate).await?;
        stop.store(true, Ordering::SeqCst);
        for (who, client) in clients.into_iter().enumerate() {
            let told = tokio::time::timeout(wait::DEADLINE, client).await??;
            // Those of other nodes hear of nothing else.
            let only = told.codes.keys().all(|code| code == "40001");
            ensure!(only || who % 3 == leader, "{fate:?}: {:?}", told.codes);
            all.push(told);
        }
        cluster.ready(leader).await?;
        let judged = judge(&cluster, &all).await;
        judged.with_context(|| format!("{fate:?}: {}", cluster.logs()))?;
    }
    let acknowledged: usize = all.iter().map(|told| told.acknowledged.len()).sum();
    ensure!(
        acknowledged > 30,
        "hardly anything was done: {acknowledged}"
    );
    let lost = all.iter().any(|told| told.codes.contains_key("40001"));
    ensure!(lost, "nobody had a block open");
    Ok(())
}

/// Adds one to a row, one way or another. The second half of the ways needs Postgres.
async fn add(client: &Client, way: usize, id: usize) -> Result<(), Error> {
    let by_key = format!("UPDATE accounts SET v = v + 1 WHERE id = {id}");
    let seen = |rows: Vec<tokio_postgres::Row>| rows[0].get::<_, i32>(0) + 1;
    match way {
        0 => client.batch_execute(&by_key).await,
        1 => {
            client.batch_execute("BEGIN").await?;
            client.batch_execute(&by_key).await?;
            client.batch_execute("COMMIT").await
        }
        2 | 3 => {
            client.batch_execute("BEGIN").await?;
            let lock = format!("SELECT v FROM accounts WHERE id = {id} FOR UPDATE");
            let v = seen(client.query(&lock, &[]).await?);
            let sql = format!("UPDATE accounts SET v = {v} WHERE id = {id}");
            client.batch_execute(&sql).await?;
            if way == 3 {
                client.batch_execute("SELECT sum(v) FROM accounts").await?;
            }
            client.batch_execute("COMMIT").await
        }
        _ => {
            let next = id + 1;
            let sql = format!("UPDATE accounts SET v = v + 1 WHERE id >= {id} AND id < {next}");
            client.batch_execute(&sql).await
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_blocks_lone_writes_and_postgres() -> anyhow::Result<()> {
    let cluster = Cluster::start(ACCOUNTS, 3, SETTINGS).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = (0..6usize).map(|who| {
        let (url, stop) = (cluster.url(who % 3), stop.clone());
        tokio::spawn(async move {
            let client = postgres::connect(&url).await?;
            let (mut added, mut failed) = ([0i32; 2], BTreeMap::new());
            for n in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (way, id) = ((n * 7 + who * 3) % 5, (n + who) % 2);
                let done = add(&client, way, id).await;
                if done.is_err() {
                    *failed.entry((way, code(&done))).or_insert(0u64) += 1;
                    client.batch_execute("ROLLBACK").await?;
                } else {
                    added[id] += 1;
                }
            }
            anyhow::Ok((added, failed))
        })
    });
    let clients: Vec<_> = clients.collect();
    tokio::time::sleep(Duration::from_secs(6)).await;
    stop.store(true, Ordering::SeqCst);
    let (mut sums, mut failures) = ([0i32; 2], BTreeMap::new());
    for client in clients {
        let (added, failed) = tokio::time::timeout(wait::DEADLINE, client).await???;
        (0..2).for_each(|id| sums[id] += added[id]);
        for (what, count) in failed {
            *failures.entry(what).or_insert(0) += count;
        }
    }
    cluster.drained().await?;
    let direct = cluster.postgres.connect().await?;
    let rows = direct.query("SELECT v FROM accounts WHERE id < 2 ORDER BY id", &[]);
    let values: Vec<i32> = rows.await?.iter().map(|row| row.get(0)).collect();
    ensure!(values == sums, "{values:?} {sums:?} {failures:?}");
    ensure!(
        sums[0] + sums[1] > 20,
        "hardly anything was done: {sums:?} {failures:?}"
    );
    Ok(())
}
