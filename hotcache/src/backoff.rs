//! How long to wait before the next attempt to connect. Decides; chance is an argument.

use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};
use std::time::Duration;

/// Doubling pauses with jitter.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after another failure; `chance` in 0..1 spreads clients that failed together over the upper half.
    pub fn failed(&mut self, chance: f64) -> Duration {
        let doubled = BACKOFF_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        doubled.min(BACKOFF_MAX).mul_f64(0.5 + 0.5 * chance)
    }

    /// The attempt succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.failed(1.0), BACKOFF_MIN);
        assert_eq!(backoff.failed(1.0), BACKOFF_MIN * 2);
        assert_eq!(backoff.failed(0.0), BACKOFF_MIN * 2);
        let last = (0..100).map(|_| backoff.failed(1.0)).last();
        assert_eq!(last, Some(BACKOFF_MAX));
        backoff.reset();
        assert_eq!(backoff.failed(1.0), BACKOFF_MIN);
    }
}
