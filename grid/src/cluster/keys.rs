//! Who may talk to whom: TLS 1.3 between nodes, both sides proving that they belong. Opens no connection.
//!
//! With certificates, each side's must come from the cluster's own authority. With a shared secret, all nodes have one key pair, made of the secret
//! (PBKDF2, then Ed25519), and accept no other: raw public keys (RFC 7250), so there is nothing that could expire.

use super::limits::{SECRET_BYTES_MIN, SECRET_ROUNDS};
use aws_lc_rs::pbkdf2;
use ripen_cachestore::dial::tls;
use ripen_cachestore::upstream::SslMode;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs as provider, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

/// What the secret is mixed with: another program's key made of the same secret is another key.
const SALT: &[u8] = b"ripen cluster, keys of the first kind";

/// An Ed25519 key in PKCS #8 (RFC 8410), up to its 32 bytes.
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Too short.
    #[error(
        "the cluster's secret must have at least {SECRET_BYTES_MIN} bytes, for example from \"openssl rand -hex 32\""
    )]
    ShortSecret,
    /// A file or what is in it.
    #[error("cannot use the cluster's certificates: {0}")]
    Certificates(String),
}

/// Both sides of a connection between nodes. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl Keys {
    /// Keys made of a secret that all nodes share. Takes up to a second of computing.
    ///
    /// # Errors
    /// When the secret is too short.
    pub fn of_secret(secret: &[u8]) -> Result<Keys, KeysError> {
        Keys::judge_secret(secret)?;
        let mut pkcs8 = PKCS8_ED25519.to_vec();
        let mut seed = [0; 32];
        let rounds = NonZeroU32::new(SECRET_ROUNDS).expect("it is not zero");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, SALT, secret, &mut seed);
        pkcs8.extend_from_slice(&seed);
        Keys::of_key_pair(PrivatePkcs8KeyDer::from(pkcs8).into()).map_err(certificates)
    }

    /// Whether a secret is long enough.
    ///
    /// # Errors
    /// When it is too short.
    pub fn judge_secret(secret: &[u8]) -> Result<(), KeysError> {
        match secret.len() < SECRET_BYTES_MIN {
            true => Err(KeysError::ShortSecret),
            false => Ok(()),
        }
    }

    fn of_key_pair(key: PrivateKeyDer<'static>) -> Result<Keys, Error> {
        let provider = Arc::new(provider::default_provider());
        let key = provider.key_provider.load_private_key(key)?;
        let public = key.public_key();
        let public = public.ok_or_else(|| Error::General("the key has no public half".into()))?;
        let ours = Arc::new(SameKey {
            public: public.to_vec(),
            algorithms: provider.signature_verification_algorithms,
        });
        let certified = Arc::new(CertifiedKey::new(vec![public.to_vec().into()], key));
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(ours.clone())
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                certified.clone(),
            )));
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(ours)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
        Ok(Keys::of_configs(client, server))
    }

    /// Keys from PEM files: this node's chain and private key, and the authority that all nodes' certificates come from. Names in them do not count: nodes
    /// are known by their numbers, and move.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub fn of_certificates(chain: &Path, key: &Path, authority: &Path) -> Result<Keys, KeysError> {
        let files = (chain.to_owned(), key.to_owned());
        let root = authority
            .to_str()
            .ok_or_else(|| certificates("the path is not UTF-8"))?;
        let client = tls::client_config(SslMode::VerifyCa, Some(root), Some(&files));
        let client = client.map_err(certificates)?;
        let roots = Arc::new(tls::roots(Some(root)).map_err(certificates)?);
        let provider = Arc::new(provider::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(certificates)?
            .with_client_cert_verifier(clients.build().map_err(certificates)?)
            .with_single_cert(
                tls::certificates(chain).map_err(certificates)?,
                PrivateKeyDer::from_pem_file(key).map_err(certificates)?,
            );
        Ok(Keys::of_configs(client, server.map_err(certificates)?))
    }

    fn of_configs(mut client: ClientConfig, mut server: ServerConfig) -> Keys {
        client.alpn_protocols = vec![b"ripen".to_vec()];
        server.alpn_protocols = vec![b"ripen".to_vec()];
        Keys {
            client: Arc::new(client),
            server: Arc::new(server),
        }
    }
}

fn certificates(error: impl std::fmt::Display) -> KeysError {
    KeysError::Certificates(error.to_string())
}

/// Accepts who has the same key.
#[derive(Debug)]
struct SameKey {
    public: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SameKey {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        // A public key is no secret: it may be compared in the ordinary way.
        match shown.as_ref() == self.public {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }
}

/// TLS 1.2 has no raw public keys, and is not offered.
fn only_tls13() -> Error {
    Error::General("nodes speak TLS 1.3".to_owned())
}

impl ServerCertVerifier for SameKey {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for SameKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
