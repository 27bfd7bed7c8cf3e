//! A client that speaks the protocol message by message and writes down every answer, for comparing two servers to the byte.
//! Encodes by itself: it must not share a mistake with the proxy.

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod render;

/// One message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

/// A logged-in connection.
pub struct Wire {
    stream: TcpStream,
    server: (String, u16),
    /// Every message of the server up to the first ReadyForQuery.
    pub greeting: Vec<Message>,
}

impl Wire {
    /// Logs in as `postgres`, whom the server must trust.
    ///
    /// # Errors
    /// When the server refuses; its message is part of the error.
    pub async fn connect(port: u16, database: &str) -> anyhow::Result<Wire> {
        Wire::connect_with(port, &[("user", "postgres"), ("database", database)]).await
    }

    /// Logs in with these startup parameters.
    ///
    /// # Errors
    /// When the server refuses; its message is part of the error.
    pub async fn connect_with(port: u16, parameters: &[(&str, &str)]) -> anyhow::Result<Wire> {
        Wire::connect_to(("127.0.0.1", port), parameters).await
    }

    /// The same at any address.
    ///
    /// # Errors
    /// When the server refuses; its message is part of the error.
    pub async fn connect_to(
        server: (&str, u16),
        parameters: &[(&str, &str)],
    ) -> anyhow::Result<Wire> {
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend(text(name));
            body.extend(text(value));
        }
        body.push(0);
        stream.write_all(&sized(&body)).await?;
        let mut wire = Wire {
            stream,
            server: (server.0.to_owned(), server.1),
            greeting: Vec::new(),
        };
        wire.greeting = wire.read_until_ready().await?;
        let refusal = wire.greeting.iter().find(|message| message.tag == b'E');
        ensure!(
            refusal.is_none(),
            "refused: {}",
            refusal.map(Message::to_string).unwrap_or_default()
        );
        Ok(wire)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next message; `None` at the end of the stream.
    ///
    /// # Errors
    /// When the connection breaks inside a message, or nothing comes for long.
    pub async fn read(&mut self) -> anyhow::Result<Option<Message>> {
        tokio::time::timeout(crate::wait::DEADLINE, self.read_now())
            .await
            .context("the server is silent")?
    }

    async fn read_now(&mut self) -> anyhow::Result<Option<Message>> {
        let mut head = [0; 5];
        if self.stream.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut head[1..]).await?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![
            0;
            usize::try_from(length)?
                .checked_sub(4)
                .context("a length below 4")?
        ];
        self.stream.read_exact(&mut body).await?;
        Ok(Some(Message { tag: head[0], body }))
    }

    /// Everything up to and with ReadyForQuery, or the end of the stream.
    ///
    /// # Errors
    /// As [`Wire::read`].
    pub async fn read_until_ready(&mut self) -> anyhow::Result<Vec<Message>> {
        self.read_until(b'Z').await
    }

    /// Everything up to and with the first message of that type, or the end of the stream.
    ///
    /// # Errors
    /// As [`Wire::read`].
    pub async fn read_until(&mut self, tag: u8) -> anyhow::Result<Vec<Message>> {
        let mut all = Vec::new();
        while let Some(message) = self.read().await? {
            let last = message.tag == tag;
            all.push(message);
            if last {
                break;
            }
        }
        Ok(all)
    }

    /// Sends, then reads up to ReadyForQuery, as text.
    ///
    /// # Errors
    /// As [`Wire::read`].
    pub async fn exchange(&mut self, bytes: &[u8]) -> anyhow::Result<String> {
        self.send(bytes).await?;
        Ok(transcript(&self.read_until_ready().await?))
    }

    /// Asks the server to cancel what this connection runs, by a connection of its own.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn cancel(&self) -> anyhow::Result<()> {
        let (host, port) = &self.server;
        cancel((host, *port), self.key()?).await
    }

    /// The cancel key that the server gave: process number and secret.
    ///
    /// # Errors
    /// When it gave none.
    pub fn key(&self) -> anyhow::Result<&[u8]> {
        let Some(key) = self.greeting.iter().find(|message| message.tag == b'K') else {
            bail!("the server gave no cancel key");
        };
        Ok(&key.body)
    }
}

/// Sends a cancel request with that key, and waits until the server has done with it.
///
/// # Errors
/// When the server cannot be reached.
pub async fn cancel(server: (&str, u16), key: &[u8]) -> anyhow::Result<()> {
    let mut body = 80_877_102u32.to_be_bytes().to_vec();
    body.extend(key);
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&sized(&body)).await?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    Ok(())
}

/// Messages as lines.
pub fn transcript(messages: &[Message]) -> String {
    messages
        .iter()
        .map(|message| format!("{message}\n"))
        .collect()
}

/// Query.
pub fn query(sql: &str) -> Vec<u8> {
    tagged(b'Q', &text(sql))
}

/// Parse with parameter types left to the server where they are 0.
pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = text(name);
    body.extend(text(sql));
    body.extend(count(types.len()));
    types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    tagged(b'P', &body)
}

/// Bind with text parameters and one result format for all columns.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>], result_format: u16) -> Vec<u8> {
    let values: Vec<Option<&[u8]>> = values
        .iter()
        .map(|value| value.map(str::as_bytes))
        .collect();
    bind_raw(portal, statement, &[], &values, &[result_format])
}

/// Bind with everything said.
pub fn bind_raw(
    portal: &str,
    statement: &str,
    formats: &[u16],
    values: &[Option<&[u8]>],
    results: &[u16],
) -> Vec<u8> {
    let mut body = text(portal);
    body.extend(text(statement));
    body.extend(count(formats.len()));
    formats
        .iter()
        .for_each(|format| body.extend(format.to_be_bytes()));
    body.extend(count(values.len()));
    for value in values {
        match value {
            Some(bytes) => body.extend(sized_value(bytes)),
            None => body.extend((-1i32).to_be_bytes()),
        }
    }
    body.extend(count(results.len()));
    results
        .iter()
        .for_each(|format| body.extend(format.to_be_bytes()));
    tagged(b'B', &body)
}

/// Describe a statement (`b'S'`) or portal (`b'P'`).
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    tagged(b'D', &[vec![kind], text(name)].concat())
}

/// Close a statement (`b'S'`) or portal (`b'P'`).
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    tagged(b'C', &[vec![kind], text(name)].concat())
}

/// Execute; 0 means all rows.
pub fn execute(portal: &str, rows_max: u32) -> Vec<u8> {
    tagged(
        b'E',
        &[text(portal), rows_max.to_be_bytes().to_vec()].concat(),
    )
}

/// Sync.
pub fn sync() -> Vec<u8> {
    tagged(b'S', &[])
}

/// Flush.
pub fn flush() -> Vec<u8> {
    tagged(b'H', &[])
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    tagged(b'X', &[])
}

/// CopyData.
pub fn copy_data(bytes: &[u8]) -> Vec<u8> {
    tagged(b'd', bytes)
}

/// CopyDone.
pub fn copy_done() -> Vec<u8> {
    tagged(b'c', &[])
}

/// CopyFail.
pub fn copy_fail(reason: &str) -> Vec<u8> {
    tagged(b'f', &text(reason))
}

/// FunctionCall with text arguments and result.
pub fn function_call(oid: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend(count(0));
    body.extend(count(arguments.len()));
    arguments
        .iter()
        .for_each(|argument| body.extend(sized_value(argument.as_bytes())));
    body.extend(0u16.to_be_bytes());
    tagged(b'F', &body)
}

fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    [vec![tag], sized(body)].concat()
}

fn sized(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("tests send small messages");
    [&length.to_be_bytes(), body].concat()
}

fn sized_value(value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("tests send small values");
    [&length.to_be_bytes(), value].concat()
}

fn count(length: usize) -> [u8; 2] {
    u16::try_from(length)
        .expect("tests send short lists")
        .to_be_bytes()
}

fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}
