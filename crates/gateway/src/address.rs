//! Parsed address of a listener.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use derive_more::Display;

/// Address to bind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Display)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    /// `:PORT`: every address of both families.
    #[display(":{_0}")]
    All(u16),
    #[display("unix:{}", path.display())]
    Unix {
        path: PathBuf,
        mode: u32,
    },
}

/// Default mode of a unix socket: its owner and group may connect, as for any web server behind
/// another.
const DEFAULT_MODE: u32 = 0o660;

impl ListenAddress {
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::All(port) => Some(*port),
            Self::Unix { .. } => None,
        }
    }

    /// Returns true if the system chooses the port.
    pub fn is_any_port(&self) -> bool {
        self.port() == Some(0)
    }

    /// Returns true if the system lets only one of both listen: they are the same, or one is a
    /// wildcard that includes the other. `[::]` alone is IPv6 only, `:PORT` is both families.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.is_any_port() || other.is_any_port() {
            return false;
        }
        match (self, other) {
            (Self::Unix { path, .. }, Self::Unix { path: other, .. }) => path == other,
            (Self::All(port), Self::All(other)) => port == other,
            (Self::All(port), Self::Tcp(tcp)) | (Self::Tcp(tcp), Self::All(port)) => {
                *port == tcp.port()
            }
            (Self::Tcp(one), Self::Tcp(two)) => {
                let is_wildcard = one.ip().is_unspecified() || two.ip().is_unspecified();
                one == two
                    || (one.port() == two.port() && one.is_ipv4() == two.is_ipv4() && is_wildcard)
            }
            _ => false,
        }
    }

    /// Returns true if a connection from this machine to `target` arrives here.
    pub(super) fn takes(&self, target: &Self) -> bool {
        match (self, target) {
            (Self::Unix { path, .. }, Self::Unix { path: other, .. }) => path == other,
            (Self::All(port), Self::Tcp(to)) => *port == to.port() && to.ip().is_loopback(),
            (Self::Tcp(own), Self::Tcp(to)) => {
                let is_wildcard = own.ip().is_unspecified() && own.is_ipv4() == to.is_ipv4();
                own.port() == to.port()
                    && (own.ip() == to.ip() || is_wildcard && to.ip().is_loopback())
            }
            _ => false,
        }
    }

    /// Returns true if both addresses lead to the same socket, whatever its mode.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix { path, .. }, Self::Unix { path: other, .. }) => path == other,
            _ => self == other,
        }
    }
}

/// Length of the path of a socket, at most: `sun_path` of unix(7), without the end.
const MAX_SOCKET_PATH: usize = 107;

impl FromStr for ListenAddress {
    /// Hint about what to write instead.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            if !path.is_absolute() {
                return Err("write an absolute path, such as `unix:/run/edgeway/http.sock`");
            }
            if path.as_os_str().len() > MAX_SOCKET_PATH {
                return Err("write a path of at most 107 bytes, which is the system's limit");
            }
            return Ok(Self::Unix {
                path,
                mode: DEFAULT_MODE,
            });
        }
        if let Some(port) = text.strip_prefix(':') {
            return match port.parse() {
                Ok(port) => Ok(Self::All(port)),
                Err(_) => Err("write a port between 0 and 65535, such as `:8080`"),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        if text.parse::<u16>().is_ok() {
            return Err(
                "write the port behind an address, such as `127.0.0.1:8080`, or behind a colon for all addresses: `:8080`",
            );
        }
        Err(
            "write `IP:PORT` such as `127.0.0.1:8080` or `[::1]:8080`, `:PORT` for all addresses, or `unix:/PATH`",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_they_were_written() {
        for text in ["127.0.0.1:80", "[::1]:8080", ":443", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_invalid_address_is_reported_with_a_remedy() {
        for text in [
            "8080",
            "localhost:80",
            "unix:x.sock",
            ":http",
            "1.2.3.4",
            "",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }
}
