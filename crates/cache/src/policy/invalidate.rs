//! Invalidation of stored responses by unsafe requests (RFC 9111, 4.4).

use http::{HeaderMap, Method, StatusCode, header};

/// A target URI, in the bytes that a [`crate::key::Key`] is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Host and port in lower case, without the scheme's default port.
    pub authority: String,
    pub path: Vec<u8>,
    /// Query without its `?`.
    pub query: Option<Vec<u8>>,
}

/// Returns the targets whose stored responses are invalid now: that of the request, and those in
/// `Location` and `Content-Location` if they are of the same origin.
///
/// Empty for safe methods, and for a response that is neither 2xx nor 3xx: then nothing has
/// changed. Unknown methods count as unsafe.
pub fn invalidates(
    method: &Method,
    status: StatusCode,
    scheme: &str,
    target: &Target,
    headers: &HeaderMap,
) -> Vec<Target> {
    let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method);
    if is_safe || !(status.is_success() || status.is_redirection()) {
        return Vec::new();
    }
    let mut found = vec![target.clone()];
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let named = headers
            .get(name)
            .and_then(|value| resolve(scheme, target, value.as_bytes()));
        found.extend(named.filter(|named| !found.contains(named)));
    }
    found
}

/// Resolves a URI reference in a response to `base`, if the result is of the same origin (RFC 3986,
/// 5.2).
fn resolve(scheme: &str, base: &Target, reference: &[u8]) -> Option<Target> {
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
    let (authority, target) = rest.split_at(end);
    if authority_of(scheme, authority)? != base.authority {
        return None;
    }
    let (path, query) = halves(target);
    let path = if path.is_empty() { b"/" } else { path };
    Some(Target {
        authority: base.authority.clone(),
        path: without_dots(path),
        query,
    })
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

fn relative(base: &Target, reference: &[u8]) -> Target {
    let (path, query) = halves(reference);
    let target = |path: Vec<u8>, query| Target {
        authority: base.authority.clone(),
        path,
        query,
    };
    if path.is_empty() {
        return target(base.path.clone(), query.or_else(|| base.query.clone()));
    }
    if path.starts_with(b"/") {
        return target(without_dots(path), query);
    }
    let folder = base.path.iter().rposition(|byte| *byte == b'/');
    let mut merged = base.path[..folder.map_or(0, |at| at + 1)].to_vec();
    merged.extend_from_slice(path);
    target(without_dots(&merged), query)
}

fn halves(target: &[u8]) -> (&[u8], Option<Vec<u8>>) {
    let mut halves = target.splitn(2, |byte| *byte == b'?');
    let path = halves.next().unwrap_or_default();
    (path, halves.next().map(<[u8]>::to_vec))
}

/// Removes dot segments (RFC 3986, 5.2.4). Nothing else is changed: keys are made of bytes as sent.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut output: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                // The first segment is the empty one before the leading slash.
                if segment == b".." && output.len() > 1 {
                    output.pop();
                }
                if is_last {
                    output.push(b"");
                }
            }
            _ => output.push(segment),
        }
    }
    output.join(&b'/')
}
