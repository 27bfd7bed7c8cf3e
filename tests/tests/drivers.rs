//! Real drivers do their work on Postgres and through Ripen, with queued tables, and must see the same. Drivers of other languages are fetched by scripts/drivers.sh;
//! one that is not there is left out, and the test says so.

use anyhow::{Context, ensure};
use ripen_tests::parity::difference;
use ripen_tests::postgres::{Options, Postgres};
use ripen_tests::{Ripen, wait};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// One script on both sides.
async fn compare(
    program: &str,
    arguments: &[String],
    environment: &[(&str, String)],
    jdbc: bool,
) -> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default()).await?;
    let direct = postgres.create_database("direct").await?;
    let upstream = postgres.create_database("proxied").await?;
    let ripen = Ripen::start(
        &upstream,
        &[("write_behind", "public.*"), ("write_delay", "100ms")],
    )
    .await?;
    let mut said = Vec::new();
    for url in [direct, ripen.url()] {
        let url = if jdbc { jdbc_url(&url) } else { url };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(url)
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .kill_on_drop(true);
        let output = tokio::time::timeout(2 * wait::DEADLINE, command.output())
            .await
            .context("the driver hangs")??;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(
            output.status.success(),
            "{program} {arguments:?}:\n{out}\n{err}\n{}",
            ripen.log()
        );
        said.push(out.into_owned());
    }
    ensure!(
        said[0].lines().count() > 10,
        "the driver said nothing:\n{}",
        said[0]
    );
    if let Some(told) = difference(&said[0], &said[1]) {
        anyhow::bail!("{told}\n{}", ripen.log());
    }
    Ok(())
}

/// `postgres://user@host/db` as JDBC writes it.
fn jdbc_url(url: &str) -> String {
    let rest = url.trim_start_matches("postgres://");
    let (user, rest) = rest.split_once('@').unwrap_or(("postgres", rest));
    format!("jdbc:postgresql://{rest}?user={user}")
}

fn here(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("drivers")
        .join(name)
        .display()
        .to_string()
}

/// Where scripts/drivers.sh unpacks.
fn fetched(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/drivers")
        .join(path)
}

/// Whether a driver is there; says so if not.
fn has(what: &str, program: &str, path: &str) -> bool {
    let there = fetched(path).exists()
        && std::process::Command::new(program)
            .arg("--version")
            .output()
            .is_ok();
    if !there {
        use std::io::Write;
        let _ = writeln!(
            std::io::stderr(),
            "tests: {what} is left out: no {program} or no {path} (scripts/drivers.sh)"
        );
    }
    there
}

async fn python(script: &str, package: &str) -> anyhow::Result<()> {
    let path = "usr/lib/python3/dist-packages";
    if !has(package, "/usr/bin/python3", &format!("{path}/{package}")) {
        return Ok(());
    }
    let environment = [("PYTHONPATH", fetched(path).display().to_string())];
    compare("/usr/bin/python3", &[here(script)], &environment, false).await
}

#[tokio::test]
async fn psycopg_sees_the_same() -> anyhow::Result<()> {
    python("drive_psycopg.py", "psycopg").await
}

#[tokio::test]
async fn asyncpg_sees_the_same() -> anyhow::Result<()> {
    python("drive_asyncpg.py", "asyncpg").await
}

#[tokio::test]
async fn node_postgres_sees_the_same() -> anyhow::Result<()> {
    if !has("node-postgres", "node", "usr/share/nodejs/pg") {
        return Ok(());
    }
    let environment = [(
        "NODE_PATH",
        fetched("usr/share/nodejs").display().to_string(),
    )];
    compare("node", &[here("drive_node.js")], &environment, false).await
}

#[tokio::test]
async fn jdbc_sees_the_same() -> anyhow::Result<()> {
    if !has("JDBC", "javac", "usr/share/java/postgresql.jar") {
        return Ok(());
    }
    let jars = [
        "postgresql",
        "scram-client",
        "scram-common",
        "stringprep",
        "saslprep",
    ];
    let jars: Vec<String> = jars
        .iter()
        .map(|jar| {
            fetched(&format!("usr/share/java/{jar}.jar"))
                .display()
                .to_string()
        })
        .collect();
    compare(
        "java",
        &["-cp".to_owned(), jars.join(":"), here("DriveJdbc.java")],
        &[],
        true,
    )
    .await
}
