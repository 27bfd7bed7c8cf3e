//! Every script of tests/parity runs on Postgres and through Ripen, in each way a table can be cached and each protocol, and must say the same to the byte.
//! `PARITY=crud` in the environment runs only scripts whose name contains the word.

use anyhow::{Context, ensure};
use ripen_tests::parity::{PROTOCOLS, Protocol, difference, run};
use ripen_tests::postgres::{self, Options, Postgres};
use ripen_tests::wait;
use ripen_tests::{Ripen, wire};
use std::path::Path;

/// What cannot be equal, each with its reason. A step whose statement contains the text is left out of the comparison.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// The one error that Ripen words itself as Postgres would: a statement that was prepared only here has other columns by now. Whether it was is a matter
/// of time, and the line in Postgres's source is a matter of its version, so file and line are left out of the comparison.
const OWN_WORDS: &str = "R=\"RevalidateCachedQuery\"";

#[tokio::test]
async fn tables_off_are_told_as_postgres_tells() -> anyhow::Result<()> {
    compare("[[table]]\npattern = \"*.*\"\nmode = \"off\"")
        .await
        .map(drop)
}

#[tokio::test]
async fn cached_tables_are_told_as_postgres_tells() -> anyhow::Result<()> {
    compare("[[table]]\npattern = \"*.*\"\nmode = \"read-through\"")
        .await
        .map(drop)
}

#[tokio::test]
async fn queued_tables_are_told_as_postgres_tells() -> anyhow::Result<()> {
    compare("write_behind = [\"*.*\"]\nwrite_delay = \"200ms\"")
        .await
        .map(drop)
}

#[tokio::test]
async fn written_through_tables_are_told_as_postgres_tells() -> anyhow::Result<()> {
    compare("write_behind = [\"*.*\"]\nwrite_delay = \"0\"")
        .await
        .map(drop)
}

/// Whatever a statement asks for, memory has it, if it can be computed at all.
#[tokio::test]
async fn resident_tables_are_told_as_postgres_tells() -> anyhow::Result<()> {
    let settings = "resident = true\nwrite_behind = [\"*.*\"]\nwrite_delay = \"200ms\"";
    let from_memory = compare(settings).await?;
    println!("{from_memory} sets from memory");
    // Each script is there for each protocol; most statements are by key, or make something.
    ensure!(
        from_memory > 40.0,
        "only {from_memory} sets came from memory: nothing was tried"
    );
    Ok(())
}

/// All scripts in all protocols, on two databases of one server. Scripts leave nothing behind, so that one Ripen sees them all. Answers how many reads of sets
/// came from memory.
async fn compare(settings: &str) -> anyhow::Result<f64> {
    let postgres = Postgres::start(Options::default()).await?;
    postgres.create_database("direct").await?;
    let upstream = postgres.create_database("proxied").await?;
    let ripen = Ripen::start(&upstream, &[("file", settings)]).await?;
    let mut differences = String::new();
    for protocol in PROTOCOLS {
        for (script, text) in scripts()? {
            let direct = said(&text, postgres.port(), "direct", protocol).await?;
            let told = match said(&text, ripen.port(), "proxied", protocol).await {
                Ok(proxied) => difference(&comparable(&direct), &comparable(&proxied)),
                Err(error) => Some(format!("broke off: {error:#}")),
            };
            if let Some(told) = told {
                differences += &format!("{script} in {protocol:?}, {told}\n");
            }
        }
    }
    ensure!(
        differences.is_empty(),
        "with\n{settings}\n{differences}\n{}",
        ripen.log()
    );
    ripen.number("set_hits").await
}

fn comparable(said: &str) -> String {
    let place = |field: &&str| !field.starts_with("F=") && !field.starts_with("L=");
    let line = |line: &str| match line.contains(OWN_WORDS) {
        true => line.split(' ').filter(place).collect::<Vec<_>>().join(" "),
        false => line.to_owned(),
    };
    said.lines().map(|text| line(text) + "\n").collect()
}

async fn said(text: &str, port: u16, database: &str, protocol: Protocol) -> anyhow::Result<String> {
    tokio::time::timeout(2 * wait::DEADLINE, run(text, port, database, protocol))
        .await
        .context("takes too long")?
}

fn scripts() -> anyhow::Result<Vec<(String, String)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity");
    let wanted = std::env::var("PARITY").unwrap_or_default();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        if name.contains(&wanted) {
            let text = std::fs::read_to_string(&path)?;
            let kept: Vec<&str> = text
                .split("\n\n")
                .filter(|step| !EXCEPTIONS.iter().any(|(part, _)| step.contains(part)))
                .collect();
            found.push((name, kept.join("\n\n")));
        }
    }
    ensure!(!found.is_empty(), "no script in {}", folder.display());
    found.sort();
    Ok(found)
}

/// A comparison that could not fail would be worth nothing.
#[tokio::test]
async fn a_different_server_is_noticed() -> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default()).await?;
    postgres.create_database("one").await?;
    let url = postgres.create_database("two").await?;
    postgres::connect(&url)
        .await?
        .batch_execute("ALTER DATABASE two SET TimeZone = 'Asia/Tokyo'")
        .await?;
    let script = "SELECT '2024-01-01 00:00+00'::timestamptz";
    let one = run(script, postgres.port(), "one", Protocol::Simple).await?;
    let two = run(script, postgres.port(), "two", Protocol::Simple).await?;
    ensure!(difference(&one, &two).is_some(), "{one}{two}");
    ensure!(difference(&one, &one).is_none());
    let [here, there] = [
        "E C=\"0A000\" R=\"RevalidateCachedQuery\"",
        "E C=\"0A000\" F=\"plancache.c\" L=\"7\" R=\"RevalidateCachedQuery\"",
    ];
    ensure!(comparable(here) == comparable(there));
    ensure!(comparable("E C=\"0A000\" L=\"7\"") == "E C=\"0A000\" L=\"7\"\n");
    let greeting = wire::Wire::connect(postgres.port(), "two").await?.greeting;
    ensure!(wire::transcript(&greeting).contains("S \"TimeZone\" \"Asia/Tokyo\""));
    Ok(())
}
