//! Names that the local CA signs for: those that no site of the internet has. The certificate of
//! the CA itself says so, so that its key cannot impersonate such a site even if it is stolen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};

/// Domains whose names never leave a machine or its network (RFC 6761, RFC 6762, RFC 8375, and
/// ICANN's resolution on `.internal`). Each stands for itself and everything below it.
const DOMAINS: [&str; 5] = ["localhost", "test", "internal", "local", "home.arpa"];

/// Loopback, private (RFC 1918, RFC 4193) and link-local addresses.
const NETWORKS: [IpNet; 8] = [
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
];

/// Returns the constraints of the CA (RFC 5280, 4.2.1.10).
pub(super) fn constraints() -> NameConstraints {
    let domains = DOMAINS.map(|domain| GeneralSubtree::DnsName(domain.to_owned()));
    let networks = NETWORKS
        .map(|net| CidrSubnet::from_addr_prefix(net.addr(), net.prefix_len()))
        .map(GeneralSubtree::IpAddress);
    NameConstraints {
        permitted_subtrees: domains.into_iter().chain(networks).collect(),
        excluded_subtrees: Vec::new(),
    }
}

/// Checks that the CA may sign for a host or an address.
pub(super) fn check(name: &str) -> Result<(), String> {
    let is_own = if let Ok(ip) = name.parse::<IpAddr>() {
        NETWORKS.iter().any(|network| network.contains(&ip))
    } else {
        let name = name.strip_prefix("*.").unwrap_or(name).to_ascii_lowercase();
        let is_name = !name.contains(['*', ':', '/', ' ']) && !name.starts_with('.');
        is_name
            && DOMAINS.iter().any(|domain| {
                let before = name.strip_suffix(domain);
                before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            })
    };
    if is_own {
        return Ok(());
    }
    Err(format!(
        "the local CA does not sign for `{name}`: only for {}\n\
         help: use such a name (`--host shop.localhost` needs no entry in DNS), or a certificate \
         by ACME for a public one (docs/listeners.md)",
        summary()
    ))
}

/// Returns the names in one line.
pub(super) fn summary() -> String {
    let domains = DOMAINS.map(|domain| format!("*.{domain}"));
    format!(
        "localhost, {}, and loopback and private addresses",
        domains.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_site_has_are_signed() {
        for name in [
            "localhost",
            "shop.localhost",
            "*.shop.localhost",
            "SHOP.Test",
            "a.internal",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "192.168.1.7",
            "172.31.0.1",
            "fd00::1",
        ] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in [
            "example.com",
            "notlocalhost",
            "localhost.example.com",
            "com",
            "*",
            "*.com",
            "8.8.8.8",
            "172.32.0.1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "::2",
            "",
            ".localhost",
            "a b.test",
            "*.*.test",
        ] {
            let refused = check(name).expect_err(name);
            assert!(refused.contains("shop.localhost"), "{refused}");
        }
    }
}
