//! A hot cache under test: its events, and a catalog read from the server.

use super::server::Server;
use anyhow::{Context, Result};
use ripen_cachestore::catalog::{
    Catalog, Collation, Column, Epoch, Grants, NamespaceOid, Relation, RoleOid,
};
use ripen_cachestore::progress::{LogIdentity, LogKey};
use ripen_hotcache::relay::Claim;
use ripen_hotcache::{Event, HotCache, Options, Prober, Shared, Transaction};
use ripen_pg::ids::{Lsn, TableOid, TypeOid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// Longest wait for an event.
pub const DEADLINE: Duration = Duration::from_secs(20);

const HELD: &str = "no holder panics";

/// A log of that number.
pub fn log(number: i32) -> LogKey {
    LogKey {
        number,
        identity: LogIdentity(7),
    }
}

pub struct Following {
    events: mpsc::UnboundedReceiver<Event>,
    catalog: Arc<Mutex<Arc<Catalog>>>,
    pub prober: Prober,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// One that uses the slot of that name.
pub fn hot_cache(
    slot: &str,
    server: &Server,
    login: &str,
    drop_slot_on_stop: bool,
) -> Result<HotCache> {
    Ok(HotCache::new(Options {
        upstream: server.url(login).parse()?,
        slot: Some(slot.to_owned()),
        publication: "ripen".into(),
        logs: vec![log(1)],
        drop_slot_on_stop: Arc::new(drop_slot_on_stop.into()),
    }))
}

impl Following {
    /// Runs a hot cache on the server; `login` is a role, perhaps with `:password`.
    pub fn begin(
        server: &Server,
        login: &str,
        catalog: Catalog,
        drop_slot_on_stop: bool,
    ) -> Result<Following> {
        Following::begin_on("ripen_1", server, login, catalog, drop_slot_on_stop)
    }

    /// The same with a slot of that name.
    pub fn begin_on(
        slot: &str,
        server: &Server,
        login: &str,
        catalog: Catalog,
        drop_slot_on_stop: bool,
    ) -> Result<Following> {
        let hot_cache = hot_cache(slot, server, login, drop_slot_on_stop)?;
        Ok(Following::run(hot_cache, catalog))
    }

    /// As the leader of a cluster: `taken` is what all others have taken, `leads` whether it leads for certain.
    pub fn begin_for_all(
        server: &Server,
        catalog: Catalog,
        claim: Option<Claim>,
        taken: &Arc<AtomicU64>,
        leads: bool,
    ) -> Result<Following> {
        let options = Options {
            upstream: server.url("postgres").parse()?,
            slot: Some("ripen".to_owned()),
            publication: "ripen".into(),
            logs: vec![log(1)],
            drop_slot_on_stop: Arc::default(),
        };
        let taken = taken.clone();
        let shared = Shared {
            taken_by_all: Arc::new(move || Lsn(taken.load(Ordering::SeqCst))),
            risen: Arc::default(),
            surely_leads: Arc::new(move || leads),
        };
        let hot_cache = HotCache::of_cluster(options, shared, claim);
        Ok(Following::run(hot_cache, catalog))
    }

    fn run(hot_cache: HotCache, catalog: Catalog) -> Following {
        let (sink, events) = mpsc::unbounded_channel();
        let (prober, stop) = (hot_cache.prober(), CancellationToken::new());
        let catalog = Arc::new(Mutex::new(Arc::new(catalog)));
        let newest = catalog.clone();
        let run = hot_cache.run(
            move || newest.lock().expect(HELD).clone(),
            move |event| drop(sink.send(event)),
            stop.clone(),
        );
        let task = tokio::spawn(run);
        Following {
            events,
            catalog,
            prober,
            stop,
            task,
        }
    }

    pub fn use_catalog(&self, catalog: Catalog) {
        *self.catalog.lock().expect(HELD) = Arc::new(catalog);
    }

    pub async fn next(&mut self) -> Result<Event> {
        let event = timeout(DEADLINE, self.events.recv())
            .await
            .context("no event in time")?;
        event.context("the hot cache has ended")
    }

    /// The next event that `pick` takes; others are dropped.
    pub async fn until<T>(&mut self, mut pick: impl FnMut(Event) -> Option<T>) -> Result<T> {
        loop {
            if let Some(found) = pick(self.next().await?) {
                return Ok(found);
            }
        }
    }

    pub async fn transaction(&mut self) -> Result<Transaction> {
        self.until(|event| match event {
            Event::Transaction(transaction) => Some(transaction),
            _ => None,
        })
        .await
    }

    /// Waits for the stream to stand; answers whether it resumed.
    pub async fn connected(&mut self) -> Result<bool> {
        self.until(|event| match event {
            Event::Connected { resumed, .. } => Some(resumed),
            _ => None,
        })
        .await
    }

    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        timeout(DEADLINE, self.task)
            .await
            .context("does not stop")??;
        Ok(())
    }
}

pub async fn oid(client: &Client, table: &str) -> Result<TableOid> {
    let row = client
        .query_one("SELECT $1::text::regclass::oid", &[&table])
        .await?;
    Ok(TableOid(row.try_get(0)?))
}

/// What the hot cache needs of the catalog, of all tables in `public`.
pub async fn catalog(client: &Client, epoch: u64) -> Result<Catalog> {
    let rows = client
        .query(
            "SELECT c.oid, c.relname::text, a.attnum::int4, a.attname::text, a.atttypid, a.attgenerated <> '' AS generated, \
             (SELECT max(attnum)::int4 FROM pg_attribute m WHERE m.attrelid = c.oid) AS width, \
             (SELECT array_position(indkey::int2[], a.attnum) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS key \
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
             WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.oid, a.attnum",
            &[],
        )
        .await?;
    let mut relations: BTreeMap<TableOid, Relation> = BTreeMap::new();
    for row in rows {
        let oid = TableOid(row.try_get(0)?);
        let position = usize::try_from(row.try_get::<_, i32>(2)? - 1)?;
        let width = usize::try_from(row.try_get::<_, i32>(6)?)?;
        let relation = relations
            .entry(oid)
            .or_insert(relation(oid, row.try_get(1)?, width));
        relation.columns.push(Column {
            position,
            name: row.try_get(3)?,
            type_oid: TypeOid(row.try_get(4)?),
            type_modifier: -1,
            not_null: false,
            collation: Collation::None,
            collated: false,
            default: None,
            generated: if row.try_get(5)? { 's' } else { '\0' },
            identity: '\0',
            sequence: None,
            grants: Grants::default(),
        });
        if row.try_get::<_, Option<i32>>(7)?.is_some() {
            relation.primary_key.push(position);
        }
    }
    Ok(Catalog {
        epoch: Epoch(epoch),
        relations: relations
            .into_iter()
            .map(|(oid, relation)| (oid, Arc::new(relation)))
            .collect(),
        ..Catalog::default()
    })
}

fn relation(oid: TableOid, name: String, width: usize) -> Relation {
    Relation {
        oid,
        namespace: NamespaceOid(2200),
        schema: "public".into(),
        name,
        kind: 'r',
        persistence: 'p',
        storage: 0,
        columns: vec![],
        width,
        primary_key: vec![],
        primary_key_name: String::new(),
        checks: vec![],
        unique_columns: BTreeSet::new(),
        indexed_columns: BTreeSet::new(),
        indexes: BTreeSet::new(),
        expression_columns: BTreeSet::new(),
        replica_identity: 'd',
        foreign_keys: Vec::new(),
        foreign_key_columns: BTreeSet::new(),
        referenced_columns: BTreeSet::new(),
        parents: BTreeSet::new(),
        children: BTreeSet::new(),
        deferred: BTreeSet::new(),
        write_obstacles: vec![],
        read_obstacles: vec![],
        opaque_read: false,
        opaque_write: false,
        read_closure: BTreeSet::new(),
        write_closure: BTreeSet::new(),
        row_security: false,
        owner: RoleOid(10),
        grants: Grants::default(),
    }
}
