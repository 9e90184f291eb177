//! Addresses and host names that only this machine can reach.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Why an address was refused; the text is the user's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoopbackError {
    #[error("`{0}` is not an address")]
    Syntax(String),
    #[error("`{0}` can be reached from other machines, which is not supported yet")]
    Reachable(String),
}

impl LoopbackError {
    /// What to write instead.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "write an address and a port, such as `127.0.0.1:9900`",
            Self::Reachable(_) => {
                "write a loopback address such as `127.0.0.1:9900` (remote access needs a token, \
                 and tokens are not supported yet); reach it from elsewhere through an SSH tunnel"
            }
        }
    }
}

/// Reads `127.0.0.1:9900`, `[::1]:9900` or `localhost:9900`.
///
/// # Errors
/// When it is no address, or one that other machines can reach.
pub fn parse(text: &str) -> Result<SocketAddr, LoopbackError> {
    let address = match text.strip_prefix("localhost:") {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None if text.starts_with(':') => {
            return Err(LoopbackError::Reachable(text.to_owned()));
        }
        None => text.parse().ok(),
    }
    .ok_or_else(|| LoopbackError::Syntax(text.to_owned()))?;
    if is_loopback(address.ip()) {
        Ok(address)
    } else {
        Err(LoopbackError::Reachable(text.to_owned()))
    }
}

/// Whether a `Host` header names this machine's loopback: `localhost`, a name below it,
/// or a loopback address, with or without a port.
pub fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(inner, _)| inner),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if let Ok(ip) = name.parse() {
        return is_loopback(ip);
    }
    let tail = name.rsplit('.').next().unwrap_or_default();
    tail.eq_ignore_ascii_case("localhost")
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_are_read() {
        for (text, address) in [
            ("127.0.0.1:9900", "127.0.0.1:9900"),
            ("127.8.0.1:1", "127.8.0.1:1"),
            ("[::1]:9900", "[::1]:9900"),
            ("localhost:9900", "127.0.0.1:9900"),
        ] {
            assert_eq!(parse(text), Ok(address.parse().unwrap()));
        }
    }

    #[test]
    fn what_others_can_reach_is_refused() {
        for text in ["0.0.0.0:9900", "[::]:9900", "10.0.0.1:9900", ":9900"] {
            assert_eq!(parse(text), Err(LoopbackError::Reachable(text.to_owned())));
        }
        for text in ["9900", "127.0.0.1", "localhost:99999", "admin:9900", ""] {
            assert_eq!(parse(text), Err(LoopbackError::Syntax(text.to_owned())));
        }
    }

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
