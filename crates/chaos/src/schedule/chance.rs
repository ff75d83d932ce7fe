//! Seeded chance: splitmix64, so that a seed means the same run with any version of any crate.

/// A stream of numbers that its seed decides.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The stream of a seed; unlike `purpose`s give unlike streams.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut chance = Self(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        chance.next();
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 or more, less than 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// A place below `len`, which must not be 0.
    pub fn below(&mut self, len: usize) -> usize {
        (self.next() % len as u64) as usize
    }

    /// True so many times of a hundred.
    pub fn percent(&mut self, share: u64) -> bool {
        self.next() % 100 < share
    }

    /// Exponentially distributed around `mean`, at most eight times it.
    pub fn around(&mut self, mean: f64) -> f64 {
        (-(1.0 - self.unit()).ln() * mean).min(mean * 8.0)
    }

    /// One of several, by weight; there must be one.
    pub fn weighted<'a, T>(&mut self, all: &'a [(T, u64)]) -> &'a T {
        let total: u64 = all.iter().map(|(_, weight)| weight).sum();
        let mut at = self.next() % total;
        for (what, weight) in all {
            if at < *weight {
                return what;
            }
            at -= weight;
        }
        &all[0].0
    }
}
