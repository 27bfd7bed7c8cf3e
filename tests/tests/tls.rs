//! TLS on both sides: what libpq's channel binding finds at the end of the way, and certificates that Postgres asks Ripen for.

use anyhow::{Context, ensure};
use ripen_tests::postgres::Options;
use ripen_tests::{Postgres, Ripen};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::process::Command;

const HBA: &str = "hostssl all bound 127.0.0.1/32 scram-sha-256
hostssl all shown 127.0.0.1/32 trust clientcert=verify-ca
hostssl all postgres 127.0.0.1/32 trust
hostnossl all postgres 127.0.0.1/32 trust
";

async fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().await.context("no such program")?;
    let (told, complaint) = (&output.stdout, &output.stderr);
    let complaint = String::from_utf8_lossy(complaint).into_owned();
    ensure!(output.status.success(), complaint);
    Ok(String::from_utf8_lossy(told).trim().to_owned())
}

/// A certificate and its key.
async fn certificate(folder: &Path, name: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
    let cert = folder.join(format!("{name}.pem"));
    let key = folder.join(format!("{name}.key"));
    let request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost";
    let mut openssl = Command::new("openssl");
    openssl.args(request.split(' ')).arg("-keyout").arg(&key);
    run(openssl.arg("-out").arg(&cert)).await?;
    Ok((cert, key))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("folders of tests have plain names")
}

async fn postgres(cert: &Path, key: &Path) -> anyhow::Result<Postgres> {
    let pem = std::fs::read_to_string(cert)? + &std::fs::read_to_string(key)?;
    let postgres = Postgres::start(Options::default().hba(HBA).tls(pem)).await?;
    let roles = "CREATE ROLE bound LOGIN PASSWORD 'secret'; CREATE ROLE shown LOGIN";
    postgres.connect().await?.batch_execute(roles).await?;
    Ok(postgres)
}

async fn psql(port: u16, login: &str) -> anyhow::Result<String> {
    let to = format!("host=127.0.0.1 port={port} dbname=postgres sslmode=require {login}");
    let mut psql = Command::new("psql");
    psql.env("PGPASSWORD", "secret")
        .args(["-XAtc", "SELECT current_user", &to]);
    run(&mut psql).await
}

#[tokio::test]
async fn a_channel_is_bound_through_the_same_certificate() -> anyhow::Result<()> {
    let folder = TempDir::with_prefix("ripen-tls-")?;
    let (cert, key) = certificate(folder.path(), "server").await?;
    let (other, other_key) = certificate(folder.path(), "other").await?;
    let postgres = postgres(&cert, &key).await?;
    let upstream = format!("{}?sslmode=require", postgres.url());
    let same = [("tls_cert", text(&cert)), ("tls_key", text(&key))];
    let mut ripen = Ripen::start(&upstream, &same).await?;
    for binding in ["require", "prefer", "disable"] {
        let login = format!("user=bound channel_binding={binding}");
        ensure!(psql(ripen.port(), &login).await? == "bound", binding);
    }
    ripen.stop().await?;
    let another = [("tls_cert", text(&other)), ("tls_key", text(&other_key))];
    let ripen = Ripen::start(&upstream, &another).await?;
    let login = "user=bound channel_binding=disable";
    ensure!(psql(ripen.port(), login).await? == "bound");
    let error = psql(ripen.port(), "user=bound channel_binding=require").await;
    ensure!(error.is_err(), "another certificate is bound to nothing");
    Ok(())
}

#[tokio::test]
async fn postgres_is_shown_the_certificate_that_it_asks_for() -> anyhow::Result<()> {
    let folder = TempDir::with_prefix("ripen-tls-")?;
    let (cert, key) = certificate(folder.path(), "server").await?;
    let postgres = postgres(&cert, &key).await?;
    let shown = format!("sslcert={}&sslkey={}", text(&cert), text(&key));
    for (more, let_in) in [(format!("&{shown}"), true), (String::new(), false)] {
        let upstream = format!("{}?sslmode=require{more}", postgres.url());
        let mut ripen = Ripen::start(&upstream, &[]).await?;
        let to = format!(
            "host=127.0.0.1 port={} dbname=postgres user=shown sslmode=disable",
            ripen.port()
        );
        let mut psql = Command::new("psql");
        let answer = run(psql.args(["-XAtc", "SELECT current_user", &to])).await;
        ensure!(answer.is_ok() == let_in, "{more}: {answer:?}");
        ripen.stop().await?;
    }
    Ok(())
}
