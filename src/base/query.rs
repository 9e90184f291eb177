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

/// The values of the parameter `name` as forms are read: names and values decoded, `+` for a
/// space. `name[]` and `name[x]` count as well, since many parsers make a list of them.
pub fn form_values<'a>(
    query: &'a [u8],
    name: &'a [u8],
) -> impl Iterator<Item = Cow<'a, [u8]>> + use<'a> {
    query.split(|byte| *byte == b'&').filter_map(move |pair| {
        let (own, value) = parted(pair);
        let own = form_decoded(own);
        let rest = own.strip_prefix(name)?;
        matches!(rest, [] | [b'[', ..]).then(|| form_decoded(value))
    })
}

fn form_decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'+') {
        return percent_decode(text).into();
    }
    let spaced: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

/// The values of the cookie `name` as apps read them (the package `cookie` of npm): without
/// space and quotes around, and decoded if that can be.
pub fn cookie_values<'a>(
    headers: &'a HeaderMap,
    name: &'a [u8],
) -> impl Iterator<Item = Cow<'a, [u8]>> + use<'a> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let (own, value) = parted(pair);
        (own.trim_ascii() == name).then(|| cookie_decoded(value))
    })
}

fn cookie_decoded(value: &[u8]) -> Cow<'_, [u8]> {
    let value = value.trim_ascii();
    let value = match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    };
    if !value.contains(&b'%') {
        return Cow::Borrowed(value);
    }
    // As `decodeURIComponent`: all of it, or nothing.
    let is_code = |code: &[u8]| code.len() > 1 && code[..2].iter().all(u8::is_ascii_hexdigit);
    let decoded: Vec<u8> = percent_decode(value).collect();
    let can_be = value.split(|byte| *byte == b'%').skip(1).all(is_code);
    if can_be && std::str::from_utf8(&decoded).is_ok() {
        Cow::Owned(decoded)
    } else {
        Cow::Borrowed(value)
    }
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

    #[test]
    fn parameters_and_cookies_are_read_as_apps_read_them() {
        let form = |query: &str| -> Vec<String> {
            form_values(query.as_bytes(), b"mode")
                .map(|value| String::from_utf8_lossy(&value).into_owned())
                .collect()
        };
        assert_eq!(form("mode=a+b&m%6Fde=%61%2B&Mode=c"), ["a b", "a+"]);
        assert_eq!(form("mode[]=a&mode%5Bx%5D=b&modes=c&mode"), ["a", "b", ""]);
        let cookie = |line: &'static str| -> Vec<String> {
            let mut headers = HeaderMap::new();
            headers.append(header::COOKIE, HeaderValue::from_static(line));
            cookie_values(&headers, b"sid")
                .map(|value| String::from_utf8_lossy(&value).into_owned())
                .collect()
        };
        assert_eq!(cookie("sid=%61%20; sid =\"b\" ;sid=c"), ["a ", "b", "c"]);
        assert_eq!(
            cookie("sid=%zz; sid=%ff%61; sid=\"; asid=1"),
            ["%zz", "%ff%61", "\""]
        );
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
