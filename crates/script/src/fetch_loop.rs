//! Ends the circle of a plugin whose `fetch` leads to itself: `CDN-Loop` (RFC 8586) counts the way.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use ring::rand::{SystemRandom, generate};

pub(super) const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// Most requests of `fetch` that may follow from one request, one behind the other.
const MAX_FETCHES: usize = 5;

/// Name of this process. A client that could guess it could let a plugin's `fetch` fail.
static NAME: LazyLock<HeaderValue> = LazyLock::new(|| {
    let random = generate(&SystemRandom::new()).expect("the kernel has random bytes");
    let name = format!("edgeway-{:032x}", u128::from_ne_bytes(random.expose()));
    HeaderValue::try_from(name).expect("letters and digits are a value")
});

/// Adds this process to the `way` of a request, and writes that into the headers of a `fetch`.
pub(super) fn mark(way: &[HeaderValue], headers: &mut HeaderMap) -> Result<(), String> {
    let members = way
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let fetches = members.filter(|member| member.trim_ascii() == NAME.as_bytes());
    if fetches.count() >= MAX_FETCHES {
        return Err(format!(
            "fetch failed: this request comes from {MAX_FETCHES} others of `fetch`, one behind the \
             other: do not fetch what the plugin itself handles"
        ));
    }
    headers.remove(CDN_LOOP);
    for line in way.iter().chain([&*NAME]) {
        headers.append(CDN_LOOP, line.clone());
    }
    Ok(())
}
