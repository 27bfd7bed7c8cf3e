//! What a process does beside the grid, as the proxy does it: takes what the stream tells, writes marks into it, looks how late it is, gives back what the dead held. Of the proxy's own
//! code nothing runs here.

use crate::chance::Chance;
use crate::data::{all_rows, catalog};
use crate::mistake::Mistake;
use crate::node::TABLES;
use crate::record::Way;
use parking_lot::Mutex;
use ripen_cachestore::StoreError;
use ripen_cachestore::catalog::Epoch;
use ripen_grid::change::RowId;
use ripen_grid::feed::Served;
use ripen_grid::grid::Grid;
use ripen_grid::limits::LOG_POLL;
use ripen_grid::log::{HeldScope, RequestId};
use ripen_grid::rows::{Found, WalChange};
use ripen_hotcache::{Event, Outcome, Transaction};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How late memory may be before reads pass it by.
pub const STALENESS_MS: u64 = 2000;

/// Postgres's `systemid`.
pub const SYSTEM: u64 = 1;

/// As `Follower` of the proxy: what an event in Postgres's WAL means for memory.
pub async fn take(way: &Way, grid: &Grid, event: Event, chance: &Mutex<Chance>) {
    if let Event::Transaction(transaction) = &event {
        if way.world.makes(Mistake::LossyStream) && chance.lock().one_in(10) {
            return;
        }
        let hasty = way.world.makes(Mistake::HastyStream);
        if let Some(seq) = transaction.own_flush.filter(|_| !hasty) {
            while !grid.queues[0].schedule.knows(seq.seq, transaction.xid) {
                sleep(LOG_POLL).await;
            }
        }
    }
    let feed = &grid.feed;
    match event {
        Event::Connected {
            resumed,
            same_history,
            system_id,
            timeline,
            position,
        } => {
            // While this changes, no other node's rows are comparable to ours.
            feed.set_history(None);
            if !same_history {
                grid.history_lost();
            }
            if !resumed && !way.world.makes(Mistake::KeptMemory) {
                feed.restart_at(position);
                grid.stream_lost();
            }
            feed.set_history(Some((system_id, timeline)));
            feed.set_live(true, way.now_ms());
        }
        Event::Disconnected { .. } => feed.set_live(false, way.now_ms()),
        Event::Transaction(told) => transaction(way, grid, told),
        Event::Mark { id, position } => {
            feed.pass(position);
            grid.marks.passed(id);
        }
        Event::Position(position) => feed.pass(position),
        Event::Unavailable(_) | Event::Withdrawn { .. } => {
            unreachable!("nobody changes anything in Postgres")
        }
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
    let life = way.world.pg.lock().life;
    let before: Vec<u64> = {
        let pg = way.world.pg.lock();
        let committing = pg.commits().filter(|commit| !commit.visible);
        let committing = committing.map(|commit| commit.xid.0);
        pg.running.keys().copied().chain(committing).collect()
    };
    let runs = |xid: &u64| way.world.pg.lock().is_under_way(life, *xid);
    while before.iter().any(runs) {
        sleep(Duration::from_millis(5)).await;
    }
    let served = Served {
        followed: TABLES.into_iter().collect(),
        ..Served::default()
    };
    grid.feed.serve(served, beginnings);
}

/// As `Follower::transaction` of the proxy.
fn transaction(way: &Way, grid: &Grid, told: Transaction) {
    let (xid, commit) = (told.xid, told.commit);
    grid.rows.begin_told(commit);
    if let Some(seq) = told.own_flush.map(|flush| flush.seq) {
        let carried = grid.queues[0].schedule.confirm(seq);
        grid.rows.confirm(seq, xid, commit, &carried);
    }
    let deaf = way.world.makes(Mistake::DeafLoads);
    let known = |row: &RowId| {
        let known = |found: Found<'_>| !matches!(found, Found::Unknown);
        grid.rows.read_one(row, || false, known).unwrap_or(true)
    };
    let changes = told.rows.into_iter().filter_map(|told| match told.outcome {
        Outcome::Put(image) if !deaf || known(&told.row) => Some(WalChange {
            row: told.row,
            image: Some(image),
        }),
        _ => None,
    });
    let changes: Vec<WalChange> = changes.collect();
    if !changes.is_empty() {
        grid.rows.wal_transaction(xid, commit, &changes);
    }
    grid.feed.pass(commit);
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
    loop {
        sleep(Duration::from_millis(250)).await;
        let asked_ms = way.now_ms();
        if way.trip().await.is_ok() {
            let position = way.world.pg.lock().position();
            grid.feed.sample(asked_ms, position);
        }
        grid.feed.judge(way.now_ms(), STALENESS_MS);
    }
}

/// As the proxy's upkeep, where memory is short now and then.
pub async fn keep_up(way: Way, grid: Arc<Grid>, mut chance: Chance) {
    let catalog = catalog(Epoch(1));
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
        let _ = grid.load_bases(&catalog).await;
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
