//! Query parameters and cookies, read one at a time the way the app behind the gateway would.
//!
//! Parses bytes in place: no allocation, no panic on any input.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, header};
use percent_encoding::percent_decode;

use super::http::is_token_byte;

/// Returns the query of a request target, without its `?`; `None` if there is no `?`.
pub fn query_of(target: &[u8]) -> Option<&[u8]> {
    let mark = target.iter().position(|byte| *byte == b'?')?;
    Some(&target[mark + 1..])
}

/// Returns the values of the parameter `name`, still encoded. Its name may be encoded too: an app
/// decodes `%74oken` before it compares.
pub fn values<'a>(query: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    query.split(|byte| *byte == b'&').filter_map(move |pair| {
        let (key, value) = parted(pair);
        is_called(key, name).then_some(value)
    })
}

/// Returns the name of a parameter, as apps decode it.
pub fn name_of(parameter: &[u8]) -> Cow<'_, [u8]> {
    form_decoded(parted(parameter).0)
}

/// Returns the word of a name in brackets that says what the value is: `token` of `user[token]`,
/// `token[]` and `token[0]`.
pub fn last_word(mut name: &[u8]) -> &[u8] {
    while let [outer @ .., b']'] = name
        && let Some(bracket) = outer.iter().rposition(|b| *b == b'[')
    {
        let inner = &outer[bracket + 1..];
        if !inner.iter().all(u8::is_ascii_digit) {
            return inner;
        }
        name = &outer[..bracket];
    }
    name
}

/// Decodes a value of [`values`].
pub fn decoded(value: &[u8]) -> Cow<'_, [u8]> {
    percent_decode(value).into()
}

/// Removes the parameters of these names from a target and keeps the rest byte for byte; `None` if
/// it has none of them.
pub fn without(target: &[u8], names: &[impl AsRef<str>]) -> Option<Vec<u8>> {
    let is_doomed = |pair: &[u8]| {
        let (key, _) = parted(pair);
        let mut names = names.iter().map(AsRef::as_ref);
        names.any(|name| is_called(key, name.as_bytes()))
    };
    let query = query_of(target)?;
    if !query.split(|byte| *byte == b'&').any(is_doomed) {
        return None;
    }
    let path = &target[..target.len() - query.len() - 1];
    let mut remaining = Vec::with_capacity(target.len());
    remaining.extend_from_slice(path);
    for pair in query.split(|byte| *byte == b'&') {
        if !is_doomed(pair) {
            remaining.push(if remaining.len() == path.len() {
                b'?'
            } else {
                b'&'
            });
            remaining.extend_from_slice(pair);
        }
    }
    Some(remaining)
}

/// Returns the values of the cookie `name`, over all lines: HTTP/2 may split them.
pub fn cookies<'a>(headers: &'a HeaderMap, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    cookie_pairs(headers).filter_map(move |pair| {
        let (key, value) = parted(pair.trim_ascii());
        // Frameworks trim the space around `=`.
        (key.trim_ascii_end() == name).then_some(value.trim_ascii_start())
    })
}

fn cookie_pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
}

/// Returns the values of the parameter `name` as form parsers see them: names and values decoded,
/// `+` for a space. `name[]` and `name[x]` count as well, since many parsers make a list of them.
pub fn form_values<'a>(
    query: &'a [u8],
    name: &'a [u8],
) -> impl Iterator<Item = Cow<'a, [u8]>> + use<'a> {
    query.split(|byte| *byte == b'&').filter_map(move |pair| {
        let (key, value) = parted(pair);
        let key = form_decoded(key);
        let rest = key.strip_prefix(name)?;
        matches!(rest, [] | [b'[', ..]).then(|| form_decoded(value))
    })
}

/// Decodes a name or value as form parsers do: `+` is a space.
pub fn form_decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'+') {
        return percent_decode(text).into();
    }
    let spaced: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

/// Returns the values of the cookie `name` as apps see them (npm's package `cookie`): without
/// surrounding space and quotes, and decoded if possible.
pub fn cookie_values<'a>(
    headers: &'a HeaderMap,
    name: &'a [u8],
) -> impl Iterator<Item = Cow<'a, [u8]>> + use<'a> {
    cookie_pairs(headers).filter_map(move |pair| {
        let (key, value) = parted(pair);
        (key.trim_ascii() == name).then(|| cookie_decoded(value))
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
    // Like `decodeURIComponent`: decodes all of it, or nothing.
    let is_code = |code: &[u8]| code.len() > 1 && code[..2].iter().all(u8::is_ascii_hexdigit);
    let decoded: Vec<u8> = percent_decode(value).collect();
    let can_be = value.split(|byte| *byte == b'%').skip(1).all(is_code);
    if can_be && std::str::from_utf8(&decoded).is_ok() {
        Cow::Owned(decoded)
    } else {
        Cow::Borrowed(value)
    }
}

/// Returns the names of all cookies, over all lines.
pub fn cookie_names(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    lines.flat_map(cookie_names_in)
}

/// Returns the cookie names in one line. A pair without `=` is a cookie too, whose name is all of
/// it.
pub fn cookie_names_in(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes()
        .split(|byte| *byte == b';')
        .map(|pair| parted(pair.trim_ascii()).0)
        .filter(|name| !name.is_empty())
}

/// Returns true if all frameworks find the same cookies in a request as the functions here.
///
/// That holds for one line in the grammar of RFC 6265, 4.2.1, in which a value may also have
/// commas, and blanks between quotes. Other lines are parsed differently: npm's `cookie` 0.6 trims
/// U+00A0 like a blank, koa keeps the blanks around `=`, Python's `SimpleCookie` splits at blanks,
/// treats `;` between quotes as part of the value, and stops at syntax it does not know.
pub fn are_cookies_clear(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::COOKIE).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(line), None) => is_clear_line(line),
        // A proxy in front of an origin may join them with a comma.
        (Some(_), Some(_)) => false,
    }
}

/// Returns true if all frameworks find the same cookies in a line; see [`are_cookies_clear`].
pub fn is_clear_line(line: &HeaderValue) -> bool {
    let line = line.as_bytes();
    let spaces = line.iter().rev().take_while(|byte| **byte == b' ').count();
    let line = &line[..line.len() - spaces];
    if line.iter().all(|byte| matches!(byte, b' ' | b';')) {
        return true;
    }
    let line = line.strip_suffix(b";").unwrap_or(line);
    let mut pairs = line.split(|byte| *byte == b';').map(without_spaces);
    pairs.next().is_some_and(|first| {
        // At the start of a line, `SimpleCookie` refuses the line for these.
        is_clear_pair(first) && !is_attribute(parted(first).0)
    }) && pairs.all(is_clear_pair)
}

/// Returns true if some framework may find a cookie that the functions here miss, after some kind
/// of blank.
pub fn may_hide_cookies(headers: &HeaderMap) -> bool {
    let is_odd = |line: &HeaderValue| {
        let line = line.as_bytes();
        let is_printable = |byte: &u8| matches!(byte, b' '..=b'~');
        !line.iter().all(is_printable) || line.split(|byte| *byte == b';').any(has_inner_blank)
    };
    headers.get_all(header::COOKIE).iter().any(is_odd)
}

fn has_inner_blank(pair: &[u8]) -> bool {
    let (name, value) = parted(pair);
    let (name, value) = (name.trim_ascii(), value.trim_ascii());
    let is_quoted = matches!(value, [b'"', inner @ .., b'"'] if !inner.contains(&b'"'));
    name.contains(&b' ') || (!is_quoted && value.contains(&b' '))
}

fn without_spaces(pair: &[u8]) -> &[u8] {
    let spaces = pair.iter().take_while(|byte| **byte == b' ').count();
    &pair[spaces..]
}

fn is_clear_pair(pair: &[u8]) -> bool {
    let Some(equals) = pair.iter().position(|byte| *byte == b'=') else {
        return false;
    };
    let (name, value) = (&pair[..equals], &pair[equals + 1..]);
    // Some parsers treat `$Version` and the like as attributes of the neighbouring cookies (RFC
    // 2965).
    let is_name =
        !name.is_empty() && name[0] != b'$' && name.iter().all(|byte| is_token_byte(*byte));
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    let is_value = match value {
        [b'"', inner @ .., b'"'] => inner.iter().all(|byte| is_plain(byte) || *byte == b' '),
        value => value.iter().all(is_plain),
    };
    is_name && is_value
}

/// Returns true if a name is that of an attribute of `Set-Cookie`.
fn is_attribute(name: &[u8]) -> bool {
    const ATTRIBUTES: [&str; 10] = [
        "comment",
        "domain",
        "expires",
        "httponly",
        "max-age",
        "partitioned",
        "path",
        "samesite",
        "secure",
        "version",
    ];
    let mut attributes = ATTRIBUTES.iter();
    attributes.any(|attribute| name.eq_ignore_ascii_case(attribute.as_bytes()))
}

pub(crate) fn parted(pair: &[u8]) -> (&[u8], &[u8]) {
    let sign = pair.iter().position(|byte| *byte == b'=');
    sign.map_or((pair, b""), |at| (&pair[..at], &pair[at + 1..]))
}

fn is_called(encoded: &[u8], name: &[u8]) -> bool {
    // An encoded name is longer than its decoded form.
    encoded.len() >= name.len() && percent_decode(encoded).eq(name.iter().copied())
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
            let remaining = without(target.as_bytes(), &names);
            let remaining = remaining.map(|remaining| String::from_utf8(remaining).unwrap());
            assert_eq!(remaining.as_deref(), expected, "{target}");
        }
    }

    #[test]
    fn cookies_are_found_in_any_line_and_only_by_their_full_names() {
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

    fn line(bytes: &[u8]) -> HeaderValue {
        HeaderValue::from_bytes(bytes).unwrap()
    }

    #[test]
    fn a_line_of_cookies_is_clear_if_frameworks_agree_on_it() {
        for clear in [
            "",
            ";; ",
            "a=1",
            "a=1; b=2",
            "a=1;b=2;   c=3;",
            "a=; b==x=",
            "a=\"b c\"; d=\"\"",
            "a={stamp:'x',necessary:true}; __Host-sid=%20",
            "a=1; path=/; Version=2",
        ] {
            assert!(is_clear_line(&line(clear.as_bytes())), "{clear}");
        }
        for unclear in [
            &b"a=1; \xa0sid=2"[..],
            b"a=\xe9; sid=2",
            b"a=1 sid=2",
            b"a=1\tsid=2",
            b"a=1;\tsid=2",
            b"a =1; b= 2",
            b"a=1 ; b=2",
            b"a=\"1; sid=2; b=\"",
            b"a=x\"y\"; sid=2",
            b"a=\"\\\"; sid=2",
            b"a; sid=2",
            b"=1; sid=2",
            b"a=1;; sid=2",
            b"; sid=2",
            b"$Version=1; sid=2",
            b"a[b]=1; sid=2",
            b"a@b=1; sid=2",
            b"Path=/; sid=2",
        ] {
            assert!(!is_clear_line(&line(unclear)), "{}", unclear.escape_ascii());
        }
        let mut headers = HeaderMap::new();
        assert!(are_cookies_clear(&headers));
        headers.append(header::COOKIE, line(b"a=1"));
        assert!(are_cookies_clear(&headers));
        headers.append(header::COOKIE, line(b"b=1"));
        assert!(!are_cookies_clear(&headers));
    }

    #[test]
    fn blanks_and_odd_bytes_may_hide_cookies() {
        for (bytes, expected) in [
            (&b""[..], false),
            (b"a=1; sid=2; ", false),
            (b"a = 1 ;b=\"x y\"; c={\"d\":1}; d", false),
            (b"\xa0sid=1; sid=2", true),
            (b"sid=2; a=1 sid=1", true),
            (b"sid=2; a sid=1", true),
            (b"sid=2;\tsid=1", true),
            (b"sid=2; a=\"b\" sid=\"1\"", true),
        ] {
            let headers = HeaderMap::from_iter([(header::COOKIE, line(bytes))]);
            assert_eq!(
                may_hide_cookies(&headers),
                expected,
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    type Cookies = Vec<(Vec<u8>, Vec<u8>)>;

    fn without_quotes(value: &[u8]) -> &[u8] {
        match value {
            [b'"', inner @ .., b'"'] => inner,
            _ => value,
        }
    }

    /// Model of npm's `cookie` 0.6, which Node gives a line as one character per byte.
    fn npm(line: &[u8]) -> Cookies {
        let trim = |text: &[u8]| {
            let text: String = text.iter().map(|byte| char::from(*byte)).collect();
            let trimmed = text.trim_matches(|c: char| c.is_whitespace() && c != '\u{85}');
            trimmed.chars().map(|c| c as u8).collect::<Vec<u8>>()
        };
        let mut found = Cookies::new();
        for pair in line.split(|byte| *byte == b';') {
            let Some(at) = pair.iter().position(|byte| *byte == b'=') else {
                continue;
            };
            let (name, value) = (trim(&pair[..at]), trim(&pair[at + 1..]));
            if found.iter().all(|(own, _)| *own != name) {
                found.push((name, without_quotes(&value).to_vec()));
            }
        }
        found
    }

    /// Model of koa's `cookies`: the value of one cookie.
    fn koa(line: &[u8], name: &[u8]) -> Option<Vec<u8>> {
        let name = regex::escape(std::str::from_utf8(name).unwrap());
        let pattern = format!("(?-u)(?:^|;) *{name}=([^;]*)");
        let pattern = regex::bytes::Regex::new(&pattern).unwrap();
        let value = pattern.captures(line)?.get(1).unwrap().as_bytes();
        Some(without_quotes(value).to_vec())
    }

    /// Model of Python's `SimpleCookie`; the last cookie of a name wins.
    fn simple_cookie(line: &[u8]) -> Cookies {
        const NAME: &str = r"\w!#%&'~_`><@,:/$*+\-.^|)(?}{=";
        let pattern = format!(
            r#"(?-u)^\s*([{NAME}]+?)(\s*=\s*("(?:[^\\"]|\\.)*"|\w{{3}},\s[\w\s-]{{9,11}}\s[\d:]{{8}}\sGMT|[{NAME}\[\]]*))?\s*(\s+|;|$)"#
        );
        let pattern = regex::bytes::Regex::new(&pattern).unwrap();
        let (mut at, mut found) = (0, Cookies::new());
        while at < line.len() {
            let Some(pair) = pattern.captures(&line[at..]) else {
                break;
            };
            at += pair.get(0).unwrap().end();
            let name = pair.get(1).unwrap().as_bytes();
            match pair.get(3) {
                _ if name[0] == b'$' => {}
                _ if is_attribute(name) && found.is_empty() => return Cookies::new(),
                _ if is_attribute(name) => {}
                None => return Cookies::new(),
                Some(value) => {
                    let value = without_quotes(value.as_bytes()).to_vec();
                    found.retain(|(own, _)| own != name);
                    found.push((name.to_vec(), value));
                }
            }
        }
        found
    }

    #[test]
    fn the_models_differ_where_frameworks_do() {
        let pair = |name: &str, value: &str| -> (Vec<u8>, Vec<u8>) { (name.into(), value.into()) };
        let (a, sid) = (pair("a", "1"), pair("sid", "2"));
        assert_eq!(npm(b"a=1; \xa0sid=2"), [a.clone(), sid.clone()]);
        assert_eq!(simple_cookie(b"a=1; \xa0sid=2"), std::slice::from_ref(&a));
        assert_eq!(simple_cookie(b"a=1 sid=2"), [a.clone(), sid]);
        assert_eq!(npm(b"a=1 sid=2"), [pair("a", "1 sid=2")]);
        assert_eq!(simple_cookie(b"a=\"1; sid=2\""), [pair("a", "1; sid=2")]);
        assert_eq!(simple_cookie(b"a=1;; sid=2"), [a]);
        assert_eq!(koa(b"a=1; sid =2", b"sid"), None);
        assert_eq!(koa(b"a=1; sid=2", b"sid"), Some(b"2".to_vec()));
    }

    fn any_line() -> impl Strategy<Value = Vec<u8>> {
        let name = proptest::sample::select(vec!["a", "b", "sid", "path", "__Host-c"]);
        let value = proptest::sample::select(vec!["", "1", "a=b", "\"x y\"", "{1,2}", "[]"]);
        let pair = (name, value).prop_map(|(name, value)| format!("{name}={value}").into_bytes());
        let odd = proptest::sample::select(vec![
            &b" "[..],
            b"\t",
            b"\xa0",
            b"\x85",
            b"\"",
            b"\\",
            b"$",
            b"[",
            b"a",
            b"=",
            b";",
            b"; ",
        ]);
        let odd = odd.prop_map(<[u8]>::to_vec);
        let piece = prop_oneof![
            12 => (pair, any::<bool>()).prop_map(|(mut pair, is_spaced)| {
                pair.extend_from_slice(if is_spaced { &b"; "[..] } else { b";" });
                pair
            }),
            1 => odd,
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn frameworks_read_a_clear_line_as_we_do(bytes in any_line()) {
            let line = line(&bytes);
            if !is_clear_line(&line) {
                let headers = HeaderMap::from_iter([(header::COOKIE, line)]);
                let finds = |name: &[u8]| cookies(&headers, name).next().is_some();
                let mut all = npm(&bytes);
                all.extend(simple_cookie(&bytes));
                all.retain(|(name, _)| !name.contains(&b'='));
                prop_assert!(may_hide_cookies(&headers) || all.iter().all(|it| finds(&it.0)));
                return Ok(());
            }
            let bytes = line.as_bytes().trim_ascii();
            let headers = HeaderMap::from_iter([(header::COOKIE, line.clone())]);
            let mut names: Vec<&[u8]> = cookie_names(&headers).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            let is_once = names.len() == count;
            let (npm, python) = (npm(bytes), simple_cookie(bytes));
            let sorted = |all: &Cookies| {
                let mut names: Vec<Vec<u8>> = all.iter().map(|(name, _)| name.clone()).collect();
                names.sort_unstable();
                names
            };
            prop_assert_eq!(&sorted(&npm), &names);
            names.retain(|name| !is_attribute(name));
            prop_assert_eq!(&sorted(&python), &names);
            for name in names {
                let value = without_quotes(cookies(&headers, name).next().unwrap());
                let is = |all: &Cookies| all.contains(&(name.to_vec(), value.to_vec()));
                prop_assert!(is(&npm));
                prop_assert!(!is_once || is(&python));
                prop_assert_eq!(koa(bytes, name), Some(value.to_vec()));
            }
        }

        #[test]
        fn no_target_keeps_what_is_taken_out(target in "[/?&=%a-c0-9tT]{0,40}") {
            let names = [Box::from("a"), Box::from("t")];
            if let Some(remaining) = without(target.as_bytes(), &names) {
                prop_assert!(remaining.len() < target.len());
                prop_assert_eq!(without(&remaining, &names), None);
            }
        }
    }
}
