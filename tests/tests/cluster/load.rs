//! Clients on all nodes at once, each noting what it was told and when: some only write, some only read, some do everything. Never judges; `judge.rs` does.

use super::wire::{Failure, Lie, Wire};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ripen_tests::history::{Did, Operation};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

pub const CELLS: i32 = 12;
pub const COUNTERS: i32 = 5;
/// Of three rows each, which are only written together.
pub const TRIOS: i32 = 4;
/// Rows that come and go.
pub const FLIPS: i32 = 4;

pub const SCHEMA: &str = "
    CREATE TABLE cells (id int PRIMARY KEY, v bigint NOT NULL, o bigint NOT NULL DEFAULT 0);
    INSERT INTO cells SELECT g, 0 FROM generate_series(0, 11) g;
    CREATE TABLE counters (id int PRIMARY KEY, v bigint NOT NULL);
    INSERT INTO counters SELECT g, 0 FROM generate_series(0, 4) g;
    CREATE TABLE trios (id int PRIMARY KEY, v bigint NOT NULL);
    INSERT INTO trios SELECT g, 0 FROM generate_series(0, 11) g;
    CREATE TABLE flips (id int PRIMARY KEY, v bigint NOT NULL);";

/// Between two statements of a client; keeps histories short and the machine's cores for the nodes.
const THINK_MS: std::ops::Range<u64> = 1..5;
/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(20);

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads from memory.
    Reader,
    /// Writes that are queued; an INSERT of a row that is there passes through, to be refused by Postgres.
    Writer,
    /// Writes that never need Postgres.
    Queuer,
    /// Both, and statements and transactions that pass through.
    Anything,
}

/// Where a client belongs and what it does.
#[derive(Clone, Debug)]
pub struct Part {
    /// The node whose client it is; `None`: of whichever lets it in.
    pub node: Option<usize>,
    pub url: String,
    pub role: Role,
    /// A statement that a node refused because it stops (57P01) was not begun: sent again over another connection, it has not failed.
    pub again_when_stopped: bool,
    /// What its connections do to it.
    pub lie: Option<Lie>,
}

/// One client's notes.
pub struct Notes {
    pub part: Part,
    pub operations: Vec<(String, Operation)>,
    /// When each answer came.
    pub answers: Vec<Duration>,
    /// How often which error came, by SQLSTATE or what else is known of it.
    pub failures: BTreeMap<String, u64>,
    pub wrong: Vec<String>,
}

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Notes>>,
}

struct Shared {
    begun: Instant,
    stop: AtomicBool,
    /// No value is written twice.
    fresh: Arc<AtomicI64>,
}

impl Load {
    pub fn begin(parts: Vec<Part>, fresh: Arc<AtomicI64>, seed: u64) -> Load {
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            fresh,
        });
        let mut load = Load {
            shared,
            clients: Vec::new(),
        };
        for part in parts {
            load.join(part, seed);
        }
        load
    }

    /// One more client.
    pub fn join(&mut self, part: Part, seed: u64) {
        let number = self.clients.len();
        let at = part
            .node
            .map_or("any".to_owned(), |node| format!("node {node}"));
        let client = Client {
            who: format!("client {number} at {at}"),
            rng: StdRng::seed_from_u64(seed ^ (number as u64 + 1)),
            shared: self.shared.clone(),
            notes: Notes {
                part,
                operations: Vec::new(),
                answers: Vec::new(),
                failures: BTreeMap::new(),
                wrong: Vec::new(),
            },
        };
        self.clients.push(tokio::spawn(client.run()));
    }

    /// Since the beginning, as the notes count.
    pub fn now(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    /// Time for the clients.
    pub async fn pass(&self, time_ms: u64) {
        tokio::time::sleep(Duration::from_millis(time_ms)).await;
    }

    /// Lets all clients end their last statement.
    pub async fn end(self) -> (Vec<Notes>, Clock) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut notes = Vec::new();
        for client in self.clients {
            notes.push(client.await.expect("a client panicked"));
        }
        (notes, Clock(self.shared.begun))
    }
}

/// What the notes' times are counted from.
pub struct Clock(Instant);

impl Clock {
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

struct Client {
    who: String,
    rng: StdRng,
    shared: Arc<Shared>,
    notes: Notes,
}

impl Client {
    async fn run(mut self) -> Notes {
        while !self.stopped() {
            let mut wire = match Wire::connect(&self.notes.part.url, self.notes.part.lie).await {
                Ok(wire) => wire,
                Err(failure) => {
                    self.fails("connecting", failure);
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            while !self.stopped() && wire.is_open() {
                self.one(&mut wire).await;
                let think = self.rng.random_range(THINK_MS);
                tokio::time::sleep(Duration::from_millis(think)).await;
            }
        }
        self.notes
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    async fn one(&mut self, wire: &mut Wire) {
        let dice = self.rng.random_range(0..12);
        match (self.notes.part.role, dice) {
            (Role::Reader, _) | (Role::Anything, 0..=3) => self.read(wire).await,
            (Role::Writer | Role::Queuer, _) | (Role::Anything, 4..=6) => {
                self.write(wire).await;
            }
            (Role::Anything, 7) => self.read_in_postgres(wire).await,
            (Role::Anything, 8) => self.write_in_postgres(wire).await,
            (Role::Anything, _) => self.transaction(wire).await,
        }
    }

    fn now(&self) -> Duration {
        self.shared.begun.elapsed()
    }

    fn fresh(&self) -> i64 {
        self.shared.fresh.fetch_add(1, Ordering::SeqCst)
    }

    fn any(&mut self, count: i32) -> i32 {
        self.rng.random_range(0..count)
    }

    // ---- reads

    async fn read(&mut self, wire: &mut Wire) {
        match self.rng.random_range(0..4) {
            0 => {
                let id = self.any(CELLS);
                self.read_row(wire, "cells", "SELECT v FROM cells WHERE id = $1", id)
                    .await;
            }
            1 => {
                let id = self.any(COUNTERS);
                self.read_row(wire, "counters", "SELECT v FROM counters WHERE id = $1", id)
                    .await;
            }
            2 => {
                let id = self.any(FLIPS);
                self.read_row(wire, "flips", "SELECT v FROM flips WHERE id = $1", id)
                    .await;
            }
            _ => {
                let sql = "SELECT v FROM trios WHERE id IN ($1, $2, $3)";
                let trio = self.any(TRIOS);
                self.read_trio(wire, sql, trio).await;
            }
        }
    }

    async fn read_in_postgres(&mut self, wire: &mut Wire) {
        if self.rng.random() {
            let id = self.any(CELLS);
            let sql = "SELECT v FROM cells WHERE id = $1 AND clock_timestamp() IS NOT NULL";
            return self.read_row(wire, "cells", sql, id).await;
        }
        let sql = "SELECT v FROM trios WHERE id IN ($1, $2, $3) AND clock_timestamp() IS NOT NULL";
        let trio = self.any(TRIOS);
        self.read_trio(wire, sql, trio).await;
    }

    async fn read_row(&mut self, wire: &mut Wire, table: &str, sql: &'static str, id: i32) {
        let called = self.now();
        match wire.numbers(sql, &[&id]).await {
            Ok(values) => self.note(table, id, Did::Read(values.first().copied()), called),
            Err(failure) => self.fails(sql, failure),
        }
    }

    async fn read_trio(&mut self, wire: &mut Wire, sql: &'static str, trio: i32) {
        let [a, b, c] = rows_of(trio);
        let called = self.now();
        match wire.numbers(sql, &[&a, &b, &c]).await {
            Ok(values) if values.len() == 3 && values.iter().all(|v| *v == values[0]) => {
                self.note("trios", trio, Did::Read(Some(values[0])), called);
            }
            Ok(values) => {
                let wrong = format!(
                    "{:?} {}: a torn trio {trio}: {values:?} by {sql}",
                    self.now(),
                    self.who
                );
                self.notes.wrong.push(wrong);
            }
            Err(failure) => self.fails(sql, failure),
        }
    }

    // ---- writes of one statement

    async fn write(&mut self, wire: &mut Wire) {
        let v = self.fresh();
        let kinds = if self.notes.part.role == Role::Queuer {
            7
        } else {
            8
        };
        match self.rng.random_range(0..kinds) {
            0..=1 => {
                let id = self.any(CELLS);
                let sql = "UPDATE cells SET v = $2 WHERE id = $1";
                self.change(wire, "cells", sql, id, v, 1).await;
            }
            2 => {
                let id = self.any(COUNTERS);
                let sql = "UPDATE counters SET v = v + 1 WHERE id = $1";
                self.count(wire, sql, id).await;
            }
            3 => self.count_and_tell(wire).await,
            4..=5 => {
                let trio = self.any(TRIOS);
                self.change_trio(wire, trio, v).await;
            }
            6 => {
                let id = self.any(FLIPS);
                let sql = "INSERT INTO flips VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v";
                self.change(wire, "flips", sql, id, v, 1).await;
            }
            _ => self.flip(wire, v).await,
        }
    }

    async fn write_in_postgres(&mut self, wire: &mut Wire) {
        let (id, v) = (self.any(CELLS), self.fresh());
        let sql = "UPDATE cells SET v = $2 WHERE id = $1 AND clock_timestamp() IS NOT NULL";
        self.change(wire, "cells", sql, id, v, 1).await;
    }

    async fn change(
        &mut self,
        wire: &mut Wire,
        table: &str,
        sql: &'static str,
        id: i32,
        v: i64,
        rows: u64,
    ) {
        let called = self.now();
        let done = wire.execute(sql, &[&id, &v]).await;
        self.changed(
            table,
            id,
            Did::Write(Some(v)),
            called,
            sql,
            done.map(|changed| (changed, rows)),
        );
    }

    async fn change_trio(&mut self, wire: &mut Wire, trio: i32, v: i64) {
        let sql = "UPDATE trios SET v = $4 WHERE id IN ($1, $2, $3)";
        let [a, b, c] = rows_of(trio);
        let called = self.now();
        let done = wire.execute(sql, &[&a, &b, &c, &v]).await;
        self.changed(
            "trios",
            trio,
            Did::Write(Some(v)),
            called,
            sql,
            done.map(|changed| (changed, 3)),
        );
    }

    async fn count(&mut self, wire: &mut Wire, sql: &'static str, id: i32) {
        let called = self.now();
        let done = wire.execute(sql, &[&id]).await;
        self.changed(
            "counters",
            id,
            Did::Add(1),
            called,
            sql,
            done.map(|changed| (changed, 1)),
        );
    }

    async fn count_and_tell(&mut self, wire: &mut Wire) {
        let id = self.any(COUNTERS);
        let sql = "UPDATE counters SET v = v + 1 WHERE id = $1 RETURNING v";
        let called = self.now();
        match wire.numbers(sql, &[&id]).await {
            Ok(values) if values.len() == 1 => {
                self.note("counters", id, Did::AddTold(1, values[0]), called)
            }
            Ok(values) => self
                .notes
                .wrong
                .push(format!("{}: {sql}: {values:?}", self.who)),
            Err(failure) => self.unknown("counters", id, Did::Add(1), called, sql, failure),
        }
    }

    async fn flip(&mut self, wire: &mut Wire, v: i64) {
        let id = self.any(FLIPS);
        let called = self.now();
        if self.rng.random() {
            let sql = "DELETE FROM flips WHERE id = $1";
            return match wire.execute(sql, &[&id]).await {
                Ok(rows) => self.note("flips", id, Did::Delete(rows == 1), called),
                Err(failure) => self.unknown("flips", id, Did::Write(None), called, sql, failure),
            };
        }
        let sql = "INSERT INTO flips VALUES ($1, $2)";
        match wire.execute(sql, &[&id, &v]).await {
            Ok(_) => self.note("flips", id, Did::Insert(v), called),
            Err(failure) if failure.code == "23505" => {
                self.note("flips", id, Did::Found(true), called)
            }
            Err(failure) => self.unknown("flips", id, Did::Insert(v), called, sql, failure),
        }
    }

    // ---- transactions

    async fn transaction(&mut self, wire: &mut Wire) {
        let v = self.fresh();
        let (key, did, statements) = match self.rng.random_range(0..3) {
            0 => {
                let id = self.any(CELLS);
                let sql = format!("UPDATE cells SET v = {v} WHERE id = {id}");
                (("cells", id), Did::Write(Some(v)), vec![sql])
            }
            1 => {
                let id = self.any(COUNTERS);
                let sql = format!("UPDATE counters SET v = v + 1 WHERE id = {id}");
                (("counters", id), Did::Add(1), vec![sql])
            }
            _ => {
                let trio = self.any(TRIOS);
                let rows = rows_of(trio).into_iter();
                let sql = rows.map(|id| format!("UPDATE trios SET v = {v} WHERE id = {id}"));
                (("trios", trio), Did::Write(Some(v)), sql.collect())
            }
        };
        let called = self.now();
        let rolls_back = self.rng.random_range(0..4) == 0;
        for sql in ["BEGIN".to_owned()].into_iter().chain(statements) {
            if let Err(failure) = wire.text(&sql).await {
                // Never committed, whatever happened.
                self.fails(&sql, failure);
                return wire.roll_back_or_close().await;
            }
        }
        if rolls_back {
            return wire.roll_back_or_close().await;
        }
        let done = wire.text("COMMIT").await;
        if let Err(failure) = done.as_ref()
            && failure.code == "40001"
        {
            // Whoever is told so knows that nothing of it is there, nor ever will be.
            return self.fails("COMMIT", done.expect_err("it has failed"));
        }
        self.changed(key.0, key.1, did, called, "COMMIT", done.map(|()| (1, 1)));
    }

    // ---- notes

    fn note(&mut self, table: &str, id: i32, did: Did, called: Duration) {
        let returned = self.now();
        self.notes.answers.push(returned);
        self.push(table, id, did, called, Some(returned));
    }

    fn changed(
        &mut self,
        table: &str,
        id: i32,
        did: Did,
        called: Duration,
        sql: &str,
        done: Result<(u64, u64), Failure>,
    ) {
        match done {
            Ok((changed, wanted)) => {
                self.note(table, id, did, called);
                if changed != wanted {
                    let wrong = format!(
                        "{:?} {}: {sql} of {table} {id} changed {changed} rows",
                        self.now(),
                        self.who
                    );
                    self.notes.wrong.push(wrong);
                }
            }
            Err(failure) => self.unknown(table, id, did, called, sql, failure),
        }
    }

    fn unknown(
        &mut self,
        table: &str,
        id: i32,
        did: Did,
        called: Duration,
        sql: &str,
        failure: Failure,
    ) {
        // What a COMMIT ends was begun.
        if sql != "COMMIT" && self.was_not_begun(&failure) {
            return;
        }
        self.push(table, id, did, called, None);
        self.fails(sql, failure);
    }

    fn was_not_begun(&self, failure: &Failure) -> bool {
        self.notes.part.again_when_stopped && failure.code == "57P01"
    }

    fn push(
        &mut self,
        table: &str,
        id: i32,
        did: Did,
        called: Duration,
        returned: Option<Duration>,
    ) {
        let operation = Operation {
            who: self.who.clone(),
            did,
            called,
            returned,
        };
        self.notes
            .operations
            .push((format!("{table} {id}"), operation));
    }

    fn fails(&mut self, sql: &str, failure: Failure) {
        if sql != "COMMIT" && self.was_not_begun(&failure) {
            return;
        }
        let first_words: Vec<&str> = sql.split(' ').take(4).collect();
        let at = self.now();
        let Failure { code, text } = failure;
        let what = format!("{code} of {}", first_words.join(" "));
        let count = self.notes.failures.entry(what).or_default();
        *count += 1;
        if *count == 1 {
            let _ = writeln!(
                std::io::stderr(),
                "  at {at:?} {}: {code} {text} ({sql})",
                self.who
            );
        }
    }
}

fn rows_of(trio: i32) -> [i32; 3] {
    [trio * 3, trio * 3 + 1, trio * 3 + 2]
}
