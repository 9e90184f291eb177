//! Addresses: CIDR sets, trusted proxies, the client's address.
