//! What the simulated nodes share: time, network, system of record, history, and the trace that tells two runs apart. Decides nothing.

use crate::chance::Chance;
use crate::history::History;
use crate::mistake::Mistake;
use crate::net::Net;
use crate::postgres::Postgres;
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the nodes know of the server that may take Postgres's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standbys {
    /// There is none: Postgres comes back as it was.
    None,
    /// It is named in the configuration: nothing may be lost.
    Named,
    /// Nobody has named it: what it lacks is lost, and nothing else.
    Unnamed,
}

/// See the module.
pub struct World {
    now_ms: AtomicU64,
    trace: Mutex<Trace>,
    pub net: Arc<Mutex<Net>>,
    pub pg: Mutex<Postgres>,
    pub history: Mutex<History>,
    pub mistake: Option<Mistake>,
    pub standbys: Standbys,
    /// Of clients and of what they meet on their way.
    chance: Mutex<Chance>,
    /// Faults are over: clients are gentle, and everything must come right.
    pub calm: AtomicBool,
    /// Clients ask for nothing new.
    pub quiet: AtomicBool,
    /// The next flush that is about to commit springs it, and says on which node: see [`crate::faults::Fault::Trap`].
    pub trap: AtomicBool,
    pub sprung: Mutex<Option<u64>>,
    /// What each client is at, and since when.
    pub at_work: Mutex<BTreeMap<String, (u64, &'static str)>>,
    /// Why the run has failed, if it has.
    failure: Mutex<Option<String>>,
}

struct Trace {
    hash: u64,
    events: u64,
    print: bool,
}

impl World {
    pub fn new(chance: &mut Chance, mistake: Option<Mistake>) -> Arc<World> {
        Arc::new(World {
            now_ms: AtomicU64::new(0),
            trace: Mutex::new(Trace {
                hash: 0xcbf2_9ce4_8422_2325,
                events: 0,
                print: std::env::var_os("SIM_TRACE").is_some(),
            }),
            net: Arc::new(Mutex::new(Net::new(chance.fork()))),
            pg: Mutex::new(Postgres::new(chance.fork(), mistake)),
            history: Mutex::default(),
            mistake,
            standbys: chance.pick(&[
                Standbys::None,
                Standbys::None,
                Standbys::Named,
                Standbys::Named,
                Standbys::Unnamed,
            ]),
            chance: Mutex::new(chance.fork()),
            calm: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            trap: AtomicBool::new(false),
            sprung: Mutex::default(),
            at_work: Mutex::default(),
            failure: Mutex::default(),
        })
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub fn tick(&self) -> u64 {
        self.now_ms.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Something happened that another run of the same seed must do as well.
    pub fn trace(&self, event: Arguments<'_>) {
        let line = format!("{:>6} {event}", self.now_ms());
        let mut trace = self.trace.lock();
        trace.events += 1;
        for byte in line.bytes() {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if trace.print {
            println!("{line}");
        }
    }

    /// The trace so far, and its length.
    pub fn traced(&self) -> (u64, u64) {
        let trace = self.trace.lock();
        (trace.hash, trace.events)
    }

    pub fn draw<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        draw(&mut self.chance.lock())
    }

    pub fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// A promise was broken. The first counts.
    pub fn fail(&self, why: String) {
        self.trace(format_args!("FAILED: {why}"));
        self.failure.lock().get_or_insert(why);
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }
}

thread_local! {
    static WALL_MS: Cell<u64> = const { Cell::new(0) };
    static BACKOFFS: RefCell<Option<Chance>> = const { RefCell::new(None) };
}

/// What the wall clock of the node says that is at work now.
pub fn set_wall_ms(ms: u64) {
    WALL_MS.set(ms);
}

pub fn wall_ms() -> u64 {
    WALL_MS.get()
}

pub fn seed_backoffs(chance: Chance) {
    BACKOFFS.set(Some(chance));
}

pub fn backoff_part() -> f64 {
    BACKOFFS.with_borrow_mut(|chance| chance.as_mut().map_or(0.5, Chance::part))
}
