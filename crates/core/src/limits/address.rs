//! Addresses by which the requests of a client are counted together.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::base::net::subscriber;

/// The addresses of one client: an IPv4 address, or the /64 of an IPv6 address, since a client may
/// use any address of its /64 (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(IpAddr);

/// Error of a text that is not a client's address; its text is shown to the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid client address `{0}`: write one such as `192.0.2.7`, `2001:db8::7` or `2001:db8::/64`"
)]
pub struct InvalidAddress(String);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self(subscriber(address))
    }
}

impl Address {
    /// Returns the address, or the first one of the network.
    pub fn ip(self) -> IpAddr {
        self.0
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let address = text.strip_suffix("/64").filter(|rest| rest.contains(':'));
        let address = address.or_else(|| text.strip_suffix("/32").filter(|r| !r.contains(':')));
        match address.unwrap_or(text).parse::<IpAddr>() {
            Ok(address) => Ok(address.into()),
            Err(_) => Err(InvalidAddress(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

edgeway_base::text_form!(Address);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), shown);
        assert_eq!(shown.parse(), Ok(address), "it reads back");
    }

    #[test]
    fn a_client_of_ipv6_is_its_64() {
        check("192.0.2.7", "192.0.2.7");
        check("192.0.2.7/32", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
        check("2001:db8::7", "2001:db8::/64");
        check("2001:db8:0:0:9::1/64", "2001:db8::/64");
        check("2001:db8:0:1::", "2001:db8:0:1::/64");
    }

    #[test]
    fn an_invalid_client_address_is_refused() {
        for text in [
            "",
            "example.com",
            "192.0.2.0/24",
            "2001:db8::/48",
            "10.0.0.1/64",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
