//! Which server is the system of record. A connection may lead to another one than the last (a failover), which may lack what was flushed to that; until the log says that it has
//! everything, nothing is loaded from it and no client's statement goes there. Remembers what the log says; never asks Postgres by itself.
//!
//! A server is told from others by when it was started and its timeline: a standby that is promoted begins a new one. So any restart is another server, too, which is looked at once.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use tokio::sync::watch;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// When its postmaster was started: digits of a date and time, compared only.
    pub started: u64,
    /// Its timeline; 0: it is a standby.
    pub timeline: u32,
}

impl Server {
    /// Whether nothing can be written there.
    pub fn is_standby(self) -> bool {
        self.timeline == 0
    }
}

/// An expression whose value is the server that evaluates it, as text. Any role may evaluate it, under any search_path and settings.
pub const SERVER: &str = "pg_catalog.concat(pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.pg_postmaster_start_time()), 'YYMMDDHH24MISSUS'), '/', \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN '0' ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END)";

/// What [`SERVER`] evaluates to.
impl FromStr for Server {
    type Err = ();

    fn from_str(text: &str) -> Result<Server, ()> {
        let (started, timeline) = text.split_once('/').ok_or(())?;
        Ok(Server {
            started: started.parse().map_err(drop)?,
            timeline: u32::from_str_radix(timeline, 16).map_err(drop)?,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_standby() {
            true => write!(f, "a standby started at {}", self.started),
            false => write!(f, "timeline {} started at {}", self.timeline, self.started),
        }
    }
}

/// Servers remembered that were the system of record before. Reached: a connection that is still with an older one is waited for in vain instead of ended at once.
const PAST_MAX: usize = 16;

/// What the log says. Without standbys in the configuration it is not asked, and any server will do.
#[derive(Debug, Default)]
pub struct Home {
    guarded: bool,
    named: watch::Sender<Named>,
    /// Counts the times that what is in memory became worthless.
    moves: watch::Sender<u64>,
    /// Counts the times that somebody had a connection to another server, or to one that lacks something.
    doubts: watch::Sender<u64>,
}

/// What the log has named.
#[derive(Debug, Default)]
pub struct Named {
    now: Option<Server>,
    past: VecDeque<Server>,
}

impl Home {
    /// Nothing is known yet. `guarded`: it matters.
    pub fn new(guarded: bool) -> Arc<Home> {
        let guarded = Home {
            guarded,
            ..Home::default()
        };
        Arc::new(guarded)
    }

    /// Whether it matters which server a connection leads to.
    pub fn guarded(&self) -> bool {
        self.guarded
    }

    /// The system of record, if the log has named one.
    pub fn now(&self) -> Option<Server> {
        self.named.borrow().now
    }

    /// Tells when the log names another.
    pub fn watch(&self) -> watch::Receiver<Named> {
        self.named.subscribe()
    }

    /// The log names it. `anew`: what was known of the one before says nothing about this one.
    pub fn set(&self, server: Option<Server>, anew: bool) {
        self.named.send_modify(|named| {
            let before = std::mem::replace(&mut named.now, server);
            named.past.extend(before);
            named.past.retain(|one| Some(*one) != server);
            if named.past.len() > PAST_MAX {
                named.past.pop_front();
            }
        });
        if anew {
            self.moves.send_modify(|moves| *moves += 1);
        }
    }

    /// Whether what that server tells and takes is the system of record's.
    pub fn is(&self, server: Option<Server>) -> bool {
        !self.guarded || (server.is_some() && server == self.now())
    }

    /// Whether it was the system of record before another one.
    pub fn was(&self, server: Server) -> bool {
        self.named.borrow().past.contains(&server)
    }

    /// Tells when what is in memory has become worthless.
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// Somebody has met another server, or one that lacks something: whoever leads the log is to look.
    pub fn doubt(&self) {
        self.doubts.send_modify(|doubts| *doubts += 1);
    }

    /// Tells of doubts.
    pub fn doubts(&self) -> watch::Receiver<u64> {
        self.doubts.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(started: u64, timeline: u32) -> Server {
        Server { started, timeline }
    }

    #[test]
    fn a_server_is_read_as_it_is_told() {
        let read = |text: &str| text.parse::<Server>();
        assert_eq!(
            read("261122001122123456/0000000A"),
            Ok(server(261_122_001_122_123_456, 10))
        );
        assert!(read("261122001122123456/0").is_ok_and(Server::is_standby));
        for other in ["", "7", "x/1", "1/y", "1/2/3"] {
            assert!(read(other).is_err(), "{other}");
        }
    }

    #[test]
    fn only_the_one_that_the_log_names_will_do() {
        let (home, one, two) = (Home::new(true), server(1, 1), server(2, 2));
        assert!(!home.is(Some(one)) && !home.is(None));
        home.set(Some(one), false);
        assert!(home.is(Some(one)) && !home.is(Some(two)) && !home.is(None) && !home.was(one));
        home.set(Some(two), true);
        assert!(home.is(Some(two)) && !home.is(Some(one)) && home.was(one));
        home.set(Some(one), true);
        assert!(home.is(Some(one)) && !home.was(one) && home.was(two));
        assert_eq!(*home.moves().borrow(), 2);
    }

    #[test]
    fn without_standbys_any_server_will_do() {
        let home = Home::new(false);
        assert!(home.is(None) && home.is(Some(server(1, 1))));
    }
}
