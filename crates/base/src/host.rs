//! Normalization of hosts, before routing.

use std::{borrow::Cow, net::Ipv6Addr};

use super::target::InvalidTarget;

const PLAIN: u8 = 0;
const UPPER: u8 = 1;
const COLON: u8 = 2;
const BAD: u8 = 3;

/// Class of each byte in a host and its port.
const HOST: [u8; 256] = {
    let mut kind = [BAD; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        kind[byte as usize] = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => PLAIN,
            b'A'..=b'Z' => UPPER,
            b':' => COLON,
            _ => BAD,
        };
        byte += 1;
    }
    kind
};

/// Returns true for the name of a host (RFC 1123, 2.1), which is no address: DNS allows an underscore,
/// a certificate does not.
pub fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && !is_number && name.split('.').all(is_label)
}

/// Returns the host of an authority (a `Host` header): lower case, without port and without the
/// trailing dot; an IPv6 address in brackets, in its short form.
///
/// # Errors
/// Fails if the host is neither empty nor a name nor an address.
pub fn host_of(authority: &[u8]) -> Result<Cow<'_, str>, InvalidTarget> {
    if let Some(rest) = authority.strip_prefix(b"[") {
        let rest = std::str::from_utf8(rest).map_err(|_| InvalidTarget::Host)?;
        let (address, port) = rest.split_once(']').ok_or(InvalidTarget::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| InvalidTarget::Host)?;
        return match port.strip_prefix(':') {
            Some(port) if is_port(port.as_bytes()) => Ok(Cow::Owned(format!("[{address}]"))),
            None if port.is_empty() => Ok(Cow::Owned(format!("[{address}]"))),
            _ => Err(InvalidTarget::Host),
        };
    }
    let mut end = authority.len();
    let mut has_upper = false;
    for (index, byte) in authority.iter().enumerate() {
        match HOST[usize::from(*byte)] {
            PLAIN => {}
            UPPER => has_upper = true,
            COLON if index > 0 && is_port(&authority[index + 1..]) => {
                end = index;
                break;
            }
            _ => return Err(InvalidTarget::Host),
        }
    }
    let host = &authority[..end];
    let name = host.strip_suffix(b".").unwrap_or(host);
    // One dot at the end is the DNS root; of two, other software might keep one, or both.
    if name.is_empty() != host.is_empty() || name.ends_with(b".") || name.len() > 253 {
        return Err(InvalidTarget::Host);
    }
    let name = std::str::from_utf8(name).map_err(|_| InvalidTarget::Host)?;
    if has_upper {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

/// Returns the normal form of an authority that [`host_of`] accepts, for a scheme with this default
/// port: lower case, without that port. Returns `None` if it has that form already.
pub fn normal_authority(authority: &[u8], default_port: u16) -> Option<Vec<u8>> {
    let is_normal = |byte: &u8| !byte.is_ascii_uppercase() && *byte != b':';
    if authority.iter().all(is_normal) {
        return None;
    }
    let mut normal = authority.to_ascii_lowercase();
    if let Some(colon) = normal.iter().rposition(|byte| matches!(byte, b':' | b']'))
        && normal[colon] == b':'
    {
        let port = std::str::from_utf8(&normal[colon + 1..]).unwrap_or_default();
        if port.is_empty() || port.parse() == Ok(default_port) {
            normal.truncate(colon);
        }
    }
    (normal != authority).then_some(normal)
}

fn is_port(text: &[u8]) -> bool {
    text.len() <= 5 && text.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_lose_case_port_and_trailing_dot() {
        for (authority, host) in [
            ("Example.COM", "example.com"),
            ("example.com:8080", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:80", "example.com"),
            ("example.com:", "example.com"),
            ("my_app", "my_app"),
            ("127.0.0.1:3000", "127.0.0.1"),
            ("[::1]:3000", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(host_of(authority.as_bytes()).as_deref(), Ok(host));
        }
        for authority in [
            "a b", "a/b", "a@b", "::1", "[::1", "[x]", "[::1]x", ":80", ".", "..", "a.test..",
            "a:b", "é", "a,b", "a:999999", "a%2e",
        ] {
            assert_eq!(
                host_of(authority.as_bytes()),
                Err(InvalidTarget::Host),
                "{authority}"
            );
        }
    }

    #[test]
    fn an_authority_has_one_normal_form() {
        for (authority, normal) in [
            ("shop.test", None),
            ("shop.test:8080", None),
            ("[::1]", None),
            ("[::1]:8080", None),
            ("", None),
            ("Shop.Test", Some("shop.test")),
            ("Shop.Test.:8080", Some("shop.test.:8080")),
            ("shop.test:80", Some("shop.test")),
            ("shop.test:0080", Some("shop.test")),
            ("shop.test:", Some("shop.test")),
            ("[::80]:80", Some("[::80]")),
            ("[::A]", Some("[::a]")),
        ] {
            let found = normal_authority(authority.as_bytes(), 80);
            assert_eq!(found.as_deref(), normal.map(str::as_bytes), "{authority}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own_and_names_the_same_host(raw in "[A-Ca-c.]{1,4}(:[0-9]{0,5})?") {
            let normal = normal_authority(raw.as_bytes(), 80).unwrap_or_else(|| raw.clone().into());
            prop_assert_eq!(normal_authority(&normal, 80), None);
            prop_assert_eq!(host_of(&normal), host_of(raw.as_bytes()));
        }

        #[test]
        fn no_bytes_panic(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _unused = host_of(&raw).is_ok();
        }
    }
}
