//! Asks the grid's leader, whoever and wherever it is, until it has answered: a change of leaders is a delay, not an error. Never decides anything itself.

use crate::cluster::Handle;
use crate::desk::{Answer, Request};
use crate::grid::{Grid, GridError};
use crate::limits;
use crate::log::{HoldEnd, Leadership, LogError, RequestId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// See the module.
pub struct Requester {
    /// This node as a member of its cluster.
    pub(crate) member: Handle,
    numbers: Arc<Mutex<Numbers>>,
    releases: mpsc::UnboundedSender<(RequestId, HoldEnd)>,
}

/// Numbers given to requests.
#[derive(Default)]
struct Numbers {
    last: u64,
    open: BTreeSet<u64>,
}

/// A request that may be asked again. When it is dropped, it will not be.
pub struct Open {
    /// Its number.
    pub id: RequestId,
    numbers: Arc<Mutex<Numbers>>,
}

impl Open {
    /// Requests below this number are over.
    pub fn below(&self) -> u64 {
        let numbers = self.numbers.lock();
        let first = numbers.open.first();
        first.copied().unwrap_or(numbers.last + 1)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.numbers.lock().open.remove(&self.id.number);
    }
}

/// What came of asking once.
#[derive(Debug)]
pub enum Once {
    /// The leader has answered.
    Answered(Answer),
    /// It has not. What it was asked may have been carried out.
    Unanswered,
    /// It is of a version that does not know such questions.
    TooOld,
}

/// Ends of holds that the leader has yet to hear of.
pub(crate) type Releases = mpsc::UnboundedReceiver<(RequestId, HoldEnd)>;

impl Requester {
    pub(crate) fn new(member: Handle) -> (Requester, Releases) {
        let (releases, ended) = mpsc::unbounded_channel();
        let requester = Requester {
            member,
            numbers: Arc::default(),
            releases,
        };
        (requester, ended)
    }

    /// A new number.
    pub fn open(&self) -> Open {
        let mut numbers = self.numbers.lock();
        numbers.last += 1;
        let number = numbers.last;
        numbers.open.insert(number);
        Open {
            id: RequestId {
                process: self.member.process(),
                number,
            },
            numbers: self.numbers.clone(),
        }
    }

    /// Asks until it is answered, for so long. Cancel safe: it may have been carried out.
    ///
    /// # Errors
    /// What the leader says; [`GridError::NoLeader`] when nobody has answered in time, in which case it may have been carried out.
    pub async fn ask(
        &self,
        grid: &Grid,
        request: &Request,
        patience: Duration,
    ) -> Result<Bytes, GridError> {
        let deadline = Instant::now() + patience;
        let mut leadership = self.member.leadership();
        let mut request = request.clone();
        loop {
            let now = *leadership.borrow_and_update();
            request.ask_in(now.term);
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = tokio::select! {
                answer = self.attempt(grid, &request, now.here, left) => answer,
                // Whoever was asked may never answer.
                () = changed(leadership.clone(), now.leader) => Answer::Elsewhere,
                () = tokio::time::sleep_until(deadline) => return Err(GridError::NoLeader),
            };
            match answer {
                Answer::Done(answer) => return Ok(answer),
                Answer::Refused(error) => return Err(error),
                Answer::Elsewhere => {}
            }
            tokio::select! {
                () = tokio::time::sleep(limits::LEADER_RETRY) => {}
                Ok(()) = leadership.changed() => {}
            }
            if Instant::now() >= deadline {
                return Err(GridError::NoLeader);
            }
        }
    }

    /// Asks the leader of that term, once. Dropped, it may be carried out all the same.
    pub async fn ask_once(
        &self,
        grid: &Grid,
        request: &Request,
        term: u64,
        patience: Duration,
    ) -> Once {
        let leadership = self.member.leadership();
        let now = *leadership.borrow();
        if now.term != term || now.leader.is_none() {
            return Once::Answered(Answer::Elsewhere);
        }
        if now.here {
            let serving = grid.serve(request.clone());
            return match tokio::time::timeout(patience, serving).await {
                Ok(answer) => Once::Answered(answer),
                Err(_) => Once::Unanswered,
            };
        }
        let asking = self
            .member
            .ask_leader(request.encode(), request.lane(), patience);
        tokio::select! {
            asked = asking => match asked {
                Ok(answer) => Answer::decode(&answer).map_or(Once::Unanswered, Once::Answered),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => Once::TooOld,
                Err(_) => Once::Unanswered,
            },
            // Whoever was asked may never answer.
            () = replaced(leadership.clone(), term) => Once::Unanswered,
        }
    }

    async fn attempt(
        &self,
        grid: &Grid,
        request: &Request,
        here: bool,
        patience: Duration,
    ) -> Answer {
        if here {
            return grid.serve(request.clone()).await;
        }
        let asked = self
            .member
            .ask_leader(request.encode(), request.lane(), patience)
            .await;
        asked
            .ok()
            .and_then(|answer| Answer::decode(&answer).ok())
            .unwrap_or(Answer::Elsewhere)
    }

    /// A hold has ended. The leader hears of it soon; until then the scope only stays with the database.
    pub(crate) fn release(&self, id: RequestId, end: HoldEnd) {
        // Without anybody to carry it, this process ends, and with it all that it holds.
        let _ = self.releases.send((id, end));
    }
}

/// Until another term than that has a leader.
async fn replaced(mut leadership: watch::Receiver<Leadership>, term: u64) {
    let other = |now: &Leadership| now.term != term && now.leader.is_some();
    if leadership.wait_for(other).await.is_err() {
        std::future::pending().await
    }
}

/// Until somebody else than `asked` leads.
async fn changed(mut leadership: watch::Receiver<Leadership>, asked: Option<u64>) {
    if leadership
        .wait_for(|now| now.leader != asked)
        .await
        .is_err()
    {
        std::future::pending().await
    }
}

/// Tells the leader of holds that have ended, many at once, until the grid is gone.
pub(crate) async fn carry_releases(grid: Weak<Grid>, mut releases: Releases) {
    while let Some((id, end)) = releases.recv().await {
        let mut ended = [
            (HoldEnd::Changed, Vec::new()),
            (HoldEnd::Unchanged, Vec::new()),
        ];
        let mut add = |id, end| ended[usize::from(end == HoldEnd::Unchanged)].1.push(id);
        add(id, end);
        while let Ok((id, end)) = releases.try_recv() {
            add(id, end);
        }
        for (end, ids) in ended {
            if ids.is_empty() {
                continue;
            }
            let request = Request::Release(ids, end);
            loop {
                let Some(grid) = grid.upgrade() else { return };
                let told = grid.ask(&request, limits::LEADER_WAIT).await;
                match told {
                    Err(GridError::NoLeader) => {}
                    Err(GridError::Log(LogError::Stopped)) => return,
                    _ => break,
                }
            }
        }
    }
}
