//! Three nodes that tell each other rows, against a model: WAL, log, snapshots, questions and answers reach each node at its own time and in any order; leases come and go, rows are
//! given up, flushed, passed through, changed by others.
//!
//! At every moment each row that a node may show is a legal value: Postgres's row at some moment not before what the node has been told (by WAL or log), with all changes of the log that
//! it has applied and that are not in it yet on top, each once; and no node ever shows an older row than it has shown before. The same holds for sets of rows, and for rows that are not in them
//! (`gathering`). Mistakes that are put in are found.
//!
//! `OWNERS_MODEL_SEEDS` sets how many seeds run, `OWNERS_MODEL_SEED` runs one; `OWNERS_MODEL_MISTAKE` tries one mistake, by its number.

#[path = "owners_model/cluster.rs"]
mod cluster;
#[path = "owners_model/gathering.rs"]
mod gathering;
#[path = "rows_model/postgres.rs"]
#[allow(dead_code)]
mod postgres;

use cluster::{Cluster, Mistake};

const STEPS: usize = 200;

fn run(seed: u64, mistake: Mistake) -> Result<(), String> {
    let mut cluster = Cluster::new(seed, mistake);
    for _ in 0..STEPS {
        let concerned = cluster.step();
        cluster.check(&concerned)?;
    }
    cluster.settle()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_node_shows_what_is_stale_or_goes_back() {
    let seeds = match setting("OWNERS_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("OWNERS_MODEL_SEEDS").unwrap_or(2_500),
    };
    let (mut lent, mut sets, mut first) = (0, 0, None);
    for seed in seeds {
        let mut cluster = Cluster::new(seed, Mistake::None);
        for _ in 0..STEPS {
            let concerned = cluster.step();
            if let Err(wrong) = cluster.check(&concerned) {
                first.get_or_insert((seed, wrong));
                break;
            }
        }
        if first.is_none()
            && let Err(wrong) = cluster.settle()
        {
            first = Some((seed, wrong));
        }
        lent += cluster.taken;
        sets += cluster.gathering.told;
        if let Some((seed, wrong)) = &first {
            panic!("OWNERS_MODEL_SEED={seed}: {wrong}");
        }
    }
    assert!(lent > 0, "rows went from node to node");
    assert!(sets > 0, "sets were told");
}

#[test]
fn each_mistake_is_found() {
    for mistake in Mistake::ALL {
        if setting("OWNERS_MODEL_MISTAKE").is_some_and(|only| only != mistake as u64) {
            continue;
        }
        let found = (0..3_000).find(|seed| run(*seed, mistake).is_err());
        assert!(found.is_some(), "{mistake:?} was not found");
    }
}
