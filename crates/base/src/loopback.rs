//! Host names that are reachable from this machine only.

use std::net::IpAddr;

/// Returns true if a `Host` header names this machine's loopback: `localhost`, a name below it, or
/// a loopback address, with or without a port.
pub fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(inner, _)| inner),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if let Ok(ip) = name.parse::<IpAddr>() {
        return ip.to_canonical().is_loopback();
    }
    let tail = name.rsplit('.').next().unwrap_or_default();
    tail.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_this_machine_are_known() {
        for host in [
            "localhost",
            "LOCALHOST:9900",
            "edgeway.localhost",
            "127.0.0.1:9900",
            "[::1]:9900",
            "[::1]",
            "localhost.",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "evil.test",
            "localhost.evil.test",
            "127.0.0.1.evil.test:9900",
            "notlocalhost",
            "10.0.0.1",
            "[::]",
            "",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
