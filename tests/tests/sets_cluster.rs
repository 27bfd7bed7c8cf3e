//! Sets of rows on the nodes of a cluster, and a table that is held whole on each: rows move between sets by every way there is, through all nodes and in Postgres behind their backs, while sets
//! are read on all nodes, and while the leader is killed. Every answer is judged: nothing acknowledged is missing, nothing is shown twice or half.

use anyhow::{Context, ensure};
use ripen_tests::{Cluster, wait};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Row};

const BINS: i64 = 4;
/// Each is moved by one writer, through the nodes.
const MOVED: usize = 12;
/// Of two rows each, moved together, in Postgres directly.
const PAIRS: i64 = 4;

const SCHEMA: &str =
    "CREATE TABLE items (id int PRIMARY KEY, bin int NOT NULL, v bigint NOT NULL, note text);
    CREATE INDEX ON items (bin);
    INSERT INTO items SELECT g, 0, 0 FROM generate_series(0, 11) g;
    INSERT INTO items SELECT g, 0, 0 FROM generate_series(100, 107) g;";

/// In which bin a row is after so many moves.
fn bin(v: i64) -> i64 {
    v * 7 / 3 % BINS
}

/// A row that is moved through the nodes.
#[derive(Default)]
struct Moved {
    begun: AtomicI64,
    acked: AtomicI64,
}

#[derive(Default)]
struct Model {
    moved: [Moved; MOVED],
    stop: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Model {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn report(&self, what: String) {
        self.wrong.lock().expect("nobody panics with it").push(what);
    }

    fn acked(&self) -> Vec<i64> {
        let moved = self.moved.iter();
        moved.map(|row| row.acked.load(Ordering::SeqCst)).collect()
    }

    /// What is wrong with rows (id, bin, v) of these bins, as one statement showed them. `acked`: before it began.
    fn judge(&self, acked: &[i64], bins: &[i64], rows: &[(i64, i64, i64)]) -> Option<String> {
        for (id, moved) in self.moved.iter().enumerate() {
            let window = acked[id]..=moved.begun.load(Ordering::SeqCst);
            let mut shown = rows.iter().filter(|row| row.0 == id as i64);
            let first = shown.next();
            if shown.next().is_some() {
                return Some(format!("{id} is there twice"));
            }
            let right = match first {
                Some((_, bin_shown, v)) => window.contains(v) && *bin_shown == bin(*v),
                None => window.clone().any(|v| !bins.contains(&bin(v))),
            };
            if !right {
                return Some(format!("{id} is {first:?} of {bins:?}, not in {window:?}"));
            }
        }
        for pair in 0..PAIRS {
            let of_pair = |row: &&(i64, i64, i64)| row.0 >= 100 && (row.0 - 100) / 2 == pair;
            let shown: Vec<_> = rows.iter().filter(of_pair).collect();
            let whole = match shown[..] {
                [] => bins.len() < BINS as usize,
                [one, other] => one.1 == other.1 && one.2 == other.2,
                _ => false,
            };
            if !whole {
                return Some(format!("a pair is torn: {shown:?} of {bins:?}"));
            }
        }
        None
    }
}

fn row(row: &Row) -> (i64, i64, i64) {
    let (id, bin): (i32, i32) = (row.get(0), row.get(1));
    (i64::from(id), i64::from(bin), row.get(2))
}

/// Connects until somebody answers; nodes are killed.
async fn connected(url: &str, model: &Model) -> Option<Client> {
    while model.goes_on() {
        if let Ok(client) = ripen_tests::postgres::connect(url).await {
            return Some(client);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// Reads sets of one bin, of several, and all there is.
async fn read(url: String, model: Arc<Model>, whole: &'static str, mut at: i64) {
    while let Some(client) = connected(&url, &model).await {
        while model.goes_on() && !client.is_closed() {
            at += 1;
            let acked = model.acked();
            let bins: Vec<i64> = match at % 4 {
                0 => (0..BINS).collect(),
                1 => vec![at / 4 % BINS, (at / 4 + 1) % BINS],
                _ => vec![at / 4 % BINS],
            };
            let answer = match &bins[..] {
                [one] => {
                    let sql = "SELECT id, bin, v FROM items WHERE bin = $1";
                    client.query(sql, &[&(*one as i32)]).await
                }
                several if several.len() < BINS as usize => {
                    let several: Vec<i32> = several.iter().map(|bin| *bin as i32).collect();
                    let sql = "SELECT id, bin, v FROM items WHERE bin = ANY($1)";
                    client.query(sql, &[&several]).await
                }
                _ => client.query(whole, &[]).await,
            };
            // Who fails has not been told anything.
            if let Ok(rows) = answer {
                let rows: Vec<_> = rows.iter().map(row).collect();
                model.reads.fetch_add(1, Ordering::SeqCst);
                if let Some(wrong) = model.judge(&acked, &bins, &rows) {
                    model.report(wrong);
                    model.stop.store(true, Ordering::SeqCst);
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Moves rows, each by statements that are queued, pass through, or are in a block. A row whose move failed is left alone: nobody knows what became of it.
async fn write(urls: Vec<String>, model: Arc<Model>, rows: Vec<usize>) {
    let mut left = rows;
    for url in urls.iter().cycle() {
        let Some(mut client) = connected(url, &model).await else {
            return;
        };
        for _ in 0..20 {
            if left.is_empty() || !model.goes_on() {
                return;
            }
            for place in (0..left.len()).rev() {
                let id = left[place];
                let moved = &model.moved[id];
                let v = moved.begun.fetch_add(1, Ordering::SeqCst) + 1;
                let done = step(&mut client, id as i32, v).await;
                match done {
                    Ok(()) => {
                        moved.acked.store(v, Ordering::SeqCst);
                        model.writes.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => {
                        if error.downcast_ref::<tokio_postgres::Error>().is_none() {
                            model.report(format!("{id} as of {v}: {error}"));
                        }
                        left.swap_remove(place);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn step(client: &mut Client, id: i32, v: i64) -> anyhow::Result<()> {
    let to = bin(v) as i32;
    let by_key = "UPDATE items SET bin = $2, v = $3 WHERE id = $1";
    // What passes through keeps all sets of the table from memory for a while.
    let done = match (v + i64::from(id)) % 24 {
        0 => {
            let filtered = "UPDATE items SET bin = $2, v = $3 WHERE id + 0 = $1";
            client.execute(filtered, &[&id, &to, &v]).await?
        }
        1..=6 => {
            let block = client.transaction().await?;
            block.execute(by_key, &[&id, &to, &v]).await?;
            let own = "SELECT id, bin, v FROM items WHERE bin = $1";
            let seen = block.query(own, &[&to]).await?;
            let own = (i64::from(id), i64::from(to), v);
            ensure!(
                seen.iter().any(|seen| row(seen) == own),
                "lacks its own row"
            );
            block.commit().await?;
            1
        }
        7..=9 => {
            let anew = "INSERT INTO items VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET bin = excluded.bin, v = excluded.v";
            client.execute(anew, &[&id, &to, &v]).await?
        }
        _ => client.execute(by_key, &[&id, &to, &v]).await?,
    };
    ensure!(done == 1, "{done} rows");
    Ok(())
}

/// Moves pairs in Postgres itself.
async fn outside(mut client: Client, model: Arc<Model>) -> anyhow::Result<()> {
    for v in 1_i64.. {
        if !model.goes_on() {
            break;
        }
        let first = 100 + (v % PAIRS * 2) as i32;
        let (to, both) = (
            bin(v) as i32,
            "UPDATE items SET bin = $2, v = $3 WHERE id = $1",
        );
        let transaction = client.transaction().await?;
        transaction.execute(both, &[&first, &to, &v]).await?;
        transaction.execute(both, &[&(first + 1), &to, &v]).await?;
        transaction.commit().await?;
        // While the stream has not told what was just loaded, sets are not told from memory.
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Ok(())
}

async fn sum(cluster: &Cluster, name: &str) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for node in cluster.running() {
        sum += cluster.node(node).number(name).await?;
    }
    Ok(sum)
}

/// Each node tells a set from memory.
async fn warm(cluster: &Cluster, sql: &str) -> anyhow::Result<()> {
    for node in cluster.running() {
        let client = cluster.connect(node).await?;
        wait::until("each node tells sets from memory", || async {
            client.query(sql, &[]).await?;
            let route = client.query_one("SHOW ripen.route", &[]).await?;
            Ok((route.get::<_, &str>(0) == "read").then_some(()))
        })
        .await?;
    }
    Ok(())
}

async fn run(settings: &[(&str, &str)], whole: &'static str) -> anyhow::Result<()> {
    let mut all = vec![("write_behind", "public.*"), ("write_delay", "50ms")];
    all.extend_from_slice(settings);
    let mut cluster = Cluster::start(SCHEMA, 3, &all).await?;
    warm(&cluster, whole).await?;
    let model = Arc::new(Model::default());
    let mut tasks: Vec<JoinHandle<()>> = Vec::new();
    let urls: Vec<String> = cluster
        .running()
        .iter()
        .map(|node| cluster.url(*node))
        .collect();
    for (at, url) in urls.iter().enumerate() {
        for reader in 0..2 {
            let reading = read(url.clone(), model.clone(), whole, (at * 2 + reader) as i64);
            tasks.push(tokio::spawn(reading));
        }
        let mut from_here = urls.clone();
        from_here.rotate_left(at);
        let rows = (0..MOVED).filter(|id| id % urls.len() == at).collect();
        tasks.push(tokio::spawn(write(from_here, model.clone(), rows)));
    }
    let disturb = tokio::spawn(outside(cluster.postgres.connect().await?, model.clone()));
    pass(&model, 6_000).await;
    let (hits, reads) = (
        sum(&cluster, "set_hits").await?,
        model.reads.load(Ordering::SeqCst),
    );
    let leader = cluster.leader().await?;
    cluster.kill9(leader).await?;
    pass(&model, 4_000).await;
    cluster.restart(leader).await?;
    pass(&model, 4_000).await;
    model.stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await?;
    }
    disturb.await??;
    let wrong = model.wrong.lock().expect("nobody panics with it").clone();
    ensure!(wrong.is_empty(), "{wrong:#?}\n{}", cluster.logs());
    let writes = model.writes.load(Ordering::SeqCst);
    eprintln!(
        "{hits} of {reads} reads of sets from memory before the leader was killed, {writes} moves"
    );
    ensure!(
        writes > 100 && reads > 100,
        "{writes} writes, {reads} reads: nothing was tried"
    );
    ensure!(
        hits > reads as f64 / 20.0,
        "{hits} of {reads} sets came from memory"
    );
    finally_equal(&cluster, whole).await
}

async fn pass(model: &Model, time_ms: u64) {
    for _ in 0..time_ms / 100 {
        if !model.goes_on() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// When all is written, each node shows what Postgres has, from memory.
async fn finally_equal(cluster: &Cluster, whole: &str) -> anyhow::Result<()> {
    cluster.drained().await?;
    let direct = cluster.postgres.connect().await?;
    let sorted = |rows: Vec<Row>| {
        let mut rows: Vec<_> = rows.iter().map(row).collect();
        rows.sort_unstable();
        rows
    };
    let real = sorted(direct.query("SELECT id, bin, v FROM items", &[]).await?);
    for node in cluster.running() {
        let client = cluster.connect(node).await?;
        wait::until("a node shows all from memory", || async {
            let told = sorted(client.query(whole, &[]).await?);
            let route = client.query_one("SHOW ripen.route", &[]).await?;
            Ok((told == real && route.get::<_, &str>(0) == "read").then_some(()))
        })
        .await
        .with_context(|| format!("node {node}, {real:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_are_never_stale_on_any_node() -> anyhow::Result<()> {
    run(
        &[],
        "SELECT id, bin, v FROM items WHERE bin = ANY('{0,1,2,3}')",
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resident_table_is_never_stale_on_any_node() -> anyhow::Result<()> {
    run(&[("resident", "true")], "SELECT id, bin, v FROM items").await
}
