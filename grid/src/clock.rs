//! What time it is for what is pending. Decides only: the wall clock, the log's clock and a steady one are arguments.
//!
//! The log's clock never goes back, the wall clock may (it was wrong, or is wrong now). While the log is ahead, its time counts, and goes on with the
//! steady clock: rows would else stay unripe until the wall clock has caught up, for hours or years.

use std::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct QueueClock {
    /// The log's time when it was first seen ahead, and when that was.
    ahead: Option<(u64, Instant)>,
}

impl QueueClock {
    /// The time in unix milliseconds, not before the log's last entry.
    pub fn now_ms(&mut self, wall_ms: u64, log_ms: u64, steady: Instant) -> u64 {
        if wall_ms >= log_ms {
            self.ahead = None;
            return wall_ms;
        }
        let (from_ms, since) = match self.ahead {
            Some((from_ms, since)) if from_ms >= log_ms => (from_ms, since),
            _ => (log_ms, steady),
        };
        self.ahead = Some((from_ms, since));
        let passed = steady.saturating_duration_since(since);
        from_ms.saturating_add(passed.as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_wall_clock_that_was_set_back_does_not_stop_the_time() {
        let (mut clock, start) = (QueueClock::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(clock.now_ms(10_000, 9_990, after(0)), 10_000);
        assert_eq!(clock.now_ms(5_000, 10_000, after(10)), 10_000);
        assert_eq!(clock.now_ms(5_300, 10_000, after(310)), 10_300);
        // The log's own clock stands still until then.
        assert_eq!(clock.now_ms(10_001, 10_000, after(5_011)), 10_001);
        assert_eq!(clock.now_ms(6_000, 10_500, after(6_000)), 10_500);
        assert_eq!(clock.now_ms(6_000, 11_000, after(6_100)), 11_000);
        assert_eq!(clock.now_ms(6_000, 11_000, after(6_150)), 11_050);
    }
}
