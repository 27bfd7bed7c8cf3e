//! Connections to other nodes: made when somebody asks, shared by all who ask, given up when nothing comes back. Never asks twice.

use super::frame::{Frame, codec};
use super::hello::{Identity, Refusal};
use super::limits::{FRAMES_QUEUED, HELLO_TIMEOUT};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

/// A connection's two directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) type Frames = Framed<Box<dyn Stream>, tokio_util::codec::LengthDelimitedCodec>;

/// Opens a connection to an address, encrypted as it shall be. A seam, for simulated networks.
pub type Dial =
    Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> + Send + Sync>;

/// All connections of a node to others. Clones share them.
#[derive(Clone)]
pub struct Links {
    shared: Arc<Shared>,
}

struct Shared {
    ours: Mutex<Identity>,
    dial: Dial,
    links: Mutex<HashMap<(String, u8), Arc<Link>>>,
}

/// The way to one address.
#[derive(Default)]
struct Link {
    open: Mutex<Option<Arc<Connection>>>,
    /// Only one at a time connects.
    connecting: tokio::sync::Mutex<()>,
    /// Why there was no connection, as it was said last.
    complaint: Mutex<String>,
}

struct Connection {
    node: u64,
    /// Which version of the protocol both sides speak.
    version: u16,
    frames: mpsc::Sender<Bytes>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<io::Result<Bytes>>>>,
    next: AtomicU64,
    /// When something last came from the other side.
    heard: Mutex<Instant>,
    ended: CancellationToken,
    /// Why it ended, once it has.
    why: OnceLock<String>,
}

impl Links {
    /// No connections yet.
    pub fn new(ours: Identity, dial: Dial) -> Links {
        Links {
            shared: Arc::new(Shared {
                ours: Mutex::new(ours),
                dial,
                links: Mutex::default(),
            }),
        }
    }

    /// This node has found its cluster. Connections made before say otherwise, and are closed.
    pub fn belong_to(&self, cluster: u64) {
        self.shared.ours.lock().cluster = Some(cluster);
        self.shared.links.lock().clear();
    }

    /// Asks the node at an address. `node`: which one must be there, if that is known. `lane`: questions of different lanes do not wait for each other.
    ///
    /// # Errors
    /// When nobody suitable is there or no answer came within `patience`; the question may have arrived all the same. Cancel safe.
    pub async fn ask(
        &self,
        node: Option<u64>,
        address: &str,
        lane: u8,
        question: Bytes,
        patience: Duration,
    ) -> io::Result<Bytes> {
        self.ask_since(0, (node, address, lane), question, patience)
            .await
    }

    /// The same for a question that nodes know who speak that version of the protocol.
    ///
    /// # Errors
    /// As [`Links::ask`]; [`io::ErrorKind::Unsupported`] when the node there does not speak it, and was not asked. Cancel safe.
    pub async fn ask_since(
        &self,
        since: u16,
        (node, address, lane): (Option<u64>, &str, u8),
        question: Bytes,
        patience: Duration,
    ) -> io::Result<Bytes> {
        let asking = self.ask_patiently(since, (node, address, lane), question);
        let asked = tokio::time::timeout(patience, asking).await;
        asked.unwrap_or_else(|_| {
            self.shared.link(address, lane).give_up_if_silent(patience);
            Err(io::ErrorKind::TimedOut.into())
        })
    }

    async fn ask_patiently(
        &self,
        since: u16,
        (node, address, lane): (Option<u64>, &str, u8),
        question: Bytes,
    ) -> io::Result<Bytes> {
        let link = self.shared.link(address, lane);
        let connection = link.connection(&self.shared, address).await?;
        match node {
            Some(expected) if expected != connection.node => {
                let found = connection.node;
                Err(io::Error::other(Refusal::OtherNode { expected, found }))
            }
            _ if connection.version < since => Err(io::ErrorKind::Unsupported.into()),
            _ => connection.ask(question).await,
        }
    }
}

impl Shared {
    fn link(&self, address: &str, lane: u8) -> Arc<Link> {
        let mut links = self.links.lock();
        links.entry((address.to_owned(), lane)).or_default().clone()
    }
}

impl Link {
    fn open(&self) -> Option<Arc<Connection>> {
        let open = self.open.lock();
        let open = open.as_ref().filter(|open| !open.ended.is_cancelled());
        open.cloned()
    }

    async fn connection(&self, shared: &Shared, address: &str) -> io::Result<Arc<Connection>> {
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let _turn = self.connecting.lock().await;
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let ours = shared.ours.lock().clone();
        let connecting = connect((shared.dial)(address.to_owned()), ours);
        let connected = tokio::time::timeout(HELLO_TIMEOUT, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let connection = connected.inspect_err(|error| self.complain(address, error))?;
        *self.open.lock() = Some(connection.clone());
        Ok(connection)
    }

    /// That a node is away is nothing new to whoever asks it. That it does not want this one is for people, once.
    fn complain(&self, address: &str, error: &io::Error) {
        let text = error.to_string();
        let mut complaint = self.complaint.lock();
        if error.kind() == io::ErrorKind::Other && *complaint != text {
            tracing::warn!(
                address,
                "there is no talking to the node at that address: {text}"
            );
            *complaint = text;
        }
    }

    /// A connection that has been silent for as long as somebody waited may be dead without knowing it.
    fn give_up_if_silent(&self, waited: Duration) {
        if let Some(open) = self.open()
            && open.heard.lock().elapsed() >= waited
        {
            open.ended.cancel();
        }
    }
}

async fn connect(
    dialling: BoxFuture<'static, io::Result<Box<dyn Stream>>>,
    ours: Identity,
) -> io::Result<Arc<Connection>> {
    let mut frames = Framed::new(dialling.await?, codec());
    let theirs = greet(&mut frames, &ours).await?;
    let version = ours.judge(&theirs).map_err(io::Error::other)?;
    let (sender, queued) = mpsc::channel(FRAMES_QUEUED);
    let connection = Arc::new(Connection {
        node: theirs.node,
        version,
        frames: sender,
        waiting: Mutex::default(),
        next: AtomicU64::new(0),
        heard: Mutex::new(Instant::now()),
        ended: CancellationToken::new(),
        why: OnceLock::new(),
    });
    tokio::spawn(carry(connection.clone(), frames, queued));
    Ok(connection)
}

/// Says who this node is, hears who the other is, and refuses it if need be; the same on both sides.
pub(crate) async fn greet(frames: &mut Frames, ours: &Identity) -> io::Result<Identity> {
    frames.send(Frame::Hello(ours.clone()).encode()).await?;
    let first = frames.next().await;
    let first = first.ok_or(io::ErrorKind::UnexpectedEof)??;
    let theirs = match Frame::decode(first).map_err(io::Error::other)? {
        Frame::Hello(theirs) => theirs,
        Frame::Refused(why) => return Err(io::Error::other(why)),
        _ => return Err(io::Error::other("the other side did not say who it is")),
    };
    if let Err(refusal) = ours.judge(&theirs) {
        let why = format!("refused by node {}: {refusal}", ours.node);
        frames.send(Frame::Refused(why).encode()).await?;
        return Err(io::Error::other(refusal));
    }
    Ok(theirs)
}

/// Both directions of a connection, until one of them ends.
async fn carry(connection: Arc<Connection>, frames: Frames, queued: mpsc::Receiver<Bytes>) {
    let (sink, mut stream) = frames.split();
    let read = async {
        while let Some(frame) = stream.next().await {
            connection.take(Frame::decode(frame?).map_err(io::Error::other)?)?;
        }
        Ok(())
    };
    let ended: io::Result<()> = tokio::select! {
        ended = send(sink, queued) => ended,
        ended = read => ended,
        () = connection.ended.cancelled() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, node = connection.node, "a connection between nodes ended");
        // Nobody else says why.
        let _ = connection.why.set(error.to_string());
    }
    connection.end();
}

/// Sends frames as they come; those that wait together go out together.
pub(crate) async fn send(
    mut sink: SplitSink<Frames, Bytes>,
    mut queued: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    while let Some(frame) = queued.recv().await {
        sink.feed(frame).await?;
        if queued.is_empty() {
            sink.flush().await?;
        }
    }
    Ok(())
}

impl Connection {
    async fn ask(self: &Arc<Connection>, question: Bytes) -> io::Result<Bytes> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, waiting) = oneshot::channel();
        self.waiting.lock().insert(number, answer);
        let _forget = Forget(self.clone(), number);
        let frame = Frame::Question(number, question).encode();
        // After `end` nobody looks into `waiting` again.
        if self.ended.is_cancelled() || self.frames.send(frame).await.is_err() {
            return Err(self.gone());
        }
        waiting.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn gone(&self) -> io::Error {
        let why = self
            .why
            .get()
            .map_or("the connection ended", String::as_str);
        io::Error::new(io::ErrorKind::ConnectionReset, why.to_owned())
    }

    fn take(&self, frame: Frame) -> io::Result<()> {
        *self.heard.lock() = Instant::now();
        let (number, answer) = match frame {
            Frame::Answer(number, bytes) => (number, Ok(bytes)),
            Frame::Failed(number, why) => (number, Err(io::Error::other(why))),
            Frame::Refused(why) => return Err(io::Error::other(why)),
            Frame::Hello(_) | Frame::Question(..) => {
                return Err(io::Error::other("a frame that was not asked for"));
            }
        };
        if let Some(waiting) = self.waiting.lock().remove(&number) {
            // Nobody may be waiting any more.
            let _ = waiting.send(answer);
        }
        Ok(())
    }

    fn end(&self) {
        self.ended.cancel();
        // Dropped, they say that the connection is gone.
        self.waiting.lock().clear();
    }
}

/// Forgets a question whose asker is gone.
struct Forget(Arc<Connection>, u64);

impl Drop for Forget {
    fn drop(&mut self) {
        self.0.waiting.lock().remove(&self.1);
    }
}
