//! Opens connections to the system of record: TCP or Unix socket, then TLS as `sslmode` says. Used by client sessions, the hot cache and the pool alike,
//! so there is one TLS stack. Never logs in; who dials speaks the startup.

mod stream;
pub mod tls;

pub use stream::Stream;

use crate::limits::{CONNECT_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL};
use crate::upstream::{Host, SslMode};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// SSLRequest: length 8, code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// A server and how to speak TLS to it. Cheap to clone; clones share the TLS configuration, which is read from disk once, at the first use.
#[derive(Clone)]
pub struct DialTarget(Arc<Inner>);

struct Inner {
    host: Host,
    port: u16,
    mode: SslMode,
    root_cert: Option<String>,
    client_cert: Option<(PathBuf, PathBuf)>,
    config: OnceLock<Arc<rustls::ClientConfig>>,
}

/// Why a connection could not be opened. Safe to retry: nothing was sent but, at most, a request for TLS.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("could not resolve host \"{host}\"")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No address accepted, or the connection broke during the TLS request.
    #[error("could not connect to {target}")]
    Connect {
        /// Host and port.
        target: String,
        /// The last address's error.
        #[source]
        source: io::Error,
    },
    /// The server answered the TLS request with "no".
    #[error("the server does not support TLS, but sslmode \"{0}\" requires it")]
    NoTls(SslMode),
    /// The handshake failed, verification included.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// Certificates could not be read.
    #[error("invalid TLS configuration: {0}")]
    Config(String),
}

impl DialError {
    /// What a client is told when this ends its session: "unable to establish connection".
    pub fn sqlstate(&self) -> &'static str {
        "08001"
    }
}

impl DialTarget {
    /// A server without certificates of our own choosing.
    pub fn new(host: Host, port: u16, mode: SslMode) -> DialTarget {
        DialTarget(Arc::new(Inner {
            host,
            port,
            mode,
            root_cert: None,
            client_cert: None,
            config: OnceLock::new(),
        }))
    }

    /// Trust this PEM file only (`"system"`: the operating system's roots).
    pub fn with_root_cert(self, root_cert: Option<String>) -> DialTarget {
        self.changed(|inner| inner.root_cert = root_cert)
    }

    /// Show this certificate (PEM chain, PEM key) when asked.
    pub fn with_client_cert(self, pair: Option<(PathBuf, PathBuf)>) -> DialTarget {
        self.changed(|inner| inner.client_cert = pair)
    }

    fn changed(self, change: impl FnOnce(&mut Inner)) -> DialTarget {
        let mut inner = Inner {
            host: self.0.host.clone(),
            port: self.0.port,
            mode: self.0.mode,
            root_cert: self.0.root_cert.clone(),
            client_cert: self.0.client_cert.clone(),
            config: OnceLock::new(),
        };
        change(&mut inner);
        DialTarget(Arc::new(inner))
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// The port, part of the socket's file name for a Unix socket.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The mode.
    pub fn ssl_mode(&self) -> SslMode {
        self.0.mode
    }

    /// The TLS configuration, built once; an error is not remembered.
    fn tls_config(&self) -> Result<Arc<rustls::ClientConfig>, DialError> {
        if let Some(config) = self.0.config.get() {
            return Ok(config.clone());
        }
        let built = tls::client_config(
            self.0.mode,
            self.0.root_cert.as_deref(),
            self.0.client_cert.as_ref(),
        )?;
        Ok(self.0.config.get_or_init(|| Arc::new(built)).clone())
    }

    fn connect_error(&self, source: io::Error) -> DialError {
        DialError::Connect {
            target: self.to_string(),
            source,
        }
    }
}

impl fmt::Display for DialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.host {
            Host::Tcp(host) if host.contains(':') => write!(f, "[{host}]:{}", self.0.port),
            Host::Tcp(host) => write!(f, "{host}:{}", self.0.port),
            Host::Unix(folder) => {
                let folder = folder.to_string_lossy().replace('/', "%2F");
                write!(f, "{folder}:{}", self.0.port)
            }
        }
    }
}

impl fmt::Debug for DialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} sslmode={}", self.0.mode)
    }
}

/// Opens a connection, ready for the startup message. Cancel safe: a dropped future closes what it had opened.
pub async fn dial(target: &DialTarget) -> Result<Stream, DialError> {
    match target.host() {
        Host::Unix(folder) => dial_unix(target, folder.join(socket_name(target.port()))).await,
        Host::Tcp(host) => dial_tcp(target, host).await,
    }
}

fn socket_name(port: u16) -> String {
    format!(".s.PGSQL.{port}")
}

/// A Unix socket never speaks TLS, whatever `sslmode` says, as in libpq.
async fn dial_unix(target: &DialTarget, path: PathBuf) -> Result<Stream, DialError> {
    let stream = limited(UnixStream::connect(path))
        .await
        .map_err(|source| target.connect_error(source))?;
    Ok(Stream::Unix(stream))
}

async fn dial_tcp(target: &DialTarget, host: &str) -> Result<Stream, DialError> {
    let stream = connect_tcp(target, host).await?;
    if target.ssl_mode() == SslMode::Disable {
        return Ok(Stream::Tcp(stream));
    }
    let config = target.tls_config()?;
    match limited(negotiate(stream, config, host, target.ssl_mode())).await {
        Ok(Negotiated::Stream(stream)) => Ok(stream),
        Ok(Negotiated::Refused) => Err(DialError::NoTls(target.ssl_mode())),
        // libpq's `prefer` falls back to a plain connection when the handshake fails.
        Err(_) if target.ssl_mode() <= SslMode::Prefer => {
            Ok(Stream::Tcp(connect_tcp(target, host).await?))
        }
        Err(source) => Err(DialError::Tls(source)),
    }
}

/// The first address that accepts.
async fn connect_tcp(target: &DialTarget, host: &str) -> Result<TcpStream, DialError> {
    let resolve = |source| DialError::Resolve {
        host: host.to_owned(),
        source,
    };
    let addresses = limited(tokio::net::lookup_host((host, target.port())))
        .await
        .map_err(resolve)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in addresses {
        match limited(TcpStream::connect(address)).await {
            Ok(stream) => {
                prepare(&stream).map_err(|source| target.connect_error(source))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(target.connect_error(last))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

enum Negotiated {
    Stream(Stream),
    Refused,
}

/// Asks for TLS and shakes hands. Exactly one byte is read before the handshake, so nothing slipped in behind it can be taken for the server's word (CVE-2021-23222).
async fn negotiate(
    mut stream: TcpStream,
    config: Arc<rustls::ClientConfig>,
    host: &str,
    mode: SslMode,
) -> io::Result<Negotiated> {
    stream.write_all(&SSL_REQUEST).await?;
    match stream.read_u8().await? {
        b'S' => {}
        b'N' if mode <= SslMode::Prefer => return Ok(Negotiated::Stream(Stream::Tcp(stream))),
        b'N' => return Ok(Negotiated::Refused),
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "unexpected answer to the TLS request",
            ));
        }
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector.connect(name, stream).await?;
    Ok(Negotiated::Stream(Stream::Tls(Box::new(stream))))
}

async fn limited<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(CONNECT_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "timed out")))
}
