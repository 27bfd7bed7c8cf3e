//! Compares ways to reach one Postgres under the same loads, in turns, and prints medians and ratios. The servers are started by `scripts/bench.sh`.
//!
//! Usage: compare SCRIPTS ROWS ROUNDS SECONDS NAME=PORT… (the first is what the others are compared with)

use anyhow::{Context, Result, ensure};
use ripen_benches::pgbench::{Load, Target, median};
use std::path::PathBuf;

struct Case {
    name: &'static str,
    script: &'static str,
    mode: &'static str,
    statements: u32,
    clients: &'static [u32],
}

const CASES: &[Case] = &[
    Case {
        name: "point reads, prepared",
        script: "read.sql",
        mode: "prepared",
        statements: 1,
        clients: &[1, 8, 64],
    },
    Case {
        name: "point reads, pipelined by 10",
        script: "read_pipelined.sql",
        mode: "prepared",
        statements: 10,
        clients: &[8],
    },
    Case {
        name: "point reads, simple protocol",
        script: "read.sql",
        mode: "simple",
        statements: 1,
        clients: &[8],
    },
    Case {
        name: "passed through",
        script: "passthrough.sql",
        mode: "prepared",
        statements: 1,
        clients: &[8],
    },
    Case {
        name: "updates, zipf 1.1, durable",
        script: "update_zipf.sql",
        mode: "prepared",
        statements: 1,
        clients: &[8, 64],
    },
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scripts, rows, rounds, seconds, targets @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: compare SCRIPTS ROWS ROUNDS SECONDS NAME=PORT…");
    };
    let (scripts, rows) = (PathBuf::from(scripts), rows.parse()?);
    let (rounds, seconds): (usize, u32) = (rounds.parse()?, seconds.parse()?);
    ensure!(
        rounds > 0 && seconds > 0,
        "at least one round of one second"
    );
    let targets: Vec<Target> = targets
        .iter()
        .map(|text| target(text))
        .collect::<Result<_>>()?;
    ensure!(!targets.is_empty(), "name at least one target");
    print!("{:<32} {:>7}", "load", "clients");
    targets
        .iter()
        .for_each(|target| print!(" {:>12} {:>6}", target.name, "ratio"));
    println!();
    for case in CASES {
        for clients in case.clients {
            let load = Load {
                script: case.script,
                mode: case.mode,
                clients: *clients,
                statements: case.statements,
                seconds,
                rows,
            };
            let medians = run(&load, &targets, &scripts, rounds)?;
            print!("{:<32} {:>7}", case.name, clients);
            medians
                .iter()
                .for_each(|rate| print!(" {rate:>10.0}/s {:>5.2}x", rate / medians[0]));
            println!();
        }
    }
    Ok(())
}

/// The targets take turns within each round, so that a noisy neighbour meets all of them.
fn run(
    load: &Load<'_>,
    targets: &[Target],
    scripts: &std::path::Path,
    rounds: usize,
) -> Result<Vec<f64>> {
    let mut rates = vec![Vec::new(); targets.len()];
    for _ in 0..rounds {
        for (target, rates) in targets.iter().zip(&mut rates) {
            rates.push(load.run(target, scripts)?.rate);
        }
    }
    Ok(rates.into_iter().map(median).collect())
}

fn target(text: &str) -> Result<Target> {
    let (name, port) = text.split_once('=').context("a target is NAME=PORT")?;
    Ok(Target {
        name: name.to_owned(),
        port: port.parse()?,
    })
}
