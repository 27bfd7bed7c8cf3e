//! An answerer with a memory of its own that is never written to Postgres: what a session read shows where it was read. Plans are the real planner's.

use super::postgres::postgres;
use super::proxy::{Proxy, front_of, start};
use super::raw::Raw;
use bytes::BytesMut;
use ripen_cachestore::Store;
use ripen_cachestore::catalog::{Catalog, Epoch};
use ripen_pg::ids::{TableOid, TypeOid};
use ripen_pg::key::Key;
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use ripen_pg::tuple::Tuple;
use ripen_pg::wire::backend;
use ripen_proxy::accept::Front;
use ripen_proxy::eval::{CommandTag, EvalError, Formats, Now, Params};
use ripen_proxy::plan::{
    self, LocalPlan, Mode, PassPlan, ReadPlan, Reason, SessionFacts, WritePlan,
};
use ripen_proxy::session::answerer::{Answerer, Asker, Outcome, Planned, Refusal, Snapshot};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// See the module.
pub struct Memory {
    catalog: Arc<Catalog>,
    rows: Mutex<HashMap<(TableOid, Key), Option<Tuple>>>,
    /// What it was asked, in order.
    calls: Mutex<Vec<String>>,
    /// Of the catalog, as sessions see it.
    pub epoch: AtomicU64,
    /// Reads and writes are refused while set.
    pub bypass: AtomicBool,
    /// Statements are refused entry while set.
    pub locked: AtomicBool,
    /// Entries, and ends of transactions, wait while false.
    pub entries: watch::Sender<bool>,
    pub ends: watch::Sender<bool>,
}

impl Memory {
    /// The calls since last asked.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }

    fn bypassed(&self) -> Result<(), Refusal> {
        match self.bypass.load(Ordering::SeqCst) {
            true => Err(passed("bypassed")),
            false => Ok(()),
        }
    }

    fn tuples(&self, table: TableOid, keys: &[Key]) -> Option<Vec<Option<Tuple>>> {
        let rows = self.rows.lock().unwrap();
        keys.iter()
            .map(|key| rows.get(&(table, key.clone())).cloned())
            .collect()
    }
}

fn passed(why: &'static str) -> Refusal {
    Refusal::PassThrough(Reason::new("test", why))
}

fn computed<T>(result: Result<T, EvalError>) -> Result<T, Refusal> {
    result.map_err(|EvalError::PassThrough(why)| passed(why))
}

/// A proxy with a memory, in front of a database of its own. `setup` is run in Postgres, `remembered` in memory only.
pub fn remembering(database: &str, setup: &str, remembered: &[&str]) -> Proxy<Memory> {
    remembering_with(database, setup, remembered, |_| ())
}

/// The same with other settings.
pub fn remembering_with(
    database: &str,
    setup: &str,
    remembered: &[&str],
    change: impl FnOnce(&mut Front<Memory>),
) -> Proxy<Memory> {
    let created = Raw::connect(postgres().port).query(&format!("CREATE DATABASE {database}"));
    assert_eq!(created[0].tag, b'C', "{created:?}");
    let done = Raw::connect_to(postgres().port, database).query(setup);
    assert!(done.iter().all(|message| message.tag != b'E'), "{done:?}");
    let port = postgres().port;
    let url = format!("postgres://app@127.0.0.1:{port}/{database}?sslmode=disable");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let catalog = runtime.block_on(async {
        let store = Store::new(url.parse().unwrap());
        store.load_catalog(Epoch(1)).await.unwrap()
    });
    let memory = Arc::new(Memory {
        catalog: Arc::new(catalog),
        rows: Mutex::default(),
        calls: Mutex::default(),
        epoch: AtomicU64::new(1),
        bypass: AtomicBool::new(false),
        locked: AtomicBool::new(false),
        entries: watch::Sender::new(true),
        ends: watch::Sender::new(true),
    });
    let mut front = front_of(Arc::clone(&memory));
    change(&mut front);
    let proxy = start(front);
    let mut raw = Raw::connect_to(proxy.port, database);
    for sql in remembered {
        let answers = raw.query(sql);
        assert_eq!(answers[0].tag, b'C', "{sql}: {answers:?}");
    }
    let calls = memory.calls();
    assert!(calls.iter().all(|call| call == "write"), "{calls:?}");
    proxy
}

impl Answerer for Memory {
    type Holds = Vec<String>;
    type Block = ();

    fn plans(&self) -> bool {
        true
    }

    fn plan(&self, facts: &SessionFacts, sql: &[u8], declared: &[TypeOid]) -> Arc<Planned> {
        let mode = |_: &_| Mode::WriteBehind;
        let sql = std::str::from_utf8(sql).unwrap();
        let plan = plan::plan(sql, declared, &self.catalog, &mode, facts);
        Arc::new(Planned {
            plan,
            epoch: Epoch(1),
        })
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    fn is_current(&self, _: &Planned) -> bool {
        true
    }

    async fn read(
        &self,
        asker: Asker<'_>,
        plan: &ReadPlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<u64, Refusal> {
        self.bypassed()?;
        let keys = computed(plan.keys(params, asker.settings))?;
        let Some(rows) = self.tuples(plan.table.oid, &keys) else {
            return Err(passed("not remembered"));
        };
        self.note("read");
        let rows: Vec<Option<&Tuple>> = rows.iter().map(Option::as_ref).collect();
        computed(plan.render(&rows, params, formats, asker.settings, out))
    }

    async fn write(
        &self,
        asker: Asker<'_>,
        plan: &WritePlan,
        params: &Params<'_>,
        formats: Formats<'_>,
        out: &mut BytesMut,
    ) -> Result<CommandTag, Refusal> {
        self.bypassed()?;
        let keys = computed(plan.keys(params, asker.settings))?;
        let rows = self
            .tuples(plan.table.oid, &keys)
            .unwrap_or_else(|| vec![None; keys.len()]);
        let now = Now {
            statement_us: 0,
            transaction_us: 0,
        };
        let decision = computed(plan.decide(params, &rows, now, asker.settings, formats, out))?;
        self.note("write");
        for change in decision.group.into_iter().flat_map(|group| group.rows) {
            let image = change.change.image().cloned();
            self.rows
                .lock()
                .unwrap()
                .insert((change.row.table, change.row.key), image);
        }
        Ok(decision.tag)
    }

    async fn catch_up(&self) -> Result<(), ErrorFields> {
        self.note("catch up");
        Ok(())
    }

    async fn enter(
        &self,
        _: Asker<'_>,
        plan: &PassPlan,
        params: Option<&Params<'_>>,
        snapshot: Snapshot,
        holds: &mut Vec<String>,
    ) -> Result<(), ErrorFields> {
        let params = params.map_or(0, |params| params.values.len());
        self.note(format!("enter {:?} {params} {snapshot:?}", plan.kind));
        let _ = self.entries.subscribe().wait_for(|open| *open).await;
        if self.locked.load(Ordering::SeqCst) {
            return Err(ErrorFields::error(
                SqlState::LOCK_NOT_AVAILABLE,
                "locked by the test",
            ));
        }
        holds.push(format!("{:?}", plan.kind));
        Ok(())
    }

    fn may_lag(&self, plan: &PassPlan) -> bool {
        !plan.reads.is_nothing()
    }

    async fn leave(&self, holds: Vec<String>, outcome: Outcome) {
        let _ = self.ends.subscribe().wait_for(|open| *open).await;
        self.note(format!("leave {} {outcome:?}", holds.join("+")));
    }

    async fn local(
        &self,
        _: Asker<'_>,
        plan: &LocalPlan,
        describe: bool,
        out: &mut BytesMut,
    ) -> Result<(), ErrorFields> {
        if matches!(plan, LocalPlan::Call(_)) {
            return Err(ErrorFields::error(
                SqlState::INTERNAL_ERROR,
                "no calls in this test",
            ));
        }
        if describe {
            self.describe_local(plan, Formats::default(), out);
        }
        backend::command_complete(out, b"SHOW");
        Ok(())
    }

    fn describe_local(&self, _: &LocalPlan, _: Formats<'_>, out: &mut BytesMut) {
        backend::row_description(out, std::iter::empty());
    }
}
