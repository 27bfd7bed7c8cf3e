//! What is known of logins that need no secret: with it, a client is let in while Postgres is away, as Postgres let in the one before. Kept over restarts
//! in the data folder. Holds no secret: whoever had to prove anything is asked by Postgres again.

use crate::limits;
use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use parking_lot::Mutex;
use ripen_pg::wire::backend;
use ripen_pg::wire::startup::Startup;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio::sync::Notify;

/// What Postgres told such a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Names and values of the ParameterStatus messages, in order.
    parameters: Vec<(String, String)>,
    /// The row that tells the session's settings.
    pub(crate) facts: Vec<Option<String>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Logins {
    known: Mutex<HashMap<BTreeMap<String, String>, Remembered>>,
    changed: Notify,
}

/// What decides about a login and its settings: everything in the startup packet but the name that the program gives itself.
fn key(startup: &Startup) -> Option<BTreeMap<String, String>> {
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).ok();
    let decides = |(name, _): &&(Vec<u8>, Vec<u8>)| name != b"application_name";
    startup
        .params
        .iter()
        .filter(decides)
        .map(|(name, value)| Some((text(name)?, text(value)?)))
        .collect()
}

impl Logins {
    /// Notes what a client was told that logged in without a secret. `parameters`: its ParameterStatus messages.
    pub(crate) fn remember(&self, startup: &Startup, parameters: &[u8], facts: &[Option<String>]) {
        let Some(key) = key(startup) else { return };
        let remembered = Remembered {
            parameters: statuses(parameters),
            facts: facts.to_vec(),
        };
        let mut known = self.known.lock();
        let room = known.len() < limits::LOGINS_REMEMBERED_MAX || known.contains_key(&key);
        if room && known.get(&key) != Some(&remembered) {
            known.insert(key, remembered);
            self.changed.notify_one();
        }
    }

    /// Postgres asks such a client for a secret now, or refuses it.
    pub(crate) fn forget(&self, startup: &Startup) {
        if let Some(key) = key(startup)
            && self.known.lock().remove(&key).is_some()
        {
            self.changed.notify_one();
        }
    }

    /// What to tell a client that logs in while Postgres is away; `None`: only Postgres can let it in.
    pub(crate) fn recall(&self, startup: &Startup) -> Option<Remembered> {
        self.known.lock().get(&key(startup)?).cloned()
    }

    /// Resolves when something has changed since it was last asked. Cancel safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// As bytes for [`Logins::restore`].
    pub fn all(&self) -> Vec<u8> {
        let known = self.known.lock();
        let all: Vec<_> = known.iter().collect();
        serde_json::to_vec(&all).expect("texts are JSON")
    }

    /// Takes in what an earlier process has left. Bytes that make no sense say nothing.
    pub fn restore(&self, bytes: &[u8]) {
        let all: Vec<_> = serde_json::from_slice(bytes).unwrap_or_default();
        self.known.lock().extend(all);
    }
}

impl Remembered {
    /// The ParameterStatus messages for this client.
    pub(crate) fn parameters(&self, startup: &Startup) -> Bytes {
        let mut out = BytesMut::new();
        for (name, value) in &self.parameters {
            let value = match startup.get("application_name") {
                Some(own) if name == "application_name" => own,
                None if name == "application_name" => b"",
                _ => value.as_bytes(),
            };
            backend::parameter_status(&mut out, name.as_bytes(), value);
        }
        out.freeze()
    }
}

fn statuses(mut frames: &[u8]) -> Vec<(String, String)> {
    let mut statuses = Vec::new();
    while let Some((_, length)) = crate::relay::head(frames)
        && let Some((frame, rest)) = frames.split_at_checked(length + 1)
    {
        let mut texts = frame[crate::relay::HEADER_BYTES..].split(|byte| *byte == 0);
        let mut next = || String::from_utf8_lossy(texts.next().unwrap_or_default()).into_owned();
        statuses.push((next(), next()));
        frames = rest;
    }
    statuses
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_login_is_known_again_by_all_but_the_programs_name() {
        let logins = Logins::default();
        let first = Startup::new([("user", "app"), ("application_name", "one")]);
        let mut frames = BytesMut::new();
        backend::parameter_status(&mut frames, b"application_name", b"one");
        backend::parameter_status(&mut frames, b"TimeZone", b"UTC");
        logins.remember(&first, &frames, &[Some("app".to_owned()), None]);
        let restored = Logins::default();
        assert!(logins.changed().now_or_never().is_some());
        assert!(logins.changed().now_or_never().is_none(), "nothing new");
        restored.restore(&logins.all());
        let again = Startup::new([("application_name", "two"), ("user", "app")]);
        let known = restored.recall(&again).unwrap();
        assert_eq!(known.facts, [Some("app".to_owned()), None]);
        let told = known.parameters(&again);
        assert_eq!(statuses(&told)[0].1, "two");
        assert_eq!(statuses(&told)[1].1, "UTC");
        let other = Startup::new([("user", "app"), ("options", "-c search_path=x")]);
        assert_eq!(restored.recall(&other), None);
        restored.forget(&again);
        assert_eq!(restored.recall(&first), None);
        assert!(restored.changed().now_or_never().is_some());
    }

    #[test]
    fn what_is_damaged_says_nothing() {
        let logins = Logins::default();
        logins.restore(b"[[{\"user\":");
        assert_eq!(logins.recall(&Startup::new([("user", "app")])), None);
    }
}
