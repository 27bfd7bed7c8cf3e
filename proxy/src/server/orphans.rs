//! What processes held that have ended: where this node leads, it gives that back once their transactions in Postgres are over. Does; who is concerned is decided by
//! [`orphans`].

use crate::engine::Engine;
use crate::limits::ORPHANS_PERIOD;
use ripen_cachestore::backends::BackendPid;
use ripen_cachestore::{Store, StoreError};
use ripen_grid::grid::Grid;
use ripen_grid::log::{HeldScope, RequestId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The living, as far as they answer.
#[derive(Debug, Default)]
struct Living {
    processes: BTreeSet<u64>,
    /// Members that have not answered: their processes may be at work.
    silent: BTreeSet<u64>,
}

/// What is to be done about processes that have ended.
#[derive(Debug, Default, PartialEq)]
struct Orphans {
    /// Holds that end if nothing runs in these backends any more.
    holds: Vec<(RequestId, Option<BackendPid>)>,
    /// They hold nothing.
    forgotten: Vec<u64>,
}

/// Decides. A silent node may still be at work in Postgres: what it holds ends with its backend only.
fn orphans<'a>(
    known: &BTreeSet<u64>,
    held: impl Iterator<Item = &'a HeldScope>,
    living: &Living,
) -> Orphans {
    let gone = |process: &u64| !living.processes.contains(process);
    let mut by_process: BTreeMap<u64, Vec<&HeldScope>> = BTreeMap::new();
    for held in held.filter(|held| gone(&held.id.process)) {
        by_process.entry(held.id.process).or_default().push(held);
    }
    let forgotten = known.iter().filter(|process| {
        living.silent.is_empty() && gone(process) && !by_process.contains_key(process)
    });
    Orphans {
        forgotten: forgotten.copied().collect(),
        holds: by_process
            .into_values()
            .flatten()
            .filter(|held| !living.silent.contains(&held.node) || held.backend.is_some())
            .map(|held| (held.id, held.backend.map(BackendPid)))
            .collect(),
    }
}

/// Runs until stopped.
pub async fn look_after(
    engine: Arc<Engine>,
    store: Store,
    grid: Arc<Grid>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ORPHANS_PERIOD) => {}
        }
        if let Err(error) = once(&engine, &store, &grid).await {
            tracing::debug!(%error, "cannot ask yet what processes that have ended have left");
        }
    }
}

async fn once(engine: &Engine, store: &Store, grid: &Grid) -> Result<(), StoreError> {
    let Some(member) = grid.member() else {
        return Ok(());
    };
    let others = {
        let requests = grid.requests.lock();
        requests
            .known()
            .into_iter()
            .any(|process| process != member.process())
    };
    if !others || !member.leadership().borrow().here {
        return Ok(());
    }
    // Who is known before the living are asked for cannot have begun after.
    let (known, held) = {
        let requests = grid.requests.lock();
        (requests.known(), requests.held())
    };
    let mut living = Living::default();
    for node in member.members() {
        match member.process_of(node).await {
            Some(process) => drop(living.processes.insert(process)),
            None => drop(living.silent.insert(node)),
        }
    }
    let orphans = orphans(&known, held.iter(), &living);
    for process in orphans.forgotten {
        grid.forget_process(process).await;
    }
    let backends: Vec<BackendPid> = orphans.holds.iter().filter_map(|(_, pid)| *pid).collect();
    let at_work = store.living(&backends).await?;
    let at_work: BTreeSet<i32> = at_work.into_iter().map(|(pid, _)| pid.0).collect();
    let over = orphans
        .holds
        .iter()
        .filter(|(_, backend)| backend.is_none_or(|backend| !at_work.contains(&backend.0)));
    let over: Vec<RequestId> = over.map(|(id, _)| *id).collect();
    if over.is_empty() {
        return Ok(());
    }
    // What they may have prepared is held before they end.
    engine.adopt_prepared().await?;
    tracing::info!(
        holds = over.len(),
        "a process has ended, and what it held is given back"
    );
    grid.end_orphans(over).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripen_grid::scope::Scope;

    fn held(process: u64, number: u64, backend: Option<i32>) -> HeldScope {
        HeldScope {
            id: RequestId { process, number },
            node: process,
            below: 0,
            scope: Scope::Everything,
            backend,
            rewires: false,
            withdrawn: Vec::new(),
        }
    }

    #[test]
    fn who_lives_keeps_what_it_holds_and_who_is_silent_what_may_run() {
        let known = BTreeSet::from([1, 2, 3]);
        let all = [held(1, 1, None), held(2, 1, Some(7)), held(2, 2, None)];
        let mut living = Living {
            processes: BTreeSet::from([1]),
            silent: BTreeSet::new(),
        };
        let found = orphans(&known, all.iter(), &living);
        assert_eq!(found.holds.len(), 2);
        assert_eq!(found.forgotten, [3]);
        living.silent.insert(2);
        let found = orphans(&known, all.iter(), &living);
        assert_eq!(found.holds, [(all[1].id, Some(BackendPid(7)))]);
        assert!(found.forgotten.is_empty());
    }
}
