//! Chance that a seed repeats: a linear congruential generator (Knuth's MMIX).

/// What comes next depends on nothing but the seed.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The chance of a seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    /// A number between zero and one.
    pub fn share(&mut self) -> f64 {
        self.next() as f64 / f64::from(u32::MAX >> 1)
    }

    /// Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// The upper 31 bits: the lower ones of such a generator are no chance.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}
