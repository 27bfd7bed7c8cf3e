//! Whether the standbys of the system of record have what was flushed. Flushes are kept until all that are named do; and whoever answers here in Postgres's place is noticed, whether there is
//! work for it or not. The deciding part is [`Marks`]; [`Standbys::watch`] asks and proposes.

use crate::change::FlushSeq;
use crate::limits;
use crate::log::{Command, Log, LogError};
use crate::record::Record;
use crate::schedule::Schedule;
use parking_lot::Mutex;
use ripen_cachestore::home::Server;
use ripen_cachestore::progress::LogKey;
use ripen_cachestore::standing::Standing;
use ripen_pg::ids::Lsn;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

/// The standbys that count, and what was last seen of them.
#[derive(Debug, Default)]
pub struct Standbys {
    names: Vec<String>,
    seen: Mutex<Option<Standing>>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbySeen {
    /// Its `application_name`.
    pub name: String,
    /// Whether it is connected, as far as Ripen's role may see that. `None`: this node does not look, for it does not lead, or Postgres is away.
    pub connected: Option<bool>,
    /// How far it has the WAL on its disk.
    pub position: Option<Lsn>,
    /// What it lacks of the WAL, in bytes.
    pub lag_bytes: Option<u64>,
}

/// What [`Standbys::watch`] works with.
pub(super) struct Watched {
    pub log: Log,
    pub key: LogKey,
    pub term: u64,
    pub store: Arc<dyn Record>,
    pub schedule: Arc<Schedule>,
    pub clock: fn() -> u64,
}

impl Standbys {
    /// Nothing is seen yet.
    pub fn new(names: Vec<String>) -> Arc<Standbys> {
        let seen = Mutex::default();
        Arc::new(Standbys { names, seen })
    }

    /// Whether flushes are kept for any.
    pub fn counts(&self) -> bool {
        !self.names.is_empty()
    }

    /// What was last seen, in the order of the configuration.
    pub fn seen(&self) -> Vec<StandbySeen> {
        let seen = self.seen.lock();
        let one = |name: &String| {
            let position = seen.as_ref().and_then(|seen| position(seen, name));
            let wal = seen.as_ref().and_then(|seen| seen.wal);
            StandbySeen {
                name: name.clone(),
                connected: seen.as_ref().map(|_| position.is_some()),
                position,
                lag_bytes: position
                    .zip(wal)
                    .map(|(position, wal)| wal.0.saturating_sub(position.0)),
            }
        };
        self.names.iter().map(one).collect()
    }

    /// This node does not lead.
    pub(super) fn look_away(&self) {
        *self.seen.lock() = None;
    }

    /// Lets go what all have, for as long as this node leads in that term. Ends only with the log.
    pub(super) async fn watch(&self, watched: Watched) -> Result<Infallible, LogError> {
        if !self.counts() {
            return std::future::pending().await;
        }
        let (mut marks, mut told) = (Marks::default(), false);
        let home = watched.store.home().clone();
        loop {
            let kept = watched.schedule.ask_kept(|kept| kept.first());
            tokio::time::sleep(match kept {
                Some(_) => limits::STANDBYS_PERIOD,
                None => limits::STANDBYS_IDLE_PERIOD,
            })
            .await;
            let (server, last) = (home.now(), watched.schedule.known().last);
            let standing = watched.store.standing(watched.key).await;
            let seen = standing.inspect_err(|error| {
                tracing::debug!(%error, "Postgres does not say what its standbys have");
            });
            *self.seen.lock() = seen.as_ref().ok().cloned();
            if let Ok(standing) = seen {
                match marks.see(&self.names, &standing, server, last) {
                    Verdict::Elsewhere => home.doubt(),
                    Verdict::Safe(safe) if kept.is_some_and(|first| first <= safe) => {
                        let safe = Command::Safe(safe);
                        watched.log.propose_in(watched.term, safe).await?;
                    }
                    Verdict::Safe(_) | Verdict::Wait => {}
                }
            }
            told = self.tell(&watched, told);
        }
    }

    /// Says once for whom flushes are kept long, and once that it is over.
    fn tell(&self, watched: &Watched, told: bool) -> bool {
        let kept = watched.schedule.ask_kept(|kept| kept.stats());
        let patience_ms = limits::STANDBY_PATIENCE.as_millis() as u64;
        let old = |at_ms: u64| at_ms + patience_ms <= (watched.clock)();
        match (kept.oldest_ms.is_some_and(old), told) {
            (true, false) => {
                let behind = |seen: &StandbySeen| seen.lag_bytes.is_none_or(|lag| lag > 0);
                let missing = self.seen().into_iter().filter(behind);
                let missing: Vec<String> = missing.map(|seen| seen.name).collect();
                tracing::warn!(
                    standbys = missing.join(", "),
                    flushes = kept.flushes,
                    bytes = kept.bytes,
                    "flushes are kept for standbys that lack them or are not connected; at \"max_pending_bytes\" writers wait. A standby that is gone for good must be taken out of \"standbys\"; \
                     to see what they have, Ripen's role must be a member of pg_monitor"
                );
            }
            (false, true) => tracing::info!("the standbys have what was flushed"),
            (old, _) => return old,
        }
        !told
    }
}

/// The standby of that name; of several, the one that is behind the others.
fn position(standing: &Standing, name: &str) -> Option<Lsn> {
    let named = standing.standbys.iter().filter(|(known, _)| known == name);
    named.map(|(_, position)| *position).min()
}

/// What a look means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Another server has answered than the log says, or one that lacks flushes.
    Elsewhere,
    /// All standbys have the flushes up to this one.
    Safe(FlushSeq),
    /// Nothing more than before.
    Wait,
}

/// How far the WAL had come when it had a flush. Of one server: positions of another mean nothing.
#[derive(Default)]
struct Marks {
    server: Option<Server>,
    marks: VecDeque<(FlushSeq, Lsn)>,
}

impl Marks {
    /// Takes a look. `server`: what the log has said before it; `last`: the last flush that had ended by then.
    fn see(
        &mut self,
        names: &[String],
        standing: &Standing,
        server: Option<Server>,
        last: FlushSeq,
    ) -> Verdict {
        if self.server != server {
            self.server = server;
            self.marks.clear();
        }
        let applied = standing.progress.map_or(FlushSeq(0), |found| found.applied);
        let there = Some(standing.server) == server && applied >= last;
        let Some(wal) = standing.wal.filter(|_| there) else {
            self.marks.clear();
            return Verdict::Elsewhere;
        };
        if self.marks.back().is_none_or(|(seq, _)| *seq < applied) {
            if self.marks.len() == limits::STANDBY_MARKS_MAX {
                self.marks.pop_back();
            }
            self.marks.push_back((applied, wal));
        }
        let positions = names.iter().map(|name| position(standing, name));
        // One that is not there has nothing.
        let all = positions.min().flatten().unwrap_or(Lsn(0));
        let mut verdict = Verdict::Wait;
        while let Some((seq, _)) = self.marks.pop_front_if(|(_, wal)| *wal <= all) {
            verdict = Verdict::Safe(seq);
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ripen_cachestore::progress::Progress;

    const HERE: Server = Server {
        started: 1,
        timeline: 1,
    };

    fn names() -> Vec<String> {
        vec!["one".to_owned(), "two".to_owned()]
    }

    fn look(applied: u64, wal: u64, standbys: &[(&str, u64)]) -> Standing {
        let standbys = standbys.iter();
        Standing {
            server: HERE,
            progress: Some(Progress {
                applied: FlushSeq(applied),
                epoch: 1,
            }),
            wal: Some(Lsn(wal)),
            standbys: standbys
                .map(|(name, at)| ((*name).to_owned(), Lsn(*at)))
                .collect(),
        }
    }

    fn see(marks: &mut Marks, standing: &Standing) -> Verdict {
        marks.see(&names(), standing, Some(HERE), FlushSeq(1))
    }

    #[test]
    fn a_flush_is_safe_when_every_named_standby_has_the_wal_of_its_time() {
        let mut marks = Marks::default();
        let none = look(3, 100, &[]);
        assert_eq!(see(&mut marks, &none), Verdict::Wait);
        let one = look(4, 110, &[("one", 110), ("other", 110)]);
        assert_eq!(see(&mut marks, &one), Verdict::Wait);
        let behind = look(5, 120, &[("one", 120), ("two", 109)]);
        assert_eq!(see(&mut marks, &behind), Verdict::Safe(FlushSeq(3)));
        let twice = look(5, 120, &[("one", 120), ("two", 120), ("two", 110)]);
        assert_eq!(see(&mut marks, &twice), Verdict::Safe(FlushSeq(4)));
        let all = look(5, 130, &[("one", 130), ("two", 120)]);
        assert_eq!(see(&mut marks, &all), Verdict::Safe(FlushSeq(5)));
        // Once said, it is not said again without need; saying it again does no harm.
        assert_eq!(marks.marks.len(), 0);
    }

    #[test]
    fn what_another_server_tells_frees_nothing() {
        let mut marks = Marks::default();
        assert_eq!(see(&mut marks, &look(3, 100, &[])), Verdict::Wait);
        let promoted = Server {
            started: 2,
            timeline: 2,
        };
        let far = [("one", 900), ("two", 900)];
        let elsewhere = Standing {
            server: promoted,
            ..look(3, 900, &far)
        };
        assert_eq!(see(&mut marks, &elsewhere), Verdict::Elsewhere);
        assert_eq!(see(&mut marks, &look(0, 900, &far)), Verdict::Elsewhere);
        let standby = Standing {
            wal: None,
            ..look(3, 900, &far)
        };
        assert_eq!(see(&mut marks, &standby), Verdict::Elsewhere);
        assert_eq!(see(&mut marks, &look(3, 950, &far)), Verdict::Wait);
        // The log has gone over to it: marks of the one before mean nothing there.
        let there = Standing {
            server: promoted,
            ..look(3, 990, &[("one", 960), ("two", 960)])
        };
        let seen = marks.see(&names(), &there, Some(promoted), FlushSeq(3));
        assert_eq!(seen, Verdict::Wait);
    }

    #[test]
    fn many_marks_are_taken_together() {
        let mut marks = Marks::default();
        for flush in 1..200 {
            see(&mut marks, &look(flush, flush * 10, &[]));
        }
        assert_eq!(marks.marks.len(), limits::STANDBY_MARKS_MAX);
        let all = look(200, 2000, &[("one", 2000), ("two", 2000)]);
        assert_eq!(see(&mut marks, &all), Verdict::Safe(FlushSeq(200)));
    }

    #[test]
    fn a_standby_that_is_away_is_named_without_position() {
        let standbys = Standbys::new(names());
        assert!(standbys.seen().iter().all(|seen| seen.connected.is_none()));
        *standbys.seen.lock() = Some(look(3, 100, &[("two", 90)]));
        let seen = standbys.seen();
        assert_eq!((seen[0].position, seen[0].connected), (None, Some(false)));
        assert_eq!(
            (seen[1].position, seen[1].lag_bytes),
            (Some(Lsn(90)), Some(10))
        );
        standbys.look_away();
        assert!(standbys.seen().iter().all(|seen| seen.connected.is_none()));
    }
}
