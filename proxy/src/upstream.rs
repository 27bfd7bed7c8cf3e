//! Opens a session's connection to Postgres a second time, after it was parked or lost: the same startup packet, the same proof of identity.
//! Never asks the client anything, and never answers it.

use crate::accept::Front;
use crate::limits;
use crate::login::{self, Identity, Secret};
use crate::relay::link::Link;
use crate::relay::{HEADER_BYTES, head};
use bytes::{BufMut, Bytes};
use ripen_cachestore::dial::Stream;
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use ripen_pg::wire::backend;
use std::time::Duration;
use tokio::time::timeout;

/// A connection that is ready for queries.
pub(crate) struct Reopened {
    pub(crate) link: Link<Stream>,
    /// Body of its BackendKeyData.
    pub(crate) key: Option<Bytes>,
    /// The ParameterStatus messages of its greeting, one behind the other.
    pub(crate) parameters: Bytes,
}

/// Logs in again, in bounded time. The error is the reason that a client may be told.
pub(crate) async fn reopen<A>(
    front: &Front<A>,
    identity: &Identity,
) -> Result<Reopened, ErrorFields> {
    let mut link = Link::new(login::connect(front).await?);
    link.output.put_slice(&identity.packet);
    let greeting = timeout(front.dial_timeout, greet(&mut link, identity));
    let (key, parameters) = greeting.await.unwrap_or_else(|_| Err(silent()))?;
    Ok(Reopened {
        link,
        key,
        parameters,
    })
}

/// Whether Postgres would talk to this identity at all: it answers the startup packet by something other than an error.
pub(crate) async fn is_up<A>(front: &Front<A>, identity: &Identity, patience: Duration) -> bool {
    let answered = timeout(patience, async {
        let mut link = Link::new(login::connect(front).await.ok()?);
        link.output.put_slice(&identity.packet);
        next(&mut link).await.ok().map(|(tag, _)| tag)
    });
    matches!(answered.await, Ok(Some(b'R')))
}

async fn greet(
    link: &mut Link<Stream>,
    identity: &Identity,
) -> Result<(Option<Bytes>, Bytes), ErrorFields> {
    let (mut key, mut parameters) = (None, Vec::new());
    loop {
        let (tag, frame) = next(link).await?;
        let body = frame.slice(HEADER_BYTES..);
        match tag {
            b'R' => answer(link, &body, identity)?,
            b'K' => key = Some(body),
            b'S' => parameters.extend_from_slice(&frame),
            b'E' => return Err(backend::decode_error(&body).unwrap_or_else(|_| silent())),
            b'Z' => return Ok((key, parameters.into())),
            _ => {}
        }
    }
}

fn answer(link: &mut Link<Stream>, body: &[u8], identity: &Identity) -> Result<(), ErrorFields> {
    match (body.first_chunk(), &identity.secret) {
        (Some([0, 0, 0, 0]), _) => Ok(()),
        (Some([0, 0, 0, 3]), Secret::Cleartext(password)) => {
            link.output.put_slice(password);
            Ok(())
        }
        _ => {
            let what = "the connection to the system of record cannot be opened again";
            Err(ErrorFields::error(SqlState::CONNECTION_FAILURE, what)
                .detail("Its login needs the client's secret."))
        }
    }
}

async fn next(link: &mut Link<Stream>) -> Result<(u8, Bytes), ErrorFields> {
    loop {
        link.write_all().await.map_err(|_| silent())?;
        if let Some((tag, length)) = head(&link.input) {
            let whole = length + 1;
            if !(HEADER_BYTES..=limits::LOGIN_FRAME_BYTES_MAX).contains(&whole) {
                return Err(silent());
            }
            if link.input.len() >= whole {
                return Ok((tag, link.input.split_to(whole).freeze()));
            }
        }
        if !link.read_more().await {
            return Err(silent());
        }
    }
}

fn silent() -> ErrorFields {
    let what = "the system of record did not complete the login";
    ErrorFields::error(SqlState::CONNECTION_FAILURE, what)
}
