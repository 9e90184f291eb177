//! The list of URLs to fetch, one per line.

use derive_more::Display;
use http::Uri;

/// Problem with a line.
#[derive(Debug, PartialEq, Eq, Display)]
#[display("line {line}: `{text}` {why}")]
pub(super) struct InvalidLine {
    /// Line number, from 1.
    line: usize,
    text: String,
    why: &'static str,
}

/// A URL without a path, the base of paths in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base(String);

impl std::str::FromStr for Base {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("invalid URL `{text}`; write one such as `https://shop.example.com`");
        let url = absolute_url(text).ok_or_else(bad)?;
        if url.path() != "/" || url.query().is_some() {
            return Err(bad());
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

/// Parses a list into URLs, in order. A line that begins with `#` is a comment.
pub(super) fn read(text: &str, base: Option<&Base>) -> Result<Vec<Uri>, InvalidLine> {
    let mut urls = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |why| InvalidLine {
            line: index + 1,
            text: line.to_owned(),
            why,
        };
        let url = match (line.starts_with('/'), base) {
            (false, _) => absolute_url(line).ok_or_else(|| bad("is not an http or https URL")),
            (true, Some(Base(base))) => absolute_url(&format!("{base}{line}"))
                .ok_or_else(|| bad("is not the path of a URL")),
            (true, None) => Err(bad(
                "is a path: name the site with `--base https://shop.example.com`",
            )),
        }?;
        urls.push(url);
    }
    Ok(urls)
}

/// Parses a complete URL. `Uri` has no fragments: they are never sent.
fn absolute_url(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let is_http = matches!(url.scheme_str(), Some("http" | "https"));
    let has_host = url.host().is_some_and(|host| !host.is_empty());
    let has_user = url.authority().is_some_and(|it| it.as_str().contains('@'));
    (is_http && has_host && !has_user).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, base: Option<&str>, expected: Result<&[&str], &str>) {
        let base = base.map(|base| base.parse::<Base>().unwrap());
        let read = read(text, base.as_ref());
        let read = read.map(|urls| urls.iter().map(ToString::to_string).collect::<Vec<_>>());
        match (read, expected) {
            (Ok(urls), Ok(expected)) => assert_eq!(urls, expected),
            (Err(bad), Err(expected)) => assert_eq!(bad.to_string(), expected),
            (read, expected) => panic!("{read:?} is not {expected:?}"),
        }
    }

    #[test]
    fn a_list_has_urls_comments_and_empty_lines() {
        let text = "# shop\n\nhttps://a.test/x?y=1#top\r\n  http://[::1]:8080  \n";
        check(
            text,
            None,
            Ok(&["https://a.test/x?y=1", "http://[::1]:8080/"]),
        );
        check("", None, Ok(&[]));
    }

    #[test]
    fn paths_are_of_the_base() {
        let base = Some("https://a.test:8443/");
        check(
            "/x?y\nhttp://b.test/z",
            base,
            Ok(&["https://a.test:8443/x?y", "http://b.test/z"]),
        );
        check(
            "\n/x",
            None,
            Err("line 2: `/x` is a path: name the site with `--base https://shop.example.com`"),
        );
        check("/a b", base, Err("line 1: `/a b` is not the path of a URL"));
    }

    #[test]
    fn an_invalid_url_is_reported_with_its_line() {
        for line in [
            "a.test/x",
            "ftp://a.test/",
            "https:///x",
            "http://u:p@a.test/",
        ] {
            let message = format!("line 1: `{line}` is not an http or https URL");
            check(line, None, Err(&message));
        }
        for base in ["a.test", "https://a.test/x", "https://a.test/?x"] {
            assert!(base.parse::<Base>().is_err(), "{base}");
        }
    }
}
