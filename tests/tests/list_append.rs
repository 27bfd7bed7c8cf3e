//! Many clients append to lists and read them in transactions, at every isolation level, with others beside them and processes that die; afterwards all that they saw must have an
//! explanation that Postgres's levels allow (`ripen_tests::lists`).
//!
//! `RIPEN_SECONDS` sets the duration of each run, `RIPEN_SEED` repeats the choices of one (not its timing).

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ripen_tests::lists::{End, History, Level, Seen, Step, What};
use ripen_tests::{Cluster, Pair, postgres};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

const KEYS: u32 = 8;

const SCHEMA: &str = "CREATE TABLE lists (id int PRIMARY KEY, v text NOT NULL);
    INSERT INTO lists SELECT g, '' FROM generate_series(0, 7) g";

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "100ms")];

/// Postgres says of these that nothing was done.
const UNDONE: [SqlState; 4] = [
    SqlState::T_R_SERIALIZATION_FAILURE,
    SqlState::T_R_DEADLOCK_DETECTED,
    SqlState::IN_FAILED_SQL_TRANSACTION,
    SqlState::LOCK_NOT_AVAILABLE,
];

/// What all clients of a run share.
struct Shared {
    begun: Instant,
    value: AtomicU64,
    stop: AtomicBool,
    level: Level,
}

impl Shared {
    fn new(level: Level) -> Arc<Shared> {
        Arc::new(Shared {
            begun: Instant::now(),
            value: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            level,
        })
    }

    fn now_us(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }
}

struct Session {
    /// Where it may connect, in turn.
    urls: Vec<String>,
    client: Option<Client>,
    rng: StdRng,
    shared: Arc<Shared>,
}

/// How a statement failed.
enum Failed {
    /// Nothing stays of its transaction.
    Undone,
    /// Nobody knows.
    Unknown,
}

fn failed(error: &tokio_postgres::Error) -> Failed {
    match error.code() {
        Some(code) if UNDONE.contains(code) => Failed::Undone,
        _ => Failed::Unknown,
    }
}

impl Session {
    async fn run(mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        while !self.shared.stop.load(Ordering::SeqCst) {
            let Some(client) = self.client.take() else {
                let url = self.urls[0].clone();
                self.urls.rotate_left(1);
                let connecting = postgres::connect(&url);
                let connected = tokio::time::timeout(Duration::from_secs(2), connecting).await;
                match connected {
                    Ok(Ok(client)) => self.client = Some(client),
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
                continue;
            };
            let (seen, whole) = self.transaction(&client).await;
            if whole {
                self.client = Some(client);
            }
            all.push(seen);
        }
        all
    }

    /// One transaction. Answers whether the connection is of use afterwards.
    async fn transaction(&mut self, client: &Client) -> (Seen, bool) {
        let shared = self.shared.clone();
        // Statements on their own are READ COMMITTED, whatever others are.
        let alone = shared.level != Level::Serializable && self.rng.random_bool(0.3);
        let level = if alone {
            Level::ReadCommitted
        } else {
            shared.level
        };
        let mut seen = Seen {
            steps: Vec::new(),
            end: End::Unknown,
            ended_us: 0,
            level,
        };
        let ended = self.work(client, alone, &mut seen).await;
        seen.ended_us = shared.now_us();
        let whole = match ended {
            Ok(()) => {
                seen.end = End::Committed;
                true
            }
            Err((Failed::Undone, _)) => {
                seen.end = End::RolledBack;
                client.batch_execute("ROLLBACK").await.is_ok()
            }
            Err((Failed::Unknown, committing)) => {
                if !committing {
                    seen.end = End::RolledBack;
                }
                false
            }
        };
        (seen, whole)
    }

    /// The error says whether it came when the transaction may have been committed.
    async fn work(
        &mut self,
        client: &Client,
        alone: bool,
        seen: &mut Seen,
    ) -> Result<(), (Failed, bool)> {
        if alone {
            let step = self.step(client, seen).await;
            return step.map_err(|error| (failed(&error), true));
        }
        let begin = match seen.level {
            Level::ReadCommitted => "BEGIN",
            Level::Snapshot => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            Level::Serializable => "BEGIN ISOLATION LEVEL SERIALIZABLE",
        };
        let before = |error: tokio_postgres::Error| (failed(&error), false);
        client.batch_execute(begin).await.map_err(before)?;
        for _ in 0..self.rng.random_range(1..=4) {
            self.step(client, seen).await.map_err(before)?;
        }
        let commit = client.batch_execute("COMMIT").await;
        commit.map_err(|error| (failed(&error), true))
    }

    async fn step(
        &mut self,
        client: &Client,
        seen: &mut Seen,
    ) -> Result<(), tokio_postgres::Error> {
        let key = self.rng.random_range(0..KEYS);
        let id = key as i32;
        let asked_us = self.shared.now_us();
        if self.rng.random_bool(0.5) {
            let value = self.shared.value.fetch_add(1, Ordering::SeqCst);
            // It may be there, whatever the answer.
            let what = What::Append(value);
            seen.steps.push(Step {
                asked_us,
                key,
                what,
            });
            let sql = "UPDATE lists SET v = v || $2 WHERE id = $1";
            client.execute(sql, &[&id, &format!("{value},")]).await?;
        } else {
            let sql = "SELECT v FROM lists WHERE id = $1";
            let list: String = client.query_one(sql, &[&id]).await?.get(0);
            let what = What::Read(values(&list));
            seen.steps.push(Step {
                asked_us,
                key,
                what,
            });
        }
        Ok(())
    }
}

fn values(list: &str) -> Vec<u64> {
    let texts = list.split_terminator(',');
    texts.map(|text| text.parse().expect("a number")).collect()
}

fn duration() -> Duration {
    let given = std::env::var("RIPEN_SECONDS").ok();
    Duration::from_secs(given.and_then(|given| given.parse().ok()).unwrap_or(6))
}

/// Starts clients that may connect to these.
fn start(urls: &[String], clients: u64, shared: &Arc<Shared>) -> (u64, JoinSet<Vec<Seen>>) {
    let given = std::env::var("RIPEN_SEED").ok();
    let given = given.and_then(|given| given.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    let mut sessions = JoinSet::new();
    for n in 0..clients {
        let mut urls = urls.to_vec();
        let first = n as usize % urls.len();
        urls.rotate_left(first);
        let session = Session {
            urls,
            client: None,
            rng: StdRng::seed_from_u64(seed ^ (n + 1)),
            shared: shared.clone(),
        };
        sessions.spawn(session.run());
    }
    (seed, sessions)
}

/// Stops them and judges what they saw. `direct`: Postgres, after a flush.
async fn judge(
    (seed, sessions): (u64, JoinSet<Vec<Seen>>),
    shared: &Shared,
    flush: impl AsyncFnOnce() -> anyhow::Result<Client>,
) -> anyhow::Result<()> {
    shared.stop.store(true, Ordering::SeqCst);
    let all: Vec<Seen> = sessions.join_all().await.into_iter().flatten().collect();
    let direct = flush().await?;
    let mut last = BTreeMap::new();
    for row in direct.query("SELECT id, v FROM lists", &[]).await? {
        let (id, list): (i32, String) = (row.get(0), row.get(1));
        last.insert(id as u32, values(&list));
    }
    let (level, count) = (shared.level, all.len());
    let history = History::new(all, last);
    let wrong = history.violations();
    ensure!(
        wrong.is_empty(),
        "RIPEN_SEED={seed} {} violations, first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
    let committed = history.committed();
    let _ = writeln!(
        std::io::stderr(),
        "RIPEN_SEED={seed} {level:?}: {committed} transactions of several statements were committed, of {count} in all"
    );
    ensure!(
        committed > 30,
        "RIPEN_SEED={seed} only {committed} were committed"
    );
    Ok(())
}

/// On one node, which is killed twice in between if `killed`.
async fn on_one_node(level: Level, killed: bool) -> anyhow::Result<()> {
    let mut pair = Pair::start(SCHEMA, SETTINGS).await?;
    let shared = Shared::new(level);
    let urls = [pair.ripen.url()];
    let sessions = start(&urls, 8, &shared);
    if killed {
        for _ in 0..2 {
            tokio::time::sleep(duration() / 3).await;
            pair.ripen.kill9().await?;
            pair.ripen.restart().await?;
        }
    }
    tokio::time::sleep(duration() / if killed { 3 } else { 1 }).await;
    judge(sessions, &shared, async || {
        let client = pair.ripen.connect().await?;
        client.batch_execute("CALL ripen.flush()").await?;
        pair.connect_direct().await
    })
    .await
    .with_context(|| pair.ripen.log())
}

/// On three nodes, of which the leader is killed.
async fn on_three_nodes(level: Level) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(SCHEMA, 3, SETTINGS).await?;
    let shared = Shared::new(level);
    let urls: Vec<String> = (0..3).map(|node| cluster.url(node)).collect();
    let sessions = start(&urls, 9, &shared);
    tokio::time::sleep(duration() / 2).await;
    let leader = cluster.leader().await?;
    cluster.kill9(leader).await?;
    tokio::time::sleep(duration() / 2).await;
    cluster.restart(leader).await?;
    judge(sessions, &shared, async || {
        cluster.drained().await?;
        cluster.postgres.connect().await
    })
    .await
    .with_context(|| cluster.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_committed() -> anyhow::Result<()> {
    on_one_node(Level::ReadCommitted, false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_committed_while_the_process_dies() -> anyhow::Result<()> {
    on_one_node(Level::ReadCommitted, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatable_read_beside_queued_writes() -> anyhow::Result<()> {
    on_one_node(Level::Snapshot, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serializable() -> anyhow::Result<()> {
    on_one_node(Level::Serializable, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_committed_while_the_leader_dies() -> anyhow::Result<()> {
    on_three_nodes(Level::ReadCommitted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatable_read_while_the_leader_dies() -> anyhow::Result<()> {
    on_three_nodes(Level::Snapshot).await
}
