//! Real processes, really killed: this binary runs itself as a child that writes numbers and says which were acknowledged.

use crate::support::{command, open};
use ripen_grid::log::LogOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const DIR: &str = "LOG_KILL_TEST_DIR";

fn options(dir: &Path) -> LogOptions {
    LogOptions {
        segment_bytes: 256 << 10,
        snapshot_after_bytes: 1 << 20,
        ..LogOptions::new(dir)
    }
}

/// The child's part. Does nothing when the test runner runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(DIR) else {
        return;
    };
    let (log, numbers) = open(&options(dir.as_ref())).await.unwrap();
    let mut next = numbers.get().last().map_or(0, |last| last + 1);
    let mut out = std::io::stdout();
    loop {
        let tickets: Vec<_> = (next..next + 50)
            .map(|number| (number, log.propose(command(number, 300))))
            .collect();
        next += 50;
        for (number, ticket) in tickets {
            ticket.await.unwrap();
            writeln!(out, "acknowledged {number}").unwrap();
        }
    }
}

/// Runs a child until it has acknowledged `count` numbers, kills it, and returns the last it acknowledged.
fn run_and_kill(dir: &Path, count: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kill::child_writes_until_it_is_killed",
            "--nocapture",
        ])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let number = line
            .split_once("acknowledged ")
            .map(|(_, number)| number.parse::<u64>());
        acknowledged.extend(number.transpose().ok().flatten());
        if acknowledged.len() == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= count, "the child ended by itself");
    *acknowledged.last().unwrap()
}

#[tokio::test]
async fn killed_process_has_kept_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for count in [1, 40, 500, 3000, 7000] {
        let last = run_and_kill(dir.path(), count);
        let (log, numbers) = open(&options(dir.path())).await.unwrap();
        let numbers = numbers.get();
        assert!(
            numbers.len() as u64 > last,
            "{last} is lost, {} are left",
            numbers.len()
        );
        assert!(numbers.iter().copied().eq(0..numbers.len() as u64));
        log.shutdown().await;
    }
}
