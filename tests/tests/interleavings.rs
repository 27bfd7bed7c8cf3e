//! Sessions at once, one statement after the other in orders that chance or PostgreSQL's isolation tests give: Postgres alone says which statements wait, and what each is answered; through
//! Ripen all of it must be the same.
//! `RIPEN_SEED=n RIPEN_ROUNDS=1` runs one script again. `make isolation` fetches PostgreSQL's files and runs them.

use anyhow::{Context, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ripen_tests::postgres::Options;
use ripen_tests::script::{Recorder, ask, run};
use ripen_tests::specs::Spec;
use ripen_tests::{Both, Pair, Postgres, Ripen, Three, postgres};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio_postgres::Client;

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL CHECK (v < 1000), g int NOT NULL, note text);
    CREATE INDEX ON t (g);
    CREATE TABLE c (id int PRIMARY KEY, t_id int REFERENCES t, n numeric(8, 2))";

/// By key, so that nothing has to wait for what was fenced.
const RESET: &str = "DELETE FROM c WHERE id IN (1, 2, 3, 4, 5); DELETE FROM t WHERE id IN (1, 2, 3, 4, 5);
    INSERT INTO t VALUES (1, 10, 1, 'one'), (2, 20, 1, 'two'), (3, 30, 2, NULL); INSERT INTO c VALUES (1, 1, 1.5), (2, NULL, 2)";

const SETTINGS: &[(&str, &str)] = &[("write_behind", "public.*"), ("write_delay", "50ms")];

fn wanted(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(otherwise, |text| {
        text.parse().expect("the variable is a number")
    })
}

/// Whoever closes a circle hears of it at once, as through Ripen.
fn with_quick_deadlocks() -> Options {
    Options::default().set("deadlock_timeout", "1ms")
}

/// A statement of a session, inside of a block or not.
fn statement(rng: &mut StdRng, inside: bool) -> String {
    let (id, other) = (rng.random_range(1..=4), rng.random_range(1..=4));
    let amount = rng.random_range(-5..=5);
    let lock = ["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"][rng.random_range(0..4)];
    match rng.random_range(0..if inside { 36 } else { 24 }) {
        0 | 1 => format!("SELECT * FROM t WHERE id = {id}"),
        2 if other % 2 == 0 => {
            format!("SELECT id, v FROM t WHERE id >= {id} AND id < 9 ORDER BY id")
        }
        2 => format!("SELECT id, v FROM t WHERE id IN ({id}, {other}) ORDER BY id"),
        3 => format!("SELECT id, v FROM t WHERE g = {} ORDER BY id", 1 + id % 2),
        4..=7 => format!("UPDATE t SET v = v + {amount} WHERE id = {id} RETURNING v"),
        8 => format!("UPDATE t SET v = {amount}, note = note || 'x' WHERE id = {id} AND v > 15"),
        9 => format!("UPDATE t SET g = {} WHERE id = {id}", 1 + other % 2),
        10 if other % 2 == 0 => {
            format!("UPDATE t SET v = v + 1 WHERE id BETWEEN {id} AND {other} + 1 AND g = 1")
        }
        10 => format!("UPDATE t SET v = v + 1 WHERE id IN ({id}, {other}) AND g = 1"),
        11 | 12 => format!("INSERT INTO t VALUES ({id}, {amount}, 2, 'new')"),
        13 => format!(
            "INSERT INTO t VALUES ({id}, {amount}, 1) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v RETURNING t.*"
        ),
        14 => format!("INSERT INTO t VALUES ({id}, 0, 2) ON CONFLICT DO NOTHING"),
        15 | 16 => format!("DELETE FROM t WHERE id = {id}"),
        17 => format!("INSERT INTO c VALUES ({id}, {other}, 1)"),
        18 => format!("UPDATE c SET t_id = {other} WHERE id = {id}"),
        19 => format!("DELETE FROM c WHERE id = {id}"),
        20 => format!("SELECT * FROM c WHERE id = {id}"),
        21 => format!("UPDATE t SET v = v + 2000 WHERE id = {id}"),
        22 | 23 => "BEGIN".to_owned(),
        24 | 25 => format!("SELECT v FROM t WHERE id = {id} FOR {lock}"),
        26 => format!("SELECT v FROM t WHERE id = {id} FOR {lock} NOWAIT"),
        27 => format!("SELECT v FROM t WHERE id = {id} FOR {lock} SKIP LOCKED"),
        28 => "SAVEPOINT s".to_owned(),
        29 => "ROLLBACK TO SAVEPOINT s".to_owned(),
        30 => "RELEASE SAVEPOINT s".to_owned(),
        31 => "ROLLBACK".to_owned(),
        32 => "SELECT sum(v) FROM t WHERE v + 0 > 0".to_owned(),
        _ => "COMMIT".to_owned(),
    }
}

/// A script of two or three sessions, as Postgres says it goes. Some blocks are of a higher isolation level. `None`: two wait at once, and which of them goes on first is left to chance.
async fn scripted(recorded: &str, rng: &mut StdRng) -> anyhow::Result<Option<String>> {
    let mut recorder = Recorder::new(recorded).await?;
    let sessions = &["a", "b", "c"][..rng.random_range(2..=3)];
    let mut open: BTreeSet<&str> = BTreeSet::new();
    for _ in 0..rng.random_range(6..25) {
        let name = sessions[rng.random_range(0..sessions.len())];
        if recorder.waits(name) {
            continue;
        }
        let sql = match statement(rng, open.contains(name)) {
            begin if begin == "BEGIN" && rng.random_range(0..8) == 0 => {
                "BEGIN ISOLATION LEVEL REPEATABLE READ".to_owned()
            }
            sql => sql,
        };
        if sql.starts_with("BEGIN") {
            open.insert(name);
        } else if ["COMMIT", "ROLLBACK"].contains(&sql.as_str()) {
            open.remove(name);
        }
        recorder.step(name, &sql).await?;
        if sessions.iter().filter(|name| recorder.waits(name)).count() > 1 {
            recorder.end().await?;
            return Ok(None);
        }
    }
    while let Some(name) = open.iter().copied().find(|name| !recorder.waits(name)) {
        recorder.step(name, "COMMIT").await?;
        open.remove(name);
    }
    ensure!(open.is_empty(), "everybody waits for everybody: {open:?}");
    Ok(Some(recorder.end().await?.0))
}

/// Where scripts are recorded: a database of plain Postgres, each script on the same rows.
async fn record(recorded: &str, seed: u64) -> anyhow::Result<Option<String>> {
    let direct = postgres::connect(recorded).await?;
    direct.batch_execute(RESET).await?;
    let mut rng = StdRng::seed_from_u64(seed);
    let script = scripted(recorded, &mut rng).await;
    script.with_context(|| format!("recorded from seed {seed}"))
}

async fn recording(server: &Postgres) -> anyhow::Result<String> {
    let recorded = server.create_database("recorded").await?;
    let direct = postgres::connect(&recorded).await?;
    direct.batch_execute(SCHEMA).await?;
    Ok(recorded)
}

/// So that "all passed through" cannot pass.
fn enough(rounds: u64, compared: u64, from_memory: u64) -> anyhow::Result<()> {
    let counts =
        format!("{compared} of {rounds} compared, {from_memory} without moving to Postgres");
    println!("{counts}");
    ensure!(
        rounds == 1 || (compared * 2 > rounds && from_memory * 2 > compared),
        "too few: {counts}"
    );
    Ok(())
}

#[tokio::test]
async fn random_sessions_say_the_same() -> anyhow::Result<()> {
    let (seed, rounds) = (wanted("RIPEN_SEED", 1), wanted("RIPEN_ROUNDS", 60));
    let pair = Pair::start_with(with_quick_deadlocks(), SCHEMA, SETTINGS).await?;
    let both = Both::of(pair, SCHEMA, &["t", "c"]).await?;
    let recorded = recording(&both.pair.postgres).await?;
    let (mut compared, mut from_memory) = (0, 0);
    for seed in seed..seed + rounds {
        let Some(script) = record(&recorded, seed).await? else {
            continue;
        };
        both.reset(RESET).await?;
        let moved = both.same(&script).await;
        let moved = moved.with_context(|| format!("RIPEN_SEED={seed} RIPEN_ROUNDS=1\n{script}"))?;
        compared += 1;
        from_memory += u64::from(moved == 0);
    }
    enough(rounds, compared, from_memory)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_sessions_at_three_nodes_say_the_same() -> anyhow::Result<()> {
    let (seed, rounds) = (wanted("RIPEN_SEED", 1001), wanted("RIPEN_ROUNDS", 30));
    let mut three = Three::start(SCHEMA, &["t", "c"], SETTINGS).await?;
    let recorded = recording(&three.cluster.postgres).await?;
    let (mut compared, mut from_memory) = (0, 0);
    for seed in seed..seed + rounds {
        let Some(script) = record(&recorded, seed).await? else {
            continue;
        };
        three.reset(RESET).await?;
        let moved = three.same(&script).await;
        let moved = moved.with_context(|| format!("RIPEN_SEED={seed} RIPEN_ROUNDS=1\n{script}"))?;
        compared += 1;
        from_memory += u64::from(moved == 0);
    }
    enough(rounds, compared, from_memory)
}

/// All tables are written behind from the moment they are made.
const EXCLUSIVE: &str = "write_delay = \"50ms\"\n\n[[table]]\npattern = \"public.*\"\nmode = \"write-behind\"\nexclusive = true\n";

/// How long a session may wait that no other lets go on.
const ENDS_BY_ITSELF: Duration = Duration::from_secs(15);

/// One order of a file's steps, on Postgres.
async fn recorded(
    url: &str,
    spec: &Spec,
    order: &[(&str, &str)],
) -> anyhow::Result<Option<(String, String)>> {
    let mut recorder = Recorder::new(url).await?;
    let (setups, teardowns): (Vec<_>, Vec<_>) = spec
        .sessions
        .iter()
        .map(|session| {
            let own = |sql: &Option<String>| Some((session.name.clone(), sql.clone()?));
            (own(&session.setup), own(&session.teardown))
        })
        .unzip();
    let order = order
        .iter()
        .map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned()));
    let all = setups.into_iter().flatten().chain(order);
    for (name, sql) in all.chain(teardowns.into_iter().flatten()) {
        if !recorder.patience(&name, ENDS_BY_ITSELF).await? {
            recorder.end().await?;
            return Ok(None);
        }
        recorder.step(&name, &sql).await?;
    }
    for session in &spec.sessions {
        recorder.patience(&session.name, ENDS_BY_ITSELF).await?;
    }
    Ok(Some(recorder.end().await?))
}

/// Rows come in any order where none was asked for.
fn in_any_order(said: &str) -> String {
    let (mut lines, mut rows) = (Vec::new(), Vec::new());
    for line in said.lines() {
        if line.starts_with("  done") || !line.starts_with("  ") {
            rows.sort_unstable();
            lines.append(&mut rows);
            lines.push(line);
        } else {
            rows.push(line);
        }
    }
    rows.sort_unstable();
    lines.append(&mut rows);
    lines.join("\n")
}

async fn prepare(client: &Client, statements: &[String]) {
    for sql in statements {
        ask(client, sql).await;
    }
}

/// How many orders of the file were compared, and what was otherwise. Of a file with very many orders some are taken, from all parts of it.
async fn compare(spec: &Spec, plain: &str, ripen: &Ripen) -> anyhow::Result<(usize, Vec<String>)> {
    let (mut compared, mut differences) = (0, Vec::new());
    let orders = spec.permutations()?;
    let most = wanted("RIPEN_ORDERS", 150) as usize;
    let step = orders.len().div_ceil(most).max(1);
    for order in orders.into_iter().step_by(step) {
        let direct = postgres::connect(plain).await?;
        prepare(&direct, &spec.setup).await;
        let expected = recorded(plain, spec, &order).await?;
        prepare(&direct, &spec.teardown).await;
        let Some((script, expected)) = expected else {
            continue;
        };
        compared += 1;
        let proxied = ripen.connect().await?;
        prepare(&proxied, &spec.setup).await;
        let said = run(&[ripen.url()], &script).await;
        prepare(&proxied, &spec.teardown).await;
        match said {
            Ok(said) if in_any_order(&said) == in_any_order(&expected) => {}
            Ok(said) => {
                differences.push(format!("{script}\nPostgres:\n{expected}\nRipen:\n{said}"))
            }
            Err(error) => {
                differences.push(format!("{script}\nPostgres:\n{expected}\nRipen: {error:#}"))
            }
        }
    }
    Ok((compared, differences))
}

/// `RIPEN_SPECS` has the files, `RIPEN_ONLY` names some of them, `RIPEN_ORDERS` says how many orders of each, `tests/isolation/exceptions` says what may differ, and why.
#[tokio::test]
#[ignore = "wants PostgreSQL's files: make isolation"]
async fn isolation_tests_say_the_same() -> anyhow::Result<()> {
    let folder = std::env::var("RIPEN_SPECS").context("RIPEN_SPECS: where are the files?")?;
    let only = std::env::var("RIPEN_ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split_whitespace().collect();
    let exceptions = Path::new(env!("CARGO_MANIFEST_DIR")).join("isolation/exceptions");
    let exceptions = std::fs::read_to_string(exceptions)?;
    let excepted: BTreeSet<&str> = exceptions
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let options = Options::default().set("max_prepared_transactions", "5");
    let server = Postgres::start(options).await?;
    let plain = server.create_database("plain").await?;
    let ripen = Ripen::start(&server.url(), &[("file", EXCLUSIVE)]).await?;
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| anyhow::Ok(entry?.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let (mut all, mut otherwise) = (0, Vec::new());
    for file in files {
        let name = file.file_stem().context("a file has a name")?;
        let name = name.to_string_lossy().into_owned();
        if !only.is_empty() && !only.contains(&name.as_str()) {
            continue;
        }
        let spec = Spec::parse(&std::fs::read_to_string(&file)?).context(name.clone())?;
        let (compared, differences) = compare(&spec, &plain, &ripen).await.context(name.clone())?;
        all += compared;
        println!("{name}: {compared} orders, {} otherwise", differences.len());
        for difference in &differences {
            println!("{difference}");
        }
        if !differences.is_empty() && !excepted.contains(name.as_str()) {
            otherwise.push(name);
        }
    }
    println!("{all} orders compared");
    if !otherwise.is_empty() {
        bail!("otherwise than on Postgres: {}", otherwise.join(" "));
    }
    Ok(())
}
