//! Authentication towards Postgres as a state machine: messages in, answers out. Never logs or keeps a password longer than the login.
//!
//! Done: trust (and peer, cert), cleartext, md5, SCRAM-SHA-256 with and without channel binding. Not done: Kerberos, GSS, SSPI, OAuth.

use crate::sqlstate::SqlState;
use crate::wire::WireError;
use crate::wire::backend::{Authentication, authentication};
use crate::wire::frontend;
use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};

/// Why a login cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Postgres asks for a password and there is none.
    #[error("upstream asks for a password, but none is configured")]
    PasswordMissing,
    /// A method or mechanism not spoken here.
    #[error("upstream asks for an unsupported authentication method: {0}")]
    Unsupported(String),
    /// The server does not prove that it knows the password, or the exchange is malformed.
    #[error("SCRAM exchange failed")]
    Scram(#[source] std::io::Error),
    /// A message out of turn, such as "ok" before the server's proof.
    #[error("authentication message out of order")]
    OutOfOrder,
    /// Malformed message.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl AuthError {
    /// What a client whose session needed this login is told.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            AuthError::PasswordMissing => SqlState::INVALID_PASSWORD,
            AuthError::Unsupported(_) => SqlState::FEATURE_NOT_SUPPORTED,
            AuthError::Scram(_) | AuthError::OutOfOrder | AuthError::Wire(_) => {
                SqlState::CONNECTION_FAILURE
            }
        }
    }
}

/// What to do after an Authentication message.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Send these bytes (a whole message), then await the next Authentication message.
    Send(BytesMut),
    /// Await the next Authentication message.
    Continue,
    /// Authenticated; ParameterStatus, BackendKeyData and ReadyForQuery follow.
    Done,
}

/// One login.
pub struct ClientAuth {
    user: Vec<u8>,
    password: Option<Vec<u8>>,
    server_end_point: Option<Vec<u8>>,
    scram: Scram,
}

enum Scram {
    NotBegun,
    Challenged(Box<ScramSha256>),
    Answered(Box<ScramSha256>),
    Proved,
    Failed,
}

impl ClientAuth {
    /// A login that has not begun.
    pub fn new(user: &[u8], password: Option<&[u8]>) -> ClientAuth {
        ClientAuth {
            user: user.to_vec(),
            password: password.map(<[u8]>::to_vec),
            server_end_point: None,
            scram: Scram::NotBegun,
        }
    }

    /// Binds SCRAM to the TLS channel: the hash of the server's certificate as RFC 5929 `tls-server-end-point` wants it.
    #[must_use]
    pub fn with_server_end_point(mut self, hash: Vec<u8>) -> ClientAuth {
        self.server_end_point = Some(hash);
        self
    }

    /// Takes the body of an Authentication (`R`) message. An ErrorResponse instead is the caller's to handle.
    pub fn step(&mut self, body: &[u8]) -> Result<Reply, AuthError> {
        match authentication(body)? {
            Authentication::Ok => match self.scram {
                Scram::NotBegun | Scram::Proved => Ok(Reply::Done),
                Scram::Challenged(_) | Scram::Answered(_) | Scram::Failed => {
                    Err(AuthError::OutOfOrder)
                }
            },
            Authentication::Cleartext => {
                let password = self.password()?;
                Ok(send(|buf| frontend::password(buf, password)))
            }
            Authentication::Md5(salt) => {
                let hash = md5_hash(&self.user, self.password()?, salt);
                Ok(send(|buf| frontend::password(buf, hash.as_bytes())))
            }
            Authentication::Sasl(mechanisms) => self.begin_scram(&mechanisms),
            Authentication::SaslContinue(challenge) => self.answer_scram(challenge),
            Authentication::SaslFinal(proof) => self.check_proof(proof),
            Authentication::Other(method) => Err(AuthError::Unsupported(method_name(method))),
        }
    }

    fn password(&self) -> Result<&[u8], AuthError> {
        self.password.as_deref().ok_or(AuthError::PasswordMissing)
    }

    fn begin_scram(&mut self, mechanisms: &[&[u8]]) -> Result<Reply, AuthError> {
        let offers = |name: &str| mechanisms.contains(&name.as_bytes());
        let (mechanism, binding) = match self.server_end_point.clone() {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
                let binding = ChannelBinding::tls_server_end_point(hash);
                (SCRAM_SHA_256_PLUS, binding)
            }
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            _ => {
                let names = mechanisms.join(&b", "[..]);
                let names = String::from_utf8_lossy(&names).into_owned();
                return Err(AuthError::Unsupported(names));
            }
        };
        let scram = Box::new(ScramSha256::new(self.password()?, binding));
        let reply = send(|buf| frontend::sasl_initial(buf, mechanism, scram.message()));
        self.scram = Scram::Challenged(scram);
        Ok(reply)
    }

    fn answer_scram(&mut self, challenge: &[u8]) -> Result<Reply, AuthError> {
        let Scram::Challenged(mut scram) = std::mem::replace(&mut self.scram, Scram::Failed) else {
            return Err(AuthError::OutOfOrder);
        };
        scram.update(challenge).map_err(AuthError::Scram)?;
        let reply = send(|buf| frontend::sasl_response(buf, scram.message()));
        self.scram = Scram::Answered(scram);
        Ok(reply)
    }

    fn check_proof(&mut self, proof: &[u8]) -> Result<Reply, AuthError> {
        let Scram::Answered(mut scram) = std::mem::replace(&mut self.scram, Scram::Failed) else {
            return Err(AuthError::OutOfOrder);
        };
        scram.finish(proof).map_err(AuthError::Scram)?;
        self.scram = Scram::Proved;
        Ok(Reply::Continue)
    }
}

/// Without the password.
impl std::fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user = String::from_utf8_lossy(&self.user);
        f.debug_struct("ClientAuth").field("user", &user).finish()
    }
}

fn send(write: impl FnOnce(&mut BytesMut)) -> Reply {
    let mut buf = BytesMut::new();
    write(&mut buf);
    Reply::Send(buf)
}

fn method_name(method: u32) -> String {
    match method {
        2 => "Kerberos V5".to_owned(),
        7 | 8 => "GSSAPI".to_owned(),
        9 => "SSPI".to_owned(),
        other => format!("number {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;
    use proptest::prelude::*;

    fn asked(kind: u32, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], data].concat()
    }

    fn sent(reply: Reply) -> Vec<u8> {
        let Reply::Send(message) = reply else {
            panic!("nothing to send: {reply:?}")
        };
        let (header, body) = frame::split(&message).unwrap().expect("a whole message");
        assert_eq!(header.tag, b'p');
        body.to_vec()
    }

    #[test]
    fn trust_is_done_at_once() {
        let mut auth = ClientAuth::new(b"me", None);
        assert_eq!(auth.step(&asked(0, b"")).unwrap(), Reply::Done);
    }

    #[test]
    fn cleartext_and_md5_send_the_password() {
        let mut auth = ClientAuth::new(b"me", Some(b"secret"));
        assert_eq!(sent(auth.step(&asked(3, b"")).unwrap()), b"secret\0");
        let hash = sent(auth.step(&asked(5, b"salt")).unwrap());
        assert_eq!(hash, b"md541c83370953958037c7298c50b238bda\0");
    }

    #[test]
    fn a_missing_password_is_told() {
        let mut auth = ClientAuth::new(b"me", None);
        for body in [
            asked(3, b""),
            asked(5, b"salt"),
            asked(10, b"SCRAM-SHA-256\0\0"),
        ] {
            let error = auth.step(&body).unwrap_err();
            assert!(matches!(error, AuthError::PasswordMissing));
        }
    }

    #[test]
    fn ok_before_the_servers_proof_is_refused() {
        let mut auth = ClientAuth::new(b"me", Some(b"secret"));
        let first = sent(auth.step(&asked(10, b"SCRAM-SHA-256\0\0")).unwrap());
        assert!(first.starts_with(b"SCRAM-SHA-256\0"));
        let error = auth.step(&asked(0, b"")).unwrap_err();
        assert!(matches!(error, AuthError::OutOfOrder));
    }

    #[test]
    fn ok_after_a_failed_exchange_is_refused() {
        let mut auth = ClientAuth::new(b"me", Some(b"secret"));
        auth.step(&asked(10, b"SCRAM-SHA-256\0\0")).unwrap();
        let error = auth.step(&asked(11, b"r=forged,s=,i=1")).unwrap_err();
        assert!(matches!(error, AuthError::Scram(_)));
        assert!(auth.step(&asked(0, b"")).is_err());
    }

    #[test]
    fn unknown_methods_are_named() {
        let mut auth = ClientAuth::new(b"me", Some(b"secret"));
        let error = auth.step(&asked(7, b"")).unwrap_err();
        assert!(error.to_string().ends_with("GSSAPI"));
        let error = auth.step(&asked(10, b"OAUTHBEARER\0\0")).unwrap_err();
        assert!(error.to_string().ends_with("OAUTHBEARER"));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(messages in prop::collection::vec((0u32..13, prop::collection::vec(any::<u8>(), 0..30)), 0..5)) {
            let mut auth = ClientAuth::new(b"me", Some(b"secret"));
            for (kind, data) in messages {
                let _ = auth.step(&asked(kind, &data));
            }
        }
    }
}
