//! What `sslmode` means to rustls: which certificates are trusted, and what of them is verified. Opens no connection.

use super::DialError;
use crate::upstream::SslMode;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::path::PathBuf;
use std::sync::Arc;

/// Builds the configuration. Reads files; called once per target.
pub fn client_config(
    mode: SslMode,
    root_cert: Option<&str>,
    client_cert: Option<&(PathBuf, PathBuf)>,
) -> Result<ClientConfig, DialError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(mode, root_cert, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(config_error)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match client_cert {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(config_error)?;
            builder
                .with_client_auth_cert(certificates(chain)?, key)
                .map_err(config_error)?
        }
    };
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

fn config_error(error: impl std::fmt::Display) -> DialError {
    DialError::Config(error.to_string())
}

/// The certificates in a PEM file.
pub fn certificates(
    path: impl AsRef<std::path::Path>,
) -> Result<Vec<CertificateDer<'static>>, DialError> {
    CertificateDer::pem_file_iter(path)
        .map_err(config_error)?
        .collect::<Result<_, _>>()
        .map_err(config_error)
}

fn verifier(
    mode: SslMode,
    root_cert: Option<&str>,
    provider: &Arc<CryptoProvider>,
) -> Result<Verifier, DialError> {
    // libpq: `sslrootcert=system` is as strong as `verify-full`; `require` with a root certificate is `verify-ca`.
    let mode = match root_cert {
        Some("system") if mode >= SslMode::Require => SslMode::VerifyFull,
        Some(_) if mode == SslMode::Require => SslMode::VerifyCa,
        _ => mode,
    };
    if mode < SslMode::VerifyCa {
        return Ok(Verifier::Anything(provider.clone()));
    }
    let roots = Arc::new(roots(root_cert)?);
    let web = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(config_error)?;
    Ok(if mode == SslMode::VerifyCa {
        Verifier::Chain(web)
    } else {
        Verifier::ChainAndName(web)
    })
}

/// The authorities in a PEM file, or the system's.
pub fn roots(root_cert: Option<&str>) -> Result<RootCertStore, DialError> {
    let mut roots = RootCertStore::empty();
    let certificates = match root_cert {
        None | Some("system") => rustls_native_certs::load_native_certs().certs,
        Some(path) => certificates(path)?,
    };
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(DialError::Config("no root certificate found".into()));
    }
    Ok(roots)
}

#[derive(Debug)]
enum Verifier {
    /// `prefer`, `require`: encrypted, not authenticated.
    Anything(Arc<CryptoProvider>),
    /// `verify-ca`.
    Chain(Arc<WebPkiServerVerifier>),
    /// `verify-full`.
    ChainAndName(Arc<WebPkiServerVerifier>),
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |web: &WebPkiServerVerifier| {
            web.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        match self {
            Verifier::Anything(_) => Ok(ServerCertVerified::assertion()),
            Verifier::ChainAndName(web) => verify(web),
            // The name is checked last, after the chain.
            Verifier::Chain(web) => match verify(web) {
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )) => Ok(ServerCertVerified::assertion()),
                other => other,
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self {
            Verifier::Anything(provider) => rustls::crypto::verify_tls12_signature(
                message,
                cert,
                signed,
                &provider.signature_verification_algorithms,
            ),
            Verifier::Chain(web) | Verifier::ChainAndName(web) => {
                web.verify_tls12_signature(message, cert, signed)
            }
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self {
            Verifier::Anything(provider) => rustls::crypto::verify_tls13_signature(
                message,
                cert,
                signed,
                &provider.signature_verification_algorithms,
            ),
            Verifier::Chain(web) | Verifier::ChainAndName(web) => {
                web.verify_tls13_signature(message, cert, signed)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self {
            Verifier::Anything(provider) => provider
                .signature_verification_algorithms
                .supported_schemes(),
            Verifier::Chain(web) | Verifier::ChainAndName(web) => web.supported_verify_schemes(),
        }
    }
}
