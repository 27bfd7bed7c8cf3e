//! Three nodes act as one, whatever happens to them: clients on all nodes mix reads from memory, queued writes, and statements and transactions that pass through, while nodes are killed,
//! paused, cut off, stopped, added. Held against one single copy of the data (`ripen_tests::history`): nothing acknowledged is lost, doubled or torn, and no read is stale.
//!
//! `RIPEN_ROUNDS` sets the rounds of each kind of fault, `RIPEN_SEED` repeats the choices of a run (not its timing). How long writes and reads paused is printed, not judged.

mod cluster {
    pub mod judge;
    pub mod load;
    pub mod pauses;
    pub mod wire;
}

use anyhow::{Context, ensure};
use cluster::judge::{Judge, lost_with_its_leader, no_failures};
use cluster::load::{Clock, Load, Notes, Part, Role, SCHEMA};
use cluster::pauses::Pauses;
use cluster::wire::Lie;
use ripen_tests::postgres::{self, Options, Postgres, Stop};
use ripen_tests::{Cluster, wait};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;
use tokio_postgres::Client;

const SETTINGS: &[(&str, &str)] = &[
    ("write_behind", "public.*"),
    ("write_delay", "200ms"),
    ("upstream_wait", "2s"),
    ("barrier_timeout", "15s"),
    ("log_level", "info"),
];

fn rounds() -> u32 {
    setting("RIPEN_ROUNDS").unwrap_or(1)
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// A cluster under load, round after round.
struct Run {
    cluster: Cluster,
    judge: Judge,
    fresh: Arc<AtomicI64>,
    seed: u64,
}

impl Run {
    async fn start(nodes: usize) -> anyhow::Result<Run> {
        Ok(Run::of(Cluster::start(SCHEMA, nodes, SETTINGS).await?))
    }

    fn of(cluster: Cluster) -> Run {
        let seed = setting("RIPEN_SEED").unwrap_or_else(rand::random);
        let _ = writeln!(std::io::stderr(), "RIPEN_SEED={seed}");
        Run {
            cluster,
            judge: Judge::default(),
            fresh: Arc::new(AtomicI64::new(1)),
            seed,
        }
    }

    /// A client of each kind at that node.
    fn parts(&self, node: usize, roles: &[Role]) -> Vec<Part> {
        let part = |role: &Role| Part {
            node: Some(node),
            url: self.cluster.url(node),
            role: *role,
            again_when_stopped: false,
            lie: None,
        };
        roles.iter().map(part).collect()
    }

    fn load(&mut self, roles: &[Role]) -> Load {
        let nodes = self.cluster.running().into_iter();
        let parts = nodes.flat_map(|node| self.parts(node, roles)).collect();
        self.begin(parts)
    }

    fn begin(&mut self, parts: Vec<Part>) -> Load {
        self.seed = self.seed.wrapping_add(1 << 32);
        Load::begin(parts, self.fresh.clone(), self.seed)
    }

    async fn judge(&mut self, what: &str, notes: Vec<Notes>, clock: Clock) -> anyhow::Result<()> {
        let what = format!("{what}, RIPEN_SEED={}", self.seed);
        self.judge.round(&what, &self.cluster, notes, clock).await
    }
}

const ALL: &[Role] = &[Role::Reader, Role::Writer, Role::Anything];
const QUEUED: &[Role] = &[Role::Reader, Role::Queuer, Role::Queuer];
const READERS: &[Role] = &[Role::Reader, Role::Reader];

/// Needs a network that can be cut.
fn cannot_cut(cluster: &Cluster) -> bool {
    cluster.network.is_none()
}

// ---- the test itself

/// Clients of Postgres itself find nothing, and each lie that is put between them and Postgres is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_judge_find_out_who_lies() -> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default()).await?;
    postgres.connect().await?.batch_execute(SCHEMA).await?;
    let mut judge = Judge::default();
    let fresh = Arc::new(AtomicI64::new(1));
    for lie in [
        None,
        Some(Lie::Stale),
        Some(Lie::Lost),
        Some(Lie::Twice),
        None,
    ] {
        // On a busy machine few statements are made, and few of them are lied about.
        let tries = if lie.is_some() { 10 } else { 1 };
        let mut wrong = Vec::new();
        for _ in 0..tries {
            let parts = ALL.iter().chain(ALL).map(|role| Part {
                node: None,
                url: postgres.url(),
                role: *role,
                again_when_stopped: false,
                lie,
            });
            let load = Load::begin(parts.collect(), fresh.clone(), rand::random());
            load.pass(1200).await;
            let (notes, clock) = load.end().await;
            no_failures(&notes, |_, _| false)?;
            let witnesses = [("Postgres".to_owned(), postgres.connect().await?)];
            wrong = judge.wrong(&witnesses, notes, clock).await?;
            if !wrong.is_empty() {
                break;
            }
        }
        ensure!(wrong.is_empty() == lie.is_none(), "{lie:?}: {wrong:?}");
    }
    Ok(())
}

// ---- no faults

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_tell_the_same() -> anyhow::Result<()> {
    let mut run = Run::start(3).await?;
    let mut pauses = Pauses::of("without faults");
    for round in 0..rounds() {
        let load = run.load(ALL);
        load.pass(3000).await;
        let (notes, clock) = load.end().await;
        no_failures(&notes, |_, _| false).with_context(|| run.cluster.logs())?;
        pauses.note(&notes, Duration::ZERO, clock.now(), |_| true);
        run.judge(&format!("round {round}"), notes, clock).await?;
    }
    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(run.cluster.connect(node).await?);
    }
    passed_through_is_seen_everywhere(&clients)
        .await
        .with_context(|| run.cluster.logs())?;
    ddl_is_seen_everywhere(&clients)
        .await
        .with_context(|| run.cluster.logs())?;
    rights_are_seen_everywhere(&run.cluster, &clients)
        .await
        .with_context(|| run.cluster.logs())
}

async fn passed_through_is_seen_everywhere(clients: &[Client]) -> anyhow::Result<()> {
    for n in 1_000_000..1_000_040_i64 {
        let writer = &clients[n as usize % clients.len()];
        let sql = "UPDATE cells SET v = $1 WHERE id = 1 AND clock_timestamp() IS NOT NULL";
        ensure!(writer.execute(sql, &[&n]).await? == 1);
        for (node, reader) in clients.iter().enumerate() {
            let v: i64 = reader
                .query_one("SELECT v FROM cells WHERE id = 1", &[])
                .await?
                .get(0);
            ensure!(v == n, "node {node} tells {v} after {n} was acknowledged");
        }
    }
    Ok(())
}

async fn ddl_is_seen_everywhere(clients: &[Client]) -> anyhow::Result<()> {
    for n in 0..9 {
        let changer = &clients[n % clients.len()];
        let all = "SELECT * FROM cells WHERE id = 2";
        for client in clients {
            client.simple_query(all).await?;
        }
        changer
            .batch_execute(&format!(
                "ALTER TABLE cells ADD COLUMN w int NOT NULL DEFAULT {n}"
            ))
            .await?;
        for (node, client) in clients.iter().enumerate() {
            let row = client.query_one(all, &[]).await?;
            let told: i32 = row.try_get("w").with_context(|| format!("node {node}"))?;
            let wanted = i32::try_from(n + node)?;
            ensure!(
                told == wanted,
                "node {node} tells {told} instead of {wanted}"
            );
            let changed = client
                .execute("UPDATE cells SET w = w + 1 WHERE id = 2", &[])
                .await?;
            ensure!(changed == 1);
        }
        changer
            .batch_execute("ALTER TABLE cells DROP COLUMN w")
            .await?;
        for (node, client) in clients.iter().enumerate() {
            let columns = client.query_one(all, &[]).await?.len();
            ensure!(
                columns == 3,
                "node {node} tells {columns} columns, round {n}"
            );
            let gone = client
                .execute("UPDATE cells SET w = 1 WHERE id = 2", &[])
                .await;
            ensure!(
                gone.is_err(),
                "node {node} takes a write of a column that is gone"
            );
        }
    }
    Ok(())
}

async fn rights_are_seen_everywhere(cluster: &Cluster, clients: &[Client]) -> anyhow::Result<()> {
    clients[0]
        .batch_execute("CREATE ROLE app LOGIN; GRANT SELECT, UPDATE ON cells TO app")
        .await?;
    let mut apps = Vec::new();
    for node in 0..clients.len() {
        apps.push(postgres::connect(&cluster.url(node).replace("postgres@", "app@")).await?);
    }
    let refused =
        |error: tokio_postgres::Error| error.code().is_some_and(|code| code.code() == "42501");
    for n in 0..6 {
        let granter = &clients[n % clients.len()];
        let (read, write) = (
            "SELECT v FROM cells WHERE id = 3",
            "UPDATE cells SET v = v + 1 WHERE id = 3",
        );
        for (node, app) in apps.iter().enumerate() {
            for sql in [read, write, read] {
                app.simple_query(sql)
                    .await
                    .with_context(|| format!("{sql} at node {node}, round {n}"))?;
            }
        }
        granter
            .batch_execute("REVOKE SELECT, UPDATE ON cells FROM app")
            .await?;
        for (node, app) in apps.iter().enumerate() {
            for sql in [read, write] {
                let told = app.simple_query(sql).await;
                ensure!(
                    told.is_err_and(refused),
                    "node {node} allows {sql} after REVOKE, round {n}"
                );
            }
        }
        granter
            .batch_execute("GRANT SELECT, UPDATE ON cells TO app")
            .await?;
    }
    Ok(())
}

// ---- kills

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_nodes_lose_nothing() -> anyhow::Result<()> {
    let mut run = Run::start(3).await?;
    let mut follower = Pauses::of("a follower killed");
    let mut leader = Pauses::of("the leader killed");
    for round in 0..rounds() {
        let leads = run.cluster.leader().await?;
        kill(
            &mut run,
            (leads + 1) % 3,
            &format!("round {round}, follower killed"),
            &mut follower,
        )
        .await?;
        let leads = run.cluster.leader().await?;
        kill(
            &mut run,
            leads,
            &format!("round {round}, leader killed"),
            &mut leader,
        )
        .await?;
        kill_all(&mut run, round).await?;
    }
    Ok(())
}

async fn kill(run: &mut Run, victim: usize, what: &str, pauses: &mut Pauses) -> anyhow::Result<()> {
    let led = run.cluster.leader().await? == victim;
    let load = run.load(ALL);
    load.pass(700).await;
    let from = load.now();
    run.cluster.kill9(victim).await?;
    load.pass(2500).await;
    let to = load.now();
    run.cluster.restart(victim).await?;
    load.pass(700).await;
    let (notes, clock) = load.end().await;
    pauses.note(&notes, from, to, |part| part.node != Some(victim));
    let errors = no_failures(&notes, |part, what| {
        part.node == Some(victim) || (led && lost_with_its_leader(what))
    });
    run.cluster.settled().await?;
    run.judge(what, notes, clock).await?;
    errors.with_context(|| what.to_owned())
}

/// Of five voters two may be lost at once, the leader among them; of seven three.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn larger_clusters_go_on_without_their_minority() -> anyhow::Result<()> {
    for (nodes, what) in [
        (5, "the leader and one more of five killed"),
        (7, "the leader and two more of seven killed"),
    ] {
        let voters = nodes.to_string();
        let mut settings = SETTINGS.to_vec();
        settings.push(("voters", &voters));
        let mut run = Run::of(Cluster::start(SCHEMA, nodes, &settings).await?);
        all_have_a_voice(&run.cluster, nodes).await?;
        let mut pauses = Pauses::of(what);
        for round in 0..rounds() {
            let leads = run.cluster.leader().await?;
            let victims: Vec<usize> = (0..nodes / 2).map(|n| (leads + n) % nodes).collect();
            let load = run.load(ALL);
            load.pass(700).await;
            let from = load.now();
            for victim in &victims {
                run.cluster.kill9(*victim).await?;
            }
            load.pass(4000).await;
            let to = load.now();
            for victim in &victims {
                run.cluster.start_again(*victim)?;
            }
            run.cluster.settled().await?;
            load.pass(700).await;
            let (notes, clock) = load.end().await;
            let lost = |part: &Part| part.node.is_some_and(|node| victims.contains(&node));
            pauses.note(&notes, from, to, |part| !lost(part));
            let errors = no_failures(&notes, |part, what| {
                lost(part) || lost_with_its_leader(what)
            });
            run.judge(&format!("round {round} of {nodes}"), notes, clock)
                .await?;
            errors?;
        }
    }
    Ok(())
}

async fn all_have_a_voice(cluster: &Cluster, nodes: usize) -> anyhow::Result<()> {
    wait::until("all have a voice", || async {
        let client = cluster.connect(cluster.leader().await?).await?;
        let shown = client.query("SHOW ripen.nodes", &[]).await?;
        let voters = shown
            .iter()
            .filter(|row| row.get::<_, &str>("votes") == "true");
        Ok((voters.count() == nodes).then_some(()))
    })
    .await
    .with_context(|| cluster.logs())
}

async fn kill_all(run: &mut Run, round: u32) -> anyhow::Result<()> {
    let load = run.load(ALL);
    load.pass(700).await;
    for node in 0..3 {
        run.cluster.kill9(node).await?;
    }
    for node in 0..3 {
        run.cluster.start_again(node)?;
    }
    run.cluster.settled().await?;
    load.pass(700).await;
    let (notes, clock) = load.end().await;
    run.judge(&format!("round {round}, all killed"), notes, clock)
        .await
}

// ---- a pause

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stands_still_is_replaced_and_changes_nothing_afterwards()
-> anyhow::Result<()> {
    let mut run = Run::start(3).await?;
    let mut pauses = Pauses::of("the leader paused for 5 s");
    for round in 0..rounds() {
        let leader = run.cluster.leader().await?;
        let load = run.load(ALL);
        load.pass(700).await;
        let from = load.now();
        run.cluster.pause(leader).await?;
        load.pass(5000).await;
        let to = load.now();
        run.cluster.resume(leader).await?;
        load.pass(1500).await;
        let (notes, clock) = load.end().await;
        pauses.note(&notes, from, to, |part| part.node != Some(leader));
        let errors = no_failures(&notes, |part, what| {
            let its_own = part.node == Some(leader) && !what.starts_with("no answer");
            its_own || lost_with_its_leader(what)
        });
        run.cluster.settled().await?;
        run.judge(
            &format!("round {round}, leader {leader} paused"),
            notes,
            clock,
        )
        .await?;
        errors?;
    }
    Ok(())
}

// ---- partitions

/// Who is cut off, and how.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Nobody reaches it, and it reaches nobody.
    Off,
    /// It hears others, and they do not hear it.
    Mute,
    /// They hear it, and it does not hear them.
    Deaf,
    /// It and one other that does not lead do not reach each other.
    FromOne,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced() -> anyhow::Result<()> {
    partitions(
        true,
        &[
            (Cut::Off, "the leader cut off"),
            (Cut::Mute, "the leader not heard"),
            (Cut::Deaf, "the leader hears nobody"),
            (Cut::FromOne, "the leader cut off from one follower"),
        ],
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_cut_off_tells_nothing_stale() -> anyhow::Result<()> {
    partitions(
        false,
        &[
            (Cut::Off, "a follower cut off"),
            (Cut::Mute, "a follower not heard"),
            (Cut::Deaf, "a follower hears nobody"),
            (Cut::FromOne, "two followers cut off from each other"),
        ],
    )
    .await
}

async fn partitions(of_leader: bool, cuts: &[(Cut, &'static str)]) -> anyhow::Result<()> {
    let mut run = Run::start(3).await?;
    if cannot_cut(&run.cluster) {
        return Ok(());
    }
    let mut all_pauses: Vec<Pauses> = cuts.iter().map(|(_, what)| Pauses::of(what)).collect();
    for round in 0..rounds() {
        for ((cut, what), pauses) in cuts.iter().zip(&mut all_pauses) {
            let leader = run.cluster.leader().await?;
            let victim = if of_leader { leader } else { (leader + 1) % 3 };
            let others: Vec<usize> = (0..3).filter(|node| *node != victim).collect();
            let mut touched = vec![victim];
            let load = run.load(ALL);
            load.pass(700).await;
            let from = load.now();
            match cut {
                Cut::Off => run.cluster.part(&[victim])?,
                Cut::Mute => run.cluster.cut(victim, &others)?,
                Cut::Deaf => others
                    .iter()
                    .try_for_each(|other| run.cluster.cut(*other, &[victim]))?,
                Cut::FromOne => {
                    let other = (leader + 2) % 3;
                    touched.push(other);
                    run.cluster.cut(victim, &[other])?;
                    run.cluster.cut(other, &[victim])?;
                }
            }
            load.pass(2500).await;
            let to = load.now();
            run.cluster.heal()?;
            load.pass(1500).await;
            let (notes, clock) = load.end().await;
            pauses.note(&notes, from, to, |part| {
                !touched.iter().any(|node| part.node == Some(*node))
            });
            let errors = no_failures(&notes, |part, what| {
                let its_own = part.node == Some(victim) && !what.starts_with("no answer");
                its_own || (victim == leader && lost_with_its_leader(what))
            });
            run.cluster.settled().await?;
            let what = format!("round {round}, {what} (node {victim}, leader was {leader})");
            run.judge(&what, notes, clock).await?;
            errors.context(what)?;
        }
    }
    Ok(())
}

// ---- Postgres away

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_writes_go_on_while_postgres_is_away() -> anyhow::Result<()> {
    let mut run = Run::start(3).await?;
    let mut pauses = Pauses::of("Postgres away for 10 s");
    for round in 0..rounds() {
        let load = run.load(QUEUED);
        load.pass(700).await;
        in_memory_everywhere(&run.cluster).await?;
        load.pass(300).await;
        let from = load.now();
        run.cluster.postgres.stop(Stop::Immediate).await?;
        load.pass(10_000).await;
        let to = load.now();
        run.cluster.postgres.start_again().await?;
        load.pass(1500).await;
        let (notes, clock) = load.end().await;
        pauses.note(&notes, from, to, |_| true);
        let errors = no_failures(&notes, |_, _| false);
        run.judge(&format!("round {round}, Postgres away"), notes, clock)
            .await?;
        errors?;
    }
    Ok(())
}

/// Nobody knows who leads for a moment, and nobody else can be asked: clients of the others wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_while_postgres_is_away_is_a_delay() -> anyhow::Result<()> {
    let mut run = Run::start(3).await?;
    let mut pauses = Pauses::of("the leader killed while Postgres is away");
    // With writes under way the readers wait for these; without, they wait for whom to ask.
    for (round, roles) in (0..rounds()).flat_map(|round| [(round, QUEUED), (round, READERS)]) {
        let load = run.load(roles);
        load.pass(700).await;
        in_memory_everywhere(&run.cluster).await?;
        run.cluster.postgres.stop(Stop::Immediate).await?;
        load.pass(1000).await;
        let victim = run.cluster.leader().await?;
        let from = load.now();
        run.cluster.kill9(victim).await?;
        load.pass(4000).await;
        let to = load.now();
        run.cluster.postgres.start_again().await?;
        run.cluster.restart(victim).await?;
        load.pass(700).await;
        let (notes, clock) = load.end().await;
        pauses.note(&notes, from, to, |part| part.node != Some(victim));
        let errors = no_failures(&notes, |part, what| {
            part.node == Some(victim) || lost_with_its_leader(what)
        });
        let what = format!("round {round}, the leader killed while Postgres is away");
        run.judge(&what, notes, clock).await?;
        errors?;
    }
    Ok(())
}

/// Rows that a node has never read, or has read before it followed Postgres again, cannot be told while Postgres is away.
async fn in_memory_everywhere(cluster: &Cluster) -> anyhow::Result<()> {
    for node in cluster.running() {
        let client = cluster.connect(node).await?;
        for table in ["cells", "counters", "trios", "flips"] {
            let sql = format!("SELECT v FROM {table} WHERE id = ANY($1)");
            let ids: Vec<i32> = (0..12).collect();
            wait::until("rows are in memory", || async {
                client.query(&sql, &[&ids]).await?;
                let route = client.query_one("SHOW ripen.route", &[]).await?;
                Ok((route.get::<_, &str>(0) == "read").then_some(()))
            })
            .await?;
        }
    }
    Ok(())
}

// ---- members

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_in_front_of_another_database_is_refused() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(SCHEMA, 1, SETTINGS).await?;
    let postgres = cluster.postgres.connect().await?;
    postgres.batch_execute("CREATE DATABASE other").await?;
    let stray = cluster.add_astray("other")?;
    let said = cluster.refused(stray).await?;
    ensure!(
        said.contains("is not the database of its cluster"),
        "{said}"
    );
    // The others go on.
    let added = cluster.add().await?;
    let client = cluster.connect(added).await?;
    let sql = "UPDATE cells SET v = 5 WHERE id = 1";
    ensure!(client.execute(sql, &[]).await? == 1);
    cluster.drained().await?;
    let sql = "SELECT v FROM cells WHERE id = 1";
    ensure!(postgres.query_one(sql, &[]).await?.get::<_, i64>(0) == 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_leave_and_are_made_anew_under_load() -> anyhow::Result<()> {
    let mut run = Run::start(3).await?;
    let mut pauses = Pauses::of("a node joins, another's disk is lost, the first leaves");
    for round in 0..rounds() {
        let mut load = run.load(ALL);
        load.pass(700).await;
        let from = load.now();
        let joined = run.cluster.add().await?;
        for part in run.parts(joined, ALL) {
            load.join(part, run.seed);
        }
        load.pass(1500).await;
        let lost = (run.cluster.leader().await? + 1) % 3;
        run.cluster.kill9(lost).await?;
        run.cluster.wipe(lost)?;
        run.cluster.restart(lost).await?;
        load.pass(1500).await;
        run.cluster.leave(joined).await?;
        load.pass(1500).await;
        let to = load.now();
        let (notes, clock) = load.end().await;
        pauses.note(&notes, from, to, |part| {
            part.node != Some(lost) && part.node != Some(joined)
        });
        let errors = no_failures(&notes, |part, what| {
            let concerned = part.node == Some(lost) || part.node == Some(joined);
            concerned || lost_with_its_leader(what)
        });
        run.judge(
            &format!("round {round}, node {joined} joins, node {lost} is made anew"),
            notes,
            clock,
        )
        .await?;
        errors?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_statement_of_clients_that_reconnect() -> anyhow::Result<()> {
    let mut run = Run::start(3).await?;
    let mut pauses = Pauses::of("all restarted one after the other");
    for round in 0..rounds() {
        let part = |role: &Role| Part {
            node: None,
            url: format!("{}?load_balance_hosts=random", run.cluster.urls()),
            role: *role,
            again_when_stopped: true,
            lie: None,
        };
        let parts = ALL.iter().chain(ALL).chain(ALL).map(part).collect();
        let load = run.begin(parts);
        load.pass(700).await;
        let from = load.now();
        for node in 0..3 {
            run.cluster.drain(node).await?;
            run.cluster.stop(node).await?;
            run.cluster.restart(node).await?;
            safe(&run.cluster, node).await?;
        }
        load.pass(700).await;
        let to = load.now();
        let (notes, clock) = load.end().await;
        pauses.note(&notes, from, to, |_| true);
        let errors = no_failures(&notes, |_, what| {
            what.ends_with("connecting") || lost_with_its_leader(what)
        });
        run.judge(&format!("round {round}"), notes, clock).await?;
        errors?;
    }
    Ok(())
}

/// Waits until one more node may be lost.
async fn safe(cluster: &Cluster, node: usize) -> anyhow::Result<()> {
    wait::until("one more node may be lost", || async {
        let answer = cluster.node(node).admin("/safe").await?;
        Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
    })
    .await
    .with_context(|| cluster.logs())
}
