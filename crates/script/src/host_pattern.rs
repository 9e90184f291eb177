//! Hosts that a plugin applies to.

use std::borrow::Cow;

/// Pattern such as `shop.example.com`, or `*.example.com` for all its subdomains.
#[derive(Debug)]
pub enum HostPattern {
    Exact(Box<str>),
    /// Suffix with the leading dot.
    Below(Box<str>),
}

impl HostPattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let below = lower.strip_prefix('*');
        let (name, is_below) = below.map_or((lower.as_str(), false), |rest| (rest, true));
        let is_name = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
        match (is_below, is_name && name.len() > 1) {
            (false, true) => Ok(Self::Exact(name.into())),
            (true, true) if name.starts_with('.') => Ok(Self::Below(name.into())),
            _ => Err(format!(
                "invalid host `{text}`: write one such as `shop.example.com` or `*.example.com`"
            )),
        }
    }

    /// Returns true if the pattern matches `host`, which is in lower case and without a port.
    pub(super) fn is_for(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => host == &**name,
            Self::Below(name) => host.len() > name.len() && host.ends_with(&**name),
        }
    }
}

/// Returns the host of an authority as [`HostPattern`]s have it: in lower case, without port and
/// final dot.
pub fn host_name(authority: &str) -> Cow<'_, str> {
    let name = authority
        .rsplit_once(':')
        .map_or(authority, |(name, port)| {
            let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
            if is_port { name } else { authority }
        });
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(name.to_ascii_lowercase());
    }
    Cow::Borrowed(name)
}
