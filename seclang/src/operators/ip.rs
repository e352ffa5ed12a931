//! `@ipMatch`: addresses and networks, both families.

use std::net::IpAddr;

#[derive(Debug, Default)]
pub struct IpSet(Vec<(IpAddr, u8)>);

impl IpSet {
    pub fn parse<'a>(items: impl Iterator<Item = &'a str>) -> Result<IpSet, String> {
        let mut set = Vec::new();
        for item in items.map(str::trim).filter(|i| !i.is_empty()) {
            let bad = || format!("address {item:?}: expected an address or a network in CIDR form");
            let (address, length) = match item.split_once('/') {
                Some((a, l)) => (a, Some(l.parse::<u8>().map_err(|_| bad())?)),
                None => (item, None),
            };
            let address: IpAddr = address.parse().map_err(|_| bad())?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let length = length.unwrap_or(most);
            if length > most {
                return Err(bad());
            }
            set.push((address, length));
        }
        Ok(IpSet(set))
    }

    pub fn holds(&self, text: &str) -> bool {
        let Ok(address) = text.parse::<IpAddr>() else { return false };
        let address = address.to_canonical();
        self.0.iter().any(|&(network, length)| within(address, network, length))
    }
}

fn within(address: IpAddr, network: IpAddr, length: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            (a.to_bits() ^ n.to_bits()).checked_shr(32 - u32::from(length)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            (a.to_bits() ^ n.to_bits()).checked_shr(128 - u32::from(length)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let set = IpSet::parse("10.0.0.0/8,::1,192.168.1.7".split(',')).unwrap();
        assert!(set.holds("10.2.3.4") && set.holds("::1") && set.holds("192.168.1.7"));
        assert!(!set.holds("11.0.0.1") && !set.holds("::2") && !set.holds("x"));
        assert!(IpSet::parse(["0.0.0.0/0"].into_iter()).unwrap().holds("8.8.8.8"));
        assert!(IpSet::parse(["10.0.0.0/33"].into_iter()).is_err());
    }
}
