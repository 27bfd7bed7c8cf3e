//! A simulated network: streams that keep order, links that are slow, cut in one direction or both, and machines that vanish without a word. What is lost on the way
//! is sent again, as TCP does: it comes late. What a node asks of the leader now and then comes a second time, much later, to whomever: it may have been asked again.

use crate::chance::Chance;
use parking_lot::Mutex;
use ripen_grid::cluster::link::{Dial, Stream};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// Once in so many times what is asked of the leader comes twice.
const TWICE: u64 = 30;

/// The system of record's place in the network.
pub const PG: u64 = 0;

pub type Arriving = mpsc::UnboundedSender<Box<dyn Stream>>;

pub struct Net {
    chance: Chance,
    now_ms: u64,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    listening: BTreeMap<u64, Arriving>,
    /// Directions in which nothing arrives.
    cut: BTreeSet<(u64, u64)>,
    /// Most milliseconds that something is late in a direction, beside what is usual.
    slow: BTreeMap<(u64, u64), u64>,
    /// Once in so many times something is lost, and sent again.
    loss: Option<u64>,
    /// Requests that come once more: when, from whom, and the frame.
    copies: Vec<(u64, u64, Vec<u8>)>,
    /// Counts them.
    copied: u64,
}

/// One direction of a connection.
struct Pipe {
    from: u64,
    to: u64,
    under_way: VecDeque<(u64, Vec<u8>)>,
    last_due: u64,
    arrived: VecDeque<u8>,
    reader: Option<Waker>,
    /// No more will be written, after what is under way.
    closed: bool,
    /// Whoever uses it hears that it is broken.
    broken: bool,
    /// The writer's machine is gone: nothing arrives any more, and nobody says so.
    silent: bool,
    frames: Frames,
}

/// Cuts what goes through a pipe into frames. See `cluster/frame.rs` of the grid.
#[derive(Default)]
struct Frames {
    part: Vec<u8>,
    /// Whether it has carried a question: then the other side knows who asks, and takes more of them.
    asks: bool,
}

/// Bytes that say how long a frame is.
const LENGTH: usize = 4;

/// The tag of a frame that is a question; its number follows.
const QUESTION: u8 = 3;

/// The tag of a question that goes to the leader of the log; it stands behind the frame's tag and number.
const ASK: u8 = 6;

impl Frames {
    /// Answers the questions for the leader that end with these bytes.
    fn cut(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.part.extend_from_slice(bytes);
        let mut asked = Vec::new();
        while let Some((length, _)) = self.part.split_first_chunk::<LENGTH>() {
            let end = LENGTH + u32::from_le_bytes(*length) as usize;
            if self.part.len() < end {
                break;
            }
            let rest = self.part.split_off(end);
            let frame = std::mem::replace(&mut self.part, rest);
            if frame.get(LENGTH) == Some(&QUESTION) {
                self.asks = true;
                if frame.get(LENGTH + 9) == Some(&ASK) {
                    asked.push(frame);
                }
            }
        }
        asked
    }

    /// Whether another frame can come now.
    fn is_between(&self) -> bool {
        self.part.is_empty()
    }
}

pub fn address(node: u64) -> String {
    format!("10.0.0.{node}:1")
}

fn node_at(address: &str) -> Option<u64> {
    address
        .strip_prefix("10.0.0.")?
        .strip_suffix(":1")?
        .parse()
        .ok()
}

impl Net {
    pub fn new(chance: Chance) -> Net {
        Net {
            chance,
            now_ms: 0,
            pipes: BTreeMap::new(),
            next_pipe: 0,
            listening: BTreeMap::new(),
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            loss: None,
            copies: Vec::new(),
            copied: 0,
        }
    }

    /// How long a message takes that is sent now, were the link whole.
    fn latency(&mut self, from: u64, to: u64) -> u64 {
        let mut latency = 1 + self.chance.below(2);
        if let Some(late) = self.slow.get(&(from, to)) {
            latency += self.chance.below(*late + 1);
        }
        if self.loss.is_some_and(|times| self.chance.one_in(times)) {
            latency += 200;
        }
        latency
    }

    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.contains(&(from, to))
    }

    pub fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub fn slow(&mut self, from: u64, to: u64, late_ms: u64) {
        self.slow.insert((from, to), late_ms);
    }

    pub fn lose(&mut self, times: Option<u64>) {
        self.loss = times;
    }

    pub fn mend(&mut self, from: u64, to: u64) {
        self.cut.remove(&(from, to));
        self.slow.remove(&(from, to));
    }

    pub fn mend_all(&mut self) {
        self.cut.clear();
        self.slow.clear();
        self.loss = None;
    }

    /// A node listens.
    pub fn listen(&mut self, node: u64, arriving: Arriving) {
        self.listening.insert(node, arriving);
    }

    /// A node's machine has lost its power: its connections end, and nobody is told.
    pub fn silence(&mut self, node: u64) {
        for pipe in self.pipes.values_mut().filter(|pipe| pipe.from == node) {
            pipe.silent = true;
            pipe.under_way.clear();
        }
    }

    /// A node has ended, one way or the other.
    pub fn leave(&mut self, node: u64) {
        self.listening.remove(&node);
    }

    /// A node's machine is up again: who still talks to the one before hears that it is gone.
    pub fn begin(&mut self, node: u64) {
        for pipe in self.pipes.values_mut() {
            if pipe.from == node || pipe.to == node {
                pipe.broken = true;
                wake(&mut pipe.reader);
            }
        }
    }

    /// Sends what comes a second time to somebody whom the node has asked before.
    fn send_copies(&mut self) {
        let now_ms = self.now_ms;
        let (due, later) = std::mem::take(&mut self.copies)
            .into_iter()
            .partition(|(at, _, _)| *at <= now_ms);
        self.copies = later;
        let due: Vec<(u64, u64, Vec<u8>)> = due;
        for (_, from, frame) in due {
            let fits = |pipe: &Pipe| {
                let open = !pipe.closed && !pipe.broken && !pipe.silent;
                pipe.from == from && open && pipe.frames.asks && pipe.frames.is_between()
            };
            let pipes = self.pipes.iter().filter(|(_, pipe)| fits(pipe));
            let pipes: Vec<u64> = pipes.map(|(pipe, _)| *pipe).collect();
            if pipes.is_empty() {
                continue;
            }
            let pipe = self.chance.pick(&pipes);
            // The answer is for nobody.
            self.copied += 1;
            let mut copy = frame;
            copy[LENGTH + 1..LENGTH + 9].copy_from_slice(&(u64::MAX - self.copied).to_le_bytes());
            if let Some(pipe) = self.pipes.get_mut(&pipe) {
                pipe.last_due = pipe.last_due.max(now_ms);
                pipe.under_way.push_back((pipe.last_due, copy));
            }
        }
    }

    pub fn deliver(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.send_copies();
        for pipe in self.pipes.values_mut() {
            if self.cut.contains(&(pipe.from, pipe.to)) {
                continue;
            }
            let mut some = false;
            while pipe
                .under_way
                .front()
                .is_some_and(|(due, _)| *due <= now_ms)
            {
                let (_, bytes) = pipe.under_way.pop_front().expect("just seen");
                pipe.arrived.extend(bytes);
                some = true;
            }
            if some || (pipe.closed && pipe.under_way.is_empty()) {
                wake(&mut pipe.reader);
            }
        }
    }

    fn connect(&mut self, from: u64, to: u64) -> (u64, u64) {
        let mut open = |from, to| {
            let pipe = Pipe {
                from,
                to,
                under_way: VecDeque::new(),
                last_due: 0,
                arrived: VecDeque::new(),
                reader: None,
                closed: false,
                broken: false,
                silent: false,
                frames: Frames::default(),
            };
            self.next_pipe += 1;
            self.pipes.insert(self.next_pipe, pipe);
            self.next_pipe
        };
        (open(from, to), open(to, from))
    }

    fn write(&mut self, pipe: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(found) = self.pipes.get(&pipe).filter(|pipe| !pipe.broken) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if found.silent {
            return Ok(());
        }
        let (from, to) = (found.from, found.to);
        let due = self.now_ms + self.latency(from, to);
        let mut asked = Vec::new();
        if let Some(pipe) = self.pipes.get_mut(&pipe) {
            pipe.last_due = pipe.last_due.max(due);
            pipe.under_way.push_back((pipe.last_due, bytes.to_vec()));
            asked = pipe.frames.cut(bytes);
        }
        for frame in asked {
            if self.chance.one_in(TWICE) {
                let late = self.chance.pick(&[1, 20, 300, 2000]);
                self.copies.push((self.now_ms + late, from, frame));
            }
        }
        Ok(())
    }
}

fn wake(reader: &mut Option<Waker>) {
    if let Some(reader) = reader.take() {
        reader.wake();
    }
}

/// How a node reaches others.
pub fn dial(net: Arc<Mutex<Net>>, from: u64) -> Dial {
    Arc::new(move |address| {
        let net = net.clone();
        Box::pin(async move {
            let to = node_at(&address).ok_or(io::ErrorKind::AddrNotAvailable)?;
            loop {
                let latency = net.lock().latency(from, to);
                tokio::time::sleep(Duration::from_millis(latency)).await;
                let cut = {
                    let net = net.lock();
                    net.is_cut(from, to) || net.is_cut(to, from)
                };
                if !cut {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let mut open = net.lock();
            let Some(arriving) = open.listening.get(&to).cloned() else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (there, back) = open.connect(from, to);
            drop(open);
            let theirs = End::new(&net, there, back);
            if arriving.send(Box::new(theirs)).is_err() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(Box::new(End::new(&net, back, there)) as Box<dyn Stream>)
        })
    })
}

/// One end of a connection.
struct End {
    net: Arc<Mutex<Net>>,
    read: u64,
    write: u64,
}

impl End {
    fn new(net: &Arc<Mutex<Net>>, read: u64, write: u64) -> End {
        End {
            net: net.clone(),
            read,
            write,
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut net = self.net.lock();
        let Some(pipe) = net.pipes.get_mut(&self.read) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if pipe.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.arrived.is_empty() {
            if pipe.closed && pipe.under_way.is_empty() {
                return Poll::Ready(Ok(()));
            }
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = pipe.arrived.len().min(buf.remaining());
        let bytes: Vec<u8> = pipe.arrived.drain(..count).collect();
        buf.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.net.lock().write(self.write, bytes);
        Poll::Ready(written.map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut net = self.net.lock();
        // Nobody reads here any more.
        net.pipes.remove(&self.read);
        if let Some(pipe) = net.pipes.get_mut(&self.write) {
            // The other side hears of it, unless this machine is gone without a word.
            pipe.closed = !pipe.silent;
        }
    }
}
