//! Places that templates are written to: each chooses the encoding of the values in it.

use edgeway_base::http::url_of_refresh;
use http::HeaderName;

use super::{encoding::Encoding, markup::in_markup};

/// Place that a template is for.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'a> {
    Header(&'a HeaderName),
    /// `Host` towards a backend, which is checked as a whole.
    Host,
    /// Text that is compared, counted, or part of a key.
    Comparison,
    /// Path that is encoded as a whole.
    Path,
    /// Query behind such a path.
    Query,
    /// Path and query of a request that the gateway makes.
    Target,
    /// Target of a redirect.
    Redirect,
    Body(Encoding),
    /// Result of a lookup table, which is written to the places that use the table.
    MapResult,
}

/// Encoding of a piece of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceEncoding {
    Own(Encoding),
    /// The encoding of the place that uses a table. Where that begins a URL, it is the encoding
    /// that the text of the result gives.
    OfUser(Encoding),
    /// None: the configuration says `raw`.
    Raw,
}

impl PieceEncoding {
    /// Returns the encoding where a value is written in this one.
    pub(super) fn within(self, user: Encoding) -> Encoding {
        match (self, user) {
            (Self::Own(own), _) | (Self::OfUser(own), Encoding::UrlStart { .. }) => own,
            (Self::OfUser(_), user) => user,
            (Self::Raw, _) => Encoding::Text,
        }
    }
}

impl Destination<'_> {
    /// Returns the encoding of a value between these texts; `None` where none makes a value safe.
    pub(super) fn encoding(self, before: &str, after: &str) -> Option<PieceEncoding> {
        Some(PieceEncoding::Own(match self {
            Self::Header(name) => in_header(name, before, after),
            Self::Host | Self::Comparison | Self::Path => Encoding::Text,
            Self::Query => in_url(&format!("/?{before}"), after),
            Self::Target | Self::Redirect => in_url(before, after),
            Self::Body(Encoding::Markup) => in_markup(before, after)?,
            Self::Body(encoding) => encoding,
            Self::MapResult => return Some(PieceEncoding::OfUser(in_url(before, after))),
        }))
    }

    /// Returns true if the text as written must be one that headers can have.
    pub(super) fn is_header(self) -> bool {
        match self {
            Self::Header(_) | Self::Host | Self::Comparison | Self::MapResult => true,
            Self::Path | Self::Query | Self::Target | Self::Redirect | Self::Body(_) => false,
        }
    }
}

fn in_header(name: &HeaderName, before: &str, after: &str) -> Encoding {
    let quotes = before.replace("\\\\", "").replace("\\\"", "");
    let is_part = !(before.is_empty() && after.is_empty());
    match name.as_str() {
        "location" | "content-location" => in_url(before, after),
        "refresh" if let Some(url) = url_of_refresh(before) => in_url(&before[url..], after),
        "refresh"
        | "set-cookie"
        | "cookie"
        | "forwarded"
        | "content-security-policy"
        | "content-security-policy-report-only"
            if is_part =>
        {
            Encoding::Parameter
        }
        _ if quotes.matches('"').count() % 2 == 1 => Encoding::Quoted,
        _ => Encoding::Text,
    }
}

fn in_url(before: &str, after: &str) -> Encoding {
    const ENDS: [char; 3] = ['/', '?', '#'];
    let before = before.replace("|raw}", "}");
    let before = before.replace("{uri}", "/?").replace("{path}", "/");
    let before = before
        .replace("{query_mark}", "?")
        .replace("{query_and}", "&");
    let after = after.replace("{query_mark}", "?");
    if before.is_empty() {
        return Encoding::UrlStart {
            is_whole: after.is_empty(),
        };
    }
    let scheme = before.find(':').map_or(0, |colon| colon + 1);
    let path = if before.starts_with('/') {
        &before
    } else {
        // Browsers skip any slashes behind the scheme. A text without one begins with a value, such
        // as the result of a table, which may be a scheme and a host.
        let host = before[scheme..].trim_start_matches(['/', '\\']);
        match host.find(ENDS) {
            None => {
                return Encoding::Authority {
                    is_end: !host.is_empty() && (after.is_empty() || after.starts_with(ENDS)),
                };
            }
            Some(end) => &host[end..],
        }
    };
    let Some((_, query)) = path.split_once(['?', '#']) else {
        return Encoding::UrlPath;
    };
    let part = query.rsplit('&').next().unwrap_or_default();
    if part.contains('=') || path.contains('#') {
        Encoding::QueryValue
    } else {
        Encoding::Query
    }
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn a_value_has_the_encoding_of_the_part_that_it_is_in() {
        use Encoding::{Authority, Parameter, Query, QueryValue, Quoted, Text, UrlPath, UrlStart};

        for (before, encoding) in [
            ("", UrlStart { is_whole: true }),
            ("/", UrlPath),
            ("/a?", Query),
            ("/a?b=1&", Query),
            ("/a?b=", QueryValue),
            ("{uri}&b=", QueryValue),
            ("/a{query_mark}", Query),
            ("/a#", QueryValue),
            ("https://", Authority { is_end: false }),
            ("https:", Authority { is_end: false }),
            ("{scheme}://a.test", Authority { is_end: true }),
            ("{map.base}", Authority { is_end: true }),
            ("{path}", UrlPath),
            ("{scheme}://{host}/", UrlPath),
            ("https://a.test?b=", QueryValue),
        ] {
            assert_eq!(in_url(before, ""), encoding, "{before}");
        }
        for mark in ["?", "{query_mark}"] {
            let host = in_url("https://{host}", &format!("{mark}{{query}}"));
            assert_eq!(host, Authority { is_end: true }, "{mark}");
        }
        let within = in_url("https://a", ".test/");
        assert_eq!(within, Authority { is_end: false });
        assert_eq!(in_url("", "/a"), UrlStart { is_whole: false });
        for (name, before, encoding) in [
            ("x-a", "", Text),
            ("x-a", "a ", Text),
            ("content-disposition", "attachment; filename=\"", Quoted),
            ("nel", "{\"a\": \"b\", \"c\": \"", Quoted),
            ("nel", "{\"a\": \"b\", \"c\": ", Text),
            ("set-cookie", "", Text),
            ("set-cookie", "a=", Parameter),
            ("location", "/?a=", QueryValue),
            ("refresh", "0; URL='", UrlStart { is_whole: true }),
            ("refresh", "0;url=/?a=", QueryValue),
            ("refresh", "", Text),
        ] {
            let name = HeaderName::from_static(name);
            assert_eq!(in_header(&name, before, ""), encoding, "{name}: {before}");
        }
        for name in [header::SET_COOKIE, header::COOKIE, header::REFRESH] {
            assert_eq!(in_header(&name, "", "; Path=/"), Parameter, "{name}");
        }
    }
}
