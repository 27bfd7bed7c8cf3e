//! A connection to Postgres that breaks while COMMIT is on its way: Postgres may carry it out long after. Until the backend is gone, its rows are Postgres's,
//! and nobody is answered from memory.

use anyhow::{Context, ensure};
use ripen_tests::postgres::{self, Options};
use ripen_tests::{Postgres, Ripen, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_postgres::Client;

const VICTIM: &[u8] = b"victim";

/// A COMMIT that has left Ripen and not arrived in Postgres. Ripen's side of the connection is closed.
struct Stuck {
    postgres: TcpStream,
    commit: Vec<u8>,
}

impl Stuck {
    /// Lets it arrive, and waits until Postgres has ended the session.
    async fn arrive(mut self) -> anyhow::Result<()> {
        self.postgres.write_all(&self.commit).await?;
        self.postgres.shutdown().await?;
        let mut rest = Vec::new();
        self.postgres.read_to_end(&mut rest).await?;
        Ok(())
    }
}

/// Carries everything between Ripen and Postgres, but takes away the connections of the client named "victim" when they send COMMIT.
async fn relay(
    listener: TcpListener,
    to: u16,
    stuck: mpsc::UnboundedSender<Stuck>,
) -> anyhow::Result<()> {
    loop {
        let (ripen, _) = listener.accept().await?;
        let postgres = TcpStream::connect(("127.0.0.1", to)).await?;
        tokio::spawn(carry(ripen, postgres, stuck.clone()));
    }
}

async fn carry(
    mut ripen: TcpStream,
    mut postgres: TcpStream,
    stuck: mpsc::UnboundedSender<Stuck>,
) -> anyhow::Result<()> {
    let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
    let mut victim = false;
    loop {
        tokio::select! {
            read = ripen.read(&mut up) => {
                let sent = &up[..read?];
                if sent.is_empty() {
                    return Ok(());
                }
                let has = |text: &[u8]| sent.windows(text.len()).any(|part| part == text);
                victim |= has(VICTIM);
                if victim && has(b"COMMIT") {
                    let commit = sent.to_vec();
                    drop(ripen);
                    // The test may have ended.
                    let _ = stuck.send(Stuck { postgres, commit });
                    return Ok(());
                }
                postgres.write_all(sent).await?;
            }
            read = postgres.read(&mut down) => {
                let said = &down[..read?];
                if said.is_empty() {
                    return Ok(());
                }
                ripen.write_all(said).await?;
            }
        }
    }
}

/// The value and the way it came.
async fn read(client: &Client) -> anyhow::Result<(i32, String)> {
    let value = client
        .query_one("SELECT v FROM t WHERE id = 1", &[])
        .await?;
    let route = client.query_one("SHOW ripen.route", &[]).await?;
    Ok((value.get(0), route.get(0)))
}

async fn until_from_memory(client: &Client) -> anyhow::Result<i32> {
    wait::until("the row is answered from memory", || async {
        let (value, route) = read(client).await?;
        Ok((route == "read").then_some(value))
    })
    .await
}

/// The statement that changes the row, in the transaction whose COMMIT is lost.
async fn stays_fenced(update: &str) -> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default()).await?;
    let direct = postgres.connect().await?;
    direct.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL); INSERT INTO t VALUES (1, 0), (2, 0)").await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let between = listener.local_addr()?.port();
    let (sender, mut stuck) = mpsc::unbounded_channel();
    let relay = tokio::spawn(relay(listener, postgres.port(), sender));
    let ripen = Ripen::start(
        &format!("postgres://postgres@127.0.0.1:{between}/postgres"),
        &[],
    )
    .await?;
    let reader = ripen.connect().await?;
    ensure!(until_from_memory(&reader).await? == 0);

    let victim = postgres::connect(&format!("{}?application_name=victim", ripen.url())).await?;
    victim.batch_execute("BEGIN").await?;
    victim.batch_execute(update).await?;
    let told = victim.batch_execute("COMMIT").await;
    ensure!(told.is_err(), "nobody can know that it committed");
    let stuck = stuck.recv().await.context("no COMMIT came by")?;
    // The backend still has its transaction. Whatever else goes on, the row is not answered from memory.
    for _ in 0..10 {
        let (value, route) = read(&reader).await?;
        ensure!(
            (value, route.as_str()) == (0, "pass"),
            "{value} by {route}\n{}",
            ripen.log()
        );
        reader.batch_execute("SELECT pg_sleep(0.1)").await?;
    }
    stuck.arrive().await?;
    let committed = direct
        .query_one("SELECT v FROM t WHERE id = 1", &[])
        .await?;
    ensure!(committed.get::<_, i32>(0) == 1, "the COMMIT did not arrive");
    let (value, _) = read(&reader).await?;
    ensure!(value == 1, "stale: {value}");
    ensure!(until_from_memory(&reader).await? == 1);
    ensure!(ripen.number("fences_open").await? == 0.0, "a fence is left");
    relay.abort();
    Ok(())
}

#[tokio::test]
async fn a_row_whose_commit_was_lost_stays_postgress_until_its_backend_is_gone()
-> anyhow::Result<()> {
    stays_fenced("UPDATE t SET v = 1 WHERE id = 1").await
}

#[tokio::test]
async fn a_table_whose_commit_was_lost_stays_postgress_until_its_backend_is_gone()
-> anyhow::Result<()> {
    stays_fenced("UPDATE t SET v = 1 WHERE v = 0 AND id < 2").await
}
