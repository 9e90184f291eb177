//! Single parameters of a query, and single cookies, as the app behind would read them.
//!
//! Reads bytes in place: no allocation, no panic on any input.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header};
use percent_encoding::percent_decode;

/// The query of a request target, without its `?`; `None` if there is no `?`.
pub fn query_of(target: &[u8]) -> Option<&[u8]> {
    let mark = target.iter().position(|byte| *byte == b'?')?;
    Some(&target[mark + 1..])
}

/// The values of the parameter `name`, still coded. Its name may be coded too: an app
/// decodes `%74oken` before it looks.
pub fn values<'a>(query: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    query.split(|byte| *byte == b'&').filter_map(move |pair| {
        let (own, value) = parted(pair);
        is_called(own, name).then_some(value)
    })
}

/// The name of a parameter, as apps read it.
pub fn name_of(parameter: &[u8]) -> Cow<'_, [u8]> {
    let (name, _) = parted(parameter);
    if name.contains(&b'+') {
        let spaced: Vec<u8> = name
            .iter()
            .map(|byte| if *byte == b'+' { b' ' } else { *byte })
            .collect();
        return Cow::Owned(decoded(&spaced).into_owned());
    }
    decoded(name)
}

/// A value of [`values`] without its coding.
pub fn decoded(value: &[u8]) -> Cow<'_, [u8]> {
    percent_decode(value).into()
}

/// The target without the parameters of these names, the rest of it byte for byte; `None`
/// if it has none of them.
pub fn without(target: &[u8], names: &[Box<str>]) -> Option<Vec<u8>> {
    let is_doomed = |pair: &[u8]| {
        let (own, _) = parted(pair);
        names.iter().any(|name| is_called(own, name.as_bytes()))
    };
    let query = query_of(target)?;
    if !query.split(|byte| *byte == b'&').any(is_doomed) {
        return None;
    }
    let path = &target[..target.len() - query.len() - 1];
    let mut kept = Vec::with_capacity(target.len());
    kept.extend_from_slice(path);
    for pair in query.split(|byte| *byte == b'&') {
        if !is_doomed(pair) {
            kept.push(if kept.len() == path.len() { b'?' } else { b'&' });
            kept.extend_from_slice(pair);
        }
    }
    Some(kept)
}

/// The values of the cookie `name`, over all lines: HTTP/2 may part them.
pub fn cookies<'a>(headers: &'a HeaderMap, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(move |pair| {
            let (own, value) = parted(pair.trim_ascii());
            // Frameworks take the space round `=` away.
            (own.trim_ascii_end() == name).then_some(value.trim_ascii_start())
        })
}

/// The names of all cookies, over all lines.
pub fn cookie_names(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    lines.flat_map(cookie_names_in)
}

/// The names in one line of cookies. A pair without `=` is a cookie too, whose name is all of
/// it.
pub fn cookie_names_in(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes()
        .split(|byte| *byte == b';')
        .map(|pair| parted(pair.trim_ascii()).0)
        .filter(|name| !name.is_empty())
}

fn parted(pair: &[u8]) -> (&[u8], &[u8]) {
    match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, b""),
    }
}

fn is_called(coded: &[u8], name: &[u8]) -> bool {
    // A coded name is longer than what it stands for.
    coded.len() >= name.len() && percent_decode(coded).eq(name.iter().copied())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(query: &str, name: &str) -> Vec<String> {
        values(query.as_bytes(), name.as_bytes())
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    #[test]
    fn parameters_are_found_by_their_decoded_names() {
        assert_eq!(all("a=1&token=x.y&b", "token"), ["x.y"]);
        assert_eq!(all("%74oken=1&t%6Fken=2&Token=3", "token"), ["1", "2"]);
        assert_eq!(all("token&tokens=1&atoken=2", "token"), [""]);
        assert_eq!(all("", "token"), [""; 0]);
        assert_eq!(&*decoded(b"a%2Eb"), b"a.b");
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest_as_it_was() {
        let names = [Box::from("token"), Box::from("key")];
        for (target, expected) in [
            ("/a?token=1", Some("/a")),
            ("/a?x=%20&token=1&y=", Some("/a?x=%20&y=")),
            ("/a?%74oken=1&key=2&&z", Some("/a?&z")),
            ("/a?x=token", None),
            ("/token=1", None),
            ("/a?", None),
        ] {
            let kept = without(target.as_bytes(), &names);
            let kept = kept.map(|kept| String::from_utf8(kept).unwrap());
            assert_eq!(kept.as_deref(), expected, "{target}");
        }
    }

    #[test]
    fn cookies_are_found_in_any_line_and_only_by_their_whole_names() {
        let mut headers = HeaderMap::new();
        for line in ["a=1; sid=x=y", "sid=2;asid=3; sid2=4"] {
            headers.append(header::COOKIE, HeaderValue::from_static(line));
        }
        let found: Vec<&[u8]> = cookies(&headers, b"sid").collect();
        assert_eq!(found, [&b"x=y"[..], b"2"]);
    }

    proptest! {
        #[test]
        fn no_target_keeps_what_is_taken_out(target in "[/?&=%a-c0-9tT]{0,40}") {
            let names = [Box::from("a"), Box::from("t")];
            if let Some(kept) = without(target.as_bytes(), &names) {
                prop_assert!(kept.len() < target.len());
                prop_assert_eq!(without(&kept, &names), None);
            }
        }
    }
}
