//! From a listening socket to a session: TLS and GSS requests, cancel requests, the startup packet. Never speaks for Postgres beyond that; `login.rs` relays.

use crate::cancels::Turns;
use crate::carriers::{Accepted, Carriers};
use crate::limits;
use crate::login;
use crate::logins::Logins;
use crate::registry::{Admission, Ending, Registered, Registry};
use crate::relay::link::Link;
use crate::session::Session;
use crate::session::answerer::Answerer;
use crate::tls::{Acceptor, ClientStream};
use bytes::{BufMut, Bytes};
use ripen_cachestore::dial::DialTarget;
use ripen_grid::cluster::Handle;
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use ripen_pg::wire::backend;
use ripen_pg::wire::startup::{self, CancelKey, FirstPacket, Startup};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, warn};

/// What all sessions share.
pub struct Front<A> {
    /// Where Postgres is.
    pub target: DialTarget,
    /// Who plans and answers.
    pub answerer: Arc<A>,
    /// For clients that ask for TLS; `None`: they are told "no".
    pub tls: Option<Acceptor>,
    /// Client connections at most.
    pub clients_max: usize,
    /// Longest wait for Postgres when a session needs a connection.
    pub dial_timeout: Duration,
    /// Idle time after which a session's connection to Postgres is closed, if the session has left nothing there; `None`: never.
    pub park_after: Option<Duration>,
    /// Connections to Postgres opened for clients so far.
    pub dials: AtomicU64,
    /// Where sessions run.
    pub carriers: Carriers,
    /// Who may log in while Postgres is away.
    pub logins: Arc<Logins>,
    /// Who is connected.
    pub registry: Arc<Registry>,
    /// This node among others, whose clients' cancel requests may come here and the other way round; `None`: there are none.
    pub member: Option<Handle>,
    /// For those requests.
    pub cancels: Turns,
    /// Cancelled: no new clients, idle ones are sent away, others end their transactions.
    pub stop: CancellationToken,
    /// Cancelled by [`Front::end_now`]: logins end, too.
    pub(crate) kill: CancellationToken,
}

impl<A> Front<A> {
    /// A front with default limits and no TLS.
    pub fn new(target: DialTarget, answerer: Arc<A>) -> Front<A> {
        Front {
            target,
            answerer,
            tls: None,
            clients_max: limits::CLIENTS_MAX,
            dial_timeout: limits::DIAL_TIMEOUT,
            park_after: Some(limits::PARK_AFTER),
            dials: AtomicU64::new(0),
            carriers: Carriers::default(),
            logins: Arc::default(),
            registry: Arc::default(),
            member: None,
            cancels: Turns::default(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
        }
    }

    /// Ends all sessions at once.
    pub fn end_now(&self) {
        self.kill.cancel();
        self.registry.end(Ending::Now);
    }
}

/// Where clients come in.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix-domain socket.
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<(Accepted, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Accepted::Tcp(stream.into_std()?), address.to_string()))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Accepted::Unix(stream.into_std()?), "[local]".to_owned()))
            }
        }
    }
}

/// Serves clients until `front.stop` is cancelled, then until their sessions have ended, at most [`limits::SHUTDOWN_TIMEOUT`]. Dropping the future leaves
/// the sessions running.
pub async fn serve<A: Answerer>(listener: Listener, front: Arc<Front<A>>) {
    let sessions = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = front.stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Entering and leaving a span at each turn costs more than the turn.
                let span = tracing::debug_span!("session", %peer);
                let served = Arc::clone(&front);
                let session = |stream| connection(stream, peer, served).instrument(span);
                front.carriers.carry(&sessions, stream, session);
            }
            // Out of file descriptors, most likely: more calls would spin.
            Err(error) => {
                warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    front.registry.end(Ending::WhenIdle);
    sessions.close();
    if timeout(limits::SHUTDOWN_TIMEOUT, sessions.wait())
        .await
        .is_err()
    {
        front.end_now();
        sessions.wait().await;
    }
}

async fn connection<A: Answerer>(stream: ClientStream, peer: String, front: Arc<Front<A>>) {
    let admission = front.registry.admit(front.clients_max);
    let opening = tokio::select! {
        opening = timeout(limits::STARTUP_TIMEOUT, open(stream, &front)) => opening,
        () = front.stop.cancelled() => return,
    };
    match opening {
        Ok(Ok(Some(Opening::Cancel(key)))) => front.cancel(key).await,
        Ok(Ok(Some(Opening::Session { mut client, .. }))) if front.registry.is_closed() => {
            let going = ErrorFields::fatal(
                SqlState::CANNOT_CONNECT_NOW,
                "this node is leaving its cluster",
            );
            refuse(&mut client, &going).await;
        }
        Ok(Ok(Some(Opening::Session {
            client,
            packet,
            startup,
        }))) => {
            let registered = front.registry.enter(peer);
            session(front, admission, registered, client, packet, startup).await;
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => debug!(%error, "a client gave up before its startup packet"),
        Err(_) => debug!("a client sent no startup packet in time"),
    }
}

async fn session<A: Answerer>(
    front: Arc<Front<A>>,
    admission: Option<Admission>,
    mut registered: Registered,
    mut client: Link<ClientStream>,
    packet: Bytes,
    startup: Option<Startup>,
) {
    let Some(_admission) = admission else {
        let refusal = ErrorFields::fatal(
            SqlState::TOO_MANY_CONNECTIONS,
            "sorry, too many clients already",
        );
        return refuse(&mut client, &refusal).await;
    };
    match login::login(&front, &mut registered, client, packet, startup).await {
        Some(logged_in) => Box::pin(Session::new(front, registered, logged_in).run()).await,
        None => debug!("the session ended before its login was complete"),
    }
}

/// Tells the client why there will be no session, and closes.
pub(crate) async fn refuse(client: &mut Link<ClientStream>, error: &ErrorFields) {
    backend::error_response(&mut client.output, error);
    // The client may be gone already, which is what was asked of it.
    let _ = client.write_all().await;
    let _ = client.shutdown().await;
}

enum Opening {
    Cancel(CancelKey),
    Session {
        client: Link<ClientStream>,
        packet: Bytes,
        startup: Option<Startup>,
    },
}

/// Answers TLS and GSS requests until the packet comes that says what the client wants. `None`: it left, or what it sent cannot be a packet.
async fn open<A>(stream: ClientStream, front: &Front<A>) -> io::Result<Option<Opening>> {
    let mut client = Link::new(direct_tls(stream, front).await?);
    loop {
        let Some(packet) = first_packet(&mut client).await else {
            return Ok(None);
        };
        match startup::decode(&packet) {
            Ok(FirstPacket::SslRequest) => client = answer_tls(client, front).await?,
            Ok(FirstPacket::GssEncRequest) => {
                client.output.put_u8(b'N');
                client.write_all().await?;
            }
            Ok(FirstPacket::CancelRequest(key)) => return Ok(Some(Opening::Cancel(key))),
            Ok(FirstPacket::Startup(startup)) => {
                let startup = Some(startup);
                return Ok(Some(Opening::Session {
                    client,
                    packet,
                    startup,
                }));
            }
            // Postgres has its own words for what it does not understand.
            Err(_) => {
                let startup = None;
                return Ok(Some(Opening::Session {
                    client,
                    packet,
                    startup,
                }));
            }
        }
    }
}

async fn first_packet(client: &mut Link<ClientStream>) -> Option<Bytes> {
    loop {
        match startup::peek_len(&client.input) {
            Ok(Some(length)) if client.input.len() >= length => {
                return Some(client.input.split_to(length).freeze());
            }
            Ok(_) if client.read_more().await => {}
            _ => return None,
        }
    }
}

/// Clients of PostgreSQL 17 may begin TLS without asking: their first byte is a TLS record's.
async fn direct_tls<A>(stream: ClientStream, front: &Front<A>) -> io::Result<ClientStream> {
    match (stream, &front.tls) {
        (ClientStream::Tcp(stream), Some(tls)) => {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] == 0x16 {
                tls.accept(stream).await
            } else {
                Ok(ClientStream::Tcp(stream))
            }
        }
        (stream, _) => Ok(stream),
    }
}

async fn answer_tls<A>(
    mut client: Link<ClientStream>,
    front: &Front<A>,
) -> io::Result<Link<ClientStream>> {
    let offered = front.tls.as_ref().filter(|_| client.stream_is_tcp());
    client
        .output
        .put_u8(if offered.is_some() { b'S' } else { b'N' });
    client.write_all().await?;
    let Some(tls) = offered else {
        return Ok(client);
    };
    // Bytes that came in the clear behind the request could be an attacker's (CVE-2021-23214).
    if !client.input.is_empty() {
        let what = "received unencrypted data after SSL request";
        refuse(
            &mut client,
            &ErrorFields::fatal(SqlState::PROTOCOL_VIOLATION, what),
        )
        .await;
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    match client.into_stream() {
        ClientStream::Tcp(stream) => Ok(Link::new(tls.accept(stream).await?)),
        other => Ok(Link::new(other)),
    }
}
