//! The nodes with their real rows and state machines, and what happens to them, step by step from a seed; beside them what is true.

use crate::gathering::Gathering;
use crate::postgres::{Postgres, Row, Written};
use parking_lot::Mutex;
use ripen_grid::change::{Change, CommitGroup, FlushSeq, Increment, RowChange, RowId};
use ripen_grid::fences::Fences;
use ripen_grid::leader::{Leader, Proposal};
use ripen_grid::log::{
    Command, Entry, FlushEnd, FlushScope, FlushStart, HeldScope, HoldEnd, LogIndex, Machine,
    RequestId,
};
use ripen_grid::machine::GridMachine;
use ripen_grid::marks::Marks;
use ripen_grid::ownership::Ownership;
use ripen_grid::peers::floor::Told;
use ripen_grid::rows::layer;
use ripen_grid::rows::slot::{Base, Confirms, Lend, Seen};
use ripen_grid::rows::{Found, LoadTicket, Moment, Rows, WalChange};
use ripen_grid::schedule::Schedule;
use ripen_grid::scope::Scope;
use ripen_pg::ids::{Lsn, TableOid, TypeOid, Xid};
use ripen_pg::key::Key;
use ripen_pg::tuple::Tuple;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;

pub const TABLE: TableOid = TableOid(1);
pub const INT8: TypeOid = TypeOid(20);
const TERM: u64 = 1;
pub const NODES: usize = 3;
/// Few, so that things meet.
pub const ROWS: u64 = 2;

/// What is done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    None,
    /// Whatever the asking node knows of the log, any node may answer, be it cut off. (Each of the two guards against most of what the other does.)
    IgnoresLogAndLease,
    /// Whatever it knows of the WAL.
    IgnoresWal,
    /// What the stream is just handing over does not count as known.
    CountsOnlyWhatPassed,
    /// What a row contained that was given up does not count as known.
    ForgetsWhatWentBy,
    /// What the node knows is looked at before the load begins to record what passes.
    LooksBeforeItRecords,
    /// The answering node tells what readers see, changes of the log included.
    LendsWhatReadersSee,
    /// What is lent is said to contain no more than its own last change, whatever its load saw.
    LosesTheSnapshot,
    /// What is lent counts as up to date with everything.
    ClaimsEverything,
    /// What a load of a set has found without a lease is kept.
    GathersWithoutLease,
    /// A set's snapshot is taken before its load has begun to record what passes.
    GathersBeforeItRecords,
    /// A set is told although this node's stream has not come as far as what others have told of its rows.
    TellsSetsAheadOfTheStream,
    /// Of a set, only what was seen of it must be known to all before it is told, not what has left it.
    SettlesOnlyWhatIsShown,
}

impl Mistake {
    pub const ALL: [Mistake; 12] = [
        Mistake::IgnoresLogAndLease,
        Mistake::IgnoresWal,
        Mistake::CountsOnlyWhatPassed,
        Mistake::ForgetsWhatWentBy,
        Mistake::LooksBeforeItRecords,
        Mistake::LendsWhatReadersSee,
        Mistake::LosesTheSnapshot,
        Mistake::ClaimsEverything,
        Mistake::GathersWithoutLease,
        Mistake::GathersBeforeItRecords,
        Mistake::TellsSetsAheadOfTheStream,
        Mistake::SettlesOnlyWhatIsShown,
    ];
}

pub struct Node {
    machine: GridMachine,
    pub rows: Arc<Rows>,
    schedule: Arc<Schedule>,
    pub fences: Arc<Fences>,
    /// Entries of the log applied.
    pub applied: usize,
    /// Transactions of the WAL handed over, and handed over entirely.
    told: usize,
    pub passed: usize,
    /// The same, for its rows.
    followed: Arc<AtomicU64>,
    pub lease: bool,
    /// The log does not reach it; other nodes and Postgres do.
    cut_off: bool,
    loads: Vec<Load>,
    /// Which transaction's value of a row was shown last.
    pub shown: BTreeMap<RowId, usize>,
    /// Where transactions stand that passed through and whose end this node knows.
    ended: BTreeMap<RowId, usize>,
}

struct Load {
    ticket: LoadTicket,
    from: From,
}

enum From {
    Postgres(Option<(Arc<Moment>, HashMap<RowId, Row>)>),
    Peer(usize, Told, Option<HashMap<RowId, Base>>),
}

/// A transaction that passes through, alone.
struct Through {
    row: RowId,
    id: RequestId,
    held_at: usize,
    committed_at: Option<usize>,
}

#[derive(Clone, Copy)]
struct Attempt {
    xid: Xid,
    named_at: usize,
    committed: bool,
}

pub struct Cluster {
    random: u64,
    asks_most: usize,
    /// In some runs, who asks most is cut off for a third of them.
    cuts: bool,
    steps: usize,
    pub mistake: Mistake,
    pub pg: Postgres,
    pub nodes: Vec<Node>,
    log: Vec<Entry>,
    /// Up to where commits have been acknowledged.
    pub acknowledged: usize,
    /// Changes in the order of the log: where, of which row, what, and which flush carries it.
    pub changes: Vec<(usize, RowId, Change, Option<FlushSeq>)>,
    attempt: Option<Attempt>,
    through: Option<Through>,
    requests: u64,
    /// Which transaction of the WAL set this value of column a.
    pub authors: BTreeMap<i64, usize>,
    unique: i64,
    clock_ms: u64,
    /// Rows that one node has taken from another.
    pub taken: usize,
    /// Sets, in some of the runs.
    pub gathering: Gathering,
}

fn node(memory_max: u64, first_xid: u64, leads: bool) -> Node {
    let (rows, schedule) = (
        Arc::new(Rows::new(memory_max, Arc::new(|| 0))),
        Arc::new(Schedule::default()),
    );
    rows.note_xid(Xid(first_xid));
    let (fences, followed) = (Arc::<Fences>::default(), Arc::<AtomicU64>::default());
    rows.measure_by(followed.clone());
    let mut leader = Leader::default();
    leader.lead(leads.then_some(TERM));
    let machine = GridMachine {
        sole: true,
        rows: rows.clone(),
        schedule: schedule.clone(),
        leader: Arc::new(Mutex::new(leader)),
        applied: watch::channel(Proposal(0)).0,
        live: Arc::new(AtomicBool::new(true)),
        confirms: Arc::new(|table| match table == TABLE {
            true => Confirms::Stream,
            false => Confirms::Nobody,
        }),
        requests: Arc::default(),
        ownership: Ownership {
            rows: rows.clone(),
            fences: fences.clone(),
            feed: Arc::default(),
            marks: Arc::new(Marks::new(1)),
        },
        catalog_changes: Arc::new(watch::Sender::new(0)),
        home: Arc::default(),
    };
    Node {
        machine,
        rows,
        schedule,
        fences,
        applied: 0,
        told: 0,
        passed: 0,
        followed,
        lease: true,
        cut_off: false,
        loads: Vec::new(),
        shown: BTreeMap::new(),
        ended: BTreeMap::new(),
    }
}

pub fn row_id(pick: u64) -> RowId {
    RowId {
        table: TABLE,
        key: Key::from_bytes(&[(pick % ROWS) as u8]),
    }
}

pub fn position(transactions: usize) -> Lsn {
    Lsn(100 * transactions as u64)
}

impl Cluster {
    pub fn new(seed: u64, mistake: Mistake) -> Cluster {
        let first_xid = 3;
        let sizes = [
            1 << 30,
            1 << 30,
            if seed.is_multiple_of(3) { 0 } else { 1 << 30 },
        ];
        let nodes = sizes.iter().enumerate();
        Cluster {
            asks_most: (seed / 3) as usize % NODES,
            cuts: seed % 2 == 1,
            steps: 0,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            mistake,
            pg: Postgres::new(first_xid),
            nodes: nodes
                .map(|(at, size)| node(*size, first_xid, at == 0))
                .collect(),
            log: Vec::new(),
            acknowledged: 0,
            changes: Vec::new(),
            attempt: None,
            through: None,
            requests: 0,
            authors: BTreeMap::new(),
            unique: 0,
            clock_ms: 1_000,
            taken: 0,
            gathering: Gathering::new(seed / 9 % 2 == 1, seed / 18 % 2 == 1),
        }
    }

    /// Xorshift (Marsaglia 2003).
    pub fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below
    }

    fn draw_node(&mut self) -> usize {
        self.draw(NODES as u64) as usize
    }

    fn draw_row(&mut self) -> RowId {
        row_id(self.draw(ROWS))
    }

    /// Answers which nodes it concerned.
    pub fn step(&mut self) -> [usize; 3] {
        self.steps += 1;
        if self.cuts && self.asks_most != 0 {
            let here = &mut self.nodes[self.asks_most];
            match self.steps {
                40 => (here.lease, here.cut_off) = (false, true),
                140 => here.cut_off = false,
                141 => (0..200).for_each(|_| self.apply(self.asks_most)),
                142 => here.lease = here.applied >= self.acknowledged,
                _ => {}
            }
        }
        let node = self.draw_node();
        // One asks more than the others, so that these have rows.
        let asking = match self.draw(4) {
            0 => node,
            _ => self.asks_most,
        };
        match self.draw(56) {
            0 | 1 => self.begin_load(node),
            2..=10 => self.ask(asking),
            11..=14 => self.serve(asking),
            15..=22 => self.finish(asking),
            23..=27 => self.outside_write(),
            28..=30 => self.become_visible(),
            // Mostly close behind, at times far.
            31..=35 => (0..self.draw(8)).for_each(|_| self.stream(node)),
            36..=40 => (0..self.draw(12)).for_each(|_| self.apply(node)),
            41 | 42 => self.grid_write(),
            43..=46 => self.flush_at_times(),
            47..=49 => self.through_onward(),
            50 | 51 => self.give_up(node),
            52 => self.settle_loads(node),
            _ => self.lease(node),
        }
        if self.gathering.is_on {
            self.gather(node);
        }
        self.acknowledge();
        [0, node, asking]
    }

    // ---- loads

    fn begin_load(&mut self, node: usize) {
        let row = self.draw_row();
        let (ticket, _) = self.nodes[node].rows.begin_load(&[row]);
        self.push_load(node, ticket, From::Postgres(None));
    }

    fn push_load(&mut self, node: usize, ticket: LoadTicket, from: From) {
        if !ticket.is_empty() {
            self.nodes[node].loads.push(Load { ticket, from });
        }
    }

    fn ask(&mut self, node: usize) {
        let rows = [self.draw_row(), self.draw_row()];
        match self.draw(4) {
            0 => self.give_up(node),
            1 | 2 => self.nodes[node].rows.drop_rows(&rows),
            _ => {}
        }
        let owner = (node + 1 + self.draw(NODES as u64 - 1) as usize) % NODES;
        let before = self.asked(node, &rows);
        if self.mistake == Mistake::LooksBeforeItRecords {
            // Others have their turn.
            (0..4).for_each(|_| self.stream(node));
            (0..4).for_each(|_| self.apply(node));
            (0..4).for_each(|_| self.finish(node));
        }
        let (ticket, _) = self.nodes[node].rows.begin_load(&rows);
        let told = match self.mistake {
            Mistake::LooksBeforeItRecords => before,
            _ => self.asked(node, ticket.rows()),
        };
        self.push_load(node, ticket, From::Peer(owner, told, None));
        if self.draw(2) == 0 {
            self.serve(node);
        }
    }

    fn asked(&self, node: usize, rows: &[RowId]) -> Told {
        let Node {
            rows: memory,
            applied,
            passed,
            ..
        } = &self.nodes[node];
        let shown = match self.mistake {
            Mistake::CountsOnlyWhatPassed => Lsn(0),
            Mistake::ForgetsWhatWentBy => memory.may_have_shown(&[]),
            _ => memory.may_have_shown(rows),
        };
        let mut told = Told {
            log: LogIndex(*applied as u64),
            wal: shown.max(position(*passed)),
            history: 1,
            live: true,
        };
        match self.mistake {
            Mistake::IgnoresLogAndLease => told.log = LogIndex(0),
            Mistake::IgnoresWal => told.wal = Lsn(0),
            _ => {}
        }
        told
    }

    /// A question arrives, and its answer is made.
    fn serve(&mut self, asking: usize) {
        let questions = self.nodes[asking].loads.iter().enumerate();
        let waiting = questions.filter(|(_, load)| matches!(load.from, From::Peer(_, _, None)));
        let waiting: Vec<usize> = waiting.map(|(at, _)| at).collect();
        if waiting.is_empty() {
            return;
        }
        let at = waiting[self.draw(waiting.len() as u64) as usize];
        let From::Peer(owner, asked, _) = self.nodes[asking].loads[at].from else {
            return;
        };
        let rows = self.nodes[asking].loads[at].ticket.rows().to_vec();
        if self.told(owner).answers(&asked).is_err() && self.draw(4) > 0 {
            // It waits until it has been told as much.
            (0..8).for_each(|_| self.stream(owner));
            (0..8).for_each(|_| self.apply(owner));
            return;
        }
        let unknown: Vec<RowId> = rows
            .iter()
            .filter(|row| {
                matches!(
                    self.nodes[owner].rows.lend(row, || false),
                    Some(Lend::Unknown)
                )
            })
            .cloned()
            .collect();
        if !unknown.is_empty() && self.draw(4) > 0 {
            // It loads them first.
            let (ticket, _) = self.nodes[owner].rows.begin_load(&unknown);
            self.push_load(owner, ticket, From::Postgres(None));
            while self.draw(16) > 0
                && self.nodes[owner]
                    .loads
                    .iter()
                    .any(|load| unknown.iter().any(|row| load.ticket.rows().contains(row)))
            {
                self.finish(owner);
            }
            if self.draw(2) == 0 {
                return;
            }
        }
        let mut lent = HashMap::new();
        for row in rows {
            if let Some(base) = self.lend(owner, &asked, &row) {
                lent.insert(row, base);
            }
        }
        self.nodes[asking].loads[at].from = match lent.is_empty() {
            true => From::Postgres(None),
            false => From::Peer(owner, asked, Some(lent)),
        };
    }

    /// What is wholly in a node's memory.
    fn told(&self, node: usize) -> Told {
        Told {
            log: LogIndex(self.nodes[node].applied as u64),
            wal: position(self.nodes[node].passed),
            history: 1,
            live: true,
        }
    }

    fn lend(&self, owner: usize, asked: &Told, row: &RowId) -> Option<Base> {
        let node = &self.nodes[owner];
        if self.told(owner).answers(asked).is_err()
            || !(node.lease || self.mistake == Mistake::IgnoresLogAndLease)
        {
            return None;
        }
        let Some(Lend::Base(mut base)) = node.rows.lend(row, || node.fences.has(row)) else {
            if self.mistake == Mistake::LendsWhatReadersSee && !node.fences.has(row) {
                return Some(Base {
                    row: known(node, row)?,
                    seen: Seen::Told(position(node.passed)),
                });
            }
            return None;
        };
        // As it comes out of the wire.
        base.seen = match base.seen {
            Seen::Loaded(_) if self.mistake == Mistake::LosesTheSnapshot => Seen::Told(Lsn(0)),
            _ if self.mistake == Mistake::ClaimsEverything => Seen::Told(Lsn(u64::MAX)),
            Seen::Lsn(lsn) => Seen::Told(lsn),
            seen => seen,
        };
        Some(base)
    }

    fn finish(&mut self, node: usize) {
        if self.nodes[node].loads.is_empty() {
            return;
        }
        let at = self.draw(self.nodes[node].loads.len() as u64) as usize;
        let Load { mut ticket, from } = self.nodes[node].loads.remove(at);
        let Node { rows, lease, .. } = &self.nodes[node];
        match from {
            From::Postgres(None) => {
                let found = ticket.rows().iter();
                let found = found.filter_map(|row| Some((row.clone(), self.pg.visible(row)?)));
                let seen = Some((self.pg.moment(), found.collect()));
                self.push_load(node, ticket, From::Postgres(seen));
            }
            From::Postgres(Some((moment, found))) => match lease {
                true => rows.finish_load(ticket, &moment, |row| found.get(row).map(Row::tuple)),
                false => rows.fail_load(ticket),
            },
            // Nobody has answered in time.
            From::Peer(_, _, None) => self.push_load(node, ticket, From::Postgres(None)),
            From::Peer(_, _, Some(mut lent)) => {
                if *lease {
                    let before = ticket.rows().len();
                    rows.take_lent(&mut ticket, |row| lent.remove(row));
                    self.taken += before - ticket.rows().len();
                }
                self.push_load(node, ticket, From::Postgres(None));
            }
        }
    }

    fn give_up(&mut self, node: usize) {
        let row = self.draw_row();
        match self.draw(2) {
            0 => self.nodes[node].rows.drop_rows(&[row]),
            _ => {
                // Twice: what was read is spared once.
                self.nodes[node].rows.shed(0);
                self.nodes[node].rows.shed(0);
                self.nodes[node].rows.shed(1 << 30);
            }
        }
    }

    fn settle_loads(&mut self, node: usize) {
        let Node { rows, passed, .. } = &self.nodes[node];
        rows.settle_loads(|| position(*passed), |_| true);
    }

    // ---- Postgres and its WAL

    fn fresh(&mut self) -> i64 {
        self.unique += 1;
        self.unique * 1_000
    }

    fn outside_write(&mut self) {
        let rows: BTreeSet<RowId> = [self.draw_row(), self.draw_row()].into();
        let Some(xid) = self.pg.begin(rows.clone()) else {
            return;
        };
        self.commit(xid, &rows);
    }

    fn commit(&mut self, xid: Xid, rows: &BTreeSet<RowId>) {
        let mut written = Vec::new();
        for row in rows {
            let old = self.pg.rows.get(row).cloned();
            let t_changed = old.is_none() || self.draw(3) == 0;
            let a = self.fresh();
            self.authors.insert(a, self.pg.wal.len());
            let after = Row {
                a,
                b: old.as_ref().map_or(0, |old| old.b),
                t: match &old {
                    Some(old) if !t_changed => old.t,
                    _ => t_of(a),
                },
            };
            written.push(Written {
                row: row.clone(),
                after: Some(after),
                t_changed,
            });
        }
        self.pg.commit(xid, None, written);
    }

    fn become_visible(&mut self) {
        for at in 0..self.pg.wal.len() {
            if !self.pg.wal[at].visible && self.draw(2) == 0 {
                self.pg.wal[at].visible = true;
            }
        }
    }

    /// The stream hands over the next transaction, or is done with it.
    fn stream(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if node.passed < node.told {
            node.passed = node.told;
            node.followed
                .store(position(node.passed).0, Ordering::SeqCst);
            return;
        }
        let Some(tx) = self.pg.wal.get(node.told) else {
            return;
        };
        if let Some(seq) = tx.flush {
            if !node.schedule.knows(seq, tx.xid.low()) {
                return;
            }
            let rows = node.schedule.confirm(seq);
            node.rows.begin_told(tx.lsn);
            node.rows.confirm(seq, tx.xid.low(), tx.lsn, &rows);
        } else {
            node.rows.begin_told(tx.lsn);
            let change = |written: &Written| WalChange {
                row: written.row.clone(),
                image: written.after.as_ref().map(|row| match written.t_changed {
                    true => row.tuple(),
                    false => row.tuple_without_t(),
                }),
            };
            let changes: Vec<WalChange> = tx.written.iter().map(change).collect();
            node.rows.wal_transaction(tx.xid.low(), tx.lsn, &changes);
        }
        node.told += 1;
    }

    // ---- the log

    fn append(&mut self, command: Command) -> usize {
        self.clock_ms += 1;
        self.log.push(Entry {
            at_ms: self.clock_ms,
            term: TERM,
            commands: vec![command],
        });
        self.apply(0);
        self.log.len()
    }

    fn apply(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let Some(entry) = self.log.get(node.applied).filter(|_| !node.cut_off) else {
            return;
        };
        node.applied += 1;
        if let Command::Release(..) = &entry.commands[0]
            && let Some(at) = self
                .pg
                .wal
                .iter()
                .position(|tx| tx.xid == through_of(entry))
        {
            for written in &self.pg.wal[at].written {
                node.ended.insert(written.row.clone(), at + 1);
            }
        }
        let mut entry = entry.clone();
        if let Command::Release(ids, end) = &entry.commands[0] {
            // The number of the process says which transaction it was; all are of one process.
            let ids = ids.iter().map(|id| request(id.number)).collect();
            entry.commands = vec![Command::Release(ids, *end)];
        }
        node.machine.apply(LogIndex(node.applied as u64), entry);
    }

    /// What every holder of a lease has applied.
    fn acknowledge(&mut self) {
        let holders = self.nodes.iter().filter(|node| node.lease);
        let everywhere = holders.map(|node| node.applied).min().unwrap_or(0);
        self.acknowledged = self.acknowledged.max(everywhere);
    }

    fn lease(&mut self, node: usize) {
        let (acknowledged, lost) = (self.acknowledged, self.draw(4) == 0);
        let here = &mut self.nodes[node];
        if node != 0 {
            match here.lease {
                true if lost => (here.lease, here.cut_off) = (false, true),
                true => {}
                false if here.cut_off => here.cut_off = !lost,
                false => here.lease = here.applied >= acknowledged,
            }
        }
    }

    fn grid_write(&mut self) {
        let rows: BTreeSet<RowId> = match self.draw(3) {
            0 => [self.draw_row(), self.draw_row()].into(),
            _ => [self.draw_row()].into(),
        };
        let mut group = CommitGroup { rows: Vec::new() };
        for row in rows {
            let leader = &self.nodes[0];
            let Some(old) = known(leader, &row).filter(|_| !leader.fences.has(&row)) else {
                return;
            };
            let change = self.decide(old);
            group.rows.push(RowChange { row, change });
        }
        let at = self.log.len() + 1;
        for change in &group.rows {
            let (row, change) = (change.row.clone(), change.change.clone());
            self.changes.push((at, row, change, None));
        }
        self.nodes[0].machine.leader.lock().propose(&group);
        self.append(Command::Group(group));
    }

    fn decide(&mut self, old: Option<Tuple>) -> Change {
        let fresh = self.fresh();
        let how = self.draw(4);
        let Some(old) = old.filter(|_| how > 0) else {
            let image = Row {
                a: fresh,
                b: 0,
                t: t_of(fresh),
            };
            return Change::Put {
                image: image.tuple(),
            };
        };
        let old = Row::of(&old);
        let (set, a) = match how {
            1 => (vec![1], fresh),
            _ => (Vec::new(), old.a),
        };
        let image = Row {
            a,
            b: old.b + 1,
            t: old.t,
        };
        Change::Update {
            image: image.tuple(),
            set,
            add: vec![Increment {
                position: 2,
                type_oid: INT8,
                amount: 1i64.to_be_bytes().to_vec().into(),
            }],
        }
    }

    // ---- flushes

    fn flush_onward(&mut self) {
        let Some(open) = self.nodes[0].schedule.open() else {
            return self.flush_start();
        };
        let (attempt, fails) = (self.attempt, self.draw(8) == 0);
        match attempt {
            None => {
                let rows: BTreeSet<RowId> = open.rows().into_iter().collect();
                if let Some(xid) = self.pg.begin(rows) {
                    let named_at = self.append(Command::FlushXid(open.seq, xid));
                    self.attempt = Some(Attempt {
                        xid,
                        named_at,
                        committed: false,
                    });
                }
            }
            Some(attempt) if attempt.committed => {
                let ours = self.pg.wal.iter_mut().find(|tx| tx.xid == attempt.xid);
                ours.expect("it committed").visible = true;
                self.attempt = None;
                self.append(Command::FlushEnd(FlushEnd {
                    seq: open.seq,
                    applied: true,
                    dead: Vec::new(),
                }));
            }
            Some(attempt) if fails => {
                self.pg.abort(attempt.xid);
                self.attempt = None;
            }
            // Whoever may read knows its name before it commits.
            Some(attempt) if self.acknowledged >= attempt.named_at => {
                let (written, dead) = self.pg.flush(&open.groups);
                assert!(dead.is_empty(), "nothing is refused here");
                for written in &written {
                    let row = written.after.as_ref().expect("nothing is deleted here");
                    self.authors.entry(row.a).or_insert(self.pg.wal.len());
                }
                self.pg.commit(attempt.xid, Some(open.seq), written);
                self.attempt = Some(Attempt {
                    committed: true,
                    ..attempt
                });
            }
            Some(_) => {}
        }
    }

    /// Where somebody is cut off, flushes pass meanwhile of what it knows to be pending.
    fn flush_at_times(&mut self) {
        match self.steps {
            ..40 if self.cuts => {}
            40..140 if self.cuts => (0..self.draw(4)).for_each(|_| self.flush_onward()),
            _ => self.flush_onward(),
        }
    }

    fn flush_start(&mut self) {
        let seq = self.nodes[0].schedule.next_seq();
        let start = FlushStart {
            seq,
            cutoff_ms: self.clock_ms,
            scope: match self.draw(2) {
                0 => FlushScope::All,
                _ => FlushScope::Rows(vec![self.draw_row()]),
            },
            rows_max: 10,
        };
        if !self.nodes[0].schedule.has_pending(&Scope::Everything) {
            return;
        }
        self.append(Command::FlushStart(start));
        if let Some(open) = self.nodes[0].schedule.open() {
            let rows = open.rows();
            for (_, row, _, flush) in &mut self.changes {
                if flush.is_none() && rows.contains(row) {
                    *flush = Some(seq);
                }
            }
        }
    }

    // ---- statements that pass through

    fn through_onward(&mut self) {
        let Some(through) = &self.through else {
            let row = self.draw_row();
            self.requests += 1;
            let id = request(self.requests);
            let held_at = self.append(Command::Hold(HeldScope {
                id,
                node: 1,
                below: id.number,
                scope: Scope::rows(vec![row.clone()]),
                backend: None,
                rewires: false,
                withdrawn: Vec::new(),
            }));
            self.through = Some(Through {
                row,
                id,
                held_at,
                committed_at: None,
            });
            return;
        };
        let (row, id) = (through.row.clone(), through.id);
        match through.committed_at {
            None => {
                let scope = Scope::rows(vec![row.clone()]);
                let leader = &self.nodes[0];
                if self.acknowledged < through.held_at || leader.schedule.has_pending(&scope) {
                    return;
                }
                let rows = BTreeSet::from([row]);
                if let Some(xid) = self.pg.begin(rows.clone()) {
                    let at = self.pg.wal.len();
                    self.commit(xid, &rows);
                    if let Some(through) = &mut self.through {
                        through.committed_at = Some(at);
                    }
                }
            }
            Some(at) => {
                // Its client has been answered.
                self.pg.wal[at].visible = true;
                let told = RequestId {
                    process: self.pg.wal[at].xid.0,
                    number: id.number,
                };
                self.append(Command::Release(vec![told], HoldEnd::Changed));
                self.through = None;
            }
        }
    }

    // ---- what is true

    /// Every row that a node may show is legal, and none is older than before.
    pub fn check(&mut self, nodes: &[usize]) -> Result<(), String> {
        for at in nodes.iter().copied() {
            for row in (0..ROWS).map(row_id) {
                let node = &self.nodes[at];
                if !node.lease || node.fences.has(&row) {
                    continue;
                }
                let Some(found) = known(node, &row) else {
                    continue;
                };
                let legal = self.legal(node, &row);
                if !legal.contains(&found) {
                    let shown = |row: &Option<Tuple>| row.as_ref().map(Row::of);
                    let legal: Vec<_> = legal.iter().map(shown).collect();
                    return Err(format!(
                        "node {at} has {row:?} as {:?}, may have {legal:?}",
                        shown(&found)
                    ));
                }
                let author = found.and_then(|row| self.authors.get(&Row::of(&row).a).copied());
                let node = &mut self.nodes[at];
                if let Some(author) = author {
                    let before = node.shown.insert(row.clone(), author);
                    if before.is_some_and(|before| before > author) {
                        return Err(format!(
                            "node {at} shows {row:?} as of transaction {author} after {before:?}"
                        ));
                    }
                }
            }
            if self.gathering.is_on {
                self.check_sets(at)?;
            }
        }
        Ok(())
    }

    pub fn legal(&self, node: &Node, row: &RowId) -> Vec<Option<Tuple>> {
        let ended = node.ended.get(row).copied().unwrap_or(0);
        let from = node.told.max(ended);
        // Only these change what the row is.
        let written = |at: &usize| {
            let mut written = self.pg.wal[*at].written.iter();
            written.any(|written| &written.row == row)
        };
        let changes = self.changes.iter();
        let changes: Vec<_> = changes
            .filter(|(index, of, ..)| of == row && *index <= node.applied)
            .collect();
        let value = |upto: usize| {
            let there: BTreeSet<FlushSeq> = self.pg.wal[..upto]
                .iter()
                .filter_map(|tx| tx.flush)
                .collect();
            let base = self.pg.at(row, |tx| tx.lsn <= position(upto));
            let waiting = changes
                .iter()
                .filter(|(.., flush)| flush.is_none_or(|flush| !there.contains(&flush)));
            waiting.fold(base.map(|row| row.tuple()), |below, (_, _, change, _)| {
                layer::apply(change, below.as_ref())
            })
        };
        let later = (from..self.pg.wal.len()).filter(written).map(|at| at + 1);
        std::iter::once(from).chain(later).map(value).collect()
    }

    /// Everything comes to its end; then all nodes and Postgres agree.
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..200 {
            for node in 0..NODES {
                self.serve(node);
                self.finish(node);
                self.stream(node);
                self.apply(node);
                self.nodes[node].cut_off = false;
                self.nodes[node].lease |= self.nodes[node].applied >= self.acknowledged;
            }
            self.pg.wal.iter_mut().for_each(|tx| tx.visible = true);
            if self.through.is_some() {
                self.through_onward();
            }
            self.flush_onward();
            self.acknowledge();
            self.check(&[0, 1, 2])?;
        }
        for (at, node) in self.nodes.iter().enumerate() {
            for row in (0..ROWS).map(row_id) {
                let truth = self.pg.rows.get(&row).cloned();
                if let Some(found) = known(node, &row)
                    && found.as_ref().map(Row::of) != truth
                {
                    return Err(format!("node {at} has {row:?} as {found:?} in the end"));
                }
            }
        }
        if self.gathering.is_on {
            self.settle_sets()?;
        }
        Ok(())
    }
}

/// Half of all rows get another group by it.
fn t_of(a: i64) -> i64 {
    a + 1 + i64::from((a / 1_000).count_ones() % 2)
}

fn request(number: u64) -> RequestId {
    RequestId { process: 9, number }
}

fn through_of(entry: &Entry) -> Xid {
    match &entry.commands[0] {
        Command::Release(ids, _) => Xid(ids[0].process),
        _ => Xid(0),
    }
}

fn known(node: &Node, row: &RowId) -> Option<Option<Tuple>> {
    node.rows.read_one(
        row,
        || false,
        |found| match found {
            Found::Row(tuple) => Some(Some(tuple.clone())),
            Found::Absent => Some(None),
            Found::Unknown => None,
        },
    )?
}
