//! Gives a node's sink what its leader replies. Does; what a reply means, the [`Taker`] decides.

use super::{Reply, Taker, Trace};
use crate::client::Sink;
use crate::event::Event;
use ripen_cachestore::catalog::Catalog;
use std::ops::Deref;

/// Hands a reply over to the sink, or that there was none and why. `catalog`: the newest one. Answers whether all has been heard that there is to hear now.
/// Dropped half-way, what the sink has not taken does not count as taken.
pub async fn hear<C: Deref<Target = Catalog>>(
    taker: &mut Taker,
    reply: Result<Reply, String>,
    catalog: impl Fn() -> C,
    sink: &impl Sink,
) -> bool {
    let told = reply.and_then(|reply| taker.take(reply).map_err(|malformed| malformed.to_string()));
    let (events, then) = match told {
        Ok(told) => told,
        Err(reason) => {
            let gone = taker.away(&reason);
            take(taker, gone, &catalog, sink).await;
            return false;
        }
    };
    take(taker, events, &catalog, sink).await;
    let done = taker.done(then);
    take(taker, done.event, &catalog, sink).await;
    done.idle
}

/// In order: an event may bring a new catalog, by which the next one is judged.
async fn take<C: Deref<Target = Catalog>>(
    taker: &mut Taker,
    events: impl IntoIterator<Item = Event>,
    catalog: &impl Fn() -> C,
    sink: &impl Sink,
) {
    for mut event in events {
        if let Event::Transaction(transaction) = &mut event {
            transaction.fit(&catalog());
        }
        let trace = Trace::of(&event);
        sink.take(event).await;
        taker.taken(trace);
    }
}
