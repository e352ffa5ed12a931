//! Hashing whose results are the same on every machine and in every version: which endpoint a key belongs to must not
//! change with the processor, as it would with `ahash`. Nothing here resists someone who chooses the input; keys from
//! outside arrive hashed.

/// SplitMix64's finalizer: every bit of the input changes every bit of the output with probability one half.
pub fn one(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

pub fn pair(a: u64, b: u64) -> u64 {
    one(a ^ one(b.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

/// FNV-1a, finished.
pub fn text(text: &str) -> u64 {
    one(text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3)))
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Draws(pub u64);

impl Draws {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        one(self.0)
    }
    /// A number below `n`, which must not be 0. Biased by at most n / 2^32.
    pub fn below(&mut self, n: usize) -> usize {
        (((self.draw() >> 32) * n as u64) >> 32) as usize
    }
    /// From 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}
