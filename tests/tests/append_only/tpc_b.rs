//! pgbench's own script whole, TPC-B, with the table that it only inserts into.

use super::ask::shown;
use anyhow::ensure;
use ripen_tests::postgres::Options;
use ripen_tests::{Pair, Postgres, Ripen};

const PGBENCH_TABLES: &str = "pgbench_accounts, pgbench_tellers, pgbench_branches, pgbench_history";

async fn pgbench(url: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = tokio::process::Command::new("pgbench");
    let output = command.args(arguments).arg(url).output().await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}\n{complained}");
    Ok(said)
}

/// How many statements went to Postgres.
async fn passed(pair: &Pair) -> anyhow::Result<u64> {
    let metrics = pair.ripen.admin("/metrics").await?;
    let lines = metrics
        .lines()
        .filter(|line| line.contains("kind=\"pass\""));
    let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.sum::<f64>() as u64)
}

/// pgbench's default script, with nothing left out.
#[tokio::test]
async fn tpc_b_runs_whole_without_postgres() -> anyhow::Result<()> {
    const CLIENTS: usize = 4;
    const EACH: usize = 200;
    let settings = [("write_behind", PGBENCH_TABLES), ("write_delay", "300ms")];
    let postgres = Postgres::start(Options::default()).await?;
    pgbench(&postgres.url(), &["-i", "-q", "-s", "1"]).await?;
    let ripen = Ripen::start(&postgres.url(), &settings).await?;
    let pair = Pair {
        direct: postgres.connect().await?,
        proxied: ripen.connect().await?,
        ripen,
        postgres,
    };
    for mode in ["simple", "prepared"] {
        // What pgbench asks at its start, before it measures, is not part of the script: one transaction for each client tells how much that is.
        let (clients, each) = (CLIENTS.to_string(), EACH.to_string());
        let arguments = ["-n", "-M", mode, "-c", &clients, "-j", "2", "-t"];
        let nothing = passed(&pair).await?;
        pgbench(&pair.ripen.url(), &[&arguments[..], &["1"]].concat()).await?;
        let before = passed(&pair).await?;
        let said = pgbench(&pair.ripen.url(), &[&arguments[..], &[&each]].concat()).await?;
        let all = CLIENTS * EACH;
        ensure!(said.contains(&format!("{all}/{all}")), "{said}");
        let (first, second) = (before - nothing, passed(&pair).await? - before);
        ensure!(
            second <= first,
            "{mode}: {first}, then {second} statements passed"
        );
        let moved = pair.promotions().await?;
        ensure!(moved.is_empty(), "{mode}: {moved:?}");
    }
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches), \
         (SELECT sum(delta) FROM pgbench_history), (SELECT count(*) FROM pgbench_history)";
    let found = shown(&pair.proxied, sums).await?;
    let numbers: Vec<&str> = found.split(' ').collect();
    ensure!(numbers[..4].iter().all(|sum| *sum == numbers[0]), "{found}");
    ensure!(
        numbers[4] == (2 * CLIENTS * (EACH + 1)).to_string(),
        "{found}"
    );
    ensure!(found == shown(&pair.direct, sums).await?);
    let letters = shown(&pair.direct, "SELECT count(*) FROM ripen.dead_letter").await?;
    ensure!(letters == "0", "{letters} dead letters");
    Ok(())
}
