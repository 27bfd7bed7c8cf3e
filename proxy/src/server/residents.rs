//! Keeps resident tables whole in memory: loads them when they may be served, and again what memory has lost of them, so that no client waits for it. Does; what is whole, `rows` decides.

use crate::engine::{Engine, keeper};
use crate::limits::{RESIDENT_PAUSE, RESIDENT_PERIOD};
use ripen_cachestore::catalog::Relation;
use ripen_grid::grid::GridError;
use ripen_grid::rows::SetRead;
use ripen_grid::rows::sets::SetIds;
use ripen_pg::ids::TableOid;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Runs until stopped. One table after the other, so that Postgres is never asked for two at once.
pub async fn keep_whole(engine: Arc<Engine>, stop: CancellationToken) {
    let mut complaints = Complaints::default();
    let mut catalogs = engine.keeper.watch();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = look_after_all(&engine, &mut complaints) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = catalogs.changed() => {}
            () = tokio::time::sleep(RESIDENT_PERIOD) => {}
        }
    }
}

async fn look_after_all(engine: &Engine, complaints: &mut Complaints) {
    let catalog = engine.keeper.catalog();
    for relation in catalog.relations.values() {
        if !keeper::settings(&engine.config, relation).resident || relation.kind != 'r' {
            continue;
        }
        match obstacle(engine, relation) {
            Some(why) => complaints.add(relation, why),
            None => look_after(engine, relation, complaints).await,
        }
    }
}

/// Why the table cannot be held, whatever else happens.
fn obstacle<'a>(engine: &Engine, relation: &'a Relation) -> Option<&'a str> {
    if relation.schema.starts_with("pg_")
        || ["ripen", "information_schema"].contains(&&*relation.schema)
    {
        return None;
    }
    if relation.primary_key.is_empty() {
        return Some("it has no primary key");
    }
    let obstacle = relation.read_obstacles.first().copied();
    let off = !keeper::cacheable(&engine.config, relation);
    obstacle.or(off.then_some("its mode is off"))
}

async fn look_after(engine: &Engine, relation: &Relation, complaints: &mut Complaints) {
    let (grid, table) = (&engine.grid, relation.oid);
    if !grid.feed.serves(table) || !grid.is_sure() || complaints.is_new(table) {
        return;
    }
    let loaded: Result<(), GridError> = match grid.rows.lacks_of_whole(table) {
        SetRead::Missing(_) => grid.load_sets(&SetIds::whole(table)).await,
        SetRead::Unknown(rows) => grid.load(&rows).await,
        SetRead::TooLarge => {
            return complaints.add(relation, "it has more rows than resident_rows_max");
        }
        _ => return complaints.end(table),
    };
    if let Err(error) = loaded {
        tracing::debug!(%error, table = relation.name, "a resident table is not whole yet");
    }
}

/// What was complained of, of each table, once, and when it was seen to be so.
#[derive(Default)]
struct Complaints(BTreeMap<TableOid, (String, Instant)>);

impl Complaints {
    /// Whether it is not worth looking again.
    fn is_new(&self, table: TableOid) -> bool {
        let known = self.0.get(&table);
        known.is_some_and(|(_, since)| since.elapsed() < RESIDENT_PAUSE)
    }

    fn add(&mut self, relation: &Relation, why: &str) {
        let now = (why.to_owned(), Instant::now());
        let before = self.0.insert(relation.oid, now);
        if before.is_none_or(|(before, _)| before != why) {
            tracing::warn!(
                schema = relation.schema,
                table = relation.name,
                "a resident table cannot be held whole: {why}; what does not name its rows by key is read in Postgres"
            );
        }
    }

    fn end(&mut self, table: TableOid) {
        self.0.remove(&table);
    }
}
