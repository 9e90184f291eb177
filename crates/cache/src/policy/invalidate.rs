//! Invalidation of stored responses by unsafe requests (RFC 9111, 4.4).

use http::{HeaderMap, Method, StatusCode, header};

/// Path and query of a target URI of the origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Not in normal form: references may have dot segments.
    pub path: Vec<u8>,
    /// Query without its `?`.
    pub query: Option<Vec<u8>>,
}

/// Returns the targets whose stored responses are invalid now: that of the request, and those in
/// `Location` and `Content-Location` if they are of the same origin. `authority` is host and port
/// in lower case, without the scheme's default port.
///
/// Empty for safe methods, and for a response that is neither 2xx nor 3xx: then nothing has
/// changed. Unknown methods count as unsafe.
pub fn invalidates(
    method: &Method,
    status: StatusCode,
    scheme: &str,
    authority: &str,
    target: &Target,
    headers: &HeaderMap,
) -> Vec<Target> {
    let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method);
    if is_safe || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut targets = vec![target.clone()];
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let named = headers
            .get(name)
            .and_then(|value| resolve(scheme, authority, target, value.as_bytes()));
        targets.extend(named.filter(|named| !targets.contains(named)));
    }
    targets
}

/// Resolves a URI reference in a response to `base`, if the result is of the same origin (RFC 3986,
/// 5.2).
fn resolve(scheme: &str, authority: &str, base: &Target, reference: &[u8]) -> Option<Target> {
    let reference = reference.trim_ascii();
    let reference = reference.split(|byte| *byte == b'#').next()?;
    let target = without_scheme(scheme, reference)?;
    let Some(rest) = target.strip_prefix(b"//") else {
        // A scheme without an authority does not make an HTTP URL.
        return (target.len() == reference.len()).then(|| relative(base, target));
    };
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let (named, target) = rest.split_at(end);
    let root = Target {
        path: b"/".to_vec(),
        query: None,
    };
    (authority_of(scheme, named)? == authority).then(|| relative(&root, target))
}

/// Strips `scheme:`, if present; `None` if it is another scheme.
fn without_scheme<'a>(scheme: &str, reference: &'a [u8]) -> Option<&'a [u8]> {
    let end = reference
        .iter()
        .position(|byte| matches!(byte, b':' | b'/' | b'?'))
        .filter(|at| reference[*at] == b':');
    let Some(end) = end else {
        return Some(reference);
    };
    reference[..end]
        .eq_ignore_ascii_case(scheme.as_bytes())
        .then(|| &reference[end + 1..])
}

/// Normalizes an authority to lower case without the scheme's default port; `None` if it has user
/// information.
fn authority_of(scheme: &str, authority: &[u8]) -> Option<String> {
    let authority = std::str::from_utf8(authority).ok()?;
    if authority.contains('@') {
        return None;
    }
    let own_port = if scheme.eq_ignore_ascii_case("https") {
        ":443"
    } else {
        ":80"
    };
    let authority = authority.strip_suffix(own_port).unwrap_or(authority);
    let authority = authority.strip_suffix(':').unwrap_or(authority);
    Some(authority.to_ascii_lowercase())
}

/// Resolves a reference without a scheme and an authority.
fn relative(base: &Target, reference: &[u8]) -> Target {
    let mut halves = reference.splitn(2, |byte| *byte == b'?');
    let path = halves.next().unwrap_or_default();
    let query = halves.next().map(<[u8]>::to_vec);
    if path.is_empty() {
        return Target {
            path: base.path.clone(),
            query: query.or_else(|| base.query.clone()),
        };
    }
    let folder = base.path.iter().rposition(|byte| *byte == b'/');
    let folder = folder.filter(|_| !path.starts_with(b"/"));
    let folder = &base.path[..folder.map_or(0, |at| at + 1)];
    Target {
        path: [folder, path].concat(),
        query,
    }
}
