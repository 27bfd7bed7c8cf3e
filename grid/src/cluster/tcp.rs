//! The network as it is: TCP, encrypted if there are keys. Never decides who may talk; `keys` and `hello` do.

use super::hello::Identity;
use super::keys::Keys;
use super::limits::HELLO_TIMEOUT;
use super::link::{Dial, Stream};
use super::listener::{Handler, serve};
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where connections of other nodes arrive.
pub enum Arrivals {
    /// At a socket; bound already.
    Tcp(TcpListener),
    /// From a network of another kind, to which [`Dial`] leads as well.
    Other(Dial, mpsc::UnboundedReceiver<Box<dyn Stream>>),
}

impl From<TcpListener> for Arrivals {
    fn from(listener: TcpListener) -> Arrivals {
        Arrivals::Tcp(listener)
    }
}

impl Arrivals {
    /// The way to other nodes.
    pub fn dial(&self, keys: Option<&Keys>) -> Dial {
        match self {
            Arrivals::Tcp(_) => dial(keys.cloned()),
            Arrivals::Other(dial, _) => dial.clone(),
        }
    }
}

/// As [`listen`], wherever they come from.
pub async fn serve_all(
    arrivals: Arrivals,
    keys: Option<Keys>,
    ours: impl Fn() -> Identity,
    handler: Handler,
    stop: CancellationToken,
) {
    let mut arriving = match arrivals {
        Arrivals::Tcp(listener) => return listen(listener, keys, ours, handler, stop).await,
        Arrivals::Other(_, arriving) => arriving,
    };
    while let Some(Some(stream)) = stop.run_until_cancelled(arriving.recv()).await {
        let serving = serve(stream, ours(), handler.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::info!(%error, "a connection of another node ended");
            }
        });
    }
}

/// Opens connections to `host:port`.
pub fn dial(keys: Option<Keys>) -> Dial {
    Arc::new(move |address| {
        let keys = keys.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let Some(keys) = keys else {
                return Ok(Box::new(stream) as Box<dyn Stream>);
            };
            // Nobody looks at the name, see `keys`.
            let name = ServerName::try_from("ripen").expect("it is a name");
            let stream = TlsConnector::from(keys.client).connect(name, stream);
            Ok(Box::new(stream.await?) as Box<dyn Stream>)
        })
    })
}

/// Serves the connections that come, until `stop`; returns when all have ended. `ours` is asked for each anew.
pub async fn listen(
    listener: TcpListener,
    keys: Option<Keys>,
    ours: impl Fn() -> Identity,
    handler: Handler,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection of another node could not be accepted");
                tokio::time::sleep(HELLO_TIMEOUT).await;
                continue;
            }
        };
        let serving = one(stream, keys.clone(), ours(), handler.clone(), stop.clone());
        connections.spawn(async move {
            if let Err(error) = serving.await {
                tracing::info!(%error, %peer, "a connection of another node ended");
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn one(
    stream: TcpStream,
    keys: Option<Keys>,
    ours: Identity,
    handler: Handler,
    stop: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(keys) = keys else {
        return serve(Box::new(stream), ours, handler, stop).await;
    };
    let accepting = TlsAcceptor::from(keys.server).accept(stream);
    let accepted = tokio::time::timeout(HELLO_TIMEOUT, accepting).await;
    let stream = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    serve(Box::new(stream), ours, handler, stop).await
}
