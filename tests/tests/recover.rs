//! Two of three nodes are lost for good, with rows pending and Postgres away: the third goes on alone by `ripen recover`, writes all that it has once, and the lost ones can do nothing any more.

use anyhow::{Context, ensure};
use ripen_tests::postgres::Stop;
use ripen_tests::{Cluster, wait};
use std::time::Duration;
use tokio_postgres::Client;

const SETTINGS: &[(&str, &str)] = &[
    ("write_behind", "public.*"),
    ("write_delay", "200ms"),
    ("upstream_wait", "2s"),
];

const SCHEMA: &str = "CREATE TABLE cells (id int PRIMARY KEY, v bigint NOT NULL); INSERT INTO cells SELECT i, 0 FROM generate_series(0, 11) i";

const SUM: &str = "SELECT string_agg(v::text, ',' ORDER BY id) FROM cells";

async fn values(client: &Client) -> anyhow::Result<Vec<i64>> {
    let mut all = Vec::new();
    for id in 0..12 {
        let row = client
            .query_one("SELECT v FROM cells WHERE id = $1", &[&id])
            .await?;
        all.push(row.get(0));
    }
    Ok(all)
}

async fn written(cluster: &Cluster) -> anyhow::Result<String> {
    let postgres = cluster.postgres.connect().await?;
    Ok(postgres.query_one(SUM, &[]).await?.get(0))
}

fn shown(values: &[i64]) -> String {
    let texts: Vec<String> = values.iter().map(i64::to_string).collect();
    texts.join(",")
}

/// Adds to rows until so many additions are acknowledged.
async fn add(client: &Client, expected: &mut [i64], times: usize) -> anyhow::Result<()> {
    for n in 0..times {
        let id = n % expected.len();
        let sql = "UPDATE cells SET v = v + 1 WHERE id = $1";
        let changed = client.execute(sql, &[&i32::try_from(id)?]).await?;
        ensure!(changed == 1, "{changed} rows of id {id}");
        expected[id] += 1;
    }
    Ok(())
}

/// What `ripen recover` says, and whether it has done it.
async fn recover(cluster: &Cluster, node: usize, words: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = cluster.node(node).recover(words).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    Ok((output.status.success(), said))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_goes_on_with_all_that_it_has() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(SCHEMA, 3, SETTINGS).await?;
    let mut expected = vec![0; 12];
    let (survivor, lost) = pending_rows_and_two_lost(&mut cluster, &mut expected).await?;
    let told = goes_on_alone(&mut cluster, survivor, &expected).await;
    told.with_context(|| cluster.logs())?;

    // The lost ones are not as lost as was thought: while Postgres is away, nobody but the others can tell them.
    cluster.start_again(lost[0])?;
    let former = wait::until("the former member takes clients", || async {
        Ok(Some(cluster.connect(lost[0]).await?))
    })
    .await?;
    let refused = former
        .execute("UPDATE cells SET v = v + 100 WHERE id = 1", &[])
        .await;
    ensure!(refused.is_err(), "a former member has taken a write");
    ensure!(
        cluster.leaders(&[survivor, lost[0]]).await == [survivor],
        "{}",
        cluster.logs()
    );

    cluster.postgres.start_again().await?;
    let said = cluster.refused(lost[0]).await?;
    ensure!(said.contains("was recovered by another node"), "{said}");
    ensure!(said.contains("it belongs to another cluster"), "{said}");
    cluster.ready(survivor).await?;
    let alone = cluster.connect(survivor).await?;
    alone.batch_execute("CALL ripen.flush()").await?;
    ensure!(
        written(&cluster).await? == shown(&expected),
        "{}",
        cluster.logs()
    );

    newcomers_take_the_lost_places(&mut cluster, survivor, &lost, &mut expected).await
}

/// Answers who is left and who is lost.
async fn pending_rows_and_two_lost(
    cluster: &mut Cluster,
    expected: &mut [i64],
) -> anyhow::Result<(usize, [usize; 2])> {
    let leader = cluster.leader().await?;
    let survivor = (leader + 1) % 3;
    let lost = [leader, (leader + 2) % 3];
    let mut clients = Vec::new();
    for node in 0..3 {
        let client = cluster.connect(node).await?;
        values(&client).await?;
        clients.push(client);
    }
    add(&clients[lost[0]], expected, 24).await?;
    clients[lost[0]].batch_execute("CALL ripen.flush()").await?;
    for client in &clients {
        ensure!(values(client).await? == expected);
    }
    cluster.postgres.stop(Stop::Immediate).await?;
    add(&clients[lost[0]], expected, 17).await?;
    add(&clients[survivor], expected, 30).await?;
    // Whoever answers from memory has everything that was acknowledged.
    ensure!(values(&clients[survivor]).await? == expected);
    let (done, said) = recover(cluster, survivor, &["--accept-loss"]).await?;
    ensure!(
        !done && said.contains("in use by another process"),
        "{said}"
    );
    cluster.kill9(lost[0]).await?;
    let (done, said) = recover(cluster, lost[0], &["--accept-loss"]).await?;
    ensure!(!done && said.contains("3 of 3 voters are there"), "{said}");
    cluster.kill9(lost[1]).await?;
    cluster.kill9(survivor).await?;
    Ok((survivor, lost))
}

async fn goes_on_alone(
    cluster: &mut Cluster,
    survivor: usize,
    expected: &[i64],
) -> anyhow::Result<()> {
    let (done, said) = recover(cluster, survivor, &[]).await?;
    ensure!(!done && said.contains("nothing has been changed"), "{said}");
    for words in ["last entry: ", "What may be lost", "does not answer"] {
        ensure!(said.contains(words), "no \"{words}\" in {said}");
    }
    // All twelve rows; those that a flush was under way with, and that changed again, count twice.
    let pending = said.split("pending: ").nth(1).unwrap_or_default();
    let pending: String = pending.chars().take_while(char::is_ascii_digit).collect();
    ensure!((12..=24).contains(&pending.parse::<u32>()?), "{said}");
    let (done, said) = recover(cluster, survivor, &["--accept-loss"]).await?;
    ensure!(done && said.contains("only voter"), "{said}");
    let (done, said) = recover(cluster, survivor, &["--accept-loss"]).await?;
    ensure!(!done && said.contains("nothing to recover"), "{said}");
    cluster.start_again(survivor)?;
    ensure!(cluster.leader_among(&[survivor]).await? == survivor);
    let client = cluster.connect(survivor).await?;
    // First it tries to reach Postgres.
    wait::until("what was pending is served", || async {
        Ok((values(&client).await? == expected).then_some(()))
    })
    .await
}

async fn newcomers_take_the_lost_places(
    cluster: &mut Cluster,
    survivor: usize,
    lost: &[usize; 2],
    expected: &mut [i64],
) -> anyhow::Result<()> {
    for node in lost {
        cluster.wipe(*node)?;
        cluster.restart(*node).await?;
    }
    wait::until("one more node may be lost", || async {
        let answer = cluster.node(survivor).admin("/safe").await?;
        Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
    })
    .await
    .with_context(|| cluster.logs())?;
    for node in [survivor, lost[0], lost[1]] {
        add(&cluster.connect(node).await?, expected, 12).await?;
    }
    let leader = cluster.leader().await?;
    cluster.kill9(leader).await?;
    let next = cluster.leader().await?;
    let client = cluster.connect(next).await?;
    add(&client, expected, 12).await?;
    cluster.drained().await?;
    ensure!(
        written(cluster).await? == shown(expected),
        "{}",
        cluster.logs()
    );
    let postgres = cluster.postgres.connect().await?;
    let sql =
        "SELECT count(*) FILTER (WHERE succeeded_by IS NOT NULL), count(*) FROM ripen.progress";
    let row = postgres.query_one(sql, &[]).await?;
    let (succeeded, all): (i64, i64) = (row.get(0), row.get(1));
    ensure!(
        (succeeded, all) == (1, 2),
        "{succeeded} of {all} logs are over"
    );
    tokio::time::timeout(Duration::from_secs(60), cluster.restart(leader)).await??;
    Ok(())
}
