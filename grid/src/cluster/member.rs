//! A node as a member of its cluster: founds or joins it, carries the log's messages, and, where it leads, keeps the membership as it should be. Does; who has a
//! voice, `membership` decides.

mod cancels;
mod operator;
mod relay;

pub use cancels::Cancels;
pub use operator::{DrainError, Operator};
pub use relay::{Relay, Returned};

use super::control::{Question, Told, decode_lease, decode_number, encode_lease, encode_number};
use super::hello::{BLOCKS_SINCE, Identity};
use super::keys::Keys;
use super::lease::{Grant, LEASE_MS};
use super::leases::Leases;
use super::limits::{
    ASK_PATIENCE, CAUGHT_UP_ENTRIES, EVERYWHERE_RETRY, EVERYWHERE_WAIT, JOIN_PERIOD, KEEP_PERIOD,
    LEASE_POLL, LEAVE_MEMORY,
};
use super::link::Links;
use super::listener::Handler;
use super::membership::{Sight, Step, View, Wish};
use super::seeds;
use super::tcp::{Arrivals, serve_all};
use crate::log::{Leadership, Log, LogError, LogIndex, LogOptions, Machine, Members, Peers};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Questions of the log have a connection of their own: nothing else may delay a heartbeat.
const LOG_LANE: u8 = 0;
const CONTROL_LANE: u8 = 1;
/// Commits wait for these.
const LEASE_LANE: u8 = 2;
/// Clients wait for these.
const ASK_LANE: u8 = 3;
/// What is answered soon, whoever else waits.
const NEWS_LANE: u8 = 4;
/// Clean rows, which may be many bytes.
const ROWS_LANE: u8 = 7;
/// Clients wait for these, for as long as others have locked rows.
const BLOCKS_LANE: u8 = 8;
/// Those others wait for these.
const COMMITS_LANE: u8 = 9;

/// Which questions to the leader wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Clients wait for the answers.
    Asked,
    /// It does not wait for Postgres or for room, and is not kept waiting by those who do.
    News,
    /// Steps of transaction blocks, which wait for rows that others have locked. Only leaders that know of such blocks are asked.
    Blocks,
    /// Ends of such blocks.
    Commits,
}

impl Lane {
    fn number(self) -> u8 {
        match self {
            Lane::Asked => ASK_LANE,
            Lane::News => NEWS_LANE,
            Lane::Blocks => BLOCKS_LANE,
            Lane::Commits => COMMITS_LANE,
        }
    }

    /// The first version of the protocol that knows such questions.
    fn since(self) -> u16 {
        match self {
            Lane::Asked | Lane::News => 0,
            Lane::Blocks | Lane::Commits => BLOCKS_SINCE,
        }
    }
}

/// Does what other nodes ask of the leader; an error is told to them in words.
pub type Desk = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// How a node takes part.
pub struct MemberOptions {
    /// Where others connect.
    pub listener: Arrivals,
    /// What encrypts the connections and proves who may talk. `None`: nothing does.
    pub keys: Option<Keys>,
    /// Addresses of nodes that may belong to the cluster already.
    pub seeds: Vec<String>,
    /// Whether a log without members founds a cluster. Else it waits to be added to one.
    pub founds: bool,
    /// What the cluster shall be like.
    pub wish: Wish,
    /// Drawn for this process, unlike any before.
    pub process: u64,
    /// How long to ask for a cluster to join.
    pub search: Duration,
}

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// No seed answered, or none would have this node. Tried again by whoever wants to.
    #[error("no node of the cluster can be reached: {0}")]
    Seeds(String),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A running member. Dropped without [`Member::close`], its tasks go on.
pub struct Member {
    /// The log.
    pub log: Log,
    pub(super) shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

pub(super) struct Shared {
    node: u64,
    /// Drawn for this process.
    process: u64,
    desk: OnceLock<Desk>,
    lender: OnceLock<Desk>,
    cancels: OnceLock<Cancels>,
    relay: OnceLock<Relay>,
    returned: OnceLock<Returned>,
    address: String,
    cluster: OnceLock<u64>,
    log: OnceLock<Log>,
    links: Links,
    /// Who has said that it will go, and when last.
    leaving: Mutex<BTreeMap<u64, Instant>>,
    leases: Leases,
}

/// The log's way to other nodes.
struct LogPeers(Links);

impl Peers for LogPeers {
    fn ask(
        &self,
        node: u64,
        address: &str,
        question: Bytes,
        patience: Duration,
    ) -> BoxFuture<'static, io::Result<Bytes>> {
        let (links, address) = (self.0.clone(), address.to_owned());
        Box::pin(async move {
            let question = Question::Log(question).encode();
            links
                .ask(Some(node), &address, LOG_LANE, question, patience)
                .await
        })
    }
}

impl Member {
    /// Opens the log of this node, `options.log.node`, as a member of a cluster. An empty directory founds one, or joins that of the seeds: that returns as soon as a
    /// seed has said which cluster it is, and goes on until the leader has let it in.
    ///
    /// # Errors
    /// When the log cannot be opened, or when no seed says which cluster an empty directory is to join. Not cancel safe.
    pub async fn open(
        runtime: &runtime::Handle,
        options: MemberOptions,
        mut log: LogOptions,
        machine: impl Machine,
    ) -> Result<Member, MemberError> {
        let known = log.identity_on_disk()?;
        let links = Links::new(
            Identity::new(known, log.node),
            options.listener.dial(options.keys.as_ref()),
        );
        let shared = Arc::new(Shared {
            node: log.node,
            process: options.process,
            desk: OnceLock::new(),
            lender: OnceLock::new(),
            cancels: OnceLock::new(),
            relay: OnceLock::new(),
            returned: OnceLock::new(),
            address: log.address.clone(),
            cluster: OnceLock::new(),
            log: OnceLock::new(),
            links: links.clone(),
            leaving: Mutex::default(),
            leases: Leases::new(),
        });
        if !options.founds {
            // A log may know its cluster and have no members yet: a crash can come between its first writes.
            log.joins = Some(match known {
                Some(cluster) => cluster,
                None => shared.find_cluster(&options.seeds, options.search).await?,
            });
        }
        log.leases = true;
        log.peers = Some(Arc::new(LogPeers(links.clone())));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn_on(
            shared
                .clone()
                .listen(options.listener, options.keys, stop.clone()),
            runtime,
        );
        let opened = Log::open_on(runtime, log, machine).await;
        let log = opened.inspect_err(|_| stop.cancel())?;
        let cluster = log.identity().0;
        // Set once, here.
        let _ = shared.cluster.set(cluster);
        let _ = shared.log.set(log.clone());
        links.belong_to(cluster);
        tasks.spawn(
            shared
                .clone()
                .join(log.clone(), options.seeds, stop.clone()),
        );
        tasks.spawn(shared.clone().keep(log.clone(), options.wish, stop.clone()));
        tasks.spawn(shared.clone().lease(log.clone(), stop.clone()));
        tasks.close();
        Ok(Member {
            log,
            shared,
            stop,
            tasks,
        })
    }

    /// Asks the others to go on without this node, and returns when they do. It is to be closed then, and its directory is of no more use. Cancel safe.
    pub async fn leave(&self) {
        self.operator().leave().await;
    }

    /// What everybody on this node uses of it.
    pub fn handle(&self) -> Handle {
        Handle {
            log: self.log.clone(),
            shared: self.shared.clone(),
        }
    }

    /// Ends the member's tasks, then its log. Not cancel safe.
    pub async fn close(self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.log.shutdown().await;
    }
}

/// A running member, as sessions use it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    log: Log,
    shared: Arc<Shared>,
}

impl Handle {
    /// This node's number.
    pub fn node(&self) -> u64 {
        self.shared.node
    }

    /// The number of this process.
    pub fn process(&self) -> u64 {
        self.shared.process
    }

    /// Who leads, and every change of that.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.log.leadership()
    }

    /// Who answers what other nodes ask of the leader. Set once.
    pub fn serve(&self, desk: Desk) {
        // A second one would be our own mistake, and harmless.
        let _ = self.shared.desk.set(desk);
    }

    /// Who answers what other nodes ask about clean rows. Set once.
    pub fn lend(&self, lender: Desk) {
        // A second one would be our own mistake, and harmless.
        let _ = self.shared.lender.set(lender);
    }

    /// Asks another node about clean rows. Cancel safe.
    ///
    /// # Errors
    /// When it is no member, cannot be reached, does not understand, or does not answer in time.
    pub async fn ask_peer(
        &self,
        node: u64,
        question: Bytes,
        patience: Duration,
    ) -> io::Result<Bytes> {
        let address = self.log.address_of(node);
        let address = address.ok_or_else(|| io::Error::other("that node is no member"))?;
        let question = Question::Rows(question).encode();
        let links = &self.shared.links;
        links
            .ask(Some(node), &address, ROWS_LANE, question, patience)
            .await
    }

    /// Whether a read that begins now may be answered from this node's memory: it contains every write that was acknowledged by any node before.
    pub fn may_read(&self) -> bool {
        self.shared.leases.may_read(&self.log)
    }

    /// Waits until that is so, as long as there is hope; answers whether it is. Cancel safe.
    pub async fn until_may_read(&self) -> bool {
        while !self.may_read() {
            if !self.shared.leases.may_read_soon() {
                return false;
            }
            tokio::time::sleep(LEASE_POLL).await;
        }
        true
    }

    /// Asks the leader, if it is another node and known. Cancel safe.
    ///
    /// # Errors
    /// When it cannot be reached, or says no; the question may have been answered all the same. [`io::ErrorKind::Unsupported`]: it is of a version that does not know such questions.
    pub async fn ask_leader(
        &self,
        question: Bytes,
        lane: Lane,
        patience: Duration,
    ) -> io::Result<Bytes> {
        let question = Question::Ask(question).encode();
        self.question_leader(lane.since(), question, lane.number(), patience)
            .await
    }

    /// `since`: the version of the protocol that the leader must speak.
    async fn question_leader(
        &self,
        since: u16,
        question: Bytes,
        lane: u8,
        patience: Duration,
    ) -> io::Result<Bytes> {
        let unknown = || io::Error::other("no other node is known to lead");
        let leader = self.log.leadership().borrow().leader;
        let leader = leader
            .filter(|leader| *leader != self.shared.node)
            .ok_or_else(unknown)?;
        let address = self.log.address_of(leader).ok_or_else(unknown)?;
        let links = &self.shared.links;
        links
            .ask_since(since, (Some(leader), &address, lane), question, patience)
            .await
    }

    /// All members, as this node knows.
    pub fn members(&self) -> BTreeSet<u64> {
        self.log.members().addresses.into_keys().collect()
    }

    /// Which process a member is. `None`: it does not say.
    pub async fn process_of(&self, node: u64) -> Option<u64> {
        if node == self.shared.node {
            return Some(self.shared.process);
        }
        let address = self.log.address_of(node)?;
        let question = Question::Process.encode();
        let links = &self.shared.links;
        let asked = links.ask(Some(node), &address, CONTROL_LANE, question, ASK_PATIENCE);
        decode_number(&asked.await.ok()?).ok()
    }

    /// Waits until everything up to there has been applied by all who answer from memory. Cancel safe.
    pub async fn everywhere(&self, index: LogIndex) {
        while self.log.acknowledged() < index {
            if self.log.leadership().borrow().here {
                self.log.until_acknowledged(index).await;
                continue;
            }
            let question = Question::Everywhere(index).encode();
            let asked = self.question_leader(0, question, NEWS_LANE, EVERYWHERE_WAIT * 2);
            match asked
                .await
                .and_then(|told| decode_number(&told).map_err(io::Error::other))
            {
                Ok(upto) => self.log.acknowledge(LogIndex(upto)),
                Err(_) => tokio::time::sleep(EVERYWHERE_RETRY).await,
            }
        }
    }
}

impl Shared {
    /// Asks until somebody says, for so long. Cancel safe.
    async fn find_cluster(&self, seeds: &[String], search: Duration) -> Result<u64, MemberError> {
        let (begun, mut complaint) = (Instant::now(), String::new());
        loop {
            match self.which_cluster(seeds).await {
                Err(error) if begun.elapsed() >= search => return Err(error),
                Ok(cluster) => return Ok(cluster),
                Err(error) => {
                    let text = error.to_string();
                    if text != complaint {
                        tracing::warn!("{text}; asking again");
                        complaint = text;
                    }
                }
            }
            tokio::time::sleep(JOIN_PERIOD).await;
        }
    }

    async fn which_cluster(&self, seeds: &[String]) -> Result<u64, MemberError> {
        let mut failures = Vec::new();
        for seed in seeds {
            for address in seeds::addresses(seed).await {
                match self.cluster_of(&address).await {
                    Ok(cluster) => return Ok(cluster),
                    Err(error) if *seed == address => failures.push(format!("{seed}: {error}")),
                    Err(error) => failures.push(format!("{seed} ({address}): {error}")),
                }
            }
        }
        Err(MemberError::Seeds(failures.join("; ")))
    }

    async fn cluster_of(&self, address: &str) -> io::Result<u64> {
        let question = Question::Cluster.encode();
        let asked = self
            .links
            .ask(None, address, CONTROL_LANE, question, ASK_PATIENCE);
        decode_number(&asked.await?).map_err(io::Error::other)
    }

    async fn listen(
        self: Arc<Shared>,
        arrivals: Arrivals,
        keys: Option<Keys>,
        stop: CancellationToken,
    ) {
        let (asked, told) = (self.clone(), self.clone());
        let handler: Handler = Arc::new(move |_, question| {
            let shared = told.clone();
            Box::pin(async move { shared.answer(question).await })
        });
        let ours = move || Identity::new(asked.cluster.get().copied(), asked.node);
        serve_all(arrivals, keys, ours, handler, stop).await;
    }

    async fn answer(&self, question: Bytes) -> Result<Bytes, String> {
        let question = Question::decode(&question).map_err(|error| error.to_string())?;
        let log = self
            .log
            .get()
            .ok_or("this node has not opened its log yet")?;
        match question {
            Question::Log(question) => log
                .answer(&question)
                .await
                .map_err(|error| error.to_string()),
            Question::Cluster => Ok(encode_number(log.identity().0)),
            Question::Join(node, address) => Ok(self.let_in(log, node, &address).await.encode()),
            Question::Leave(node) => Ok(self.let_go(log, node).encode()),
            Question::Ask(question) => {
                let desk = self.desk.get();
                let desk = desk.ok_or("this node has not started yet")?;
                desk(question).await
            }
            Question::Rows(question) => {
                let lender = self.lender.get();
                let lender = lender.ok_or("this node has not started yet")?;
                lender(question).await
            }
            Question::Everywhere(index) => {
                if !log.leadership().borrow().here {
                    return Err("this node does not lead".to_owned());
                }
                let waiting = log.until_acknowledged(index);
                // Who asks will ask again.
                let _ = tokio::time::timeout(EVERYWHERE_WAIT, waiting).await;
                Ok(encode_number(log.acknowledged().0))
            }
            Question::Process => Ok(encode_number(self.process)),
            Question::Cancel(key) => Ok(self.cancel(key).await),
            Question::Relay(question) => self.relay(question).await,
            Question::Lease(node, applied) => {
                let grant = self.leases.grant(log, node, applied);
                Ok(encode_lease(grant.map(|grant| (grant, log.acknowledged()))))
            }
            Question::Status => {
                let status = serde_json::to_vec(&self.status(log));
                status.map(Bytes::from).map_err(|error| error.to_string())
            }
        }
    }

    async fn let_in(&self, log: &Log, node: u64, address: &str) -> Told {
        let Some(members) = self.members_if_leading(log) else {
            return self.elsewhere(log);
        };
        if members
            .addresses
            .get(&node)
            .is_some_and(|known| known == address)
        {
            return Told::Done;
        }
        // Whoever was there before has lost its directory.
        let before = members
            .addresses
            .iter()
            .filter(|(_, known)| *known == address);
        let gone = before.map(|(node, _)| (*node, Instant::now()));
        self.leaving.lock().extend(gone);
        tracing::info!(node, address, "a node joins the cluster");
        match log.add_member(node, address).await {
            Ok(()) => Told::Done,
            Err(LogError::NotLeader) => self.elsewhere(log),
            Err(error) => {
                tracing::info!(%error, node, "the node has to wait");
                Told::Later
            }
        }
    }

    fn let_go(&self, log: &Log, node: u64) -> Told {
        let Some(members) = self.members_if_leading(log) else {
            return self.elsewhere(log);
        };
        if !members.addresses.contains_key(&node) {
            return Told::Done;
        }
        self.leaving.lock().insert(node, Instant::now());
        Told::Later
    }

    fn members_if_leading(&self, log: &Log) -> Option<Members> {
        let leads = log.leadership().borrow().here;
        leads.then(|| log.members())
    }

    fn elsewhere(&self, log: &Log) -> Told {
        let leader = log.leadership().borrow().leader;
        let leader = leader.filter(|leader| *leader != self.node);
        Told::Elsewhere(leader.and_then(|leader| log.address_of(leader)))
    }

    /// Tells the leader what this node wants. `None`: it was not reached.
    async fn wish(&self, log: &Log, question: &Question) -> Option<Told> {
        let leader = match self.elsewhere(log) {
            Told::Elsewhere(Some(leader)) => leader,
            // It may be this one.
            _ => {
                return self
                    .answer(question.encode())
                    .await
                    .ok()
                    .and_then(|told| Told::decode(&told).ok());
            }
        };
        self.tell(&leader, question).await
    }

    async fn tell(&self, address: &str, question: &Question) -> Option<Told> {
        let question = question.encode();
        let asked = self
            .links
            .ask(None, address, CONTROL_LANE, question, ASK_PATIENCE);
        Told::decode(&asked.await.ok()?).ok()
    }

    /// Until the members know this node and its address.
    async fn join(self: Arc<Shared>, log: Log, seeds: Vec<String>, stop: CancellationToken) {
        let question = Question::Join(self.node, self.address.clone());
        while log.members().addresses.get(&self.node) != Some(&self.address) {
            // A log that does not belong yet is told nothing; then the seeds know more.
            if self.wish(&log, &question).await != Some(Told::Done) {
                let known = log.members().addresses;
                self.search(known.into_values().chain(seeds.clone()), &question)
                    .await;
            }
            let pause = tokio::time::sleep(JOIN_PERIOD);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Tells one after the other, and whom they name as leader, until one says that it is done. Answers whether one has.
    async fn search(&self, addresses: impl Iterator<Item = String>, question: &Question) -> bool {
        for seed in addresses {
            for address in seeds::addresses(&seed).await {
                let told = match self.tell(&address, question).await {
                    Some(Told::Elsewhere(Some(leader))) => self.tell(&leader, question).await,
                    told => told,
                };
                if told == Some(Told::Done) {
                    return true;
                }
            }
        }
        false
    }

    /// Holds a lease of whoever leads, or gives them.
    async fn lease(self: Arc<Shared>, log: Log, stop: CancellationToken) {
        let returned = || {
            if let Some(returned) = self.returned.get() {
                returned();
            }
        };
        let holding =
            self.leases
                .renew(&log, |applied| self.ask_for_lease(&log, applied), returned);
        let giving = self.leases.acknowledge(&log);
        tokio::select! {
            () = stop.cancelled() => {}
            () = holding => {}
            () = giving => {}
        }
    }

    async fn ask_for_lease(&self, log: &Log, applied: LogIndex) -> Option<(Grant, LogIndex)> {
        let leader = log.leadership().borrow().leader;
        // Who has been elected, and does not lead yet, cannot give itself one.
        let leader = leader.filter(|leader| *leader != self.node)?;
        let address = log.address_of(leader)?;
        let question = Question::Lease(self.node, applied).encode();
        let patience = Duration::from_millis(LEASE_MS);
        let links = &self.links;
        let asked = links.ask(Some(leader), &address, LEASE_LANE, question, patience);
        decode_lease(&asked.await.ok()?).ok()?
    }

    /// Where this node leads: one step after the other towards the membership that is wished for.
    async fn keep(self: Arc<Shared>, log: Log, wish: Wish, stop: CancellationToken) {
        let begun = Instant::now();
        let mut leads_since: Option<Instant> = None;
        while stop
            .run_until_cancelled(tokio::time::sleep(KEEP_PERIOD))
            .await
            .is_some()
        {
            if !log.leadership().borrow().here {
                leads_since = None;
                continue;
            }
            let since = *leads_since.get_or_insert_with(Instant::now);
            let ms = |at: Instant| at.duration_since(begun).as_millis() as u64;
            let members = log.members();
            let now_ms = ms(Instant::now());
            let sights = self.sights(&log, &members, now_ms);
            let view = View {
                members: &members,
                leader: self.node,
                sights: &sights,
                since_ms: ms(since),
                now_ms,
            };
            if let Some(step) = view.next(wish)
                && let Err(error) = carry_out(&log, &step).await
            {
                tracing::info!(%error, ?step, "the membership could not be changed yet");
            }
        }
    }

    fn sights(&self, log: &Log, members: &Members, now_ms: u64) -> BTreeMap<u64, Sight> {
        let mut leaving = self.leaving.lock();
        leaving.retain(|_, said| said.elapsed() < LEAVE_MEMORY);
        let (last, reached) = log.reach();
        let sight = |node: &u64| {
            let known = reached.get(node);
            let sight = Sight {
                heard_ms: known
                    .and_then(|known| known.silent)
                    .map(|silent| now_ms.saturating_sub(silent.as_millis() as u64)),
                caught_up: known.is_some_and(|known| known.matched + CAUGHT_UP_ENTRIES >= last),
                leaves: leaving.contains_key(node),
            };
            (*node, sight)
        };
        members.addresses.keys().map(sight).collect()
    }
}

async fn carry_out(log: &Log, step: &Step) -> Result<(), LogError> {
    tracing::info!(?step, "the cluster's membership changes");
    match step {
        Step::Voters(voters) => log.set_voters(voters.clone()).await,
        Step::HandOver(heir) => log.hand_over(*heir).await,
        Step::Remove(node) => log.remove_members(BTreeSet::from([*node])).await,
    }
}
