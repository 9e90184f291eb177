//! Address that apps of Node.js are told to listen on.

use std::net::{IpAddr, Ipv4Addr};

/// Name of the loopback address. Behind TLS, Next.js takes a rewrite of its proxy or middleware to
/// its own path for one to another server if it listens on `127.0.0.1`, and sends TLS to itself.
pub const LOCALHOST: &str = "localhost";
/// Option of Node.js by which that name is an address of IPv4, where backends are looked for.
pub const IPV4_FIRST: &str = "--dns-result-order=ipv4first";

/// Returns the value of `HOSTNAME`, and of `HOST`, for an app that is to listen on `address`.
pub fn hostname(address: &str) -> &str {
    let is_loopback = |ip: IpAddr| ip == Ipv4Addr::LOCALHOST;
    match address.parse() {
        Ok(ip) if is_loopback(ip) => LOCALHOST,
        _ => address,
    }
}

/// Returns the value of `NODE_OPTIONS` with [`IPV4_FIRST`], beside options that are set.
pub fn options(set: Option<&str>) -> String {
    let set = set.map(str::trim).filter(|set| !set.is_empty());
    match set {
        Some(set) if set.contains("--dns-result-order") => set.to_owned(),
        Some(set) => format!("{set} {IPV4_FIRST}"),
        None => IPV4_FIRST.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_set_stay() {
        assert_eq!(options(None), IPV4_FIRST);
        assert_eq!(options(Some(" ")), IPV4_FIRST);
        let both = format!("--inspect {IPV4_FIRST}");
        assert_eq!(options(Some("--inspect")), both);
        assert_eq!(options(Some(&both)), both);
        let other = "--dns-result-order=verbatim";
        assert_eq!(options(Some(other)), other);
    }

    #[test]
    fn only_the_loopback_address_has_another_name() {
        for (address, name) in [
            ("127.0.0.1", LOCALHOST),
            ("::1", "::1"),
            ("10.0.0.7", "10.0.0.7"),
            ("0.0.0.0", "0.0.0.0"),
        ] {
            assert_eq!(hostname(address), name);
        }
    }
}
