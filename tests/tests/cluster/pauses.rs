//! How long writes and reads paused: of clients that only write, or only read, the longest time between two answers. Measures and tells; demands nothing.

use super::load::{Notes, Part, Role};
use std::io::Write;
use std::time::Duration;

/// Of one kind of fault, over all rounds.
pub struct Pauses {
    what: &'static str,
    writes: Vec<Duration>,
    reads: Vec<Duration>,
    answers: usize,
}

impl Pauses {
    pub fn of(what: &'static str) -> Pauses {
        Pauses {
            what,
            writes: Vec::new(),
            reads: Vec::new(),
            answers: 0,
        }
    }

    /// Takes note of a round: the longest pause of any of these clients that ended after `from`.
    pub fn note(
        &mut self,
        notes: &[Notes],
        from: Duration,
        to: Duration,
        of: impl Fn(&Part) -> bool,
    ) {
        let longest = |role: Role| {
            let clients = notes
                .iter()
                .filter(|client| client.part.role == role && of(&client.part));
            clients
                .filter_map(|client| longest(&client.answers, from, to))
                .max()
        };
        let writes = longest(Role::Writer).max(longest(Role::Queuer));
        self.writes.extend(writes);
        self.reads.extend(longest(Role::Reader));
        self.answers += notes
            .iter()
            .map(|client| client.answers.len())
            .sum::<usize>();
    }
}

fn longest(answers: &[Duration], from: Duration, to: Duration) -> Option<Duration> {
    let ends = answers.iter().copied().filter(|at| *at < to).chain([to]);
    let begins = [Duration::ZERO].into_iter().chain(answers.iter().copied());
    let after = begins.zip(ends).filter(|(_, end)| *end >= from);
    after.map(|(begin, end)| end.saturating_sub(begin)).max()
}

fn median_and_worst(pauses: &[Duration]) -> String {
    let mut sorted = pauses.to_vec();
    sorted.sort();
    let ms = |at: Option<&Duration>| at.map_or("-".to_owned(), |time| time.as_millis().to_string());
    format!(
        "median {} worst {} ms",
        ms(sorted.get(sorted.len().saturating_sub(1) / 2)),
        ms(sorted.last())
    )
}

impl Drop for Pauses {
    fn drop(&mut self) {
        if self.writes.is_empty() {
            return;
        }
        let _ = writeln!(
            std::io::stderr(),
            "cluster: {}: writes paused {}, reads {} ({} rounds, {} answers)",
            self.what,
            median_and_worst(&self.writes),
            median_and_worst(&self.reads),
            self.writes.len(),
            self.answers
        );
    }
}
