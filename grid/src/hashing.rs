//! How rows and tables are hashed: as foldhash does, with seeds that come from where the standard library has its own. That is the system's source of chance, so a
//! simulation that is that source places rows the same each time.

use foldhash::SharedSeed;
use foldhash::quality::{FoldHasher, SeedableRandomState};
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// The hasher of maps by things that clients name. Each made by `default` has a seed of its own.
#[derive(Clone, Debug)]
pub struct Seeded(SeedableRandomState);

fn drawn() -> u64 {
    RandomState::new().hash_one(0u64)
}

impl Default for Seeded {
    fn default() -> Seeded {
        static SHARED: OnceLock<SharedSeed> = OnceLock::new();
        let shared = SHARED.get_or_init(|| SharedSeed::from_u64(drawn()));
        Seeded(SeedableRandomState::with_seed(drawn(), shared))
    }
}

impl BuildHasher for Seeded {
    type Hasher = FoldHasher<'static>;

    #[inline]
    fn build_hasher(&self) -> FoldHasher<'static> {
        self.0.build_hasher()
    }
}
