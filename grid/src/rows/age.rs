//! How old loaded rows may become. Decides only: the time is an argument, and whoever reads asks for it only where a table has a bound.
//!
//! Ages err to one side: a row counts as too old up to two ticks early, never late.

use std::sync::Arc;
use std::time::Duration;

/// A clock that never goes back, in milliseconds since some start.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Length of a [`Tick`]. Four bytes of them are kept per row and wrap after 497 days.
const TICK_MS: u64 = 10;

/// A moment of the clock; wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(u32);

impl Tick {
    /// The tick under way at a time of [`Clock`].
    pub fn at(ms: u64) -> Tick {
        Tick((ms / TICK_MS) as u32)
    }
}

/// How long after its load a row may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry(u32);

impl Expiry {
    /// Longer than half the range of ticks is as long: rows that old are swept long before their ticks come round again.
    pub fn after(age: Duration) -> Expiry {
        let ticks = age.as_millis() / u128::from(TICK_MS);
        Expiry(u32::try_from(ticks).map_or(u32::MAX / 2, |ticks| ticks.min(u32::MAX / 2)))
    }

    /// Whether a row that was loaded then may be too old now. Both ends are rounded down, hence the difference of ticks is too small by less than one.
    pub fn is_over(self, loaded: Tick, now: Tick) -> bool {
        now.0.wrapping_sub(loaded.0) >= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_is_older_than_its_expiry_and_none_is_given_up_long_before() {
        for expiry_ms in [10, 25, 1000, 1009] {
            let expiry = Expiry::after(Duration::from_millis(expiry_ms));
            for loaded in 0..30 {
                for age in 0..1100 {
                    let over = expiry.is_over(Tick::at(loaded), Tick::at(loaded + age));
                    assert!(over || age < expiry_ms, "{expiry_ms} {loaded} {age}");
                    assert!(
                        !over || age + 2 * TICK_MS > expiry_ms,
                        "{expiry_ms} {loaded} {age}"
                    );
                }
            }
        }
    }

    #[test]
    fn ticks_come_round_and_long_expiries_are_cut() {
        let minute = Expiry::after(Duration::from_secs(60));
        let before = Tick(u32::MAX - 5);
        assert!(!minute.is_over(before, Tick(100)));
        assert!(minute.is_over(before, Tick(6_000)));
        let year = Duration::from_secs(365 * 24 * 3600);
        assert_eq!(Expiry::after(year), Expiry(u32::MAX / 2));
        assert_eq!(Expiry::after(Duration::MAX), Expiry(u32::MAX / 2));
    }
}
