//! A replication connection: login, commands, CopyBoth. Reads and writes messages; what they mean is decided elsewhere.

use crate::error::{Error, Unavailable};
use crate::limits::{CLOSE_WAIT, MESSAGE_BYTES_MAX, OPEN_TIMEOUT, OVERSIZED_HEAD, READ_BYTES};
use bytes::{Buf, Bytes, BytesMut};
use ripen_cachestore::Upstream;
use ripen_cachestore::dial::{Stream, dial};
use ripen_pg::auth::{ClientAuth, Reply};
use ripen_pg::replication::StandbyStatus;
use ripen_pg::sqlstate::ErrorFields;
use ripen_pg::wire::backend::{self, Backend};
use ripen_pg::wire::frame::{self, HEADER_LEN, Header};
use ripen_pg::wire::startup::{self, FirstPacket, Startup};
use ripen_pg::wire::{WireError, frontend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// What Postgres shows of such a connection.
pub(crate) const APPLICATION_NAME: &str = "ripen hot cache";

/// One row of a command's answer, in text.
pub(crate) type TextRow = Vec<Option<String>>;

/// A message of the walsender.
#[derive(Debug)]
pub(crate) struct Message {
    pub tag: u8,
    /// Its body, or the first [`OVERSIZED_HEAD`] bytes of it.
    pub body: Bytes,
    /// The body was longer than [`MESSAGE_BYTES_MAX`] and is not all here.
    pub oversized: bool,
}

/// See the module.
pub(crate) struct Connection {
    stream: Stream,
    inbox: BytesMut,
    outbox: BytesMut,
    /// Bytes of an oversized message still to be thrown away.
    skip: usize,
}

impl Connection {
    /// Dials and logs in with `replication=database`. Cancel safe: a dropped future closes the connection.
    pub async fn open(upstream: &Upstream) -> Result<Connection, Error> {
        timeout(OPEN_TIMEOUT, Connection::open_slowly(upstream))
            .await
            .unwrap_or(Err(Error::Timeout))
    }

    async fn open_slowly(upstream: &Upstream) -> Result<Connection, Error> {
        let mut connection = Connection {
            stream: dial(&upstream.target).await?,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            skip: 0,
        };
        let startup = Startup::new([
            ("user", upstream.user.as_str()),
            ("database", &upstream.database),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", APPLICATION_NAME),
        ]);
        startup::encode(&mut connection.outbox, &FirstPacket::Startup(startup));
        connection.send().await?;
        connection.log_in(upstream).await?;
        Ok(connection)
    }

    async fn log_in(&mut self, upstream: &Upstream) -> Result<(), Error> {
        let password = upstream.password().map(str::as_bytes);
        let mut auth = ClientAuth::new(upstream.user.as_bytes(), password);
        let refused = |error: ErrorFields| match Unavailable::of(&error, &upstream.user) {
            Some(unavailable) => Error::Unavailable(unavailable),
            None => Error::Server(error),
        };
        loop {
            let message = self.next().await?;
            match message.tag {
                b'R' => {
                    if let Reply::Send(answer) = auth.step(&message.body)? {
                        self.outbox.unsplit(answer);
                        self.send().await?;
                    }
                }
                b'Z' => return Ok(()),
                b'E' => return Err(refused(backend::decode_error(&message.body)?)),
                _ => {}
            }
        }
    }

    /// Runs a replication command or SQL statement. Not cancel safe: afterwards the connection is of no use.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>, Error> {
        frontend::query(&mut self.outbox, sql.as_bytes());
        self.send().await?;
        let (mut rows, mut refusal) = (Vec::new(), None);
        loop {
            let message = match (self.next().await, refusal.take()) {
                // A refusal that ends the session is followed by nothing.
                (Err(_), Some(refusal)) => return Err(Error::Server(refusal)),
                (message, earlier) => {
                    refusal = earlier;
                    message?
                }
            };
            match backend::decode(message.tag, &message.body)? {
                Backend::DataRow(values) => {
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    rows.push(values.iter().map(|value| value.map(text)).collect());
                }
                Backend::Error(error) => refusal = Some(error),
                Backend::ReadyForQuery(_) => {
                    return refusal.map_or(Ok(rows), |e| Err(Error::Server(e)));
                }
                _ => {}
            }
        }
    }

    /// Runs START_REPLICATION; afterwards the connection streams. Not cancel safe.
    pub async fn start(&mut self, command: &str) -> Result<(), Error> {
        frontend::query(&mut self.outbox, command.as_bytes());
        self.send().await?;
        loop {
            let message = self.next().await?;
            match message.tag {
                b'W' => return Ok(()),
                b'E' => return Err(Error::Server(backend::decode_error(&message.body)?)),
                b'Z' => return Err(Error::Unexpected("START_REPLICATION")),
                _ => {}
            }
        }
    }

    /// Tells Postgres how far we are. Cancelled half-way it leaves the connection unusable.
    pub async fn send_status(&mut self, status: &StandbyStatus) -> Result<(), Error> {
        status.encode(&mut self.outbox);
        self.send().await
    }

    /// Ends the stream and the session in order, and waits until Postgres has done the same: then it has heard all that was said to it, and the slot is free.
    /// Takes [`CLOSE_WAIT`] at most. Errors do not matter any more.
    pub async fn close(mut self) {
        frontend::copy_done(&mut self.outbox);
        frontend::terminate(&mut self.outbox);
        let closing = async {
            self.send().await?;
            self.stream.shutdown().await?;
            loop {
                self.next().await?;
            }
        };
        // It ends with an error in any case, and the other side learns of a broken connection by itself.
        let _: Result<Result<(), Error>, _> = timeout(CLOSE_WAIT, closing).await;
    }

    async fn send(&mut self) -> Result<(), Error> {
        self.stream.write_all_buf(&mut self.outbox).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// The next message. Cancel safe.
    pub async fn next(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            self.inbox.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(Error::Closed);
            }
        }
    }

    /// The next message, if it has arrived already.
    pub fn buffered(&mut self) -> Result<Option<Message>, WireError> {
        let thrown = self.skip.min(self.inbox.len());
        self.inbox.advance(thrown);
        self.skip -= thrown;
        match frame::peek(&self.inbox)? {
            Some(header) if self.skip == 0 => Ok(self.cut(header)),
            _ => Ok(None),
        }
    }

    fn cut(&mut self, header: Header) -> Option<Message> {
        let oversized = header.len > MESSAGE_BYTES_MAX;
        let kept = if oversized {
            OVERSIZED_HEAD
        } else {
            header.len
        };
        if self.inbox.len() < HEADER_LEN + kept {
            return None;
        }
        self.inbox.advance(HEADER_LEN);
        self.skip = header.len - kept;
        Some(Message {
            tag: header.tag,
            body: self.inbox.split_to(kept).freeze(),
            oversized,
        })
    }
}
