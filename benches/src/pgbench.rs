//! Runs pgbench and reads what it says. Never starts servers; the binaries do.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// One way to reach Postgres that is compared with the others.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name in tables.
    pub name: String,
    /// Port on 127.0.0.1.
    pub port: u16,
}

/// One load.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// pgbench script.
    pub script: &'a str,
    /// Query mode: simple, extended or prepared.
    pub mode: &'a str,
    /// Concurrent clients.
    pub clients: u32,
    /// Statements that one run of the script sends.
    pub statements: u32,
    /// Length of a run in seconds.
    pub seconds: u32,
    /// `:rows` in the scripts.
    pub rows: u32,
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Statements per second.
    pub rate: f64,
    /// Mean latency of a script in milliseconds.
    pub latency_ms: f64,
    /// Scripts run.
    pub transactions: u64,
}

impl Load<'_> {
    /// Runs it against a target. Fails when any transaction failed.
    pub fn run(&self, target: &Target, scripts: &Path) -> Result<Outcome> {
        let clients = self.clients.to_string();
        let output = Command::new("pgbench")
            .args([
                "-n",
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-p",
                &target.port.to_string(),
            ])
            .args([
                "-M",
                self.mode,
                "-c",
                &clients,
                "-j",
                &self.clients.min(2).to_string(),
            ])
            .args([
                "-T",
                &self.seconds.to_string(),
                "-D",
                &format!("rows={}", self.rows),
            ])
            .arg("-f")
            .arg(scripts.join(self.script))
            .arg("postgres")
            .output()
            .context("cannot run pgbench; install postgresql-contrib")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "pgbench on {}: {}{text}",
            target.name,
            String::from_utf8_lossy(&output.stderr)
        );
        let number = |prefix: &str| -> Result<f64> {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(prefix))
                .with_context(|| format!("no \"{prefix}\" in {text}"))?;
            let digits: String = line
                .trim()
                .chars()
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            Ok(digits.parse()?)
        };
        ensure!(
            !text.contains("number of failed transactions:")
                || number("number of failed transactions:")? == 0.0,
            "failed transactions: {text}"
        );
        Ok(Outcome {
            rate: number("tps =")? * f64::from(self.statements),
            latency_ms: number("latency average =")?,
            transactions: number("number of transactions actually processed:")? as u64,
        })
    }
}

/// The middle value (the mean of the two middle ones).
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    (values[low] + values[high]) / 2.0
}
