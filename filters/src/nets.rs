//! A set of address blocks that is asked once per request and may be long.
//!
//! Blocks become sorted ranges that do not touch, so a look-up is one binary search, however many were written; a list
//! of a hundred thousand blocks costs some seventeen comparisons.

use crate::units::Cidr;
use ipnet::IpNet;
use std::net::IpAddr;

/// A set of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nets {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Nets {
    pub fn new<'a>(blocks: impl IntoIterator<Item = &'a Cidr>) -> Nets {
        let (mut v4, mut v6) = (vec![], vec![]);
        for block in blocks {
            match block.0 {
                IpNet::V4(n) => v4.push((n.network().to_bits(), n.broadcast().to_bits())),
                IpNet::V6(n) => {
                    let (from, to) = (n.network(), n.broadcast());
                    // `::ffff:10.0.0.0/104` means 10.0.0.0/8: addresses are compared in their IPv4 form.
                    match (from.to_ipv4_mapped(), to.to_ipv4_mapped()) {
                        (Some(from), Some(to)) => v4.push((from.to_bits(), to.to_bits())),
                        _ => v6.push((from.to_bits(), to.to_bits())),
                    }
                }
            }
        }
        Nets { v4: joined(v4, |n| n.checked_add(1)), v6: joined(v6, |n| n.checked_add(1)) }
    }

    /// An IPv4 address that arrives mapped into IPv6 counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => within(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => within(&self.v6, ip.to_bits()),
        }
    }
}

fn within<N: Ord + Copy>(ranges: &[(N, N)], n: N) -> bool {
    let after = ranges.partition_point(|&(from, _)| from <= n);
    after > 0 && n <= ranges[after - 1].1
}

/// Sorted, and those that overlap or touch made one.
fn joined<N: Ord + Copy>(mut ranges: Vec<(N, N)>, next: impl Fn(N) -> Option<N>) -> Box<[(N, N)]> {
    ranges.sort_unstable();
    let mut all: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match all.last_mut() {
            Some(last) if next(last.1).is_none_or(|n| from <= n) => last.1 = last.1.max(to),
            _ => all.push((from, to)),
        }
    }
    all.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn nets(blocks: &[&str]) -> Nets {
        Nets::new(&blocks.iter().map(|b| b.parse().unwrap()).collect::<Vec<Cidr>>())
    }

    #[test]
    fn edges_and_families() {
        let n = nets(&["10.0.0.0/8", "192.168.0.1", "2001:db8::/32", "::ffff:172.16.0.0/108"]);
        for inside in ["10.0.0.0", "10.255.255.255", "::ffff:10.1.1.1", "192.168.0.1", "2001:db8::1", "172.31.0.1"] {
            assert!(n.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["9.255.255.255", "11.0.0.0", "192.168.0.2", "2001:db9::", "::10.0.0.1", "172.32.0.0"] {
            assert!(!n.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(!Nets::default().contains(Ipv4Addr::LOCALHOST.into()));
        assert!(nets(&["0.0.0.0/0"]).contains(Ipv4Addr::BROADCAST.into()));
        assert!(!nets(&["0.0.0.0/0"]).contains(Ipv6Addr::LOCALHOST.into()));
    }

    proptest! {
        #[test]
        fn agrees_with_asking_every_block(blocks in prop::collection::vec((0..4096_u32, 20..=32_u8), 0..24), ip in 0..4096_u32) {
            let blocks: Vec<Cidr> = blocks.iter()
                .map(|(a, len)| format!("{}/{len}", Ipv4Addr::from_bits(*a)).parse().unwrap()).collect();
            let ip = IpAddr::from(Ipv4Addr::from_bits(ip));
            prop_assert_eq!(Nets::new(&blocks).contains(ip), blocks.iter().any(|b| b.contains(ip)));
        }
    }
}
