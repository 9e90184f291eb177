//! `Location` of a backend's response, in the name that clients use.

use http::HeaderValue;

use super::{Scheme, port_of_text};

/// Rewrites a `Location` (or `Content-Location`) with the backend's own authority to the public
/// one. Returns `None` if it stays as it is.
///
/// `backends` has each `host:port` that the gateway reaches the backend by, such as `10.0.0.5:3000`
/// and `api.internal:3000`. `localhost` and its addresses with the same port also match, because an
/// app often takes them for its own name.
pub fn rewrite_location(
    location: &HeaderValue,
    backends: &[&str],
    scheme: Scheme,
    host: &str,
) -> Option<HeaderValue> {
    let bytes = location.as_bytes();
    // Most are relative. `//authority/path` is rare, but absolute.
    if !matches!(bytes, [b'h' | b'H', ..] | [b'/', b'/', ..]) || host.is_empty() {
        return None;
    }
    let text = location.to_str().ok()?;
    let (default_port, rest) = match text.split_once("//")? {
        ("", rest) => (default_port(scheme), rest),
        (before, rest) if before.eq_ignore_ascii_case("http:") => (80, rest),
        (before, rest) if before.eq_ignore_ascii_case("https:") => (443, rest),
        _ => return None,
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !backends
        .iter()
        .any(|backend| is_same_origin(authority, default_port, backend))
    {
        return None;
    }
    let public = format!("{}://{host}{path}", scheme.as_str());
    HeaderValue::try_from(public).ok()
}

fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

/// Returns true if the app at `backend` (`HOST:PORT`) would use `authority` for itself.
fn is_same_origin(authority: &str, default_port: u16, backend: &str) -> bool {
    if authority.eq_ignore_ascii_case(backend) {
        return true;
    }
    let Some(Ok(port)) = port_of_text(backend).map(str::parse::<u16>) else {
        return false;
    };
    let (name, own_port) = match port_of_text(authority) {
        Some(digits) => (
            &authority[..authority.len() - digits.len() - 1],
            digits.parse().ok(),
        ),
        None => (authority, Some(default_port)),
    };
    if own_port != Some(port) {
        return false;
    }
    let backend_name = &backend[..backend.rfind(':').unwrap_or(backend.len())];
    [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "0.0.0.0",
        "[::]",
        backend_name,
    ]
    .iter()
    .any(|own| name.eq_ignore_ascii_case(own))
}
