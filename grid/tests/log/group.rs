//! Logs of several nodes in one process: each on a disk of its own, with links between them that can be cut.

use crate::support::{Numbers, command, options};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ripen_grid::log::disk::SimDisk;
use ripen_grid::log::{Leadership, Log, LogError, LogOptions, Peers};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who is there, and who cannot reach whom (from, to).
#[derive(Default)]
struct Links {
    logs: Mutex<HashMap<u64, Log>>,
    cut: Mutex<HashSet<(u64, u64)>>,
}

struct Link {
    from: u64,
    links: Arc<Links>,
}

impl Peers for Link {
    fn ask(
        &self,
        node: u64,
        _: &str,
        question: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, io::Result<Bytes>> {
        let (links, from) = (self.links.clone(), self.from);
        let open = move |from, to| !links.cut.lock().contains(&(from, to));
        let log = self.links.logs.lock().get(&node).cloned();
        Box::pin(async move {
            let Some(log) = log.filter(|_| open(from, node)) else {
                tokio::time::sleep(patience).await;
                return Err(io::ErrorKind::TimedOut.into());
            };
            let answer = tokio::time::timeout(patience, log.answer(&question)).await;
            if !open(node, from) {
                tokio::time::sleep(patience).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            answer?.map_err(io::Error::other)
        })
    }
}

/// A node that runs.
pub struct Member {
    pub log: Log,
    pub numbers: Numbers,
}

/// The nodes, numbered from 1.
#[derive(Default)]
pub struct Group {
    links: Arc<Links>,
    pub disks: BTreeMap<u64, SimDisk>,
    pub running: BTreeMap<u64, Member>,
    pub snapshot_after_bytes: Option<u64>,
    /// Which log the members share.
    identity: Option<u64>,
}

impl Group {
    /// Nodes 1..=count, all of them voters, led by somebody.
    pub async fn of(count: u64, snapshot_after_bytes: Option<u64>) -> Group {
        let mut group = Group {
            snapshot_after_bytes,
            ..Group::default()
        };
        for node in 1..=count {
            group.start(node).await.unwrap();
        }
        let first = &group.running[&1].log;
        for node in 2..=count {
            first.add_member(node, "").await.unwrap();
        }
        first.set_voters((1..=count).collect()).await.unwrap();
        group
    }

    /// Opens a node's log. Node 1 founds the group, the others join it.
    pub async fn start(&mut self, node: u64) -> Result<(), LogError> {
        let disk = self.disks.entry(node).or_default();
        let mut options = LogOptions {
            node,
            peers: Some(Arc::new(Link {
                from: node,
                links: self.links.clone(),
            })),
            joins: self.identity,
            ..options(disk)
        };
        if let Some(bytes) = self.snapshot_after_bytes {
            options.snapshot_after_bytes = bytes;
        }
        let numbers = Numbers::default();
        let log = Log::open(options, numbers.clone()).await?;
        self.identity = Some(log.identity().0);
        self.links.logs.lock().insert(node, log.clone());
        self.running.insert(node, Member { log, numbers });
        Ok(())
    }

    /// Ends a node's process; with `chance` its machine, too.
    pub async fn crash(&mut self, node: u64, chance: Option<&mut dyn FnMut(u64) -> u64>) {
        self.links.logs.lock().remove(&node);
        let Some(member) = self.running.remove(&node) else {
            return;
        };
        let disk = self.disks[&node].clone();
        match chance {
            Some(chance) => disk.crash(chance),
            None => disk.kill(),
        }
        member.log.shutdown().await;
    }

    pub fn cut(&self, from: u64, to: u64) {
        self.links.cut.lock().insert((from, to));
    }

    /// Nobody reaches the nodes, nor they the others; among each other they do.
    pub fn isolate(&self, side: &BTreeSet<u64>) {
        for one in self.disks.keys() {
            for other in self.disks.keys() {
                if side.contains(one) != side.contains(other) {
                    self.cut(*one, *other);
                }
            }
        }
    }

    pub fn heal(&self) {
        self.links.cut.lock().clear();
    }

    /// Waits until one of these nodes leads and has applied all there was.
    pub async fn leader_among(&self, nodes: &BTreeSet<u64>) -> u64 {
        until(|| {
            let leading = self.running.iter().filter(|(node, member)| {
                nodes.contains(node) && member.log.leadership().borrow().here
            });
            // One that was cut off may still believe it.
            let newest = leading.max_by_key(|(_, member)| member.log.leadership().borrow().term);
            newest.map(|(node, _)| *node)
        })
        .await
    }

    /// Waits until somebody leads.
    pub async fn leader(&self) -> u64 {
        self.leader_among(&self.running.keys().copied().collect())
            .await
    }

    pub fn leadership(&self, node: u64) -> Leadership {
        *self.running[&node].log.leadership().borrow()
    }

    /// Writes a number through whoever leads, until somebody acknowledges it.
    pub async fn write(&self, number: u64, padding: usize) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            assert!(
                tokio::time::Instant::now() < deadline,
                "nobody takes {number}"
            );
            let leader = self.leader().await;
            let ticket = self.running[&leader].log.propose(command(number, padding));
            match tokio::time::timeout(Duration::from_secs(2), ticket).await {
                Ok(Ok(_)) => return,
                // Also when nobody knows what became of it: it is written again.
                Ok(Err(LogError::NotLeader | LogError::Unknown)) | Err(_) => {}
                Ok(Err(error)) => panic!("{error}"),
            }
        }
    }

    /// Waits until all that run have applied the same, and answers it.
    pub async fn agreed(&self) -> Vec<u64> {
        until(|| {
            let mut all = self.running.values().map(|member| member.numbers.get());
            let first = all.next()?;
            all.all(|other| other == first).then_some(first)
        })
        .await
    }
}

/// Waits for a fact.
pub async fn until<T>(mut fact: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "it did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
