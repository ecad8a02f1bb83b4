//! Which address a request comes from, when there are proxies in between.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    bits: u128,
    prefix: u32,
}

/// The proxies whose `X-Forwarded-For` is believed; nobody's by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    /// Believes these networks.
    #[must_use]
    pub fn new(networks: Vec<Network>) -> TrustedProxies {
        TrustedProxies(networks)
    }

    /// The client's address: the peer, or what the last untrusted hop of `forwarded` says when the peer is trusted.
    ///
    /// Each proxy appends the address that it was asked from, so the list is read from its end; what stands before the
    /// first untrusted hop was written by strangers. A hop that is no address ends the walk: the one after it counts.
    pub(crate) fn client<'a>(&self, peer: IpAddr, forwarded: impl Iterator<Item = &'a str>) -> IpAddr {
        let mut client = peer.to_canonical();
        for hop in forwarded.flat_map(|list| list.split(',')).collect::<Vec<_>>().into_iter().rev() {
            if !self.trusts(client) {
                break;
            }
            match hop_address(hop.trim()) {
                Some(address) => client = address.to_canonical(),
                None => break,
            }
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

/// An address with or without a port, brackets around IPv6 as proxies write them.
fn hop_address(text: &str) -> Option<IpAddr> {
    let socket = || text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(socket).or_else(bracketed)
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        self.prefix == 0 || (bits(address) ^ self.bits) >> (128 - self.prefix) == 0
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no network; write for example 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        // An IPv4 network is the part of the mapped addresses, whose first 96 bits are all the same.
        let (before, own) = if address.is_ipv4() { (96, 32) } else { (0, 128) };
        let prefix: u32 = prefix.map_or(Ok(own), |prefix| prefix.trim().parse()).map_err(|_| wrong())?;
        if prefix > own {
            return Err(wrong());
        }
        Ok(Network { bits: bits(address), prefix: before + prefix })
    }
}

fn bits(address: IpAddr) -> u128 {
    let mapped: Ipv6Addr = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    mapped.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let networks = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let proxies = TrustedProxies::new(networks);
        proxies.client(peer.parse().unwrap(), forwarded.iter().copied()).to_string()
    }

    #[test]
    fn a_forwarded_address_counts_only_behind_trusted_proxies() {
        for (trusted, peer, forwarded, expected) in [
            (&[][..], "192.0.2.1", &["198.51.100.9"][..], "192.0.2.1"),
            (&["10.0.0.0/8"], "192.0.2.1", &["198.51.100.9"], "192.0.2.1"),
            (&["10.0.0.0/8"], "10.1.2.3", &["198.51.100.9"], "198.51.100.9"),
            (&["10.0.0.0/8"], "10.1.2.3", &["1.1.1.1, 198.51.100.9, 10.9.9.9"], "198.51.100.9"),
            (&["10.0.0.0/8"], "10.1.2.3", &["1.1.1.1", "198.51.100.9:4711"], "198.51.100.9"),
            (&["10.0.0.0/8"], "::ffff:10.1.2.3", &["[2001:db8::7]"], "2001:db8::7"),
            (&["10.0.0.0/8"], "10.1.2.3", &["198.51.100.9, nonsense"], "10.1.2.3"),
            (&["10.0.0.0/8"], "10.1.2.3", &[], "10.1.2.3"),
            (&["2001:db8::/32", "127.0.0.1"], "2001:db8::1", &["203.0.113.5, 127.0.0.1"], "203.0.113.5"),
            (&["0.0.0.0/0"], "10.1.2.3", &["5.5.5.5, 6.6.6.6"], "5.5.5.5"),
        ] {
            assert_eq!(client(trusted, peer, forwarded), expected, "{trusted:?} {peer} {forwarded:?}");
        }
    }

    #[test]
    fn a_wrong_network_is_refused_with_an_example() {
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "host"] {
            assert!(wrong.parse::<Network>().unwrap_err().contains("10.0.0.0/8"), "{wrong}");
        }
    }
}
