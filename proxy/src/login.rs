//! The login of a session: startup and authentication, relayed both ways until Postgres is ready for queries. While Postgres is away, whoever it has asked
//! for nothing before is let in here (`logins.rs`). Never knows a secret except a cleartext password,
//! which is kept only to open the same connection again.
//!
//! SCRAM with channel binding is offered to the client only where Ripen shows the certificate that Postgres shows, for that is all that it binds. Otherwise the
//! channel that it would bind ends here.

use crate::accept::{Front, refuse};
use crate::limits;
use crate::logins::Remembered;
use crate::registry::Registered;
use crate::relay::link::Link;
use crate::relay::{HEADER_BYTES, head};
use crate::session::io::Io;
use crate::tls::{Acceptor, ClientStream};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use ripen_cachestore::dial::{DialError, Stream, dial};
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use ripen_pg::wire::backend;
use ripen_pg::wire::startup::{PROTOCOL_3_0, Startup};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;
use tracing::{debug, info};

/// A session whose login is done, except that the client has not been told ReadyForQuery.
pub(crate) struct LoggedIn {
    pub(crate) io: Io,
    /// The startup packet and what else opens the same connection again.
    pub(crate) identity: Identity,
    /// The ParameterStatus messages of the greeting, one behind the other.
    pub(crate) parameters: Bytes,
    pub(crate) startup: Option<Startup>,
    /// Of a client that was let in while Postgres is away: its settings, as Postgres told them to the one before.
    pub(crate) remembered: Option<Remembered>,
}

/// What it takes to log in again without asking the client.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) packet: Bytes,
    pub(crate) secret: Secret,
}

/// How the client proved who it is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    /// It did not have to.
    None,
    /// With this PasswordMessage.
    Cleartext(Bytes),
    /// In a way that cannot be repeated without it.
    Unrepeatable,
}

/// Without the password.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Secret::None => "None",
            Secret::Cleartext(_) => "Cleartext",
            Secret::Unrepeatable => "Unrepeatable",
        })
    }
}

/// Logs a client in. `None`: it ended otherwise, and everything is said and closed.
pub(crate) async fn login<A>(
    front: &Front<A>,
    registered: &mut Registered,
    mut client: Link<ClientStream>,
    packet: Bytes,
    startup: Option<Startup>,
) -> Option<LoggedIn> {
    let (mut upstream, binds) = match connect(front).await {
        Ok(stream) => {
            let binds = client.stream_is_encrypted() && same_certificate(front, &stream);
            (Link::new(stream), binds)
        }
        Err(error) => {
            let known = startup.and_then(|startup| known(front, startup));
            let Some((startup, remembered)) = known else {
                refuse(&mut client, &error).await;
                return None;
            };
            return Some(let_in(registered, client, &packet, startup, remembered));
        }
    };
    upstream.output.put_slice(&packet);
    if let Some(startup) = &startup {
        introduce(registered, startup);
        if startup.is_replication() {
            copy(client, upstream).await;
            return None;
        }
    }
    let upstream = Some(Box::new(upstream));
    let mut login = Login {
        io: Io { client, upstream },
        binds,
        secret: Secret::None,
        parameters: BytesMut::new(),
        asked: None,
        // What is no startup packet may be closed on without a word.
        refused: startup.is_none(),
        denied: false,
        broken: false,
    };
    let done = tokio::select! {
        done = login.run(registered) => done,
        () = front.kill.cancelled() => return None,
    };
    if let Some(startup) = &startup
        && (login.denied || login.secret != Secret::None)
    {
        front.logins.forget(startup);
    }
    done?;
    let identity = Identity {
        packet: Bytes::copy_from_slice(&packet),
        secret: login.secret,
    };
    Some(LoggedIn {
        io: login.io,
        identity,
        parameters: login.parameters.into(),
        startup,
        remembered: None,
    })
}

fn introduce(registered: &Registered, startup: &Startup) {
    let text = |name| startup.get(name).map(String::from_utf8_lossy);
    let user = text("user").unwrap_or_default();
    let application = text("application_name").unwrap_or_default();
    registered.set_identity(
        &user,
        &text("database").unwrap_or_else(|| user.clone()),
        &application,
    );
}

/// What is known of such a login, if Postgres has let in its like without asking for anything.
fn known<A>(front: &Front<A>, startup: Startup) -> Option<(Startup, Remembered)> {
    let here = !startup.is_replication() && (startup.major, startup.minor) == PROTOCOL_3_0;
    let remembered = here.then(|| front.logins.recall(&startup))??;
    Some((startup, remembered))
}

/// Lets a client in while Postgres is away.
fn let_in(
    registered: &mut Registered,
    mut client: Link<ClientStream>,
    packet: &[u8],
    startup: Startup,
    remembered: Remembered,
) -> LoggedIn {
    introduce(registered, &startup);
    let parameters = remembered.parameters(&startup);
    let out = &mut client.output;
    backend::authentication_ok(out);
    out.put_slice(&parameters);
    // Like those of Postgres: positive. Should it be a backend's by chance, the secret tells them apart.
    let (pid, secret) = (
        rand::random_range(1..=i32::MAX as u32),
        rand::random::<[u8; 4]>(),
    );
    backend::backend_key_data(out, pid, &secret);
    registered.set_client_key(Bytes::from([&pid.to_be_bytes()[..], &secret].concat()));
    LoggedIn {
        io: Io {
            client,
            upstream: None,
        },
        identity: Identity {
            packet: Bytes::copy_from_slice(packet),
            secret: Secret::None,
        },
        parameters,
        startup: Some(startup),
        remembered: Some(remembered),
    }
}

/// Whether clients are shown what Postgres has shown here: `tls-server-end-point` binds a certificate, not a connection (RFC 5929).
fn same_certificate<A>(front: &Front<A>, stream: &Stream) -> bool {
    let shown = front.tls.as_ref().map(Acceptor::certificate);
    shown.is_some() && shown == stream.certificate()
}

/// Opens a connection to Postgres, in bounded time.
pub(crate) async fn connect<A>(front: &Front<A>) -> Result<Stream, ErrorFields> {
    match timeout(front.dial_timeout, dial(&front.target)).await {
        Ok(Ok(stream)) => {
            front.dials.fetch_add(1, Ordering::Relaxed);
            Ok(stream)
        }
        Ok(Err(error)) => Err(unreachable_upstream(&error, front.dial_timeout)),
        Err(_) => {
            let source = std::io::ErrorKind::TimedOut.into();
            let target = front.target.to_string();
            Err(unreachable_upstream(
                &DialError::Connect { target, source },
                front.dial_timeout,
            ))
        }
    }
}

fn unreachable_upstream(error: &DialError, waited: Duration) -> ErrorFields {
    // The address is the operator's business, not the client's.
    info!(%error, ?waited, "could not reach the system of record");
    ErrorFields::fatal(
        SqlState::CONNECTION_FAILURE,
        "could not connect to the system of record",
    )
    .hint("Ripen is running, but the Postgres server behind it does not answer. Try again later.")
}

fn upstream_closed() -> ErrorFields {
    let what = "the system of record closed the connection";
    ErrorFields::fatal(SqlState::CONNECTION_FAILURE, what)
        .hint("The Postgres server behind Ripen may be starting or stopping. Try again later.")
}

/// Replication connections are relayed untouched: their protocol is COPY both ways for as long as they last.
async fn copy(mut client: Link<ClientStream>, mut upstream: Link<Stream>) {
    upstream.output.extend_from_slice(&client.input);
    client.input.clear();
    if upstream.write_all().await.is_err() {
        return;
    }
    let (mut client, mut upstream) = (client.into_stream(), upstream.into_stream());
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
        debug!(%error, "a replication connection broke");
    }
}

struct Login {
    io: Io,
    /// Whether a channel binding of the client's holds for Postgres.
    binds: bool,
    secret: Secret,
    parameters: BytesMut,
    /// Which authentication request the client has still to answer.
    asked: Option<u32>,
    /// Postgres has said why not.
    refused: bool,
    /// It does not want this user, or does not have it or its database; not only now.
    denied: bool,
    /// Something came that cannot belong to a login.
    broken: bool,
}

impl Login {
    /// Relays until ReadyForQuery, which is withheld.
    async fn run(&mut self, registered: &mut Registered) -> Option<()> {
        loop {
            if self.hear(registered) {
                return Some(());
            }
            self.answer();
            // A client that will send no more may still be let in, as long as nothing is asked of it.
            let unanswered = self.io.client.ended() && self.asked.is_some();
            if self.broken || self.io.upstream_ended() || unanswered {
                if !self.refused && !unanswered {
                    let error = upstream_closed();
                    backend::error_response(&mut self.io.client.output, &error);
                }
                let _ = self.io.client.write_all().await;
                let _ = self.io.client.shutdown().await;
                return None;
            }
            self.io.turn(limits::LOGIN_FRAME_BYTES_MAX).await.ok()?;
        }
    }

    /// Forwards what Postgres said. True: it is ready for queries.
    fn hear(&mut self, registered: &mut Registered) -> bool {
        let Some(upstream) = self.io.upstream.as_deref_mut() else {
            return false;
        };
        while let Some((tag, length)) = head(&upstream.input) {
            let whole = length + 1;
            if whole > limits::LOGIN_FRAME_BYTES_MAX {
                self.broken = true;
                break;
            }
            if upstream.input.len() < whole {
                break;
            }
            let frame = upstream.input.split_to(whole).freeze();
            let body = frame.slice(HEADER_BYTES.min(whole)..);
            match tag {
                b'Z' => return true,
                b'E' => {
                    self.refused = true;
                    self.denied |= backend::decode_error(&body).is_ok_and(|error| denies(&error));
                }
                b'S' => self.parameters.extend_from_slice(&frame),
                b'R' => {
                    let code = body.clone().try_get_u32().unwrap_or(0);
                    self.asked = asks(code).then_some(code);
                    if code == SASL && !self.binds {
                        without_channel_binding(&body[4..], &mut self.io.client.output);
                        continue;
                    }
                }
                b'K' => {
                    let key = Bytes::copy_from_slice(&body);
                    registered.set_client_key(key.clone());
                    registered.set_upstream_key(Some(key));
                }
                _ => {}
            }
            self.io.client.output.extend_from_slice(&frame);
        }
        false
    }

    /// Forwards the client's answer, if one is asked for.
    fn answer(&mut self) {
        let (Some(asked), Some((_, length))) = (self.asked, head(&self.io.client.input)) else {
            return;
        };
        let whole = length + 1;
        self.broken |= whole > limits::LOGIN_FRAME_BYTES_MAX;
        if self.broken || self.io.client.input.len() < whole {
            return;
        }
        let frame = self.io.client.input.split_to(whole).freeze();
        self.secret = match asked {
            CLEARTEXT => Secret::Cleartext(Bytes::copy_from_slice(&frame)),
            _ => Secret::Unrepeatable,
        };
        self.asked = None;
        if let Some(upstream) = self.io.upstream.as_deref_mut() {
            upstream.output.extend_from_slice(&frame);
        }
    }
}

const CLEARTEXT: u32 = 3;
const SASL: u32 = 10;
const SASL_FINAL: u32 = 12;

/// Invalid authorization, or no such database.
fn denies(error: &ErrorFields) -> bool {
    let state = error.state();
    ["28", "3D"]
        .iter()
        .any(|class| state.as_str().starts_with(class))
}

/// Whether the client has to answer this authentication request.
fn asks(code: u32) -> bool {
    code != 0 && code != SASL_FINAL
}

/// Repeats an AuthenticationSASL without the mechanisms that bind the channel.
fn without_channel_binding(mechanisms: &[u8], output: &mut BytesMut) {
    let kept = mechanisms
        .split(|byte| *byte == 0)
        .filter(|mechanism| !mechanism.is_empty() && !mechanism.ends_with(b"-PLUS"));
    let start = output.len();
    output.put_u8(b'R');
    output.put_u32(0);
    output.put_u32(SASL);
    for mechanism in kept {
        output.put_slice(mechanism);
        output.put_u8(0);
    }
    output.put_u8(0);
    let length = u32::try_from(output.len() - start - 1).expect("a login frame is small");
    output[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_binding_is_not_offered() {
        let mut output = BytesMut::new();
        without_channel_binding(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", &mut output);
        assert_eq!(&output[..], b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0");
    }
}
