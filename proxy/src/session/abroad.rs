//! Where the session's connection leads. When Postgres fails over, a new connection leads to another server, which may lack what was acknowledged until the log says that it has it; and an old one
//! to a server that is not the system of record any more. Asked once per connection, compared per statement; where no standbys are configured, neither.

use super::answerer::Answerer;
use super::forward::patiently;
use super::{End, Session, Tx};
use crate::limits::STANDBY_POLL;
use ripen_cachestore::home::{SERVER, Server};
use ripen_pg::sqlstate::{ErrorFields, SqlState};
use std::sync::LazyLock;
use tokio::time::{Instant, sleep};

static QUESTION: LazyLock<String> = LazyLock::new(|| format!("SELECT {SERVER}"));

impl<A: Answerer> Session<A> {
    /// A connection was opened, and nothing has been said on it for the client.
    pub(super) async fn ask_server(&mut self) -> Result<(), End> {
        self.server = None;
        if !self.front.answerer.guards() {
            return Ok(());
        }
        let row = self.ask(&QUESTION).await?;
        let told = row.and_then(|row| row.into_iter().next().flatten());
        self.server = told.and_then(|text| text.parse::<Server>().ok());
        Ok(())
    }

    /// Waits until the connection leads to the system of record. Before that, the statement could see an older past than was acknowledged. False: cancelled.
    pub(super) async fn at_home(&mut self) -> Result<bool, End> {
        let deadline = Instant::now() + self.front.answerer.patience();
        loop {
            if self.front.answerer.is_home(self.server) {
                return Ok(true);
            }
            let quiet = self.tx == Tx::Idle && self.relay.awaited.is_empty();
            let promoting = quiet && self.server.is_some_and(Server::is_standby);
            let left = deadline.saturating_duration_since(Instant::now());
            let answerer = &self.front.answerer;
            let coming = async {
                match promoting {
                    true => {
                        sleep(STANDBY_POLL.min(left)).await;
                        Ok(())
                    }
                    false => answerer.until_home(self.server, left).await,
                }
            };
            match patiently(&mut self.io, &self.relay, &self.me, coming).await {
                Err(error) if error.state() == SqlState::QUERY_CANCELED => {
                    return self.refuse(&error).await;
                }
                Err(error) => return self.end_abroad(&error),
                Ok(()) if promoting && left.is_zero() => return self.end_abroad(&not_home()),
                Ok(()) if promoting => self.ask_server().await?,
                Ok(()) => {}
            }
        }
    }

    /// The same at the end of a wait for other things.
    pub(super) fn still_at_home(&mut self) -> Result<(), End> {
        match self.front.answerer.is_home(self.server) {
            true => Ok(()),
            false => self.end_abroad(&gone()).map(drop),
        }
    }

    /// The client's next connection may lead elsewhere.
    fn end_abroad(&mut self, error: &ErrorFields) -> Result<bool, End> {
        self.say_fatal(error);
        Err(End::UpstreamClosed)
    }
}

/// Said of a connection to a server that was the system of record.
pub(crate) fn gone() -> ErrorFields {
    let what =
        "terminating connection because the system of record has failed over to another server";
    ErrorFields::fatal(SqlState::ADMIN_SHUTDOWN, what).hint("Connect again.")
}

/// Said of one to a server that has not become it in time.
pub(crate) fn not_home() -> ErrorFields {
    let what = "the system of record has been replaced by a server that lacks acknowledged changes, and they could not be written there in time";
    ErrorFields::fatal(SqlState::CANNOT_CONNECT_NOW, what)
        .hint("Retry later. Ripen's log says what it waits for; the bound is \"barrier_timeout\".")
}
