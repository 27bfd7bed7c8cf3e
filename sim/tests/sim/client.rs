//! A client of a node: reads and writes as the proxy's sessions do, and notes what it asked for and what it was told.

use crate::chance::Chance;
use crate::data::{OUR_ROWS, Row, SHARED_ROWS, catalog, name, one_more, ours, shared};
use crate::mistake::Mistake;
use crate::record::Way;
use bytes::Bytes;
use ripen_cachestore::catalog::{Catalog, Epoch};
use ripen_cachestore::change::codec::{Reader, put_bytes, put_many, put_u32};
use ripen_cachestore::change::{Change, CommitGroup, RowChange, RowId};
use ripen_cachestore::home::Server;
use ripen_grid::desk::{Answer, Asked};
use ripen_grid::grid::{Grid, GridError, Hold, Holder};
use ripen_grid::limits::CATCH_UP_WAIT;
use ripen_grid::rows::{Found, Read};
use ripen_grid::scope::Scope;
use ripen_pg::ids::TableOid;
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub struct Client {
    pub name: String,
    pub way: Way,
    pub grid: Arc<Grid>,
    pub chance: Chance,
}

/// How long a session waits until its connection leads to the system of record: as for a barrier.
const AT_HOME_WAIT: Duration = Duration::from_secs(5);

/// How often it says meanwhile that it does not.
const HOME_NUDGE: Duration = Duration::from_millis(500);

/// Of all nodes, for ever: nobody changes tables here.
pub static CATALOG: LazyLock<Catalog> = LazyLock::new(|| catalog(Epoch(1)));

/// What a client asks the leader for.
struct Words {
    /// The number to be added to the rows' lists. `None`: they are counted only.
    write: Option<u32>,
    rows: Vec<RowId>,
}

const DONE: Bytes = Bytes::from_static(&[1]);
/// Postgres must do it.
pub const PASSED: Bytes = Bytes::from_static(&[2]);

/// Words for a write of that number to a row.
pub fn words(write: u32, row: RowId) -> Bytes {
    let (write, rows) = (Some(write), vec![row]);
    Words { write, rows }.encode()
}

/// Words for an increment of a row.
pub fn adding(row: RowId) -> Bytes {
    let (write, rows) = (None, vec![row]);
    Words { write, rows }.encode()
}

impl Words {
    fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_u32(&mut out, self.write.unwrap_or_default());
        put_many(&mut out, &self.rows, |out, row| {
            put_u32(out, row.table.0);
            put_bytes(out, row.key.as_bytes());
        });
        out.into()
    }

    fn decode(bytes: &[u8]) -> Words {
        let mut reader = Reader::new(bytes);
        let mut read = || {
            let write = reader.u32()?;
            let rows = reader.many(|reader| {
                let table = TableOid(reader.u32()?);
                let key = Key::from_bytes(reader.bytes()?);
                Ok(RowId { table, key })
            })?;
            Ok::<_, ripen_cachestore::change::codec::Malformed>((write, rows))
        };
        let (write, rows) = read().expect("written by this program");
        let write = (write > 0).then_some(write);
        Words { write, rows }
    }

    fn decide(&self, images: &[Option<Tuple>]) -> Option<CommitGroup> {
        let change = |(row, image): (&RowId, &Option<Tuple>)| {
            let old = image.as_ref().map(Row::of);
            let change = match (self.write, old) {
                (Some(write), None) => Change::Insert {
                    image: Row::default().with(write).tuple(row),
                },
                (Some(write), Some(old)) => Change::Update {
                    image: old.with(write).tuple(row),
                    set: vec![1],
                    add: one_more(),
                },
                (None, Some(old)) => Change::Update {
                    image: Row {
                        count: old.count + 1,
                        ..old
                    }
                    .tuple(row),
                    set: Vec::new(),
                    add: one_more(),
                },
                (None, None) => return None,
            };
            Some(RowChange {
                row: row.clone(),
                change,
            })
        };
        let rows = self.rows.iter().zip(images).map(change);
        Some(CommitGroup {
            rows: rows.collect::<Option<_>>()?,
        })
    }
}

/// Where the log is led: carries a write out.
pub async fn carry_out(grid: &Grid, asked: Asked, words: &[u8]) -> Answer {
    let words = Words::decode(words);
    if !words.rows.iter().all(|row| grid.feed.serves(row.table)) {
        return Answer::Done(PASSED);
    }
    let decided = grid.write_once(asked, &CATALOG, &words.rows, |images| {
        words
            .decide(images)
            .map(|group| (Some(group), DONE))
            .ok_or(())
    });
    match decided.await {
        Ok(Ok(answer)) => Answer::Done(answer),
        Ok(Err(())) => Answer::Done(PASSED),
        Err(GridError::Elsewhere | GridError::Log(_)) => Answer::Elsewhere,
        Err(GridError::Full) => Answer::Refused(GridError::Full),
        Err(_) => Answer::Done(PASSED),
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Done,
    Unknown,
    Passed,
}

impl Client {
    pub async fn run(mut self) {
        loop {
            let pause = self.chance.range(3..40);
            sleep(Duration::from_millis(pause)).await;
            if self.way.world.quiet.load(Ordering::Relaxed) {
                continue;
            }
            let mut kind = self.chance.below(100);
            if (88..94).contains(&kind) && self.way.world.pg.lock().is_frozen() {
                // It would have to wait for the standby: then there would be little that flushes could be alone in.
                kind = 0;
            }
            let what = match kind {
                0..35 => "a write",
                35..50 => "an increment",
                50..80 => "a read",
                80..88 => "a read that passes through",
                88..94 => "a write that passes through",
                _ => "a write that is given up",
            };
            let begun = self.way.world.now_ms();
            let at_work = |begun| (self.name.clone(), (begun, what));
            self.way.world.at_work.lock().extend([at_work(begun)]);
            match kind {
                0..35 => self.write().await,
                35..50 => self.add().await,
                50..80 => self.read().await,
                80..88 => {
                    let rows = self.some_rows();
                    self.look(rows).await;
                }
                88..94 => self.write_direct().await,
                _ => self.give_up_early().await,
            }
            self.way.world.at_work.lock().remove(&self.name);
        }
    }

    /// Reads only, and only from memory: so it goes on when others wait for a leader.
    pub async fn run_as_reader(mut self) {
        loop {
            let pause = self.chance.range(5..30);
            sleep(Duration::from_millis(pause)).await;
            if self.way.world.quiet.load(Ordering::Relaxed) {
                continue;
            }
            let rows = self.some_rows();
            let begun = self.way.world.history.lock().moment();
            if let Some(seen) = self.read_memory(&rows).await {
                self.way.world.history.lock().counts.memory_reads += 1;
                self.note("memory", &rows, seen, begun);
            }
        }
    }

    fn some_ours(&mut self) -> Vec<RowId> {
        let mut keys = vec![self.chance.below(OUR_ROWS)];
        if self.chance.one_in(3) {
            keys.push(self.chance.below(OUR_ROWS));
        }
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().map(ours).collect()
    }

    fn some_rows(&mut self) -> Vec<RowId> {
        match self.chance.one_in(4) {
            true => vec![shared(self.chance.below(SHARED_ROWS))],
            false => self.some_ours(),
        }
    }

    fn trace(&self, what: std::fmt::Arguments<'_>) {
        self.way
            .world
            .trace(format_args!("client {} {what}", self.name));
    }

    async fn write(&mut self) {
        let rows = self.some_ours();
        let id = self.begin(&rows);
        self.write_as(id, rows).await;
    }

    fn begin(&self, rows: &[RowId]) -> u32 {
        let world = &self.way.world;
        let id = world.history.lock().write(rows, world.now_ms());
        let names: Vec<String> = rows.iter().map(name).collect();
        self.trace(format_args!("writes {id} to {names:?}"));
        id
    }

    async fn write_as(&mut self, id: u32, rows: Vec<RowId>) {
        let words = Words {
            write: Some(id),
            rows: rows.clone(),
        };
        match self.ask(&words).await {
            Told::Done => self.written(id),
            Told::Unknown => self.unknown(id),
            Told::Passed => self.direct(id, rows).await,
        }
    }

    fn written(&self, id: u32) {
        self.way.world.history.lock().written(id);
        self.trace(format_args!("has written {id}"));
    }

    fn unknown(&self, id: u32) {
        self.way.world.history.lock().counts.unknown += 1;
        self.trace(format_args!("does not know of {id}"));
        if self.way.world.makes(Mistake::HastyAnswer) {
            self.written(id);
        }
    }

    async fn ask(&mut self, words: &Words) -> Told {
        let bytes = words.encode();
        if self.way.world.makes(Mistake::AnotherNumber) {
            // Somebody who does not know what a number is for.
            let first = self.grid.ask_write(bytes.clone());
            let first = tokio::time::timeout(Duration::from_millis(20), first).await;
            if let Ok(Ok(answer)) = first {
                return told(&answer);
            }
        }
        match self.grid.ask_write(bytes).await {
            Ok(answer) => told(&answer),
            Err(GridError::Owned | GridError::NotLoadable(_) | GridError::TooLarge) => Told::Passed,
            Err(_) => Told::Unknown,
        }
    }

    /// A write of a client that goes away in the middle.
    async fn give_up_early(&mut self) {
        let rows = self.some_ours();
        let id = self.begin(&rows);
        let patience = self.chance.range(1..30);
        let writing = self.write_as(id, rows);
        let _ = tokio::time::timeout(Duration::from_millis(patience), writing).await;
    }

    async fn add(&mut self) {
        let row = shared(self.chance.below(SHARED_ROWS));
        let add = self.way.world.history.lock().add(&row);
        self.trace(format_args!("adds {add} to {}", name(&row)));
        let words = Words {
            write: None,
            rows: vec![row],
        };
        match self.ask(&words).await {
            Told::Done => {
                self.way.world.history.lock().added(add);
                self.trace(format_args!("has added {add}"));
            }
            told => self.trace(format_args!("does not know of add {add}: {told:?}")),
        }
    }

    /// From memory if that can be, else from Postgres.
    async fn read(&mut self) {
        let rows = self.some_rows();
        let begun = self.way.world.history.lock().moment();
        match self.read_memory(&rows).await {
            Some(seen) => {
                self.way.world.history.lock().counts.memory_reads += 1;
                self.note("memory", &rows, seen, begun);
            }
            None => self.look(rows).await,
        }
    }

    fn note(&self, from: &str, rows: &[RowId], seen: Vec<Option<Row>>, begun: u64) {
        for (row, seen) in rows.iter().zip(&seen) {
            let length = seen.as_ref().map(|seen| (seen.list.len(), seen.count));
            self.trace(format_args!("reads {} {length:?} from {from}", name(row)));
        }
        let seen = rows.iter().cloned().zip(seen).collect();
        let by = format!("{} from {from}", self.name);
        let at_ms = self.way.world.now_ms();
        self.way.world.history.lock().read(seen, begun, by, at_ms);
    }

    /// As `Engine::read` of the proxy.
    async fn read_memory(&mut self, rows: &[RowId]) -> Option<Vec<Option<Row>>> {
        for _ in 0..8 {
            if !self.grid.feed.serves(rows[0].table) {
                return None;
            }
            if !self.grid.is_sure() && !self.way.world.makes(Mistake::NoLease) {
                if !self.grid.until_sure().await {
                    return None;
                }
                continue;
            }
            if self.grid.feed.behind() {
                let caught_up = self.grid.feed.until_caught_up();
                tokio::time::timeout(CATCH_UP_WAIT, caught_up).await.ok()?;
                continue;
            }
            let unknown = match self.try_read(rows).await? {
                Ok(seen) => {
                    if !self.way.world.makes(Mistake::UnsettledRead) {
                        self.grid.settle_read(rows).await.ok()?;
                    }
                    return Some(seen);
                }
                Err(unknown) => unknown,
            };
            self.grid.load(&unknown).await.ok()?;
        }
        None
    }

    async fn try_read(&self, rows: &[RowId]) -> Option<Result<Vec<Option<Row>>, Vec<RowId>>> {
        if self.way.world.makes(Mistake::TornRead) && rows.len() > 1 {
            let mut all = Vec::new();
            for row in rows {
                match self.try_read_together(std::slice::from_ref(row))? {
                    Ok(seen) => all.extend(seen),
                    unknown => return Some(unknown),
                }
                sleep(Duration::from_millis(30)).await;
            }
            return Some(Ok(all));
        }
        self.try_read_together(rows)
    }

    fn try_read_together(&self, rows: &[RowId]) -> Option<Result<Vec<Option<Row>>, Vec<RowId>>> {
        let grid = &self.grid;
        let careless = self.way.world.makes(Mistake::NoFence);
        let fenced = || !careless && rows.iter().any(|row| grid.fences.has(row));
        let followed = || grid.feed.followed(rows[0].table);
        let read = grid.rows.read(rows, fenced, followed, |found| {
            let unknown: Vec<RowId> = (rows.iter().zip(found))
                .filter(|(_, found)| matches!(found, Found::Unknown))
                .map(|(row, _)| row.clone())
                .collect();
            match unknown.is_empty() {
                true => Ok(found
                    .iter()
                    .map(|found| found.tuple().map(Row::of))
                    .collect()),
                false => Err(unknown),
            }
        });
        match read {
            Read::Done(read) => Some(read),
            Read::Fenced | Read::Apart => None,
        }
    }

    /// A statement that passes through.
    async fn look(&mut self, rows: Vec<RowId>) {
        let begun = self.way.world.history.lock().moment();
        let Some(seen) = self.look_through(&rows).await else {
            self.way.world.history.lock().counts.failed_reads += 1;
            self.trace(format_args!("cannot read"));
            return;
        };
        self.way.world.history.lock().counts.postgres_reads += 1;
        self.note("postgres", &rows, seen, begun);
    }

    async fn look_through(&self, rows: &[RowId]) -> Option<Vec<Option<Row>>> {
        let connection = Connection::open(&self.way).await?;
        if !self.at_home(&connection).await {
            return None;
        }
        if !self.way.world.makes(Mistake::NoBarrier) {
            let barrier = self.grid.barrier(&Scope::rows(rows.to_vec())).await;
            barrier.ok()?;
        }
        match self.is_home(&connection) {
            true => self.way.look(connection.life, rows).await.ok(),
            false => None,
        }
    }

    fn is_home(&self, connection: &Connection) -> bool {
        let careless = self.way.world.makes(Mistake::StrangeSession);
        careless || self.way.home.is(Some(connection.server))
    }

    /// As `Engine::wait_home` of the proxy: before that, the statement could see an older past than was acknowledged.
    async fn at_home(&self, connection: &Connection) -> bool {
        let home = &self.way.home;
        let deadline = Instant::now() + AT_HOME_WAIT;
        let mut named = home.watch();
        while !self.is_home(connection) {
            if home.was(connection.server) || Instant::now() >= deadline {
                return false;
            }
            home.doubt();
            let _ = tokio::time::timeout(HOME_NUDGE, named.changed()).await;
        }
        true
    }

    async fn write_direct(&mut self) {
        let rows = self.some_ours();
        let id = self.begin(&rows);
        self.direct(id, rows).await;
    }

    /// A writing statement that passes through.
    async fn direct(&mut self, id: u32, rows: Vec<RowId>) {
        self.trace(format_args!("passes {id} through"));
        let world = self.way.world.clone();
        let Some(connection) = Connection::open(&self.way).await else {
            return self.unknown(id);
        };
        if !self.at_home(&connection).await {
            return self.unknown(id);
        }
        let holder = Holder {
            backend: Some(connection.backend),
            ..Holder::default()
        };
        let mut hold = None;
        if !world.makes(Mistake::NoHold) {
            match self.grid.hold(Scope::rows(rows.clone()), holder).await {
                Ok(held) => {
                    self.trace(format_args!("owns the rows of {id}"));
                    hold = Some(held);
                }
                Err(_) => return self.unknown(id),
            }
        }
        if !self.is_home(&connection) {
            hold.into_iter()
                .for_each(|hold| self.grid.release(hold, false));
            return self.unknown(id);
        }
        // Who goes away now leaves a session behind that ends what it has begun.
        let session = self.session();
        drop(tokio::spawn(async move { session.transact(id, rows, hold, connection).await }).await);
    }

    fn session(&self) -> Client {
        Client {
            name: self.name.clone(),
            way: self.way.clone(),
            grid: self.grid.clone(),
            chance: self.chance.clone(),
        }
    }

    async fn transact(
        self,
        id: u32,
        rows: Vec<RowId>,
        mut hold: Option<Hold>,
        connection: Connection,
    ) {
        let world = self.way.world.clone();
        let Ok(open) = self.way.begin_on(connection.life).await else {
            hold.into_iter()
                .for_each(|hold| self.grid.release(hold, false));
            return self.unknown(id);
        };
        for row in &rows {
            if !open.lock(row).await.unwrap_or(false) {
                open.roll_back();
                hold.into_iter()
                    .for_each(|hold| self.grid.release(hold, false));
                return self.unknown(id);
            }
            open.write(row, open.row(row).unwrap_or_default().with(id));
            self.trace(format_args!("{id} is transaction {}", open.xid));
        }
        if world.makes(Mistake::EarlyRelease) {
            hold.take()
                .into_iter()
                .for_each(|hold| self.grid.release(hold, true));
        }
        let xid = open.xid;
        let committed = open.commit().await;
        if committed.is_err() {
            // It may still be carried out: until that is known, nobody else has the rows.
            loop {
                sleep(Duration::from_millis(5)).await;
                let under_way = world.pg.lock().is_under_way(connection.life, xid);
                if self.way.reachable() && !under_way {
                    break;
                }
            }
        }
        let changed = !world.makes(Mistake::QuietRelease);
        hold.into_iter()
            .for_each(|hold| self.grid.release(hold, changed));
        self.trace(format_args!("gives the rows of {id} back"));
        drop(connection);
        match committed {
            Ok(()) => {
                world.history.lock().counts.direct += 1;
                self.written(id);
            }
            Err(_) => self.unknown(id),
        }
    }
}

fn told(answer: &Bytes) -> Told {
    match *answer == DONE {
        true => Told::Done,
        false => Told::Passed,
    }
}

/// A backend of the session's own.
struct Connection {
    way: Way,
    backend: i32,
    /// Of the server: the connection ends with it.
    life: u64,
    server: Server,
}

impl Connection {
    async fn open(way: &Way) -> Option<Connection> {
        way.trip().await.ok()?;
        let mut pg = way.world.pg.lock();
        Some(Connection {
            way: way.clone(),
            backend: pg.connect(),
            life: pg.life,
            server: pg.server,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let noticed = self.way.reachable();
        let mut pg = self.way.world.pg.lock();
        pg.disconnect(self.backend, if noticed { 1 } else { 5000 });
    }
}
