//! What a process does beside the grid, as the proxy does it: follows the WAL, writes marks into it, looks how late it is, gives back what the dead held. Of the proxy's own
//! code nothing runs here.

use crate::chance::Chance;
use crate::data::all_rows;
use crate::mistake::Mistake;
use crate::node::TABLES;
use crate::postgres::{Commit, Entry};
use crate::record::Way;
use ripen_cachestore::StoreError;
use ripen_grid::change::RowId;
use ripen_grid::feed::Served;
use ripen_grid::grid::Grid;
use ripen_grid::limits::LOG_POLL;
use ripen_grid::log::{HeldScope, RequestId};
use ripen_grid::rows::WalChange;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How late memory may be before reads pass it by.
pub const STALENESS_MS: u64 = 2000;

/// Follows the WAL for as long as the process lives.
pub async fn follow(way: Way, grid: Arc<Grid>, mut chance: Chance) {
    let begun = Instant::now();
    let now_ms = || begun.elapsed().as_millis() as u64;
    // Where in the WAL it is.
    let mut place: Option<usize> = None;
    loop {
        if way.trip().await.is_err() {
            sleep(Duration::from_millis(20)).await;
            continue;
        }
        let mut at = match place {
            // It may tell again what it told before.
            Some(at) => at.saturating_sub(chance.below(4) as usize),
            None => {
                let (position, end) = {
                    let pg = way.world.pg.lock();
                    (pg.position(), pg.wal.len())
                };
                grid.feed.restart_at(position);
                grid.stream_lost();
                end
            }
        };
        grid.feed.set_live(true, now_ms());
        tell(&way, &grid, &mut at, &mut chance).await;
        place = Some(at);
        grid.feed.set_live(false, now_ms());
    }
}

/// As the proxy's upkeep and publisher: decides anew what is followed, whenever that is in doubt.
pub async fn serve(way: Way, grid: Arc<Grid>) {
    loop {
        if grid.feed.live() && grid.feed.served().followed.is_empty() {
            serve_now(&way, &grid).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Tables are followed when every transaction has ended that ran when the stream stood.
async fn serve_now(way: &Way, grid: &Grid) {
    let beginnings = grid.feed.beginnings();
    let before: Vec<u64> = {
        let pg = way.world.pg.lock();
        let committing = pg.commits().filter(|commit| !commit.visible);
        let committing = committing.map(|commit| commit.xid.0);
        pg.running.keys().copied().chain(committing).collect()
    };
    use crate::postgres::Fate;
    let runs = |xid: &u64| {
        let fate = way.world.pg.lock().fate(*xid);
        matches!(fate, Fate::Running | Fate::Committed)
    };
    while before.iter().any(runs) {
        sleep(Duration::from_millis(5)).await;
    }
    let served = Served {
        followed: TABLES.into_iter().collect(),
        ..Served::default()
    };
    grid.feed.serve(served, beginnings);
}

/// Tells what the WAL has, until the connection is lost.
async fn tell(way: &Way, grid: &Grid, at: &mut usize, chance: &mut Chance) {
    loop {
        if !way.reachable() {
            return;
        }
        let entry = way.world.pg.lock().wal.get(*at).cloned();
        let Some(entry) = entry else {
            sleep(Duration::from_millis(2)).await;
            continue;
        };
        let late = chance.pick(&[0, 0, 0, 1, 3, 40]);
        sleep(Duration::from_millis(late)).await;
        match &entry {
            Entry::Commit(commit) => {
                if way.world.makes(Mistake::LossyStream) && chance.one_in(10) {
                    *at += 1;
                    continue;
                }
                let hasty = way.world.makes(Mistake::HastyStream);
                if let Some(seq) = commit.flush.filter(|_| !hasty) {
                    while !grid.schedule.knows(seq, commit.xid.low()) {
                        sleep(LOG_POLL).await;
                    }
                }
                transaction(way, grid, commit);
            }
            Entry::Mark(id, lsn) => {
                grid.feed.pass(*lsn);
                grid.marks.passed(*id);
            }
        }
        *at += 1;
    }
}

/// As `Follower::transaction` of the proxy.
fn transaction(way: &Way, grid: &Grid, commit: &Commit) {
    let xid = commit.xid.low();
    if let Some(seq) = commit.flush {
        let carried = grid.schedule.confirm(seq);
        grid.rows.confirm(seq, xid, commit.lsn, &carried);
    } else {
        let deaf = way.world.makes(Mistake::DeafLoads);
        let known = |row: &RowId| {
            let known = |found: ripen_grid::rows::Found<'_>| {
                !matches!(found, ripen_grid::rows::Found::Unknown)
            };
            grid.rows.read_one(row, || false, known).unwrap_or(true)
        };
        let told = commit.written.iter().filter(|(row, _)| !deaf || known(row));
        let changes: Vec<WalChange> = told
            .map(|(row, new)| WalChange {
                row: row.clone(),
                image: Some(new.tuple(row)),
            })
            .collect();
        grid.rows.wal_transaction(xid, commit.lsn, &changes);
    }
    grid.feed.pass(commit.lsn);
}

/// Writes marks into the WAL when somebody waits for one.
pub async fn mark(way: Way, grid: Arc<Grid>) {
    loop {
        grid.marks.wanted().await;
        while let Some(id) = grid.marks.next() {
            match way.trip().await {
                Ok(()) => way.world.pg.lock().mark(id),
                Err(_) => {
                    grid.marks.failed(id);
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Looks how far Postgres is, and how far the stream.
pub async fn sample(way: Way, grid: Arc<Grid>) {
    let begun = Instant::now();
    loop {
        sleep(Duration::from_millis(250)).await;
        let asked_ms = begun.elapsed().as_millis() as u64;
        if way.trip().await.is_ok() {
            let position = way.world.pg.lock().position();
            grid.feed.sample(asked_ms, position);
        }
        let now_ms = begun.elapsed().as_millis() as u64;
        grid.feed.judge(now_ms, STALENESS_MS);
    }
}

/// As the proxy's upkeep, where memory is short now and then.
pub async fn keep_up(way: Way, grid: Arc<Grid>, mut chance: Chance) {
    loop {
        sleep(Duration::from_millis(100)).await;
        if chance.one_in(2) {
            let rows = grid.rows.shed(0);
            grid.rows.shed(16 << 20);
            way.world
                .trace(format_args!("node {} gives up {rows} rows", way.node));
        }
        let (feed, served) = (&grid.feed, grid.feed.served());
        grid.rows
            .settle_loads(|| feed.position(), |table| served.followed.contains(&table));
        // It is tried again.
        let _ = grid.load_bases().await;
    }
}

/// What processes held that have ended is given back by the leader, once nothing runs in their backends any more.
pub async fn free_orphans(way: Way, grid: Arc<Grid>) {
    loop {
        sleep(Duration::from_millis(500)).await;
        if let Ok(over) = orphans(&way, &grid).await
            && !over.is_empty()
        {
            grid.end_orphans(over).await;
        }
    }
}

async fn orphans(way: &Way, grid: &Grid) -> Result<Vec<RequestId>, StoreError> {
    let Some(member) = grid
        .member()
        .filter(|member| member.leadership().borrow().here)
    else {
        return Ok(Vec::new());
    };
    let held = grid.requests.lock().held();
    let (mut living, mut silent) = (BTreeSet::new(), BTreeSet::new());
    if held.iter().all(|held| held.id.process == member.process()) {
        return Ok(Vec::new());
    }
    for node in member.members() {
        match member.process_of(node).await {
            Some(process) => drop(living.insert(process)),
            None => drop(silent.insert(node)),
        }
    }
    way.trip().await?;
    let backends = way.world.pg.lock().backends.clone();
    let over = |held: &&HeldScope| {
        let backend = held.backend;
        !living.contains(&held.id.process)
            && (backend.is_some() || !silent.contains(&held.node))
            && backend.is_none_or(|backend| !backends.contains(&backend))
    };
    Ok(held.iter().filter(over).map(|held| held.id).collect())
}

/// All rows are known and as Postgres has them.
pub fn agrees(way: &Way, grid: &Grid) -> Result<(), String> {
    use crate::data::{Row, name};
    use ripen_grid::rows::Found;
    for row in all_rows() {
        let known = grid.rows.read_one(
            &row,
            || grid.fences.has(&row),
            |found| match found {
                Found::Row(tuple) => Some(Some(Row::of(tuple))),
                Found::Absent => Some(None),
                Found::Unknown => None,
            },
        );
        let there = way.world.pg.lock().rows.get(&row).cloned();
        match known {
            None => return Err(format!("{} is fenced", name(&row))),
            Some(None) => return Err(format!("{} is not known", name(&row))),
            Some(Some(known)) if known != there => {
                return Err(format!(
                    "{} is {known:?}, in Postgres {there:?}",
                    name(&row)
                ));
            }
            Some(Some(_)) => {}
        }
    }
    Ok(())
}
