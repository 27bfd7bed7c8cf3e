//! The client's stream, plain or encrypted, and what it takes to encrypt it. Never decides whether to; `accept.rs` does.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A connection from a client.
#[derive(Debug)]
pub enum ClientStream {
    /// TCP in the clear.
    Tcp(TcpStream),
    /// A Unix-domain socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl ClientStream {
    /// Whether the bytes are encrypted on the way.
    pub fn encrypted(&self) -> bool {
        matches!(self, ClientStream::Tls(_))
    }
}

/// Encrypts clients' connections.
#[derive(Clone)]
pub struct Acceptor {
    config: TlsAcceptor,
    certificate: CertificateDer<'static>,
}

impl Acceptor {
    /// Shakes hands with a client. Cancel safe: a dropped future closes the connection.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<ClientStream> {
        let stream = self.config.accept(stream).await?;
        Ok(ClientStream::Tls(Box::new(stream)))
    }

    /// The certificate that clients are shown.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}

/// Why the certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file that cannot be read as PEM.
    #[error("could not read \"{path}\": {source}")]
    File {
        /// Which file.
        path: String,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key that do not fit or are not supported.
    #[error("could not use the server certificate: {0}")]
    Certificate(#[from] rustls::Error),
    /// A file without a certificate.
    #[error("there is no certificate in \"{0}\"")]
    None(String),
}

/// Reads a certificate chain and its key (PEM). Blocking: for start-up only.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<Acceptor, TlsSetupError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| TlsSetupError::File { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed(certificate))?;
    let shown = chain.first().cloned();
    let shown = shown.ok_or_else(|| TlsSetupError::None(certificate.display().to_string()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // Direct TLS (PostgreSQL 17 clients) insists on this protocol name; others do not ask.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Acceptor {
        config: TlsAcceptor::from(Arc::new(config)),
        certificate: shown,
    })
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            ClientStream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            ClientStream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            ClientStream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            ClientStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            ClientStream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            ClientStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
