//! Nodes with logs on real disks that find each other over real sockets: join, die, come back, leave.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    dead_code,
    reason = "a test stops at what it did not expect; not all of the shared parts are used here"
)]

#[path = "log/support.rs"]
mod support;

use ripen_grid::cluster::membership::Wish;
use ripen_grid::cluster::status::{Seen, Unsafe};
use ripen_grid::cluster::{DrainError, Keys, Member, MemberError, MemberOptions};
use ripen_grid::log::{LogError, LogOptions};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use support::{Numbers, command};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::Instant;

const WISH: Wish = Wish {
    voters: 3,
    replace_after_ms: 1_500,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

struct Node {
    member: Member,
    numbers: Numbers,
    address: String,
}

static CLUSTERS: AtomicU8 = AtomicU8::new(0);

struct Cluster {
    folder: TempDir,
    keys: Keys,
    /// An address of its own: nobody else is given a port of a node that is stopped.
    host: String,
    running: BTreeMap<u64, Node>,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster {
            folder: tempfile::tempdir().unwrap(),
            keys: Keys::of_secret(b"a secret of the cluster").unwrap(),
            host: format!("127.0.1.{}", 1 + CLUSTERS.fetch_add(1, Ordering::Relaxed)),
            running: BTreeMap::new(),
        }
    }

    fn dir(&self, node: u64) -> PathBuf {
        self.folder.path().join(node.to_string())
    }

    async fn start(&mut self, node: u64, address: &str) -> Result<(), MemberError> {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seeds = self.running.values().map(|node| node.address.clone());
        let options = MemberOptions {
            founds: self.running.is_empty(),
            process: 1,
            search: Duration::ZERO,
            listener: listener.into(),
            keys: Some(self.keys.clone()),
            seeds: seeds.collect(),
            wish: WISH,
        };
        let log = LogOptions {
            node,
            address: address.clone(),
            segment_bytes: 64 << 10,
            ..LogOptions::new(self.dir(node))
        };
        let numbers = Numbers::default();
        let runtime = tokio::runtime::Handle::current();
        let member = Member::open(&runtime, options, log, numbers.clone()).await?;
        let node_running = Node {
            member,
            numbers,
            address,
        };
        self.running.insert(node, node_running);
        Ok(())
    }

    /// Any port of the cluster's host.
    fn anywhere(&self) -> String {
        format!("{}:0", self.host)
    }

    async fn of(count: u64) -> Cluster {
        let mut cluster = Cluster::new();
        for node in 1..=count {
            cluster.start(node, &cluster.anywhere()).await.unwrap();
        }
        cluster
            .until_voters(&(1..=count.min(3)).collect::<Vec<_>>())
            .await;
        cluster
    }

    async fn stop(&mut self, node: u64) -> String {
        let stopped = self.running.remove(&node).unwrap();
        stopped.member.close().await;
        stopped.address
    }

    fn leader(&self) -> Option<u64> {
        let leads = |node: &&u64| self.running[*node].member.log.leadership().borrow().here;
        self.running.keys().find(leads).copied()
    }

    fn state(&self) -> String {
        let state = self.running.iter().map(|(node, running)| {
            let log = &running.member.log;
            let leadership = *log.leadership().borrow();
            let (members, numbers) = (log.members(), running.numbers.get());
            format!("{node}: {leadership:?} {members:?} {numbers:?}\n")
        });
        state.collect()
    }

    async fn until_voters(&self, voters: &[u64]) {
        self.until(|| {
            let leader = self.leader()?;
            let members = self.running[&leader].member.log.members();
            members
                .voters
                .into_iter()
                .eq(voters.iter().copied())
                .then_some(())
        })
        .await;
    }

    async fn until<T>(&self, mut fact: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = fact() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "it did not come: {}",
                self.state()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_safe(&self, node: u64, safe: bool) {
        let operator = self.running[&node].member.operator();
        let deadline = Instant::now() + PATIENCE;
        while operator.safe().await.is_ok() != safe {
            assert!(Instant::now() < deadline, "{:?}", operator.view().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn write(&self, number: u64) {
        loop {
            let leader = self.until(|| self.leader()).await;
            match self.running[&leader]
                .member
                .log
                .propose(command(number, 100))
                .await
            {
                Ok(_) => return,
                Err(LogError::NotLeader) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn agreed(&self, numbers: &[u64]) {
        self.until(|| {
            let agrees = |node: &Node| node.numbers.get() == numbers;
            self.running.values().all(agrees).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_become_three_voices_and_more_do_not() {
    let cluster = Cluster::of(4).await;
    for number in 0..20 {
        cluster.write(number).await;
    }
    cluster.agreed(&(0..20).collect::<Vec<_>>()).await;
    let members = cluster.running[&4].member.log.members();
    assert_eq!(members.addresses.len(), 4);
    assert_eq!(members.voters.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_voter_is_replaced_and_comes_back_without_a_voice() {
    let mut cluster = Cluster::of(4).await;
    cluster.write(1).await;
    let leader = cluster.leader().unwrap();
    let address = cluster.stop(leader).await;
    cluster.write(2).await;
    let others: Vec<u64> = (1..=4).filter(|node| *node != leader).collect();
    cluster.until_voters(&others).await;
    cluster.start(leader, &address).await.unwrap();
    cluster.write(3).await;
    cluster.agreed(&[1, 2, 3]).await;
    cluster.until_voters(&others).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_come_back_from_their_disks_even_at_other_addresses() {
    let mut cluster = Cluster::of(3).await;
    cluster.write(1).await;
    let mut addresses = BTreeMap::new();
    for node in 1..=3 {
        addresses.insert(node, cluster.stop(node).await);
    }
    cluster.start(1, &addresses[&1]).await.unwrap();
    cluster.start(2, &addresses[&2]).await.unwrap();
    cluster.start(3, &cluster.anywhere()).await.unwrap();
    cluster.write(2).await;
    cluster.agreed(&[1, 2]).await;
    let address = cluster.running[&3].address.clone();
    let known = || {
        let members = cluster.running[&1].member.log.members();
        (members.addresses[&3] == address).then_some(())
    };
    cluster.until(known).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_is_replaced_and_forgotten() {
    let mut cluster = Cluster::of(4).await;
    cluster.write(1).await;
    let leader = cluster.leader().unwrap();
    cluster.running[&leader].member.leave().await;
    cluster.stop(leader).await;
    let others: Vec<u64> = (1..=4).filter(|node| *node != leader).collect();
    cluster.until_voters(&others).await;
    cluster.write(2).await;
    cluster.agreed(&[1, 2]).await;
    for node in cluster.running.values() {
        assert!(!node.member.log.members().addresses.contains_key(&leader));
    }
}

/// It may be let go without hearing of it, and of any leader after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_let_go_hears_so_from_whoever_leads_then() {
    let mut cluster = Cluster::of(4).await;
    let leaver = 4;
    let operator = cluster.running[&leaver].member.operator();
    // It asks, and nobody waits for the answer.
    let asked = tokio::time::timeout(Duration::from_millis(20), operator.leave()).await;
    assert!(asked.is_err(), "that is looked at later");
    let leader = cluster.leader().unwrap();
    let gone = || {
        let members = cluster.running[&leader].member.log.members();
        (!members.addresses.contains_key(&leaver)).then_some(())
    };
    cluster.until(gone).await;
    cluster.stop(leader).await;
    let told = tokio::time::timeout(PATIENCE, operator.leave()).await;
    assert!(told.is_ok(), "it has left, and is not told so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_directory_is_replaced_by_a_new_node_at_the_same_address() {
    let mut cluster = Cluster::of(3).await;
    cluster.write(1).await;
    let leader = cluster.leader().unwrap();
    let lost = (1..=3).find(|node| *node != leader).unwrap();
    let address = cluster.stop(lost).await;
    cluster.start(9, &address).await.unwrap();
    let mut voters: Vec<u64> = (1..=3).filter(|node| *node != lost).collect();
    voters.push(9);
    cluster.until_voters(&voters).await;
    cluster.write(2).await;
    cluster.agreed(&[1, 2]).await;
}

/// Numbers are written one after the other; as soon as one is acknowledged, whoever may answer from memory must have it, whatever happens to the nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_read_has_every_acknowledged_write() {
    let mut cluster = Cluster::of(3).await;
    let mut readable = BTreeMap::new();
    let mut number = 0;
    for round in 0..6u64 {
        let until = Instant::now() + Duration::from_millis(700);
        while Instant::now() < until {
            cluster.write(number).await;
            for (node, running) in &cluster.running {
                if running.member.handle().may_read() {
                    let numbers = running.numbers.get();
                    assert!(numbers.contains(&number), "node {node} lacks {number}");
                    *readable.entry(*node).or_insert(0) += 1;
                }
            }
            number += 1;
        }
        let node = 1 + round % 3;
        let gate = cluster.running[&node].numbers.clone();
        match round % 2 {
            0 => {
                // It hears and answers, but applies nothing for a while.
                let stuck = tokio::task::spawn_blocking(move || {
                    gate.stuck_for(Duration::from_millis(500));
                });
                cluster.write(number).await;
                number += 1;
                stuck.await.unwrap();
            }
            _ => {
                let address = cluster.stop(node).await;
                cluster.write(number).await;
                number += 1;
                cluster.start(node, &address).await.unwrap();
            }
        }
    }
    assert!(
        readable.values().all(|reads| *reads > 20),
        "{readable:?}: too little was read"
    );
    assert_eq!(readable.len(), 3, "{readable:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_are_safe_until_one_is_lost_and_every_node_knows() {
    let mut cluster = Cluster::of(3).await;
    for node in 1..=3 {
        cluster.until_safe(node, true).await;
    }
    let leader = cluster.leader().unwrap();
    let follower = (1..=3).find(|node| *node != leader).unwrap();
    let seen = cluster.running[&follower].member.operator().view().await.0;
    assert_eq!((seen.node, seen.leads), (follower, false));
    assert_eq!(seen.leader.map(|leader| leader.node), Some(leader));
    let reached = |seen: &&Seen| seen.silent_ms.is_some() && seen.matched.is_some();
    assert_eq!(seen.members.iter().filter(reached).count(), 3);
    let address = cluster.stop(follower).await;
    for node in (1..=3).filter(|node| *node != follower) {
        cluster.until_safe(node, false).await;
    }
    cluster.start(follower, &address).await.unwrap();
    cluster.until_safe(follower, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_leader_lets_another_lead() {
    let mut cluster = Cluster::new();
    cluster.start(1, &cluster.anywhere()).await.unwrap();
    let alone = cluster.running[&1].member.operator();
    assert!(matches!(alone.drain().await, Err(DrainError::Alone)));
    assert_eq!(alone.safe().await, Err(Unsafe::Alone));
    for node in 2..=3 {
        cluster.start(node, &cluster.anywhere()).await.unwrap();
    }
    cluster.until_voters(&[1, 2, 3]).await;
    cluster.write(1).await;
    for _ in 0..3 {
        let leader = cluster.until(|| cluster.leader()).await;
        let draining = cluster.running[&leader].member.operator();
        tokio::time::timeout(PATIENCE, draining.drain())
            .await
            .unwrap()
            .unwrap();
        let heir = draining.status().leader.map(|leader| leader.node);
        assert_ne!(heir, Some(leader));
        // Who does not lead has nothing to hand over.
        draining.drain().await.unwrap();
    }
    cluster.write(2).await;
    cluster.agreed(&[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_may_be_a_name_with_several_addresses() {
    let mut cluster = Cluster::new();
    cluster.start(1, "127.0.0.1:0").await.unwrap();
    let (_, port) = cluster.running[&1].address.rsplit_once(':').unwrap();
    // Of its addresses, [::1] is not listened on.
    let seed = format!("localhost:{port}");
    cluster.running.get_mut(&1).unwrap().address = seed;
    cluster.start(2, &cluster.anywhere()).await.unwrap();
    let known = || {
        let members = cluster.running[&2].member.log.members();
        members.addresses.contains_key(&2).then_some(())
    };
    cluster.until(known).await;
}

/// A crash can leave the header of the first segment alone: the folder names the cluster then, but has nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_whose_first_write_was_torn_founds_no_second_cluster() {
    const HEADER_BYTES: usize = 64;
    let mut cluster = Cluster::new();
    cluster.start(1, &cluster.anywhere()).await.unwrap();
    cluster.write(1).await;
    let name = "wal-0000000001.seg";
    let mut torn = std::fs::read(cluster.dir(1).join(name)).unwrap();
    torn[HEADER_BYTES..].fill(0);
    std::fs::create_dir(cluster.dir(2)).unwrap();
    std::fs::write(cluster.dir(2).join(name), torn).unwrap();
    cluster.start(2, &cluster.anywhere()).await.unwrap();
    cluster.agreed(&[1]).await;
    let leadership = *cluster.running[&2].member.log.leadership().borrow();
    assert_eq!((leadership.leader, leadership.here), (Some(1), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anybody_to_join_an_empty_directory_stays_empty() {
    let mut cluster = Cluster::new();
    cluster.start(1, &cluster.anywhere()).await.unwrap();
    let address = cluster.stop(1).await;
    let options = MemberOptions {
        founds: false,
        process: 1,
        search: Duration::ZERO,
        listener: TcpListener::bind("127.0.0.1:0").await.unwrap().into(),
        keys: None,
        seeds: vec![address],
        wish: WISH,
    };
    let log = LogOptions {
        node: 2,
        ..LogOptions::new(cluster.dir(2))
    };
    let runtime = tokio::runtime::Handle::current();
    let opened = Member::open(&runtime, options, log.clone(), Numbers::default()).await;
    assert!(matches!(opened, Err(MemberError::Seeds(_))));
    assert_eq!(log.identity_on_disk().unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_lost_majority_goes_on_as_another_cluster() {
    let mut cluster = Cluster::of(3).await;
    for number in 0..5 {
        cluster.write(number).await;
    }
    cluster.agreed(&[0, 1, 2, 3, 4]).await;
    let log = LogOptions {
        segment_bytes: 64 << 10,
        ..LogOptions::new(cluster.dir(3))
    };
    let in_use = log.remains(Numbers::default());
    assert!(matches!(in_use, Err(LogError::Locked { .. })));
    let mut addresses = BTreeMap::new();
    for node in 1..=3 {
        addresses.insert(node, cluster.stop(node).await);
    }
    let numbers = Numbers::default();
    let mut remains = log.remains(numbers.clone()).unwrap().unwrap();
    assert_eq!(numbers.get(), [0, 1, 2, 3, 4]);
    assert!(remains.members.voters.iter().eq([&1, &2, &3]));
    assert!(remains.found(&cluster.dir(33), 9).is_err(), "a stranger");
    let made = remains.found(&cluster.dir(33), 3).unwrap();
    assert_ne!(made, remains.identity);
    drop(remains);
    std::fs::remove_dir_all(cluster.dir(3)).unwrap();
    std::fs::rename(cluster.dir(33), cluster.dir(3)).unwrap();
    cluster.start(3, &addresses[&3]).await.unwrap();
    assert_eq!(cluster.running[&3].member.log.identity(), made);
    cluster.until_voters(&[3]).await;
    cluster.write(5).await;
    // One that was lost comes back.
    cluster.start(1, &addresses[&1]).await.unwrap();
    let former = cluster.running.remove(&1).unwrap();
    for node in [7, 8] {
        cluster.start(node, &cluster.anywhere()).await.unwrap();
    }
    cluster.until_voters(&[3, 7, 8]).await;
    cluster.write(6).await;
    cluster.agreed(&[0, 1, 2, 3, 4, 5, 6]).await;
    // Alone it cannot even tell which of its last entries were acknowledged.
    assert!([0, 1, 2, 3, 4].starts_with(&former.numbers.get()));
    assert!(!former.member.log.leadership().borrow().here);
    former.member.close().await;
    let address = cluster.stop(3).await;
    cluster.start(3, &address).await.unwrap();
    cluster.write(7).await;
    cluster.agreed(&[0, 1, 2, 3, 4, 5, 6, 7]).await;
}
