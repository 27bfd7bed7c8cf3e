//! Writers who remember what they were told, and the comparison with Postgres. Never decides when to crash what; `nothing_lost.rs` does.

mod writer;

use anyhow::{Context, ensure};
use ripen_tests::postgres::Options;
use ripen_tests::{Pair, wait};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
pub use writer::Writer;

/// How Ripen is set, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub rounds: u32,
    pub write_delay: &'static str,
    pub batch_factor: &'static str,
    /// Most logs; their number is another one at each start.
    pub logs: u8,
}

pub const WRITERS: i32 = 6;
pub const COUNTERS: i32 = 5;

const SCHEMA: &str = "
    CREATE TABLE counters (id int PRIMARY KEY, v bigint NOT NULL);
    INSERT INTO counters SELECT g, 0 FROM generate_series(0, 4) g;
    CREATE TABLE ups (id int PRIMARY KEY, v bigint NOT NULL);
    CREATE TABLE seqs (id int PRIMARY KEY, v bigint NOT NULL, note text);
    INSERT INTO seqs SELECT g, 0 FROM generate_series(0, 5) g;
    CREATE TABLE keys (id bigint PRIMARY KEY, who int NOT NULL);
    CREATE TABLE flips (id int PRIMARY KEY, v bigint NOT NULL);
    CREATE TABLE multi (id bigint PRIMARY KEY, grp bigint NOT NULL);
    CREATE TABLE pairs (id int PRIMARY KEY, v bigint NOT NULL);
    INSERT INTO pairs SELECT g, 0 FROM generate_series(0, 5) g;";

/// Both servers and all writers.
pub struct Crash {
    pub pair: Pair,
    writers: Vec<Writer>,
    running: Vec<JoinHandle<Writer>>,
    stop: Arc<AtomicBool>,
    url: String,
}

impl Crash {
    pub async fn start(plan: Plan, seed: u64) -> anyhow::Result<Crash> {
        let settings = [
            ("write_behind", "public.*"),
            ("write_delay", plan.write_delay),
            ("batch_factor", plan.batch_factor),
            ("logs", &plan.logs.to_string()),
            ("upstream_wait", "1s"),
            ("barrier_timeout", "5s"),
        ];
        let pair = Pair::start_with(Options::default(), SCHEMA, &settings).await?;
        let url = pair.ripen.url();
        let writers = (0..WRITERS).map(|id| Writer::new(id, seed)).collect();
        Ok(Crash {
            pair,
            writers,
            running: Vec::new(),
            stop: Arc::default(),
            url,
        })
    }

    /// Sets the writers to work.
    pub async fn write(&mut self) {
        self.stop = Arc::default();
        for writer in std::mem::take(&mut self.writers) {
            let work = writer.run(self.url.clone(), self.stop.clone());
            self.running.push(tokio::spawn(work));
        }
    }

    /// Time for the writers; chosen by chance, so nothing is waited for.
    pub async fn pass(&self, time_ms: u64) {
        tokio::time::sleep(Duration::from_millis(time_ms)).await;
    }

    /// Waits until a failpoint has cut a connection.
    pub async fn cut(&self, failpoint: &str) -> anyhow::Result<()> {
        let said = format!("failpoint {failpoint}: Cut");
        wait::until(&said, || async {
            Ok(self.pair.ripen.log().contains(&said).then_some(()))
        })
        .await
    }

    /// Lets the writers end their last statement.
    pub async fn rest(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for running in std::mem::take(&mut self.running) {
            self.writers.push(running.await.expect("a writer panicked"));
        }
    }

    /// Flushes, then compares Postgres with what the writers know.
    pub async fn check(&self, what: &str) -> anyhow::Result<()> {
        let direct = self.pair.connect_direct().await?;
        self.whole(&direct)
            .await
            .with_context(|| format!("{what}, before the flush"))?;
        wait::until("a flush", || async {
            let client = self.pair.ripen.connect().await?;
            client.batch_execute("CALL ripen.flush()").await?;
            Ok(Some(()))
        })
        .await
        .with_context(|| format!("{what}: {}", self.pair.ripen.log()))?;
        let compared = async {
            for writer in &self.writers {
                ensure!(
                    writer.wrong.is_empty(),
                    "writer {}: {:?}",
                    writer.id,
                    writer.wrong
                );
            }
            self.whole(&direct).await?;
            self.counted(&direct, "counters", |writer| &writer.counters)
                .await?;
            self.counted(&direct, "ups", |writer| &writer.ups).await?;
            self.counted(&direct, "pairs", |writer| &writer.pairs)
                .await?;
            self.sequences(&direct).await?;
            self.inserted(&direct).await?;
            let dead = direct
                .query_one("SELECT count(*) FROM ripen.dead_letter", &[])
                .await?;
            ensure!(dead.get::<_, i64>(0) == 0, "dead letters");
            Ok(())
        };
        compared
            .await
            .with_context(|| format!("{what}\n{}", self.pair.ripen.log()))
    }

    /// What must hold at any moment, also before a flush.
    async fn whole(&self, direct: &Client) -> anyhow::Result<()> {
        let torn = "SELECT grp FROM multi GROUP BY grp HAVING count(*) <> 3";
        let torn = direct.query(torn, &[]).await?;
        ensure!(torn.is_empty(), "{} multi-row inserts are torn", torn.len());
        let torn = "SELECT a.id FROM pairs a JOIN pairs b ON a.id % 2 = 0 AND b.id = a.id + 1 AND a.v <> b.v";
        ensure!(
            direct.query(torn, &[]).await?.is_empty(),
            "a two-row update is torn"
        );
        Ok(())
    }

    async fn counted(
        &self,
        direct: &Client,
        table: &str,
        tally: impl Fn(&Writer) -> &BTreeMap<i32, (i64, i64)>,
    ) -> anyhow::Result<()> {
        let found = numbers(direct, table).await?;
        for id in 0..COUNTERS {
            let (mut acked, mut unknown) = (0, 0);
            for writer in &self.writers {
                let (more_acked, more_unknown) = tally(writer).get(&id).copied().unwrap_or((0, 0));
                acked += more_acked;
                unknown += more_unknown;
            }
            let v = found.get(&i64::from(id)).copied().unwrap_or(0);
            ensure!(
                (acked..=acked + unknown).contains(&v),
                "{table} {id}: {v}, acknowledged {acked}, unknown {unknown}"
            );
        }
        Ok(())
    }

    async fn sequences(&self, direct: &Client) -> anyhow::Result<()> {
        let (seqs, flips) = (
            numbers(direct, "seqs").await?,
            numbers(direct, "flips").await?,
        );
        for writer in &self.writers {
            let v = seqs.get(&i64::from(writer.id)).copied();
            ensure!(
                v.is_some_and(|v| writer.seq_possible.contains(&v)),
                "seqs {}: {v:?}, possible {:?}",
                writer.id,
                writer.seq_possible
            );
            let v = flips.get(&i64::from(writer.id)).copied();
            ensure!(
                writer.flip_possible.contains(&v),
                "flips {}: {v:?}, possible {:?}",
                writer.id,
                writer.flip_possible
            );
        }
        Ok(())
    }

    async fn inserted(&self, direct: &Client) -> anyhow::Result<()> {
        for (sql, what) in [
            ("SELECT id FROM keys", "keys"),
            ("SELECT DISTINCT grp FROM multi", "multi"),
        ] {
            let found: HashSet<i64> = direct
                .query(sql, &[])
                .await?
                .iter()
                .map(|row| row.get(0))
                .collect();
            for writer in &self.writers {
                let (sure, gone) = match what {
                    "keys" => (&writer.keys, &writer.keys_not),
                    _ => (&writer.groups, &writer.groups_not),
                };
                let lost: Vec<_> = sure.difference(&found).collect();
                let extra: Vec<_> = gone.intersection(&found).collect();
                ensure!(
                    lost.is_empty() && extra.is_empty(),
                    "{what} of writer {}: lost {lost:?}, refused or deleted but there {extra:?}",
                    writer.id
                );
            }
        }
        Ok(())
    }

    /// What was done, in words.
    pub fn sum(&self) -> String {
        let total = |part: fn(&Writer) -> u64| self.writers.iter().map(part).sum::<u64>();
        format!(
            "acknowledged {}, unknown {}, refused {}, reconnects {}, refusals {:?}",
            total(|writer| writer.acked),
            total(|writer| writer.unknown),
            total(|writer| writer.refused),
            total(|writer| writer.reconnects),
            self.writers
                .iter()
                .flat_map(|writer| writer.refusals.iter())
                .collect::<BTreeMap<_, _>>()
        )
    }
}

async fn numbers(direct: &Client, table: &str) -> anyhow::Result<BTreeMap<i64, i64>> {
    let rows = direct
        .query(&format!("SELECT id::bigint, v FROM {table}"), &[])
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
