//! Reach of IP addresses, for connections to hosts that others have named.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Part of the network from which an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The whole internet.
    Public,
    /// This machine, or the networks of its owner.
    Local,
    /// Anything else: a link, the metadata of a cloud, a group, a protocol, nothing.
    Special,
}

/// Prefixes of IPv4 for this machine and private networks: RFC 1122, 1918, 6598.
const LOCAL_V4: [Ipv4Net; 5] = [
    v4([127, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([100, 64, 0, 0], 10),
];

/// Other prefixes of IPv4 that are not for hosts on the internet (RFC 6890 and its registry).
const SPECIAL_V4: [Ipv4Net; 10] = [
    v4([0, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    // Relays to IPv6, until RFC 7526.
    v4([192, 88, 99, 0], 24),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    // Services for virtual machines of Azure and Alibaba Cloud, metadata among them.
    v4([168, 63, 129, 16], 32),
    v4([100, 100, 100, 200], 32),
];

/// Prefix of all addresses of IPv6 that were assigned to hosts on the internet (RFC 4291, 2.4).
const PUBLIC_V6: Ipv6Net = v6([0x2000, 0], 3);

/// Prefixes in it with another purpose. Some of them contain an address of IPv4, which a relay may
/// connect to.
const SPECIAL_V6: [Ipv6Net; 4] = [
    // Protocols, Teredo among them.
    v6([0x2001, 0], 23),
    v6([0x2001, 0xdb8], 32),
    // 6to4.
    v6([0x2002, 0], 16),
    v6([0x3fff, 0], 20),
];

/// Private networks of IPv6 (RFC 4193).
const LOCAL_V6: Ipv6Net = v6([0xfc00, 0], 7);

/// Services for virtual machines of AWS, in one of them.
const AWS_V6: Ipv6Net = v6([0xfd00, 0xec2], 32);

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6([first, second]: [u16; 2], length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), length)
}

impl Reach {
    /// Returns the reach of an address. One of IPv6 that stands for one of IPv4 has that one's.
    pub fn classify(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::classify_v4(address),
            IpAddr::V6(address) => Self::classify_v6(address),
        }
    }

    fn classify_v4(address: Ipv4Addr) -> Self {
        let is_in = |all: &[Ipv4Net]| all.iter().any(|prefix| prefix.contains(&address));
        // From 224.0.0.0 on there are groups, what is reserved, and the broadcast address.
        if address.octets()[0] >= 224 || is_in(&SPECIAL_V4) {
            Self::Special
        } else if is_in(&LOCAL_V4) {
            Self::Local
        } else {
            Self::Public
        }
    }

    fn classify_v6(address: Ipv6Addr) -> Self {
        let is_private = LOCAL_V6.contains(&address) && !AWS_V6.contains(&address);
        if address == Ipv6Addr::LOCALHOST || is_private {
            return Self::Local;
        }
        let is_special = SPECIAL_V6.iter().any(|prefix| prefix.contains(&address));
        if PUBLIC_V6.contains(&address) && !is_special {
            Self::Public
        } else {
            Self::Special
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_reach() {
        for (reach, addresses) in [
            (
                Reach::Public,
                "8.8.8.8 1.1.1.1 100.63.255.255 100.128.0.0 172.32.0.1 2606:4700::1111 \
                 2a00:1450::1 ::ffff:8.8.8.8 2001:4860::8888",
            ),
            (
                Reach::Local,
                "127.0.0.1 127.8.8.8 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 ::1 \
                 fd00::1 fc00::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1",
            ),
            (
                Reach::Special,
                "0.0.0.0 0.1.2.3 169.254.169.254 ::ffff:169.254.169.254 224.0.0.1 255.255.255.255 \
                 240.0.0.1 198.18.0.1 192.0.2.1 :: fe80::1 fec0::1 ff02::1 64:ff9b::7f00:1 \
                 64:ff9b:1::1 2002:7f00:1:: 2001:0:7f00:1:: 2001:db8::1 ::127.0.0.1 100::1 \
                 168.63.129.16 ::ffff:168.63.129.16 100.100.100.200 fd00:ec2::254",
            ),
        ] {
            for address in addresses.split_whitespace() {
                let parsed = address.parse().expect("an address");
                assert_eq!(Reach::classify(parsed), reach, "{address}");
            }
        }
    }
}
