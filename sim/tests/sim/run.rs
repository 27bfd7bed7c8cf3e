//! One run: a cluster, its clients and its faults, a millisecond at a time, on one thread. First everything goes wrong, then nothing does, and then everything must come
//! right.

use crate::chance::{Chance, seed_all};
use crate::client;
use crate::faults::{Fault, Hit, plan};
use crate::follow::agrees;
use crate::history::Counts;
use crate::mistake::Mistake;
use crate::net::PG;
use crate::node::{End, LEFT, Machine, WRITE_DELAY_MS};
use crate::record::Way;
use crate::scripts::Script;
use crate::world::{Standbys, World, seed_backoffs};
use bytes::Bytes;
use ripen_grid::desk::Answer;
use ripen_grid::log::RequestId;
use ripen_grid::log::disk::Faults;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Nodes at the beginning.
const NODES: u64 = 3;

/// The cluster forms meanwhile.
const FORMING_MS: u64 = 1500;

/// Faults come for so long.
const FAULTS_MS: u64 = 5000;

/// How long it may take until all is well again.
const HEALING_MS: u64 = 30_000;

/// A client that waits longer has been forgotten: longer than rows in Postgres are locked by what nobody ends, and shorter than anybody's patience.
const STUCK_MS: u64 = 8000;

/// Clients go on for so long when all is well.
const CALM_MS: u64 = 1500;

/// How often it is looked whether Postgres has noticed that connections are lost.
const NOTICED_POLL_MS: u64 = 10;

/// How long the flusher may pause at the longest before it tries again what was refused.
const BACKOFF_MS: u64 = ripen_grid::limits::FLUSH_BACKOFF_MAX.as_millis() as u64;

/// How much later than it is ripe a row may be in Postgres, when all is well.
const RIPE_SLACK_MS: u64 = 600;

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    pub trace: (u64, u64),
    pub counts: Counts,
    pub flushes: u64,
    pub terms: u64,
    pub took_ms: u64,
    /// Flushes that Postgres has lost by failing over.
    pub lost_flushes: u64,
    pub failure: Option<String>,
}

struct Run {
    world: Arc<World>,
    chance: Chance,
    machines: BTreeMap<u64, Machine>,
    /// What comes right again, and when.
    cures: Vec<(u64, Cure)>,
    mistake: Option<Mistake>,
    calm: bool,
    next_node: u64,
    /// Who has left for good.
    left: BTreeSet<u64>,
    /// What a trap that is set will do.
    hit: Option<Hit>,
}

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
enum Cure {
    Link(u64, u64),
    Loss,
    Disk(u64),
    Postgres,
    Standby,
    FailOver { down_ms: u64 },
}

/// Carries a seed out.
pub fn run(seed: u64, mistake: Option<Mistake>, script: Option<Script>) -> Report {
    seed_all(seed);
    if let Some(Mistake::Grid(inner)) = mistake {
        inner.make();
    }
    let mut chance = Chance::new(seed);
    seed_backoffs(chance.fork());
    let world = World::new(&mut chance, mistake);
    let machines = (1..=NODES).map(|node| (node, Machine::new(node, &world, chance.fork())));
    let mut run = Run {
        machines: machines.collect(),
        world,
        cures: Vec::new(),
        mistake,
        calm: false,
        next_node: NODES + 1,
        left: BTreeSet::new(),
        hit: None,
        chance,
    };
    match script {
        None => {
            let fails_over = run.world.standbys != Standbys::None;
            let until = FORMING_MS + FAULTS_MS;
            let faults = plan(&mut run.chance, NODES, FORMING_MS, until, fails_over);
            run.all(faults);
        }
        Some(Script::NewNodeIsAsked) => run.ask_a_new_node(),
        Some(Script::RefusedWriteComesAgain) => run.ask_again_after_a_refusal(),
        Some(script) => run.all(script.faults()),
    }
    run.report()
}

impl Run {
    fn all(&mut self, faults: Vec<(u64, Fault)>) {
        for (at, fault) in faults {
            if !self.until(at) {
                return;
            }
            self.strike(fault.among(&self.nodes()));
        }
        if !self.until(FORMING_MS + FAULTS_MS) {
            return;
        }
        self.heal();
        if let Err(why) = self.settle(false) {
            return self
                .world
                .fail(format!("all is well, but not in time: {why}"));
        }
        if !self.until_noticed() {
            return;
        }
        let calm_until = self.world.now_ms() + CALM_MS;
        if !self.until(calm_until) {
            return;
        }
        if let Err(why) = self.is_ripe() {
            return self.world.fail(why);
        }
        self.world.quiet.store(true, Ordering::Relaxed);
        self.world.pg.lock().outside = false;
        if let Err(why) = self.settle(true) {
            return self.world.fail(format!("nobody asks, and still: {why}"));
        }
        let judged = {
            let pg = self.world.pg.lock();
            let history = self.world.history.lock();
            match self.world.standbys {
                Standbys::Unnamed => history.judge_with_loss(&pg),
                Standbys::None | Standbys::Named => history.judge(&pg),
            }
        };
        if let Err(why) = judged {
            return self.world.fail(why);
        }
        let counts = self.world.history.lock().counts;
        let least = [counts.writes, counts.memory_reads, counts.postgres_reads];
        if least.iter().any(|count| *count < 20) {
            let why = format!("too little has happened to say anything: {counts:?}");
            self.world.fail(why);
        }
    }

    /// See [`Script::NewNodeIsAsked`].
    fn ask_a_new_node(&mut self) {
        let (node, patience_ms) = (3, 5000);
        if !self.until(FORMING_MS) {
            return;
        }
        self.strike(Fault::Kill { node, down_ms: 1 });
        let deadline = self.world.now_ms() + patience_ms;
        while self.machine(node).grid().is_none() && self.world.now_ms() < deadline {
            self.step();
        }
        let told = self.ask(node, 1, client::words(1, crate::data::ours(0)));
        if !matches!(told, Some(Answer::Elsewhere)) {
            let why = format!("a node that does not lead has answered a write: {told:?}");
            self.world.fail(why);
        }
    }

    /// See [`Script::RefusedWriteComesAgain`].
    fn ask_again_after_a_refusal(&mut self) {
        if !self.until(FORMING_MS) {
            return;
        }
        // Nobody else writes it.
        let row = crate::data::ours(crate::data::OUR_ROWS);
        let refused = self.ask(1, 1, client::adding(row.clone()));
        let inserted = self.ask(1, 2, client::words(1, row.clone()));
        let again = self.ask(1, 1, client::adding(row));
        let passed = |told: &Option<Answer>| matches!(told, Some(Answer::Done(answer)) if *answer == client::PASSED);
        let done = matches!(&inserted, Some(Answer::Done(_))) && !passed(&inserted);
        if !passed(&refused) || !done || !passed(&again) {
            let why = format!(
                "a write that was refused came again: {refused:?}, {inserted:?}, {again:?}"
            );
            self.world.fail(why);
        }
    }

    /// A node is asked for a write, by a process that nobody knows.
    fn ask(&mut self, node: u64, number: u64, words: Bytes) -> Option<Answer> {
        let (process, patience_ms) = (1, 5000);
        let deadline = self.world.now_ms() + patience_ms;
        let told = (self.machine(node)).ask(RequestId { process, number }, words);
        while told.lock().is_none() && self.world.now_ms() < deadline {
            self.step();
        }
        let mut told = told.lock();
        told.take()
    }

    /// Goes on until that time. False: a promise was broken.
    fn until(&mut self, at_ms: u64) -> bool {
        while self.world.now_ms() < at_ms {
            self.step();
            if self.world.failure().is_some() {
                return false;
            }
        }
        true
    }

    /// A millisecond.
    fn step(&mut self) {
        let now = self.world.tick();
        let due: Vec<Cure> = (self.cures.iter())
            .filter(|(at, _)| *at <= now)
            .map(|(_, cure)| *cure)
            .collect();
        self.cures.retain(|(at, _)| *at > now);
        due.into_iter().for_each(|cure| self.cure(cure));
        self.world.net.lock().deliver(now);
        let news = {
            let mut pg = self.world.pg.lock();
            pg.step(now);
            std::mem::take(&mut pg.news)
        };
        news.iter()
            .for_each(|news| self.world.trace(format_args!("{news}")));
        let sprung = self.world.sprung.lock().take();
        if let (Some(node), Some(hit)) = (sprung, self.hit.take()) {
            self.strike(match hit {
                Hit::Stop { for_ms } => Fault::Stop { node, for_ms },
                Hit::PowerLoss { down_ms } => Fault::PowerLoss { node, down_ms },
                Hit::Isolate { for_ms } => Fault::Isolate { node, for_ms },
            });
        }
        let all: Vec<u64> = self.machines.keys().copied().collect();
        if now.is_multiple_of(500) {
            self.trace_state();
        }
        for node in &all {
            let machine = self.machine(*node);
            if machine.starts_at.is_some_and(|at| at <= now) {
                machine.start(&all);
            }
            if let Some(why) = machine.step(now) {
                self.ended(*node, &why);
            }
        }
    }

    fn trace_state(&self) {
        for machine in self.machines.values() {
            let Some(grid) = machine.grid() else {
                continue;
            };
            let log = grid.log_stats();
            let pending = grid.queue_stats().pending_rows;
            self.world.trace(format_args!(
                "node {} has applied {:?}, proposed {}, queued {}, pending {pending}, fences {}, sure {}",
                machine.node,
                log.applied,
                log.commands,
                log.queued,
                grid.fences.standing(),
                machine.look(|grid| grid.is_sure()).unwrap_or_default()
            ));
        }
    }

    fn machine(&mut self, node: u64) -> &mut Machine {
        self.machines.get_mut(&node).expect("nodes stay")
    }

    /// A process has ended by itself: somebody looks after it.
    fn ended(&mut self, node: u64, why: &str) {
        let now = self.world.now_ms();
        if why == LEFT {
            self.machines.remove(&node);
            self.left.insert(node);
            return;
        }
        let again = now + 200;
        let damaged = why.contains("damaged") || why.contains("has lost");
        if damaged && self.mistake != Some(Mistake::LyingDisk) {
            // As the error says: a new node takes its place.
            return self.replace(node, again);
        }
        self.machine(node).starts_at = Some(again);
    }

    /// The machine is given to a new node, with an empty disk.
    fn replace(&mut self, node: u64, at_ms: u64) {
        if self.mistake == Some(Mistake::ForgottenDisk) {
            let machine = self.machine(node);
            machine.wipe();
            machine.starts_at = Some(at_ms);
            return;
        }
        self.machines.remove(&node);
        self.join(at_ms);
    }

    fn join(&mut self, at_ms: u64) {
        let node = self.next_node;
        self.next_node += 1;
        let mut machine = Machine::new(node, &self.world, self.chance.fork());
        machine.starts_at = Some(at_ms);
        self.machines.insert(node, machine);
    }

    fn end(&mut self, node: u64, how: End, down_ms: u64) {
        let at = self.world.now_ms() + down_ms;
        let Some(machine) = self.machines.get_mut(&node) else {
            return;
        };
        machine.end(how);
        let waits = machine.starts_at.unwrap_or_default();
        machine.starts_at = Some(at.max(waits));
    }

    fn strike(&mut self, fault: Fault) {
        self.world.trace(format_args!("fault {fault:?}"));
        let now = self.world.now_ms();
        let world = self.world.clone();
        match fault {
            Fault::Kill { node, down_ms } => self.end(node, End::Killed, down_ms),
            Fault::PowerLoss { node, down_ms } => self.end(node, End::PowerLoss, down_ms),
            Fault::Blackout { down_ms } => {
                for node in self.nodes() {
                    let more = self.chance.below(100);
                    self.end(node, End::PowerLoss, down_ms + more);
                }
            }
            Fault::Stop { node, for_ms } => {
                if let Some(machine) = self.machines.get_mut(&node).filter(|one| one.is_up()) {
                    machine.stopped_until = Some(now + for_ms);
                }
            }
            Fault::Cut { from, to, for_ms } => {
                world.net.lock().cut(from, to);
                self.cures.push((now + for_ms, Cure::Link(from, to)));
            }
            Fault::Isolate { node, for_ms } => {
                for other in self.nodes().into_iter().filter(|other| *other != node) {
                    for (from, to) in [(node, other), (other, node)] {
                        world.net.lock().cut(from, to);
                        self.cures.push((now + for_ms, Cure::Link(from, to)));
                    }
                }
            }
            Fault::Slow {
                from,
                to,
                late_ms,
                for_ms,
            } => {
                world.net.lock().slow(from, to, late_ms);
                self.cures.push((now + for_ms, Cure::Link(from, to)));
            }
            Fault::Lossy { times, for_ms } => {
                world.net.lock().lose(Some(times));
                self.cures.push((now + for_ms, Cure::Loss));
            }
            Fault::SlowDisk {
                node,
                late_ms,
                for_ms,
            } => {
                if let Some(machine) = self.machines.get(&node) {
                    machine.set_slow(late_ms);
                    self.cures.push((now + for_ms, Cure::Disk(node)));
                }
            }
            Fault::FullDisk { node, for_ms } => {
                if let Some(machine) = self.machines.get(&node) {
                    machine.set_faults(Faults {
                        capacity: Some(0),
                        ..Faults::default()
                    });
                    self.cures.push((now + for_ms, Cure::Disk(node)));
                }
            }
            Fault::Flip { node, down_ms } => {
                self.end(node, End::PowerLoss, down_ms);
                if let Some(machine) = self.machines.get_mut(&node) {
                    machine.flip();
                }
            }
            Fault::Clock { node, ahead_ms } => {
                if let Some(machine) = self.machines.get_mut(&node) {
                    machine.wall_ahead_ms = ahead_ms;
                }
            }
            Fault::Outage { for_ms } => {
                world.pg.lock().stop();
                self.cures.push((now + for_ms, Cure::Postgres));
            }
            Fault::NoPostgres { node, for_ms } => {
                world.net.lock().cut(node, PG);
                self.cures.push((now + for_ms, Cure::Link(node, PG)));
            }
            Fault::Lag { for_ms } => {
                world.pg.lock().freeze(true);
                self.cures.push((now + for_ms, Cure::Standby));
            }
            Fault::FailOver { lag_ms, down_ms } => {
                world.pg.lock().freeze(true);
                self.cures.push((now + lag_ms, Cure::FailOver { down_ms }));
            }
            Fault::Trap { hit } => {
                self.hit = Some(hit);
                world.trap.store(true, Ordering::Relaxed);
            }
            Fault::Join => {
                if self.machines.len() < 5 {
                    self.join(now);
                }
            }
            Fault::Leave { node } => {
                let stay = self.machines.values().filter(|machine| !machine.leaves);
                if stay.count() <= NODES as usize {
                    self.join(now);
                }
                if let Some(machine) = self.machines.get_mut(&node) {
                    machine.leave();
                }
            }
            Fault::LoseDisk { node, down_ms } => {
                if self.machines.contains_key(&node) {
                    self.end(node, End::PowerLoss, down_ms);
                    self.replace(node, now + down_ms);
                }
            }
        }
    }

    fn nodes(&self) -> Vec<u64> {
        self.machines.keys().copied().collect()
    }

    fn cure(&mut self, cure: Cure) {
        self.world.trace(format_args!("cure {cure:?}"));
        match cure {
            Cure::Link(from, to) => self.world.net.lock().mend(from, to),
            Cure::Loss => self.world.net.lock().lose(None),
            Cure::Disk(node) => {
                if let Some(machine) = self.machines.get(&node) {
                    machine.set_slow(0);
                    machine.set_faults(Faults::default());
                }
            }
            Cure::Postgres => self.world.pg.lock().start(),
            Cure::Standby => self.world.pg.lock().freeze(false),
            Cure::FailOver { down_ms } => {
                let mut pg = self.world.pg.lock();
                if pg.is_frozen() {
                    pg.fail_over();
                    self.cures
                        .push((self.world.now_ms() + down_ms, Cure::Postgres));
                }
            }
        }
    }

    /// Nothing goes wrong any more.
    fn heal(&mut self) {
        self.world.trace(format_args!("all is healed"));
        self.cures.clear();
        self.hit = None;
        self.world.trap.store(false, Ordering::Relaxed);
        self.world.calm.store(true, Ordering::Relaxed);
        self.world.net.lock().mend_all();
        {
            let mut pg = self.world.pg.lock();
            pg.freeze(false);
            pg.start();
        }
        let now = self.world.now_ms();
        for machine in self.machines.values_mut() {
            machine.set_slow(0);
            machine.set_faults(Faults::default());
            machine.stopped_until = None;
            machine.mend_clock();
            if let Some(at) = &mut machine.starts_at {
                *at = (*at).min(now);
            }
        }
        self.calm = true;
    }

    /// A client that has waited for so long although all is well.
    fn is_stuck(&self) -> Option<String> {
        let now = self.world.now_ms();
        let since = |begun: u64| begun.max(FORMING_MS + FAULTS_MS);
        let at_work = self.world.at_work.lock();
        let mut stuck = at_work
            .iter()
            .filter(|(_, (begun, _))| self.calm && now > since(*begun) + STUCK_MS);
        let (name, (begun, what)) = stuck.next()?;
        Some(format!(
            "client {name} has waited for {what} since {begun} ms, although nothing is wrong since {} ms",
            FORMING_MS + FAULTS_MS
        ))
    }

    /// Goes on until all nodes serve; with `drained`, until nothing is on its way any more either, and all nodes agree with Postgres.
    fn settle(&mut self, drained: bool) -> Result<(), String> {
        let deadline = self.world.now_ms() + HEALING_MS;
        let mut said = String::new();
        loop {
            for _ in 0..20 {
                self.step();
            }
            if let Some(failure) = self.world.failure().or_else(|| self.is_stuck()) {
                return Err(failure);
            }
            match self.is_well(drained) {
                Ok(()) => return Ok(()),
                Err(why) if self.world.now_ms() >= deadline => return Err(why),
                Err(why) if why != said => {
                    self.world.trace(format_args!("not yet: {why}"));
                    said = why;
                }
                Err(_) => {}
            }
        }
    }

    fn is_well(&mut self, drained: bool) -> Result<(), String> {
        if drained && let Some((name, at)) = self.world.at_work.lock().first_key_value() {
            return Err(format!("client {name} is at work: {at:?}"));
        }
        let members: BTreeSet<u64> = self.nodes().into_iter().collect();
        for machine in self.machines.values() {
            let node = machine.node;
            if machine.leaves {
                return Err(format!("node {node} has not left"));
            }
            let Some(grid) = machine.grid() else {
                return Err(format!("node {node} is not open"));
            };
            if machine.look(|grid| grid.is_sure()) != Some(true) {
                return Err(format!("node {node} has no lease"));
            }
            let missing = |table: &ripen_pg::ids::TableOid| !grid.feed.serves(*table);
            if crate::node::TABLES.iter().any(missing) {
                return Err(format!("node {node} does not serve"));
            }
            let server = self.world.pg.lock().server;
            if !grid.home.is(Some(server)) {
                return Err(format!("node {node} takes another server for Postgres"));
            }
            let member = grid.member().expect("all are members");
            if !member.members().is_superset(&members) {
                return Err(format!("node {node} does not know all members"));
            }
            if !member.members().is_disjoint(&self.left) {
                return Err(format!("node {node} takes who has left for a member"));
            }
            if !drained {
                continue;
            }
            let pending = grid.queue_stats().pending_rows;
            if pending > 0 || grid.queues[0].schedule.open().is_some() {
                return Err(format!("node {node} has {pending} rows pending"));
            }
            if let Some(kept) = grid.queues[0].schedule.ask_kept(|kept| kept.first()) {
                return Err(format!("node {node} keeps flushes from {kept:?} on"));
            }
            if grid.fences.standing() > 0 {
                let held = grid.requests.lock().held();
                return Err(format!("node {node} has fences: {held:?}"));
            }
            let way = Way::new(&self.world, node);
            machine.load_all(&grid);
            agrees(&way, &grid).map_err(|why| format!("on node {node} {why}"))?;
        }
        Ok(())
    }

    /// Postgres ends the transactions whose connections were lost while nothing could tell it: what they hold, a flush has to wait for. False: something failed.
    fn until_noticed(&mut self) -> bool {
        let mut waited = false;
        while self.world.pg.lock().has_orphans() {
            waited = true;
            if !self.until(self.world.now_ms() + NOTICED_POLL_MS) {
                return false;
            }
        }
        !waited || self.until(self.world.now_ms() + BACKOFF_MS)
    }

    /// What was acknowledged a while ago is in Postgres, although the same rows are written all the time.
    fn is_ripe(&mut self) -> Result<(), String> {
        let old = self.world.now_ms() - WRITE_DELAY_MS - RIPE_SLACK_MS;
        let history = self.world.history.lock();
        let pg = self.world.pg.lock();
        for (id, rows) in history.acknowledged_before(old) {
            let lacks = |row: &&ripen_cachestore::change::RowId| {
                let may_be_lost =
                    self.world.standbys == Standbys::Unnamed && pg.may_have_lost(id, row);
                !may_be_lost && !pg.rows.get(*row).is_some_and(|row| row.list.contains(&id))
            };
            if let Some(row) = rows.iter().find(lacks) {
                return Err(format!(
                    "write {id} is ripe since long, and not in Postgres in {}",
                    crate::data::name(row)
                ));
            }
        }
        Ok(())
    }

    fn report(&self) -> Report {
        let pg = self.world.pg.lock();
        let grids = self.machines.values().filter_map(Machine::grid);
        let terms = grids.filter_map(|grid| Some(grid.member()?.leadership().borrow().term));
        Report {
            trace: self.world.traced(),
            counts: self.world.history.lock().counts,
            flushes: pg.commits().filter(|commit| commit.flush.is_some()).count() as u64,
            terms: terms.max().unwrap_or_default(),
            took_ms: self.world.now_ms(),
            lost_flushes: pg.lost_flushes,
            failure: self.world.failure(),
        }
    }
}
