//! Chance, all of it from the seed: also what tokio, openraft and the standard library draw for themselves. They ask the C library, whose function is replaced here; this is
//! why each seed is run in a process of its own.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A stream of numbers that depend on the seed alone (SplitMix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Any.
    pub fn number(&mut self) -> u64 {
        self.next()
    }

    /// A stream of its own.
    pub fn fork(&mut self) -> Chance {
        Chance(self.next())
    }

    /// Less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn range(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// Once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// 0..1.
    pub fn part(&mut self) -> f64 {
        self.below(1 << 32) as f64 / (1u64 << 32) as f64
    }
}

static SEED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// What others draw for themselves depends on this from now on.
pub fn seed_all(seed: u64) {
    SEED.store(seed, Ordering::SeqCst);
    DRAWN.set(0);
}

/// In place of the C library's.
///
/// # Safety
/// As there: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
#[allow(
    unsafe_code,
    reason = "the C library's function of that name cannot be replaced otherwise"
)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    let drawn = DRAWN.get();
    DRAWN.set(drawn + 1);
    let mut chance = Chance::new(SEED.load(Ordering::SeqCst) ^ drawn.wrapping_mul(0x2545_f491));
    // SAFETY: whoever calls says that the buffer is so long.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for byte in bytes {
        *byte = chance.below(256) as u8;
    }
    length as isize
}
