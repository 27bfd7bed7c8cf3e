//! A server that answers every statement with the same row at once: the most that any proxy could reach on this machine. Never looks at what is asked.
//!
//! Usage: null_server PORT

use anyhow::{Context, Result};
use bytes::{Buf, BufMut, BytesMut};
use std::net::TcpListener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const ROW_DESCRIPTION: &[u8] =
    b"T\0\0\0\x21\0\x01abalance\0\0\0\x40\x06\0\x03\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
const ROW_AND_TAG: &[u8] = b"D\0\0\0\x0b\0\x01\0\0\0\x010C\0\0\0\x0dSELECT 1\0";
const READY: &[u8] = b"Z\0\0\0\x05I";
const STARTUP_BYTES_MAX: usize = 10_000;

fn main() -> Result<()> {
    let port: u16 = std::env::args()
        .nth(1)
        .context("usage: null_server PORT")?
        .parse()?;
    let threads = std::thread::available_parallelism()?.get();
    let threads: Vec<_> = (0..threads).map(|_| thread()).collect();
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    for to in threads.iter().cycle() {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        to.send(stream)?;
    }
    Ok(())
}

/// A thread that serves what it is sent, as Ripen's threads do.
fn thread() -> UnboundedSender<std::net::TcpStream> {
    let (to, mut streams) = unbounded_channel();
    std::thread::spawn(move || -> Result<()> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            while let Some(stream) = streams.recv().await {
                // A client that goes away in the middle is no matter here.
                tokio::spawn(serve(TcpStream::from_std(stream)?));
            }
            Ok(())
        })
    });
    to
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    login(&mut stream, &mut input).await?;
    loop {
        while let Some((tag, whole)) = head(&input) {
            if tag == b'X' {
                return Ok(());
            }
            input.advance(whole);
            answer(tag, &mut output);
        }
        stream.write_all(&output).await?;
        output.clear();
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

async fn login(stream: &mut TcpStream, input: &mut BytesMut) -> Result<()> {
    let mut length = stream.read_u32().await? as usize;
    if length == 8 {
        // SSLRequest or GSSENCRequest.
        stream.read_u32().await?;
        stream.write_all(b"N").await?;
        length = stream.read_u32().await? as usize;
    }
    anyhow::ensure!(length < STARTUP_BYTES_MAX, "no startup message");
    input.resize(length - 4, 0);
    stream.read_exact(input).await?;
    input.clear();
    stream
        .write_all(b"R\0\0\0\x08\0\0\0\0S\0\0\0\x19client_encoding\0UTF8\0Z\0\0\0\x05I")
        .await?;
    Ok(())
}

/// Tag and whole length of the first message, if all of it is there.
fn head(input: &[u8]) -> Option<(u8, usize)> {
    let (tag, rest) = input.split_first()?;
    let whole = 1 + u32::from_be_bytes(*rest.first_chunk()?) as usize;
    (input.len() >= whole).then_some((*tag, whole))
}

fn answer(tag: u8, output: &mut BytesMut) {
    match tag {
        b'P' => output.put_slice(b"1\0\0\0\x04"),
        b'B' => output.put_slice(b"2\0\0\0\x04"),
        b'D' => output.put_slice(ROW_DESCRIPTION),
        b'E' => output.put_slice(ROW_AND_TAG),
        b'S' => output.put_slice(READY),
        b'Q' => {
            output.put_slice(ROW_DESCRIPTION);
            output.put_slice(ROW_AND_TAG);
            output.put_slice(READY);
        }
        _ => {}
    }
}
