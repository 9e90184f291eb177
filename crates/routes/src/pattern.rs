//! Host and path patterns of routes.

use derive_more::Display;
use edgeway_base::spelling;
use percent_encoding::{AsciiSet, utf8_percent_encode};

use super::{
    InvalidValue, Slashes, host_of,
    host_regex::HostRegex,
    normalise,
    params::{MAX_PARAMS, RESERVED},
};

/// A host pattern. The order is by specificity only together with [`HostPattern::rank`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display)]
pub(super) enum HostPattern {
    Exact(String),
    /// Every host below this domain, at any depth, but not the domain itself.
    #[display("*.{_0}")]
    Below(String),
    /// Every host that begins with this name and a dot.
    #[display("{_0}.*")]
    After(String),
    /// Every host that this regular expression matches.
    #[display("~{_0}")]
    Regex(String),
}

/// A path pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPattern {
    pub segments: Vec<Segment>,
    /// True if the pattern ends in `/*`.
    pub is_prefix: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(Vec<u8>),
    Param(String),
}

impl HostPattern {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidValue> {
        let refuse = |why: &str, help: String| {
            Err(InvalidValue::new(
                format!("invalid host `{text}`: {why}"),
                help,
            ))
        };
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split('/').next().unwrap_or_default();
            return refuse("it has a scheme", format!("write `{host}`"));
        }
        if let Some(regex) = text.strip_prefix('~') {
            return HostRegex::compile(regex).map(|_| Self::Regex(regex.to_owned()));
        }
        if text == "*" {
            return refuse(
                "`*` alone has no effect",
                "leave `host` out to take any host".into(),
            );
        }
        let (name, of): (_, fn(String) -> Self) =
            match (text.strip_prefix("*."), text.strip_suffix(".*")) {
                (Some(name), _) => (name, Self::Below),
                (None, Some(name)) => (name, Self::After),
                (None, None) => (text, Self::Exact),
            };
        if name.contains('*') {
            return refuse(
                "`*` may only stand at the front, before a dot, or at the end, after one",
                "write `*.example.com`, or `www.example.*`".into(),
            );
        }
        if let Some(name) = name.strip_prefix('.') {
            return refuse("it begins with a dot", format!("write `*.{name}`"));
        }
        if !name.is_ascii() {
            return refuse(
                "it has letters beyond ASCII",
                "write its punycode form (`xn--…`), as browsers send it".into(),
            );
        }
        if name.contains('/') {
            return refuse("it has a `/`", "write the path in `path`".into());
        }
        let Ok(host) = host_of(name.as_bytes()) else {
            return refuse(
                "it is neither a name nor an address",
                "write a name such as `shop.example.com`, or `[::1]` for an IPv6 address".into(),
            );
        };
        if host.is_empty() {
            return refuse("it is empty", "leave `host` out to take any host".into());
        }
        // Only a port can follow the last colon outside of brackets.
        if name.contains(':') && !name.ends_with(']') {
            return refuse(
                "it has a port, and ports are not matched",
                format!("write `{host}`"),
            );
        }
        Ok(of(host.into_owned()))
    }

    pub(super) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(name) => host
                .strip_suffix(name.as_str())
                .is_some_and(|left| left.len() > 1 && left.ends_with('.')),
            Self::After(name) => host
                .strip_prefix(name.as_str())
                .is_some_and(|left| left.starts_with('.')),
            Self::Regex(text) => {
                HostRegex::compile(text).is_ok_and(|regex| regex.is_match(host).unwrap_or(true))
            }
        }
    }

    /// Returns true if this pattern matches each host that `other` matches.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(name), Self::Exact(other)) => name == other,
            (_, Self::Exact(other)) => self.matches(other),
            (Self::Below(name), Self::Below(other)) | (Self::After(name), Self::After(other)) => {
                name == other || self.matches(other)
            }
            (Self::Regex(text), Self::Regex(other)) => text == other,
            // Two expressions may match the same hosts, which is not known before a request.
            (
                Self::Exact(_) | Self::Below(_) | Self::After(_) | Self::Regex(_),
                Self::Below(_) | Self::After(_) | Self::Regex(_),
            ) => false,
        }
    }
}

impl PathPattern {
    /// Returns `/*`, the pattern of a route without a path.
    pub(super) fn any() -> Self {
        Self {
            segments: Vec::new(),
            is_prefix: true,
        }
    }

    pub(super) fn is_any(&self) -> bool {
        self.is_prefix && self.segments.is_empty()
    }

    pub(super) fn parse(text: &str, slashes: Slashes) -> Result<Self, InvalidValue> {
        let Some(inner) = text.strip_prefix('/') else {
            let help = match text.trim_start_matches(['~', '*', ' ']) {
                // As nginx and Traefik write expressions.
                regex if text.starts_with('~') || regex.starts_with('^') => {
                    format!("write `path_regex: '{regex}'` in place of `path`")
                }
                _ => format!("write `/{text}`"),
            };
            return Err(InvalidValue::new(
                format!("invalid path `{text}`: it does not begin with `/`"),
                help,
            ));
        };
        check_normal(text, slashes)?;
        let (inner, is_prefix) = match inner.strip_suffix('*') {
            Some("") => return Ok(Self::any()),
            Some(inner) => match inner.strip_suffix('/') {
                Some(inner) => (inner, true),
                None => return Err(stray_star(text)),
            },
            None => (inner, false),
        };
        let segments: Vec<Segment> = inner
            .split('/')
            .map(|segment| parse_segment(text, segment))
            .collect::<Result<_, _>>()?;
        let pattern = Self {
            segments,
            is_prefix,
        };
        pattern.check_names(text)?;
        Ok(pattern)
    }

    /// Returns the pattern in every reading of an app ([`spelling`]).
    pub(super) fn folded(&self) -> Vec<Self> {
        let mut segments: Vec<Vec<Segment>> = Vec::new();
        for segment in &self.segments {
            let forms: Vec<Vec<Segment>> = match segment {
                Segment::Literal(text) => spelling::pieces(text)
                    .map(|form| form.into_iter().map(Segment::Literal).collect())
                    .collect(),
                Segment::Param(_) => vec![vec![segment.clone()]],
            };
            if segments.len() < forms.len() {
                let whole = segments.first().cloned().unwrap_or_default();
                segments.resize(forms.len(), whole);
            }
            for (index, whole) in segments.iter_mut().enumerate() {
                let form = forms.get(index).or_else(|| forms.first());
                whole.extend(form.into_iter().flatten().cloned());
            }
        }
        let mut folded: Vec<Self> = Vec::new();
        for mut segments in segments {
            if segments.is_empty() && !self.is_prefix {
                // `/` alone.
                segments.push(Segment::Literal(Vec::new()));
            }
            let form = Self {
                segments,
                is_prefix: self.is_prefix,
            };
            folded.extend((!folded.contains(&form)).then_some(form));
        }
        folded.extend(folded.is_empty().then(|| self.clone()));
        folded
    }

    pub(super) fn ends_in_slash(&self) -> bool {
        matches!(&*self.segments, [_, .., Segment::Literal(last)] if last.is_empty())
    }

    /// Appends a slash to a folded pattern that ended in one.
    pub(super) fn with_slash(&self) -> Self {
        let mut with_slash = self.clone();
        with_slash.segments.push(Segment::Literal(Vec::new()));
        with_slash
    }

    /// Returns the pattern with an empty last parameter: Fastify matches `/items/` with
    /// `/items/:id`.
    pub(super) fn with_empty_end(&self) -> Option<Self> {
        let (Segment::Param(_), before) = self.segments.split_last()? else {
            return None;
        };
        let mut segments = before.to_vec();
        segments.push(Segment::Literal(Vec::new()));
        (!self.is_prefix).then_some(Self {
            segments,
            is_prefix: false,
        })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    fn check_names(&self, text: &str) -> Result<(), InvalidValue> {
        let names: Vec<&str> = self.names().collect();
        for (index, name) in names.iter().enumerate() {
            if RESERVED.contains(name) {
                return Err(InvalidValue::new(
                    format!("`{text}` uses the name `{{{name}}}`, which templates reserve"),
                    format!("write another name, such as `{{{name}_name}}`"),
                ));
            }
            if names[..index].contains(name) {
                return Err(InvalidValue::new(
                    format!("`{text}` uses the name `{{{name}}}` twice"),
                    "give each segment a name of its own",
                ));
            }
        }
        if names.len() > MAX_PARAMS {
            return Err(InvalidValue::new(
                format!("`{text}` has more than {MAX_PARAMS} names"),
                "use `/*` for the rest of the path",
            ));
        }
        Ok(())
    }
}

/// Checks that requests can have this path after [`normalise`]; otherwise the route would never
/// match.
fn check_normal(text: &str, slashes: Slashes) -> Result<(), InvalidValue> {
    let refuse = |why: &str, help: String| {
        Err(InvalidValue::new(
            format!("invalid path `{text}`: {why}"),
            help,
        ))
    };
    if let Some((path, _)) = text.split_once('?') {
        return refuse(
            "it has a query",
            format!("write `path: {path}` and the query in `query`"),
        );
    }
    if !text.is_ascii() {
        let encoded = utf8_percent_encode(text, &AsciiSet::EMPTY);
        return refuse("it has letters beyond ASCII", format!("write `{encoded}`"));
    }
    match normalise(text.as_bytes(), slashes) {
        Ok(normal) => match normal.rewritten() {
            None => Ok(()),
            Some(path) => refuse(
                "routes match the normalized form of a path",
                format!("write `{}`", String::from_utf8_lossy(&path)),
            ),
        },
        Err(why) => refuse(
            &format!("{why}, and such requests get 400"),
            "write the path as clients send it".into(),
        ),
    }
}

fn parse_segment(text: &str, segment: &str) -> Result<Segment, InvalidValue> {
    if let Some(name) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
        let is_name = |name: &str| {
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        };
        if is_name(name) {
            return Ok(Segment::Param(name.to_owned()));
        }
        return Err(InvalidValue::new(
            format!(
                "invalid parameter `{segment}` in `{text}`: a name has letters, digits and `_`"
            ),
            if name.starts_with('*') {
                "write `/*` at the end; templates call what it matched `{rest}`"
            } else {
                "write a name such as `{id}`"
            },
        ));
    }
    if segment.contains(['{', '}']) {
        return Err(InvalidValue::new(
            format!("`{segment}` in `{text}` mixes text and parameter in one segment"),
            "a parameter is a whole segment; use `path_regex` for less than one",
        ));
    }
    if segment.contains('*') {
        return Err(stray_star(text));
    }
    if let Some(name) = segment.strip_prefix(':').filter(|name| !name.is_empty()) {
        return Err(InvalidValue::new(
            format!("invalid parameter `{segment}` in `{text}`"),
            format!("write `{{{name}}}`"),
        ));
    }
    if let Some(name) = segment.strip_prefix('[').and_then(|s| s.strip_suffix(']')) {
        let help = match name.trim_start_matches('[').strip_prefix("...") {
            Some(_) => "write `/*` at the end".to_owned(),
            None => format!("write `{{{name}}}`"),
        };
        return Err(InvalidValue::new(
            format!("invalid parameter `{segment}` in `{text}`"),
            help,
        ));
    }
    Ok(Segment::Literal(segment.as_bytes().to_vec()))
}

fn stray_star(text: &str) -> InvalidValue {
    let help = match text.strip_suffix('*') {
        Some(start) if !start.contains('*') => {
            format!("write `{start}/*` for all below it, or use `path_regex`")
        }
        _ => "write `{name}` for one segment, `/*` at the end for all that follows".to_owned(),
    };
    InvalidValue::new(
        format!("invalid path `{text}`: `*` may only be the last segment"),
        help,
    )
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{}", String::from_utf8_lossy(text))?,
                Segment::Param(name) => write!(f, "/{{{name}}}")?,
            }
        }
        if self.is_prefix {
            f.write_str("/*")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_back_as_written() {
        for text in [
            "/",
            "/*",
            "/a",
            "/a/",
            "/a/*",
            "/{x}/b/{y}",
            "/a//*",
            "/{x}/*",
            "/v1:run",
        ] {
            assert_eq!(
                PathPattern::parse(text, Slashes::Keep).unwrap().to_string(),
                text
            );
        }
    }

    #[test]
    fn invalid_paths_are_reported_with_a_remedy() {
        for (text, help) in [
            ("api/*", "write `/api/*`"),
            (
                "/api*",
                "write `/api/*` for all below it, or use `path_regex`",
            ),
            (
                "/a/*/b",
                "write `{name}` for one segment, `/*` at the end for all that follows",
            ),
            ("/a/:id", "write `{id}`"),
            ("/a/[id]", "write `{id}`"),
            ("/a/[...slug]", "write `/*` at the end"),
            (
                "/a/{*rest}",
                "write `/*` at the end; templates call what it matched `{rest}`",
            ),
            ("/a/../b", "write `/b`"),
            ("/a//b", "write `/a/b`"),
            ("/%61/%c3%a9", "write `/a/%C3%A9`"),
            ("/a?b=c", "write `path: /a` and the query in `query`"),
            ("/café", "write `/caf%C3%A9`"),
            ("/{a}/{a}", "give each segment a name of its own"),
            ("/{path}", "write another name, such as `{path_name}`"),
            (
                "/{id}.json",
                "a parameter is a whole segment; use `path_regex` for less than one",
            ),
            ("/a b", "write the path as clients send it"),
        ] {
            assert_eq!(
                PathPattern::parse(text, Slashes::Merge).unwrap_err().help,
                help,
                "{text}"
            );
        }
    }

    #[test]
    fn hosts_read_in_their_normal_form() {
        for (text, host) in [
            ("Shop.Example.com", "shop.example.com"),
            ("*.example.com", "*.example.com"),
            ("[::1]", "[::1]"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(HostPattern::parse(text).unwrap().to_string(), host);
        }
    }

    #[test]
    fn invalid_hosts_are_reported_with_a_remedy() {
        for (text, help) in [
            ("https://a.test/x", "write `a.test`"),
            ("a.test:8080", "write `a.test`"),
            ("[::1]:80", "write `[::1]`"),
            ("*", "leave `host` out to take any host"),
            ("", "leave `host` out to take any host"),
            (".a.test", "write `*.a.test`"),
            ("a.*.test", "write `*.example.com`, or `www.example.*`"),
            (
                "bücher.test",
                "write its punycode form (`xn--…`), as browsers send it",
            ),
            ("a.test/x", "write the path in `path`"),
        ] {
            assert_eq!(HostPattern::parse(text).unwrap_err().help, help, "{text}");
        }
    }

    #[test]
    fn a_wildcard_takes_any_depth_but_not_the_apex() {
        let host = HostPattern::parse("*.example.com").unwrap();
        assert!(host.matches("a.example.com"));
        assert!(host.matches("a.b.example.com"));
        assert!(!host.matches("example.com"));
        assert!(!host.matches(".example.com"));
        assert!(!host.matches("badexample.com"));
    }
}
