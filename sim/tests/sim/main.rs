//! Whole clusters, simulated: the real grid and log of several nodes on a simulated network, clock, disk and system of record, all from a seed.
//!
//! Each seed runs in a process of its own (this program, called again), on one thread, and leaves the same trace each time. `SIM_SEED=7 SIM_TRACE=1` shows one.

#![allow(missing_docs, reason = "a test")]

mod chance;
mod client;
mod data;
mod faults;
mod follow;
mod history;
mod mistake;
mod net;
mod node;
mod postgres;
mod record;
mod relay;
mod run;
mod scripts;
mod seeds;
mod world;

use mistake::Mistake;
use scripts::Script;
use seeds::{Outcome, each, range};

/// What the others call; by hand, with the variable.
#[test]
fn one_seed() {
    let Some(seed) = std::env::var_os("SIM_SEED") else {
        return;
    };
    let seed: u64 = seed
        .to_str()
        .and_then(|seed| seed.parse().ok())
        .expect("SIM_SEED is a number");
    let mistake = std::env::var("SIM_MISTAKE").ok();
    let mistake =
        mistake.map(|name| Mistake::named(&name).expect("SIM_MISTAKE is the name of one"));
    let script = std::env::var("SIM_SCRIPT").ok();
    let script = script.map(|name| Script::named(&name).expect("SIM_SCRIPT is the name of one"));
    if std::env::var_os("SIM_LOG").is_some() {
        tracing_subscriber::fmt().without_time().init();
    }
    let report = run::run(seed, mistake, script);
    println!(
        "{} ms, {} terms, {} flushes, {} lost, {:?}",
        report.took_ms, report.terms, report.flushes, report.lost_flushes, report.counts
    );
    println!("trace {:016x} {}", report.trace.0, report.trace.1);
    if let Some(failure) = report.failure {
        println!("broken: {failure}");
        std::process::exit(3);
    }
}

#[test]
fn every_promise_is_kept() {
    let broken: Vec<Outcome> = each(range("SIM_SEEDS", 0..200), None)
        .into_iter()
        .filter(|outcome| outcome.failure.is_some())
        .collect();
    for outcome in &broken {
        println!("{outcome}");
    }
    assert!(broken.is_empty(), "{} seeds broke a promise", broken.len());
}

#[test]
fn what_was_mended_is_found_when_it_comes_back() {
    for script in Script::ALL {
        let kept = seeds::run(0, None, Some(script));
        assert!(kept.failure.is_none(), "{kept}");
        let broken = seeds::run(0, Some(script.mistake()), Some(script));
        assert!(broken.failure.is_some(), "{broken}");
    }
}

#[test]
fn the_same_seed_leaves_the_same_trace() {
    let first = each(0..4, None);
    let second = each(0..4, None);
    for (first, second) in first.iter().zip(&second) {
        assert_eq!(first.trace, second.trace, "seed {}", first.seed);
    }
    let traces: std::collections::BTreeSet<&String> =
        first.iter().map(|outcome| &outcome.trace).collect();
    assert_eq!(traces.len(), first.len(), "other seeds leave other traces");
}

#[test]
fn every_plain_mistake_is_found() {
    assert_eq!(
        missed(&Mistake::PLAIN, range("SIM_MISTAKE_SEEDS", 0..100)),
        []
    );
}

#[test]
#[ignore = "takes many seeds: SIM_MISTAKE_SEEDS=400"]
fn every_rare_mistake_is_found() {
    assert_eq!(
        missed(&Mistake::RARE, range("SIM_MISTAKE_SEEDS", 0..100)),
        []
    );
}

/// Those with which no seed breaks a promise.
fn missed(mistakes: &[Mistake], seeds: std::ops::Range<u64>) -> Vec<Mistake> {
    let mut missed = Vec::new();
    for mistake in mistakes {
        match seeds::first_failure(seeds.clone(), *mistake) {
            Some(outcome) => println!("{mistake:?} is found: {outcome}"),
            None => missed.push(*mistake),
        }
    }
    missed
}
