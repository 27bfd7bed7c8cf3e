//! A network of one's own for nodes: each in a namespace with one cable to a switch, so that what one sends another can be lost, without either being told. Does; needs root and
//! iproute2, and says once when it has not got them. Faults are made by a neighbour's address that nobody has: the switch drops what is sent there.
//!
//! The test itself, its clients and Postgres are at the far end of one more cable: clients at one address, Postgres at another, so that nodes can lose the one without the other.

use anyhow::{Context, ensure};
use std::fmt::Write;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What a namespace's name begins with; the id of the process that made it follows.
const PREFIX: &str = "ripen-test-";
/// A hardware address on no cable.
const NOBODY: &str = "02:00:00:00:ff:ff";
/// Hosts of the last octet.
const CLIENTS: u8 = 253;
const POSTGRES: u8 = 254;

/// A switch and the namespaces on it. Removed when dropped; processes still in it keep their namespace.
pub struct Network {
    number: u8,
    nodes: u8,
}

impl Network {
    /// Makes one without nodes. `None`: this machine does not let us, and what needs one is left out.
    ///
    /// # Errors
    /// When it lets us, and fails all the same.
    pub fn make() -> anyhow::Result<Option<Network>> {
        if !possible() {
            return Ok(None);
        }
        // The link's name is the lock: it exists once on the machine.
        let number = (0..=u8::MAX).find(|number| {
            let outer = outer(*number);
            run(
                "ip",
                &[
                    "link",
                    "add",
                    "name",
                    &outer,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    &inner(*number),
                ],
            )
            .is_ok()
        });
        let network = Network {
            number: number.context("all networks are taken: ip link delete ripen…")?,
            nodes: 0,
        };
        network.lay()?;
        Ok(Some(network))
    }

    fn lay(&self) -> anyhow::Result<()> {
        let (switch, outer, inner) = (self.switch(), outer(self.number), inner(self.number));
        run("ip", &["netns", "add", &switch])?;
        run("ip", &["link", "set", &inner, "netns", &switch])?;
        batch(
            &switch,
            &format!(
                "link add name hub type bridge\nlink set hub up\nlink set {inner} master hub up\n"
            ),
        )?;
        for host in [CLIENTS, POSTGRES] {
            run(
                "ip",
                &[
                    "address",
                    "add",
                    &format!("{}/24", self.host(host)),
                    "dev",
                    &outer,
                ],
            )?;
        }
        run("ip", &["link", "set", &outer, "up"])
    }

    /// Adds a namespace and answers its number, from 1.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_node(&mut self) -> anyhow::Result<u8> {
        let node = self.nodes + 1;
        ensure!(node < CLIENTS, "the network is full");
        let (name, switch) = (self.namespace(node), self.switch());
        run("ip", &["netns", "add", &name])?;
        self.nodes = node;
        let port = format!("port{node}");
        run(
            "ip",
            &[
                "link", "add", "name", "eth0", "netns", &name, "type", "veth", "peer", "name",
                &port, "netns", &switch,
            ],
        )?;
        batch(&switch, &format!("link set {port} master hub up\n"))?;
        batch(
            &name,
            &format!(
                "address add {}/24 dev eth0\nlink set eth0 up\nlink set lo up\n",
                self.host(node)
            ),
        )?;
        Ok(node)
    }

    /// Its namespace, as `/run/netns` has it.
    pub fn namespace(&self, node: u8) -> String {
        format!("{PREFIX}{}-{}-{node}", std::process::id(), self.number)
    }

    /// The address of a node, for all on this network.
    pub fn address(&self, node: u8) -> String {
        self.host(node)
    }

    /// The address at which nodes find Postgres.
    pub fn postgres(&self) -> String {
        self.host(POSTGRES)
    }

    /// From now on what a node sends to others is lost.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn cut(&self, from: u8, to: &[u8]) -> anyhow::Result<()> {
        let hosts = to.iter().filter(|to| **to != from).map(|to| self.host(*to));
        self.lose(from, hosts)
    }

    /// From now on what a node sends to Postgres is lost.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn cut_postgres(&self, from: u8) -> anyhow::Result<()> {
        self.lose(from, [self.postgres()].into_iter())
    }

    fn lose(&self, from: u8, hosts: impl Iterator<Item = String>) -> anyhow::Result<()> {
        let mut orders = String::new();
        for host in hosts {
            writeln!(
                orders,
                "neighbour replace {host} lladdr {NOBODY} nud permanent dev eth0"
            )?;
        }
        batch(&self.namespace(from), &orders)
    }

    /// Everybody reaches everybody again.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn heal(&self) -> anyhow::Result<()> {
        (1..=self.nodes).try_for_each(|node| {
            batch(
                &self.namespace(node),
                "neighbour flush nud permanent dev eth0\n",
            )
        })
    }

    fn switch(&self) -> String {
        format!("{PREFIX}{}-{}-hub", std::process::id(), self.number)
    }

    /// In the range that is set aside for measuring networks (RFC 2544), which nobody routes.
    fn host(&self, last: u8) -> String {
        format!("198.18.{}.{last}", self.number)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 1..=self.nodes {
            let _ = run("ip", &["netns", "delete", &self.namespace(node)]);
        }
        let _ = run("ip", &["netns", "delete", &self.switch()]);
        // Last: whoever finds it gone takes the number.
        let _ = run("ip", &["link", "delete", &outer(self.number)]);
    }
}

fn outer(number: u8) -> String {
    format!("ripen{number}")
}

fn inner(number: u8) -> String {
    format!("ripen{number}hub")
}

/// A program of ours into that namespace; what it starts as is the program itself, so signals reach it.
pub fn enter(namespace: &str) -> [String; 2] {
    [
        "nsenter".to_owned(),
        format!("--net=/run/netns/{namespace}"),
    ]
}

/// Found out once, by making a namespace.
fn possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(|| {
        sweep();
        let name = format!("{PREFIX}{}-try", std::process::id());
        let tried = run("ip", &["netns", "add", &name]).and_then(|()| batch(&name, "link add name hub type bridge\n"));
        let _ = run("ip", &["netns", "delete", &name]);
        if let Err(why) = &tried {
            let _ = writeln!(
                std::io::stderr(),
                "tests: no network namespaces (they need root and iproute2): nodes share 127.0.0.1, and what cuts networks is left out: {why:#}"
            );
        }
        tried.is_ok()
    })
}

/// Removes what test processes that were killed have left.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            let _ = run("ip", &["netns", "delete", &name]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    finish(command.args(arguments), "")
}

/// Orders of `ip`, one a line, in that namespace.
fn batch(namespace: &str, orders: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    finish(command.args(["-n", namespace, "-batch", "-"]), orders)
}

fn finish(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    // Debian keeps `ip` where only root looks.
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} {input}: {said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends one datagram and tells whether it comes.
    fn reaches(network: &Network, from: u8, to: u8) -> anyhow::Result<bool> {
        let listen = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 7)); print('up', flush=True)
sys.stdin.read(); s.settimeout(0.3)
try: s.recv(9); print('yes')
except TimeoutError: print('no')";
        let send = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(3): s.sendto(b'x', (sys.argv[1], 7))";
        let address = network.address(to);
        let python = |node: u8| {
            let [program, argument] = enter(&network.namespace(node));
            let mut command = Command::new(program);
            command.args([&argument, "python3", "-c"]);
            command
        };
        let mut listener = python(to);
        listener
            .args([listen, &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut listener = listener.spawn()?;
        let mut out = std::io::BufReader::new(listener.stdout.take().context("piped")?);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut out, &mut line)?;
        ensure!(python(from).args([send, &address]).status()?.success());
        // What was sent has arrived, or never will.
        drop(listener.stdin.take());
        std::io::Read::read_to_string(&mut out, &mut line)?;
        listener.wait()?;
        Ok(line.contains("yes"))
    }

    #[test]
    fn what_is_cut_is_lost_in_that_direction_until_it_is_healed() -> anyhow::Result<()> {
        let Some(mut network) = Network::make()? else {
            return Ok(());
        };
        for node in 1..=3 {
            ensure!(network.add_node()? == node);
        }
        ensure!(reaches(&network, 1, 2)? && reaches(&network, 2, 1)?);
        network.cut(1, &[1, 2])?;
        ensure!(!reaches(&network, 1, 2)?, "it is not cut");
        ensure!(reaches(&network, 2, 1)?, "the other direction is cut, too");
        ensure!(reaches(&network, 1, 3)?, "another node is cut, too");
        network.heal()?;
        ensure!(reaches(&network, 1, 2)?, "it is not healed");
        let namespace = network.namespace(1);
        drop(network);
        ensure!(!std::path::Path::new("/run/netns").join(namespace).exists());
        Ok(())
    }
}
