//! What the variable `RIPEN_FAILPOINTS` asks for, and who has been there. Not compiled into a release.

use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

static POINTS: LazyLock<Vec<Point>> = LazyLock::new(|| {
    let text = std::env::var("RIPEN_FAILPOINTS").unwrap_or_default();
    let parts = text.split(',').map(str::trim);
    let points = parts.filter(|part| !part.is_empty()).map(str::parse);
    points
        .collect::<Result<_, String>>()
        .expect("RIPEN_FAILPOINTS is NAME=kill|cut|on[@N], separated by commas")
});

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Kill,
    Cut,
    /// Nothing happens there, it is only named.
    On,
}

#[derive(Debug)]
struct Point {
    name: String,
    action: Action,
    /// The action follows when this reaches 0.
    left: AtomicU32,
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        let bad = || format!("not a failpoint: {text}");
        let (name, rest) = text.split_once('=').ok_or_else(bad)?;
        let (action, times) = rest.split_once('@').unwrap_or((rest, "1"));
        let action = match action {
            "kill" => Action::Kill,
            "cut" => Action::Cut,
            "on" => Action::On,
            _ => return Err(bad()),
        };
        Ok(Point {
            name: name.to_owned(),
            action,
            left: AtomicU32::new(times.parse().map_err(|_| bad())?),
        })
    }
}

/// Whether the connection at hand is to be cut.
pub(super) fn reach(name: &str) -> bool {
    let due = POINTS.iter().find(|point| point.due(name));
    let Some(point) = due else {
        return false;
    };
    eprintln!("failpoint {name}: {:?}", point.action);
    if point.action == Action::Kill {
        // As SIGKILL: nothing is written, closed or told any more.
        std::process::abort();
    }
    point.action == Action::Cut
}

pub(super) fn any(name: &str) -> bool {
    POINTS.iter().any(|point| point.name == name)
}

impl Point {
    /// True once: when the place is reached for the last of the times.
    fn due(&self, name: &str) -> bool {
        let counted = |left: u32| left.checked_sub(1);
        let less = || {
            self.left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, counted)
        };
        self.name == name && less() == Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_due_once_when_it_was_reached_often_enough() {
        let point: Point = "here=cut@2".parse().unwrap();
        let due = ["here", "there", "here", "here"].map(|name| point.due(name));
        assert_eq!(due, [false, false, true, false]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in ["here", "here=stop", "here=kill@x", "=kill@-1"] {
            assert!(text.parse::<Point>().is_err(), "{text}");
        }
    }
}
