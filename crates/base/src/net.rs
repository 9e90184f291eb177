//! IP addresses: CIDR sets, trusted proxies, the client's address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use derive_more::Display;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::error::InvalidValue;

/// Returns the range of one subscriber as its first address: an IPv4 address itself, or the /64 of
/// an IPv6 address, any address of which the client may use (RFC 6177).
pub fn subscriber(client: IpAddr) -> IpAddr {
    truncated(client, 32, 64)
}

/// Returns the neighbourhood of a client as its first address: the /24 of IPv4, the /48 of IPv6.
pub fn neighbourhood(client: IpAddr) -> IpAddr {
    truncated(client, 24, 48)
}

/// Keeps the first bits of an address and zeroes all others.
fn truncated(client: IpAddr, v4_bits: u32, v6_bits: u32) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << (32 - v4_bits))).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - v6_bits))).into(),
    }
}

/// A network such as `10.0.0.0/8`, or a single address.
///
/// IPv4 networks written as IPv4-mapped IPv6 are kept as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, JsonSchema)]
#[schemars(
    description = "an address such as `10.0.0.1`, or a network such as `10.0.0.0/8` or `fd00::/8`"
)]
pub struct Cidr(#[schemars(with = "String")] IpNet);

impl FromStr for Cidr {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let refuse = |why: &str, help: String| {
            InvalidValue::new(format!("invalid network `{text}`: {why}"), help)
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| {
            refuse(
                "it does not begin with an address",
                "write an address such as `10.0.0.1`, or a network such as `10.0.0.0/8`".to_owned(),
            )
        })?;
        let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
        let net = match prefix {
            None => Some(longest),
            Some(prefix) => prefix.parse().ok(),
        }
        .and_then(|prefix| IpNet::new(address, prefix).ok())
        .ok_or_else(|| {
            refuse(
                "invalid prefix length",
                format!("write a whole number from 0 to {longest} after the `/`"),
            )
        })?;
        if net.trunc() != net {
            return Err(refuse(
                "bits are set beyond the prefix",
                format!(
                    "write `{}` for the network, or `{address}` for the one address",
                    net.trunc()
                ),
            ));
        }
        Ok(Self(canonical(net)))
    }
}

impl Cidr {
    /// Returns the first address, and the number of bits that all addresses have in common.
    pub fn parts(self) -> (IpAddr, u8) {
        (self.0.network(), self.0.prefix_len())
    }
}

/// Turns `::ffff:10.0.0.0/104` into `10.0.0.0/8`.
fn canonical(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.network().to_ipv4_mapped()
        && let Some(prefix) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(v4, prefix)
    {
        return IpNet::V4(v4);
    }
    net
}

/// Returns the address of the network with this prefix that an address is in; `None` if the prefix
/// is too long for it.
pub fn network_of(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    Some(IpNet::new(address, prefix).ok()?.network())
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|error: InvalidValue| {
            de::Error::custom(format!("{error}\nhelp: {}", error.help))
        })
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A set of networks with fast membership tests.
///
/// Kept as sorted ranges that do not overlap, so a lookup is one binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrSet {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl FromIterator<Cidr> for CidrSet {
    fn from_iter<I: IntoIterator<Item = Cidr>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for Cidr(network) in networks {
            match network {
                IpNet::V4(network) => v4.push(network),
                IpNet::V6(network) => v6.push(network),
            }
        }
        Self {
            v4: Ipv4Net::aggregate(&v4)
                .iter()
                .map(|n| (n.network().to_bits(), n.broadcast().to_bits()))
                .collect(),
            v6: Ipv6Net::aggregate(&v6)
                .iter()
                .map(|n| (n.network().to_bits(), n.broadcast().to_bits()))
                .collect(),
        }
        .sorted()
    }
}

impl CidrSet {
    fn sorted(mut self) -> Self {
        self.v4.sort_unstable();
        self.v6.sort_unstable();
        self
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Returns true if a network contains `address`. IPv4-mapped IPv6 addresses count as IPv4.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => in_ranges(&self.v4, address.to_bits()),
            IpAddr::V6(address) => in_ranges(&self.v6, address.to_bits()),
        }
    }
}

#[inline]
fn in_ranges<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after > 0 && address <= ranges[after - 1].1
}

/// Proxies in front of the gateway whose forwarding headers are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(CidrSet);

/// Limit on the hops read, more than any real chain has.
pub const MAX_HOPS: usize = 16;

impl TrustedProxies {
    pub fn new(networks: CidrSet) -> Self {
        Self(networks)
    }

    #[inline]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Returns the chain that ends in `peer`, nearest hop first: the addresses of `X-Forwarded-For`
    /// as far as trusted hops vouch for them. The last one is the client.
    ///
    /// `lines` are the values of all `X-Forwarded-For` lines in the order of the header section.
    /// They are read from right to left: trusted hops are skipped, the first untrusted one is the
    /// client. An entry that is not an address ends the walk at the last valid one, since the
    /// entries left of it cannot be trusted.
    pub fn walk<'a>(&self, peer: IpAddr, lines: impl DoubleEndedIterator<Item = &'a [u8]>) -> Hops {
        let mut hops = Hops::new(peer.to_canonical());
        if !self.trusts(peer) {
            return hops;
        }
        for entry in lines.rev().flat_map(|line| line.rsplit(|b| *b == b',')) {
            let entry = entry.trim_ascii();
            if entry.is_empty() {
                continue; // RFC 9110, 5.6.1: empty list elements are ignored.
            }
            let Some(address) = parse_hop(entry) else {
                break;
            };
            if !hops.push(address) || !self.trusts(address) {
                break;
            }
        }
        hops
    }
}

/// Addresses from the peer to the client, at most [`MAX_HOPS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hops {
    list: [IpAddr; MAX_HOPS],
    length: usize,
}

impl Hops {
    fn new(peer: IpAddr) -> Self {
        Self {
            list: [peer; MAX_HOPS],
            length: 1,
        }
    }

    /// Adds a hop; returns false once the list is full.
    fn push(&mut self, address: IpAddr) -> bool {
        let Some(slot) = self.list.get_mut(self.length) else {
            return false;
        };
        *slot = address;
        self.length += 1;
        true
    }

    pub fn client(&self) -> IpAddr {
        self.list[self.length - 1]
    }

    /// Returns the chain, the peer first, the client last.
    pub fn as_slice(&self) -> &[IpAddr] {
        &self.list[..self.length]
    }
}

/// Parses an entry of `X-Forwarded-For`: an address, optionally with a port, brackets or quotes.
pub fn parse_hop(entry: &[u8]) -> Option<IpAddr> {
    // The longest is `"[` + 45 characters of IPv6 + `]:65535"`.
    if entry.len() > 55 {
        return None;
    }
    let text = std::str::from_utf8(entry).ok()?;
    let text = text
        .strip_prefix('"')
        .and_then(|t| t.strip_suffix('"'))
        .unwrap_or(text);
    let address: IpAddr = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() && port.strip_prefix(':')?.parse::<u16>().is_err() {
            return None;
        }
        address.parse::<Ipv6Addr>().ok()?.into()
    } else if let Some((address, port)) = text.split_once(':')
        && !port.contains(':')
    {
        port.parse::<u16>().ok()?;
        address.parse::<Ipv4Addr>().ok()?.into()
    } else {
        text.parse().ok()?
    };
    Some(address.to_canonical())
}

/// The text of an address, formatted without an allocation.
#[derive(Clone, Copy, derive_more::Debug)]
#[debug("{}", self.as_str())]
pub struct IpText {
    bytes: [u8; Self::MAX],
    length: u8,
}

impl IpText {
    /// Longest text: `::ffff:255.255.255.255` is shorter than eight full groups.
    pub const MAX: usize = 39;

    pub fn new(address: IpAddr) -> Self {
        let mut text = Self {
            bytes: [0; Self::MAX],
            length: 0,
        };
        match address {
            IpAddr::V4(address) => {
                for (index, octet) in address.octets().into_iter().enumerate() {
                    if index > 0 {
                        text.push(b'.');
                    }
                    if octet >= 100 {
                        text.push(b'0' + octet / 100);
                    }
                    if octet >= 10 {
                        text.push(b'0' + octet / 10 % 10);
                    }
                    text.push(b'0' + octet % 10);
                }
            }
            IpAddr::V6(address) => {
                use fmt::Write as _;
                write!(text, "{address}").expect("no IPv6 text is longer than the buffer");
            }
        }
        text
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        self.bytes[usize::from(self.length)] = byte;
        self.length += 1;
    }

    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Write for IpText {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let start = usize::from(self.length);
        let end = start + piece.len();
        self.bytes
            .get_mut(start..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(piece.as_bytes());
        self.length = u8::try_from(end).map_err(|_| fmt::Error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clients_are_distinguished_by_the_network_of_one_subscriber() {
        for (client, own, around) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.0"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::", "2001:db8:1::"),
        ] {
            let address: IpAddr = client.parse().unwrap();
            assert_eq!(subscriber(address).to_string(), own, "{client}");
            assert_eq!(neighbourhood(address).to_string(), around, "{client}");
        }
    }

    fn set(networks: &[&str]) -> CidrSet {
        networks
            .iter()
            .map(|n| n.parse::<Cidr>().unwrap())
            .collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn client(trusted: &[&str], peer: &str, lines: &[&str]) -> String {
        TrustedProxies::new(set(trusted))
            .walk(ip(peer), lines.iter().map(|l| l.as_bytes()))
            .client()
            .to_string()
    }

    #[test]
    fn networks_and_bare_addresses_read() {
        let set = set(&["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1"]);
        for inside in [
            "10.255.0.1",
            "192.0.2.7",
            "fd12::1",
            "::1",
            "::ffff:10.1.1.1",
        ] {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        for outside in ["11.0.0.0", "9.255.255.255", "192.0.2.8", "fe80::1", "::2"] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
        assert!(!CidrSet::default().contains(ip("127.0.0.1")));
    }

    #[test]
    fn a_mapped_network_is_an_ipv4_network() {
        assert_eq!("::ffff:10.0.0.0/104".parse(), "10.0.0.0/8".parse::<Cidr>());
        assert_eq!("::ffff:10.0.0.1".parse(), "10.0.0.1/32".parse::<Cidr>());
    }

    #[test]
    fn an_invalid_network_is_refused_with_a_remedy() {
        for (text, message, help) in [
            (
                "10.0.0.1/8",
                "invalid network `10.0.0.1/8`: bits are set beyond the prefix",
                "write `10.0.0.0/8` for the network, or `10.0.0.1` for the one address",
            ),
            (
                "10.0.0.0/33",
                "invalid network `10.0.0.0/33`: invalid prefix length",
                "write a whole number from 0 to 32 after the `/`",
            ),
            (
                "localhost",
                "invalid network `localhost`: it does not begin with an address",
                "write an address such as `10.0.0.1`, or a network such as `10.0.0.0/8`",
            ),
        ] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert_eq!(error.to_string(), message);
            assert_eq!(error.help, help);
        }
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_claims() {
        assert_eq!(client(&[], "192.0.2.1", &["6.6.6.6"]), "192.0.2.1");
        assert_eq!(
            client(&["10.0.0.0/8"], "192.0.2.1", &["6.6.6.6, 10.0.0.1"]),
            "192.0.2.1"
        );
    }

    #[test]
    fn trusted_hops_are_skipped_from_the_right() {
        let trusted = &["127.0.0.0/8", "10.0.0.0/8"];
        let walk = |lines: &[&str]| client(trusted, "127.0.0.1", lines);
        assert_eq!(walk(&["6.6.6.6, 203.0.113.9, 10.0.0.1"]), "203.0.113.9");
        assert_eq!(walk(&["6.6.6.6", "203.0.113.9", "10.0.0.1"]), "203.0.113.9");
        assert_eq!(walk(&["10.0.0.2, 10.0.0.1"]), "10.0.0.2");
        assert_eq!(walk(&[]), "127.0.0.1");
        assert_eq!(walk(&["", " , "]), "127.0.0.1");
    }

    #[test]
    fn a_malformed_entry_ends_the_walk_at_the_last_good_one() {
        let trusted = &["127.0.0.0/8", "10.0.0.0/8"];
        let walk = |line: &str| client(trusted, "127.0.0.1", &[line]);
        assert_eq!(walk("203.0.113.9, unknown, 10.0.0.1"), "10.0.0.1");
        assert_eq!(walk("203.0.113.9, <script>"), "127.0.0.1");
        assert_eq!(walk("203.0.113.9:99999"), "127.0.0.1");
        assert_eq!(walk("[2001:db8::1"), "127.0.0.1");
    }

    #[test]
    fn ports_brackets_and_quotes_are_tolerated() {
        for (entry, address) in [
            ("203.0.113.9:1234", "203.0.113.9"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("\"[2001:db8::1]:443\"", "2001:db8::1"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
        ] {
            assert_eq!(parse_hop(entry.as_bytes()), Some(ip(address)), "{entry}");
        }
    }

    #[test]
    fn a_chain_is_read_no_further_than_its_bound() {
        let line = vec!["10.0.0.1"; 500].join(", ");
        let hops = TrustedProxies::new(set(&["10.0.0.0/8"]))
            .walk(ip("10.0.0.9"), std::iter::once(line.as_bytes()));
        assert_eq!(hops.as_slice().len(), MAX_HOPS);
    }

    proptest! {
        #[test]
        fn a_set_contains_what_one_of_its_networks_contains(
            networks in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..20),
            addresses in proptest::collection::vec(any::<u32>(), 1..50),
        ) {
            let nets: Vec<Ipv4Net> = networks
                .iter()
                .map(|(bits, length)| Ipv4Net::new(Ipv4Addr::from_bits(*bits), *length).unwrap().trunc())
                .collect();
            let set: CidrSet = nets.iter().map(|n| Cidr(IpNet::V4(*n))).collect();
            for address in addresses.into_iter().chain(networks.iter().map(|n| n.0)) {
                let address = Ipv4Addr::from_bits(address);
                let expected = nets.iter().any(|n| n.contains(&address));
                prop_assert_eq!(set.contains(address.into()), expected);
                prop_assert_eq!(set.contains(address.to_ipv6_mapped().into()), expected);
            }
        }

        #[test]
        fn address_texts_are_those_of_the_standard_library(v4 in any::<u32>(), v6 in any::<u128>()) {
            let v4 = IpAddr::from(Ipv4Addr::from_bits(v4));
            let v6 = IpAddr::from(Ipv6Addr::from_bits(v6));
            for address in [v4, v6] {
                let text = IpText::new(address);
                prop_assert_eq!(text.as_str(), address.to_string());
            }
        }

        #[test]
        fn no_entry_panics(entry in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _unused = parse_hop(&entry);
        }
    }
}
