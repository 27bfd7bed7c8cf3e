//! Several Ripen processes as one cluster in front of one Postgres, each on a network of the test's own where the machine allows it, and what can happen to them: killed, stopped,
//! paused, cut off, emptied, added. Never decides what happens when; tests do.

use crate::network::Network;
use crate::postgres::{self, Options, Postgres};
use crate::ripen::{Place, Ripen};
use crate::wait::{self, free_port};
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::Client;

/// How long a node may take to say whether it leads; one that does not answer does not.
const ANSWER: Duration = Duration::from_secs(2);

/// A cluster and its Postgres. Nodes are counted from 0 in the order of their start, and keep their number whatever becomes of them.
pub struct Cluster {
    nodes: Vec<Node>,
    settings: Vec<(String, String)>,
    upstream: String,
    /// The system of record.
    pub postgres: Postgres,
    /// `None`: all are on 127.0.0.1, and nothing can be cut.
    pub network: Option<Network>,
}

struct Node {
    ripen: Ripen,
    /// Where other nodes find it.
    address: String,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Running,
    Paused,
    Stopped,
}

impl Cluster {
    /// Starts Postgres, runs `schema` there, and starts so many nodes; returns when all are ready and follow one leader.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(
        schema: &str,
        count: usize,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Cluster> {
        Cluster::start_with(schema, count, settings, async |options| {
            Postgres::start(options).await
        })
        .await
    }

    /// The same with a Postgres that can have a standby.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start_on_primary(
        schema: &str,
        count: usize,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Cluster> {
        Cluster::start_with(schema, count, settings, async |options| {
            Postgres::start_primary(options).await
        })
        .await
    }

    /// The same, with whatever else Postgres is to be started with.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start_with(
        schema: &str,
        count: usize,
        settings: &[(&str, &str)],
        start: impl AsyncFnOnce(Options) -> anyhow::Result<Postgres>,
    ) -> anyhow::Result<Cluster> {
        let network = Network::make()?;
        let host = network.as_ref().map(Network::postgres);
        let everybody =
            "local all all trust\nhost all all all trust\nhost replication all all trust";
        let mut options = Options::default().hba(everybody);
        if let Some(host) = &host {
            options = options.set("listen_addresses", &format!("127.0.0.1,{host}"));
        }
        let postgres = start(options).await?;
        postgres.connect().await?.batch_execute(schema).await?;
        let host = host.as_deref().unwrap_or("127.0.0.1");
        let upstream = format!("postgres://postgres@{host}:{}/postgres", postgres.port());
        let settings = settings.iter();
        let settings = settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut cluster = Cluster {
            nodes: Vec::new(),
            settings: settings.collect(),
            upstream,
            postgres,
            network,
        };
        for _ in 0..count {
            cluster.add().await?;
        }
        cluster.settled().await?;
        Ok(cluster)
    }

    /// Starts one more, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add(&mut self) -> anyhow::Result<usize> {
        let upstream = self.upstream.clone();
        let node = self.begin(&upstream)?;
        self.ready(node).await?;
        Ok(node)
    }

    /// Starts one more in front of another database of the same Postgres. Does not wait.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn add_astray(&mut self, database: &str) -> anyhow::Result<usize> {
        let (server, _) = self.upstream.rsplit_once('/').context("a URL")?;
        let upstream = format!("{server}/{database}");
        self.begin(&upstream)
    }

    fn begin(&mut self, upstream: &str) -> anyhow::Result<usize> {
        let (place, cluster_port) = match &mut self.network {
            None => (Place::here(), free_port()),
            Some(network) => {
                let node = network.add_node()?;
                let place = Place {
                    host: network.address(node),
                    port: 6432,
                    admin_port: 6433,
                    namespace: Some(network.namespace(node)),
                };
                (place, 6434)
            }
        };
        let address = format!("{}:{cluster_port}", place.host);
        let mut settings = self.settings.clone();
        let seeds = self.seeds(None);
        let (how, seeds) = if seeds.is_empty() {
            ("bootstrap", seeds)
        } else {
            ("join", seeds)
        };
        settings.extend([
            ("cluster_listen".to_owned(), address.clone()),
            (how.to_owned(), seeds),
        ]);
        let environment = [
            ("RIPEN_CLUSTER_SECRET", "a secret that all nodes know"),
            ("NO_COLOR", "1"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let ripen = Ripen::start_at(place, upstream, settings, BTreeMap::from(environment))?;
        self.nodes.push(Node {
            ripen,
            address,
            state: State::Running,
        });
        Ok(self.nodes.len() - 1)
    }

    fn seeds(&self, without: Option<usize>) -> String {
        let others = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(node, _)| Some(*node) != without);
        let addresses: Vec<&str> = others.map(|(_, node)| node.address.as_str()).collect();
        addresses.join(",")
    }

    /// Waits until a node that was started says that it is ready.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ready(&mut self, node: usize) -> anyhow::Result<()> {
        let ready = self.nodes[node].ripen.wait_ready().await;
        ready.with_context(|| format!("node {node}"))
    }

    /// Waits until all that run are ready and one of them leads.
    ///
    /// # Errors
    /// When they do not come to that.
    pub async fn settled(&mut self) -> anyhow::Result<usize> {
        for node in self.running() {
            self.ready(node).await?;
        }
        self.leader().await
    }

    /// Waits until exactly one of those that run says that it leads.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        self.leader_among(&self.running()).await
    }

    /// Waits until exactly one of these says that it leads.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn leader_among(&self, nodes: &[usize]) -> anyhow::Result<usize> {
        let found = wait::until("one node leads", || async {
            let leaders = self.leaders(nodes).await;
            Ok((leaders.len() == 1).then(|| leaders[0]))
        });
        found.await.with_context(|| self.logs())
    }

    /// Those of these who say now that they lead.
    pub async fn leaders(&self, nodes: &[usize]) -> Vec<usize> {
        let mut leaders = Vec::new();
        for node in nodes {
            let asked = self.nodes[*node].ripen.admin("/leader");
            let answer = tokio::time::timeout(ANSWER, asked).await;
            if answer
                .is_ok_and(|answer| answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")))
            {
                leaders.push(*node);
            }
        }
        leaders
    }

    /// Those that are neither stopped nor paused.
    pub fn running(&self) -> Vec<usize> {
        let nodes = 0..self.nodes.len();
        nodes
            .filter(|node| self.nodes[*node].state == State::Running)
            .collect()
    }

    /// The process of a node.
    pub fn node(&self, node: usize) -> &Ripen {
        &self.nodes[node].ripen
    }

    /// The client's URL of a node.
    pub fn url(&self, node: usize) -> String {
        self.nodes[node].ripen.url()
    }

    /// A URL with all nodes that are not stopped, as libpq takes it.
    pub fn urls(&self) -> String {
        let nodes = self
            .nodes
            .iter()
            .filter(|node| node.state != State::Stopped);
        let hosts = nodes.map(|node| {
            let place = node.ripen.place();
            format!("{}:{}", place.host, place.port)
        });
        format!(
            "postgres://postgres@{}/postgres",
            hosts.collect::<Vec<_>>().join(",")
        )
    }

    /// A connection through that node.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn connect(&self, node: usize) -> anyhow::Result<Client> {
        postgres::connect(&self.url(node)).await
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it was not running.
    pub async fn kill9(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node].state = State::Stopped;
        self.nodes[node].ripen.kill9().await
    }

    /// SIGTERM, and waits for the graceful end.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub async fn stop(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node].state = State::Stopped;
        self.nodes[node].ripen.stop().await
    }

    /// Starts it again from its disk, or, if that was wiped, as a new node at the old address. Does not wait.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_again(&mut self, node: usize) -> anyhow::Result<()> {
        let seeds = self.seeds(Some(node));
        let how = if seeds.is_empty() {
            ("bootstrap", "")
        } else {
            ("join", seeds.as_str())
        };
        let restarted = &mut self.nodes[node];
        ensure!(restarted.state == State::Stopped, "node {node} is running");
        restarted
            .ripen
            .replace_settings(&["bootstrap", "join"], &[how]);
        restarted.ripen.restart_unready()?;
        restarted.state = State::Running;
        Ok(())
    }

    /// As `start_again`, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        self.start_again(node)?;
        self.ready(node).await
    }

    /// `ripen node drain`: another leads, and it takes no new clients until it is started again.
    ///
    /// # Errors
    /// When that was not done.
    pub async fn drain(&self, node: usize) -> anyhow::Result<()> {
        self.tell(node, "drain").await
    }

    /// `ripen node leave`: the others go on without it for good.
    ///
    /// # Errors
    /// When that was not done.
    pub async fn leave(&mut self, node: usize) -> anyhow::Result<()> {
        self.tell(node, "leave").await?;
        self.gone(node).await
    }

    /// Waits until a node that was asked to leave has ended.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub async fn gone(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node].state = State::Stopped;
        self.nodes[node].ripen.wait_end().await
    }

    /// Waits until a node has ended by itself with an error, and answers all that it logged.
    ///
    /// # Errors
    /// When it lives on, or ends with success.
    pub async fn refused(&mut self, node: usize) -> anyhow::Result<String> {
        let log = self.nodes[node].ripen.wait_refusal().await?;
        self.nodes[node].state = State::Stopped;
        Ok(log)
    }

    async fn tell(&self, node: usize, what: &str) -> anyhow::Result<()> {
        let told = self.nodes[node].ripen.ask_node(what).await?;
        let words = String::from_utf8_lossy(&told.stderr);
        ensure!(
            told.status.success(),
            "{what} of node {node}: {words}\n{}",
            self.logs()
        );
        Ok(())
    }

    /// Removes the data of a stopped node.
    ///
    /// # Errors
    /// When it runs, or cannot be removed.
    pub fn wipe(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node].ripen.wipe()
    }

    /// SIGSTOP: it stands still, and does not know.
    ///
    /// # Errors
    /// When it was not running.
    pub async fn pause(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node].state = State::Paused;
        self.nodes[node].ripen.signal("-STOP").await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it was not running.
    pub async fn resume(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes[node].state = State::Running;
        self.nodes[node].ripen.signal("-CONT").await
    }

    /// What `from` sends these is lost from now on.
    ///
    /// # Errors
    /// When there is no network to be cut.
    pub fn cut(&self, from: usize, to: &[usize]) -> anyhow::Result<()> {
        let to: Vec<u8> = to.iter().map(|node| on_network(*node)).collect();
        self.faulty()?.cut(on_network(from), &to)
    }

    /// These reach each other, but nobody else, and nobody else them.
    ///
    /// # Errors
    /// When there is no network to be cut.
    pub fn part(&self, these: &[usize]) -> anyhow::Result<()> {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        let (here, there): (Vec<usize>, Vec<usize>) =
            all.iter().partition(|node| these.contains(node));
        for from in &all {
            self.cut(*from, if these.contains(from) { &there } else { &here })?;
        }
        Ok(())
    }

    /// Postgres hears nothing of these any more.
    ///
    /// # Errors
    /// When there is no network to be cut.
    pub fn cut_postgres(&self, nodes: &[usize]) -> anyhow::Result<()> {
        let network = self.faulty()?;
        nodes
            .iter()
            .try_for_each(|node| network.cut_postgres(on_network(*node)))
    }

    /// Everybody reaches everybody again.
    ///
    /// # Errors
    /// When there is no network.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.faulty()?.heal()
    }

    fn faulty(&self) -> anyhow::Result<&Network> {
        self.network
            .as_ref()
            .context("this machine has no network that could be cut")
    }

    /// Waits until all that was acknowledged is in Postgres, by the word of the first node that runs.
    ///
    /// # Errors
    /// When it does not say so.
    pub async fn drained(&self) -> anyhow::Result<()> {
        let flushed = wait::until("a flush", || async {
            let running = self.running();
            let node = running.first().context("no node runs")?;
            let client = tokio::time::timeout(ANSWER, self.connect(*node)).await??;
            client.batch_execute("CALL ripen.flush()").await?;
            Ok(Some(()))
        });
        flushed.await.with_context(|| self.logs())
    }

    /// The end of what each node logged.
    pub fn logs(&self) -> String {
        let logs = self.nodes.iter().enumerate().map(|(number, node)| {
            let log = node.ripen.log();
            // Whoever looks closer has the whole log.
            let told = log.lines().filter(|line| !line.contains("openraft"));
            let lines: Vec<&str> = told.collect();
            let end = lines[lines.len().saturating_sub(40)..].join("\n");
            format!(
                "---- node {number} ({}, {:?})\n{end}\n",
                node.address, node.state
            )
        });
        logs.collect()
    }

    /// Copies all logs to where they outlive the test, and says where.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn keep_logs(&self) -> anyhow::Result<PathBuf> {
        let folder = tempfile::Builder::new()
            .prefix("ripen-cluster-logs-")
            .tempdir()?
            .keep();
        for (number, node) in self.nodes.iter().enumerate() {
            std::fs::write(folder.join(format!("node-{number}.log")), node.ripen.log())?;
        }
        Ok(folder)
    }
}

/// A node as the network counts.
fn on_network(node: usize) -> u8 {
    u8::try_from(node + 1).unwrap_or(u8::MAX)
}
