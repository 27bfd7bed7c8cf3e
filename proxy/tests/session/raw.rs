//! A client that speaks the protocol message by message and keeps every byte of the answers. Blocking, with a deadline on every read.

use bytes::{Buf, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use ripen_pg::ids::TypeOid;
use ripen_pg::wire::frontend::{self, Target};
use ripen_pg::wire::startup::{self, CancelKey, FirstPacket, Startup};
use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// A message from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(200)];
        write!(
            f,
            "{}[{}]{}",
            self.tag as char,
            self.body.len(),
            shown.escape_ascii()
        )
    }
}

/// Whatever carries the bytes.
pub trait Carrier: Read + Write + Send {}
impl<T: Read + Write + Send> Carrier for T {}

/// A logged-in connection.
pub struct Raw {
    stream: Box<dyn Carrier>,
    socket: TcpStream,
    input: BytesMut,
    /// Messages to be sent.
    pub out: BytesMut,
    /// From BackendKeyData.
    pub key: Option<CancelKey>,
    /// Everything between startup and the first ReadyForQuery, key and authentication left out.
    pub greeting: Vec<Message>,
}

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether a server accepts sessions there.
pub fn answers(port: u16) -> bool {
    let Ok(mut raw) = Raw::open(port) else {
        return false;
    };
    raw.login("postgres", "postgres", "", &[])
        .is_ok_and(|last| last.tag == b'Z')
}

impl Raw {
    /// A connection before its startup.
    pub fn open(port: u16) -> std::io::Result<Raw> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Raw::over(Box::new(socket.try_clone()?), socket))
    }

    /// A connection over some other carrier of the same socket.
    pub fn over(stream: Box<dyn Carrier>, socket: TcpStream) -> Raw {
        Raw {
            stream,
            socket,
            input: BytesMut::new(),
            out: BytesMut::new(),
            key: None,
            greeting: Vec::new(),
        }
    }

    /// A session of `app` in the database `postgres`.
    pub fn connect(port: u16) -> Raw {
        Raw::connect_to(port, "postgres")
    }

    /// A session of `app` in another database.
    pub fn connect_to(port: u16, database: &str) -> Raw {
        let mut raw = Raw::open(port).expect("the server accepts connections");
        let last = raw
            .login("app", database, "", &[])
            .expect("the login comes to an end");
        assert_eq!(last.tag, b'Z', "{last:?}");
        raw
    }

    /// Logs in with whatever the server asks for; gives the last message: ReadyForQuery or an error.
    pub fn login(
        &mut self,
        user: &str,
        database: &str,
        password: &str,
        more: &[(&str, &str)],
    ) -> std::io::Result<Message> {
        let mut params = vec![("user", user), ("database", database)];
        params.extend_from_slice(more);
        startup::encode(&mut self.out, &FirstPacket::Startup(Startup::new(params)));
        self.send();
        let mut scram = None;
        loop {
            let message = self.message()?;
            match (
                message.tag,
                message
                    .body
                    .first_chunk::<4>()
                    .map(|code| u32::from_be_bytes(*code)),
            ) {
                (b'R', Some(0)) => {}
                (b'R', Some(3)) => frontend::password(&mut self.out, password.as_bytes()),
                (b'R', Some(5)) => {
                    let salt = message.body[4..8].try_into().unwrap();
                    frontend::password(
                        &mut self.out,
                        md5_hash(user.as_bytes(), password.as_bytes(), salt).as_bytes(),
                    );
                }
                (b'R', Some(10)) => {
                    assert_eq!(&message.body[4..], b"SCRAM-SHA-256\0\0");
                    let client = sasl::ScramSha256::new(
                        password.as_bytes(),
                        sasl::ChannelBinding::unsupported(),
                    );
                    frontend::sasl_initial(&mut self.out, "SCRAM-SHA-256", client.message());
                    scram = Some(client);
                }
                (b'R', Some(11)) => {
                    let client = scram.as_mut().expect("SCRAM has begun");
                    client.update(&message.body[4..])?;
                    frontend::sasl_response(&mut self.out, client.message());
                }
                (b'R', Some(12)) => scram
                    .as_mut()
                    .expect("SCRAM has begun")
                    .finish(&message.body[4..])?,
                (b'K', Some(pid)) => {
                    self.key = Some(CancelKey {
                        pid,
                        secret: message.body[4..].to_vec(),
                    })
                }
                (b'Z' | b'E', _) => return Ok(message),
                _ => self.greeting.push(message),
            }
            self.send();
        }
    }

    /// Sends what is in `out`.
    pub fn send(&mut self) {
        let out = std::mem::take(&mut self.out);
        // A server that has closed shows when its answer is read.
        let _ = self
            .stream
            .write_all(&out)
            .and_then(|()| self.stream.flush());
    }

    /// The next message. An error: the connection has ended, or nothing came in time.
    pub fn message(&mut self) -> std::io::Result<Message> {
        loop {
            if let Some(length) = self
                .input
                .get(1..5)
                .map(|mut length| length.get_u32() as usize)
                && self.input.len() > length
            {
                let tag = self.input.get_u8();
                let body = self.input.split_to(length)[4..].to_vec();
                return Ok(Message { tag, body });
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => self.input.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Bytes before there are messages.
    pub fn read_bytes(&mut self, bytes: &mut [u8]) {
        self.stream.read_exact(bytes).unwrap();
    }

    /// Messages up to and with the next one of this type, or up to the end of the connection.
    pub fn until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.message() {
                Ok(message) => {
                    let last = message.tag == tag;
                    messages.push(message);
                    if last {
                        return messages;
                    }
                }
                // A server that closes with bytes unread resets the connection.
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
                    ) =>
                {
                    messages.push(Message {
                        tag: b'!',
                        body: b"closed".to_vec(),
                    });
                    return messages;
                }
                Err(error) => panic!("{error} after {messages:?}"),
            }
        }
    }

    /// Drops all that comes up to a ReadyForQuery at the very end of it; gives the number of bytes.
    #[allow(dead_code, reason = "only the streaming test needs it")]
    pub fn discard_until_ready(&mut self) -> usize {
        let (mut total, mut last) = (self.input.len(), self.input.split().to_vec());
        let mut chunk = [0; 65536];
        while !last.ends_with(b"Z\0\0\0\x05I") {
            let count = self.stream.read(&mut chunk).unwrap();
            assert_ne!(count, 0, "closed");
            total += count;
            last.extend_from_slice(&chunk[..count]);
            last.drain(..last.len().saturating_sub(6));
        }
        total
    }

    /// All that comes until the server closes.
    pub fn rest(&mut self) -> Vec<Message> {
        self.until(b'!')
    }

    /// A simple query and its whole answer.
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        frontend::query(&mut self.out, sql.as_bytes());
        self.send();
        self.until(b'Z')
    }

    /// The first column of the first row, as text.
    pub fn value(&mut self, sql: &str) -> String {
        let messages = self.query(sql);
        let row = messages.iter().find(|message| message.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("{sql}: {messages:?}"));
        let length = u32::from_be_bytes(row.body[2..6].try_into().unwrap()) as usize;
        String::from_utf8(row.body[6..6 + length].to_vec()).unwrap()
    }

    /// Waits no longer than this for an answer from now on.
    pub fn patience(&self, patience: Duration) {
        self.socket.set_read_timeout(Some(patience)).unwrap();
    }

    /// Ends the client's side only.
    pub fn half_close(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }
}

/// Asks to cancel what the session with this key is doing; returns when the server has closed.
pub fn cancel(port: u16, key: &CancelKey) {
    let mut raw = Raw::open(port).unwrap();
    startup::encode(&mut raw.out, &FirstPacket::CancelRequest(key.clone()));
    raw.send();
    assert!(raw.message().is_err());
}

/// The types of messages, one letter each.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| message.tag as char).collect()
}

/// Adds a Parse without parameter types.
pub fn parse(out: &mut BytesMut, name: &str, sql: &str) {
    frontend::parse(
        out,
        name.as_bytes(),
        sql.as_bytes(),
        std::iter::empty::<TypeOid>(),
    );
}

/// Adds a Bind with text values.
pub fn bind(out: &mut BytesMut, portal: &str, statement: &str, values: &[Option<&str>]) {
    let values = values.iter().map(|value| value.map(str::as_bytes));
    frontend::bind(
        out,
        portal.as_bytes(),
        statement.as_bytes(),
        std::iter::empty(),
        values,
        std::iter::empty(),
    );
}

/// Parse, Bind, Describe, Execute without names.
pub fn run(out: &mut BytesMut, sql: &str, values: &[Option<&str>]) {
    parse(out, "", sql);
    bind(out, "", "", values);
    frontend::describe(out, Target::Portal(b""));
    frontend::execute(out, b"", 0);
}

/// Ends the pipeline; gives all its answers.
pub fn finish(raw: &mut Raw) -> Vec<Message> {
    frontend::sync(&mut raw.out);
    raw.send();
    raw.until(b'Z')
}
