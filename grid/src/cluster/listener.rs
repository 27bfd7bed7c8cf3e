//! Connections from other nodes: checks who they are, hands their questions to a handler, sends back what it answers.

use super::frame::{Frame, codec};
use super::hello::Identity;
use super::limits::{FRAMES_QUEUED, HELLO_TIMEOUT, QUESTIONS_AT_A_TIME};
use super::link::{Frames, Stream, greet, send};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use std::io;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

/// Answers another node's question; an error is told to it in words.
pub type Handler =
    Arc<dyn Fn(Identity, Bytes) -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// Serves one connection until it ends or `stop`. Questions are answered as soon as they can be, in any order. Cancel safe: what is being worked on is dropped.
pub async fn serve(
    stream: Box<dyn Stream>,
    ours: Identity,
    handler: Handler,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut frames = Framed::new(stream, codec());
    let greeting = tokio::time::timeout(HELLO_TIMEOUT, greet(&mut frames, &ours)).await;
    let theirs = greeting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        served = answer(frames, theirs, handler) => served,
    }
}

async fn answer(frames: Frames, theirs: Identity, handler: Handler) -> io::Result<()> {
    let (sink, mut stream) = frames.split();
    let (answers, queued) = mpsc::channel::<Bytes>(FRAMES_QUEUED);
    let turns = Arc::new(Semaphore::new(QUESTIONS_AT_A_TIME));
    let mut at_work = tokio::task::JoinSet::new();
    let read = async {
        while let Some(frame) = stream.next().await {
            let frame = Frame::decode(frame?).map_err(io::Error::other)?;
            let Frame::Question(number, question) = frame else {
                return Err(io::Error::other("a frame that is no question"));
            };
            let turn = turns.clone().acquire_owned().await;
            let turn = turn.expect("the semaphore is never closed");
            let (answering, answers) = (handler(theirs.clone(), question), answers.clone());
            at_work.spawn(async move {
                let frame = match answering.await {
                    Ok(bytes) => Frame::Answer(number, bytes),
                    Err(why) => Frame::Failed(number, why),
                };
                // A connection that ended needs no answer.
                let _ = answers.send(frame.encode()).await;
                drop(turn);
            });
            while at_work.try_join_next().is_some() {}
        }
        Ok(())
    };
    tokio::select! {
        ended = send(sink, queued) => ended,
        ended = read => ended,
    }
}
