//! A route's traffic shared among services by weight: `to = { users = 95, users-v2 = 5 }`.
//!
//! Weighted rendezvous hashing: every service draws from the key, and the best draw wins. A changed weight then moves
//! only the keys that the change is about, whatever the order or the number of services.

use super::mix;

#[derive(Debug, Clone)]
pub struct Split(Box<[Share]>);

#[derive(Debug, Clone)]
struct Share {
    seed: u64,
    weight: f64,
}

impl Split {
    /// Names and weights; a weight of 0 gets nothing.
    pub fn new<'a>(shares: impl IntoIterator<Item = (&'a str, u32)>) -> Split {
        Split(shares.into_iter().map(|(n, w)| Share { seed: mix::text(n), weight: w as f64 }).collect())
    }

    /// The index of the share that this key (or random number) belongs to; `None` if all weights are 0.
    pub fn pick(&self, key: u64) -> Option<usize> {
        if let [one] = &*self.0 {
            return (one.weight > 0.0).then_some(0);
        }
        let drawn = self.0.iter().enumerate().filter(|(_, s)| s.weight > 0.0).map(|(i, s)| (i, s.draw(key)));
        drawn.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
    }
}

impl Share {
    /// An exponential variable whose rate is the weight: the smallest of several is this one with the probability of
    /// its share of the weights.
    fn draw(&self, key: u64) -> f64 {
        // 53 bits and a half: never 0, never 1.
        let unit = ((mix::pair(self.seed, key) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -unit.ln() / self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 100_000;

    fn shares(split: &Split, of: usize) -> Vec<f64> {
        let mut count = vec![0; of];
        (0..KEYS).for_each(|k| count[split.pick(k).expect("a weight above 0")] += 1);
        count.into_iter().map(|c| c as f64 / KEYS as f64).collect()
    }

    #[test]
    fn weights_are_respected() {
        let got = shares(&Split::new([("users", 95), ("users-v2", 5)]), 2);
        assert!((got[1] - 0.05).abs() < 0.004, "{got:?}");
        let got = shares(&Split::new([("a", 1), ("b", 2), ("c", 0), ("d", 7)]), 4);
        assert!((got[1] - 0.2).abs() < 0.01 && got[2] == 0.0 && (got[3] - 0.7).abs() < 0.01, "{got:?}");
        assert_eq!(Split::new([("a", 0)]).pick(1), None);
        assert_eq!(Split::new([("a", 0), ("b", 0)]).pick(1), None);
    }

    #[test]
    fn a_changed_weight_moves_only_what_it_must() {
        let before = Split::new([("a", 50), ("b", 45), ("c", 5)]);
        let after = Split::new([("c", 10), ("a", 50), ("b", 40)]);
        let name = |i: Option<usize>, names: [&'static str; 3]| names[i.expect("a weight above 0")];
        let mut moved = 0;
        for key in 0..KEYS {
            let (old, new) = (name(before.pick(key), ["a", "b", "c"]), name(after.pick(key), ["c", "a", "b"]));
            if old != new {
                moved += 1;
                assert!(new == "c" || old == "b", "{old} to {new}: neither shrank nor grew");
            }
        }
        // c gains 5 %, b loses 5 %; some keys go from b to a and from a to c.
        assert!((0.04..0.10).contains(&(moved as f64 / KEYS as f64)), "{moved}");
    }
}
