//! Runs seeds, each in a process of its own: what tokio and the standard library draw by chance depends on all that a process has done before.

use crate::mistake::Mistake;
use crate::scripts::Script;
use std::fmt;
use std::ops::Range;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a seed ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    pub mistake: Option<Mistake>,
    pub script: Option<Script>,
    pub trace: String,
    pub failure: Option<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failure = self.failure.as_deref().unwrap_or("no promise was broken");
        let mistake = self
            .mistake
            .map(|mistake| format!("SIM_MISTAKE={mistake:?} "));
        let script = self.script.map(|script| format!("SIM_SCRIPT={script:?} "));
        write!(
            f,
            "seed {}: {failure}\n    again: SIM_SEED={} {}{}SIM_TRACE=1 cargo test --workspace --locked --test sim -- one_seed --exact --nocapture",
            self.seed,
            self.seed,
            script.unwrap_or_default(),
            mistake.unwrap_or_default()
        )
    }
}

/// Seeds like `17..18`, or their number.
pub fn range(variable: &str, default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var(variable) else {
        return default;
    };
    let number = |text: &str| text.parse().expect("seeds are numbers");
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&text),
    }
}

/// Runs one seed, or a script with the chance of that seed.
pub fn run(seed: u64, mistake: Option<Mistake>, script: Option<Script>) -> Outcome {
    let program = std::env::current_exe().expect("this program has a name");
    let mut command = Command::new(program);
    command
        .args(["one_seed", "--exact", "--nocapture", "--test-threads=1"])
        .env("SIM_SEED", seed.to_string())
        .env("RUST_BACKTRACE", "0")
        .env_remove("SIM_TRACE")
        .env_remove("SIM_MISTAKE")
        .env_remove("SIM_SCRIPT");
    if let Some(mistake) = mistake {
        command.env("SIM_MISTAKE", format!("{mistake:?}"));
    }
    if let Some(script) = script {
        command.env("SIM_SCRIPT", format!("{script:?}"));
    }
    let output = command.output().expect("this program can be run again");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |start: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(start));
        found.map(str::to_owned)
    };
    let ended = || {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = errors
            .lines()
            .filter(|line| !line.is_empty())
            .take(4)
            .collect();
        format!("it ended with {}: {}", output.status, last.join(" / "))
    };
    Outcome {
        seed,
        mistake,
        script,
        trace: line("trace ").unwrap_or_default(),
        failure: match output.status.success() {
            true => None,
            false => Some(line("broken: ").unwrap_or_else(ended)),
        },
    }
}

/// As many at a time as there are cores, over all tests of this program.
static TURN: Mutex<()> = Mutex::new(());

/// Runs seeds until `enough`; answers them in order.
fn run_until(
    seeds: Range<u64>,
    mistake: Option<Mistake>,
    enough: impl Fn(&Outcome) -> bool + Sync,
) -> Vec<Outcome> {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, end) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = run(seed, mistake, None);
                    if enough(&outcome) {
                        end.store(0, Ordering::Relaxed);
                    }
                    done.lock().expect("nobody panics with it").push(outcome);
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nobody panics with it");
    done.sort_by_key(|outcome| outcome.seed);
    done
}

/// Runs all.
pub fn each(seeds: Range<u64>, mistake: Option<Mistake>) -> Vec<Outcome> {
    run_until(seeds, mistake, |_| false)
}

/// Runs seeds with a mistake until one breaks a promise.
pub fn first_failure(seeds: Range<u64>, mistake: Mistake) -> Option<Outcome> {
    let outcomes = run_until(seeds, Some(mistake), |outcome| outcome.failure.is_some());
    outcomes
        .into_iter()
        .find(|outcome| outcome.failure.is_some())
}
