//! A way to the server's socket that can fail as networks and processes do.

use crate::changes::Bench;
use ripen_cachestore::Upstream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

/// What becomes of the bytes.
#[derive(Clone, Default)]
pub struct Relay {
    /// What the server says is lost, and the connection with it.
    pub deaf: Arc<AtomicBool>,
    /// Whoever uses this way is as if stopped: neither side hears of the other until it goes on.
    pub stopped: Arc<watch::Sender<bool>>,
}

impl Relay {
    /// Where to connect to instead.
    pub async fn to(&self, bench: &Bench) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = crate::server::socket().join(".s.PGSQL.5432");
        let relay = self.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&socket).await.unwrap();
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                let never = Arc::new(AtomicBool::new(false));
                tokio::spawn(relay.clone().carry(client_read, server_write, never));
                let deaf = relay.deaf.clone();
                tokio::spawn(relay.clone().carry(server_read, client_write, deaf));
            }
        });
        let name = &bench.database.name;
        format!("postgres://postgres@{address}/{name}?sslmode=disable")
            .parse()
            .unwrap()
    }

    async fn carry(
        self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        deaf: Arc<AtomicBool>,
    ) {
        let (mut buffer, mut stopped) = (vec![0; 65536], self.stopped.subscribe());
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let _ = stopped.wait_for(|stopped| !stopped).await;
            if deaf.load(Ordering::SeqCst) || to.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    }
}
