//! What the client says next, where an answer depends on it. Waits until it is said: Postgres would not let its answer go before, either. Never takes a message.

use super::answerer::Answerer;
use super::{End, Session};
use crate::relay::{HEADER_BYTES, head};

/// Whether the pipeline ends. `None`: not said yet.
fn ends(input: &[u8]) -> Option<bool> {
    head(input).map(|head| head == (b'S', 4))
}

/// Whether the unnamed portal is executed, at most described before.
fn executes(input: &[u8]) -> Option<bool> {
    const DESCRIBE_BYTES: usize = HEADER_BYTES + 2;
    match head(input)? {
        (b'E', length) if length > 4 => Some(*input.get(HEADER_BYTES)? == 0),
        (b'D', 6) if input.get(HEADER_BYTES..DESCRIBE_BYTES)? == b"P\0" => {
            executes(&input[DESCRIBE_BYTES..])
        }
        _ => Some(false),
    }
}

impl<A: Answerer> Session<A> {
    /// Whether the pipeline ends behind this message.
    pub(super) async fn sync_is_next(&mut self) -> Result<bool, End> {
        self.look_ahead(ends).await
    }

    /// Whether the unnamed portal that this message binds is executed at once.
    pub(super) async fn execute_is_next(&mut self) -> Result<bool, End> {
        self.look_ahead(executes).await
    }

    async fn look_ahead(&mut self, said: fn(&[u8]) -> Option<bool>) -> Result<bool, End> {
        loop {
            match said(&self.io.client.input) {
                Some(said) => return Ok(said),
                None if self.io.client.ended() => return Ok(false),
                None => self.wait().await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use ripen_pg::wire::frontend::{self, Target};

    #[test]
    fn a_portal_may_be_described_before_it_is_executed() {
        let mut input = BytesMut::new();
        frontend::describe(&mut input, Target::Portal(b""));
        frontend::describe(&mut input, Target::Portal(b""));
        frontend::execute(&mut input, b"", 7);
        let known = input.len() - 5;
        for end in 0..input.len() {
            let said = (end > known).then_some(true);
            assert_eq!(executes(&input[..end]), said, "{end}");
        }
    }

    #[test]
    fn whatever_else_is_said_lets_time_pass() {
        let others: [fn(&mut BytesMut); 5] = [
            frontend::sync,
            frontend::flush,
            |out| frontend::execute(out, b"p", 0),
            |out| frontend::describe(out, Target::Portal(b"p")),
            |out| frontend::describe(out, Target::Statement(b"")),
        ];
        for other in others {
            let mut input = BytesMut::new();
            other(&mut input);
            frontend::execute(&mut input, b"", 0);
            assert_eq!(executes(&input), Some(false), "{input:?}");
        }
    }
}
