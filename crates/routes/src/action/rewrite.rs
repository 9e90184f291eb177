//! Rewrites: a new path for the upstream, with the request's query, and on demand another one.

use edgeway_base::target::join;
use edgeway_config::model::RewriteConfig;
use regex::bytes::{Captures, Regex};

use super::redirect::encode;
use crate::{
    InvalidTarget, InvalidValue, ParamNames, Params, Slashes, Target, normalise,
    template::{Piece, Template, UrlPart},
};

/// A compiled rewrite.
#[derive(Debug)]
pub struct Rewrite {
    kind: RewriteKind,
    slashes: Slashes,
    /// True if the query of the request is left out.
    drops_query: bool,
}

#[derive(Debug)]
enum RewriteKind {
    /// `with` replaces `prefix`, which has no trailing slash.
    Prefix { prefix: Vec<u8>, with: Template },
    Regex {
        regex: Regex,
        with: Vec<u8>,
        /// New query, if there is one.
        query: Option<Vec<QueryPiece>>,
    },
    /// `with` is the whole new path.
    Whole(Template),
}

/// Piece of a query with groups of a regular expression.
#[derive(Debug)]
enum QueryPiece {
    Text(Vec<u8>),
    Numbered(usize),
    Named(String),
}

impl QueryPiece {
    /// Splits a query whose groups were checked.
    fn all(text: &str) -> Vec<Self> {
        let mut pieces = Vec::new();
        let mut left = text;
        while let Some(dollar) = left.find('$') {
            pieces.push(Self::Text(left.as_bytes()[..dollar].to_vec()));
            left = &left[dollar + 1..];
            if let Some(after) = left.strip_prefix('$') {
                pieces.push(Self::Text(b"$".to_vec()));
                left = after;
                continue;
            }
            let (name, length) = group_name(left);
            pieces.push(match name.parse() {
                Ok(number) => Self::Numbered(number),
                Err(_) => Self::Named(name.to_owned()),
            });
            left = &left[length..];
        }
        pieces.push(Self::Text(left.as_bytes().to_vec()));
        pieces
    }

    /// Appends the piece. Of the path, what means something in a query is percent-encoded: a value
    /// must not become two parameters.
    fn write(&self, captures: &Captures<'_>, out: &mut Vec<u8>) {
        let value = match self {
            Self::Text(text) => return out.extend_from_slice(text),
            Self::Numbered(number) => captures.get(*number),
            Self::Named(name) => captures.name(name),
        };
        encode(
            out,
            value.map_or(&b""[..], |value| value.as_bytes()),
            UrlPart::Query,
        );
    }
}

/// Returns the name of a group behind a `$`, and its length as written.
fn group_name(text: &str) -> (&str, usize) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if let Some(inner) = text.strip_prefix('{') {
        let name = inner.split('}').next().unwrap_or_default();
        return (name, (name.len() + 2).min(text.len()));
    }
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    (&text[..end], end)
}

impl Rewrite {
    /// Compiles a rewrite. `Ok(None)` if it depends on an invalid path, which was reported.
    pub(super) fn compile(
        config: &RewriteConfig,
        names: &ParamNames,
        slashes: Slashes,
    ) -> Result<Option<Self>, InvalidValue> {
        let with = config.with.value.as_str();
        check_text(with)?;
        if with.contains('?') && config.prefix.is_some() {
            return Err(query_of_prefix(with));
        }
        let drops_query = with.ends_with('?');
        let with = with.strip_suffix('?').unwrap_or(with);
        let kind = match (&config.prefix, &config.regex) {
            (Some(_), Some(_)) => {
                return Err(InvalidValue::new(
                    "a rewrite has `prefix` or `regex`, not both",
                    "leave one of them out",
                ));
            }
            (None, Some(regex)) => {
                if !with.starts_with(['/', '$']) {
                    return Err(no_slash(with));
                }
                let regex = crate::regex(&regex.value)?;
                check_groups(with, &regex)?;
                let (path, query) = match with.split_once('?') {
                    Some((path, query)) => (path, Some(QueryPiece::all(query))),
                    None => (with, None),
                };
                RewriteKind::Regex {
                    regex,
                    with: path.as_bytes().to_vec(),
                    query,
                }
            }
            (prefix, None) => {
                if !with.starts_with('/') && !with.starts_with("{path}") {
                    return Err(no_slash(with));
                }
                let Some(mut template) = Template::parse(with, names, &["path", "rest"])? else {
                    return Ok(None);
                };
                match prefix {
                    Some(prefix) => {
                        let prefix = prefix.value.as_str();
                        check_prefix(prefix, slashes)?;
                        trim_slash(&mut template);
                        RewriteKind::Prefix {
                            prefix: prefix.trim_end_matches('/').as_bytes().to_vec(),
                            with: template,
                        }
                    }
                    None => RewriteKind::Whole(template),
                }
            }
        };
        Ok(Some(Self {
            kind,
            slashes,
            drops_query,
        }))
    }

    /// Returns the request target for the upstream; `None` if it is unchanged.
    ///
    /// # Errors
    /// Fails if the pieces combine to a path that clients may not send either.
    pub fn apply(
        &self,
        target: &Target<'_>,
        params: &Params,
    ) -> Result<Option<Vec<u8>>, InvalidTarget> {
        let Some(mut path) = self.target(target, params) else {
            return Ok(None);
        };
        // No path has a `?`, so the first one is that of the template.
        let new_query = path.iter().position(|&byte| byte == b'?').map(|at| {
            let query = path.split_off(at + 1);
            path.pop();
            query
        });
        let slashes = path.iter().take_while(|&&b| b == b'/').count();
        // The rest of `/api//evil.test` must not be mistaken for the address of a host.
        let (lead, tail): (&[u8], _) = (b"/", &path[slashes..]);
        let mut joined = Vec::with_capacity(path.len() + 1);
        joined.extend_from_slice(lead);
        joined.extend_from_slice(tail);
        let normal = normalise(&joined, self.slashes)?.path;
        // As nginx writes the target: without a `?` that nothing follows.
        let query = target
            .query
            .filter(|query| !query.is_empty() && !self.drops_query);
        Ok(Some(match (new_query, query) {
            (Some(mut both), Some(query)) if !both.is_empty() => {
                both.push(b'&');
                both.extend_from_slice(query);
                join(&normal, Some(&both))
            }
            (Some(own), None) if !own.is_empty() => join(&normal, Some(&own)),
            (_, query) => join(&normal, query),
        }))
    }

    /// Returns the new path, and behind a `?` the new query.
    fn target(&self, target: &Target<'_>, params: &Params) -> Option<Vec<u8>> {
        if target.path == b"*" {
            return None;
        }
        let mut out = Vec::with_capacity(target.path.len() + 16);
        match &self.kind {
            RewriteKind::Prefix { prefix, with } => {
                let left = target.path.strip_prefix(prefix.as_slice())?;
                if !matches!(left, [] | [b'/', ..]) {
                    return None;
                }
                with.write(&mut out, target, params, copy);
                out.extend_from_slice(left);
            }
            RewriteKind::Regex { regex, with, query } => {
                let captures = regex.captures(target.path)?;
                let matched = captures.get(0)?;
                out.extend_from_slice(&target.path[..matched.start()]);
                captures.expand(with, &mut out);
                out.extend_from_slice(&target.path[matched.end()..]);
                if let Some(query) = query {
                    out.push(b'?');
                    for piece in query {
                        piece.write(&captures, &mut out);
                    }
                }
            }
            RewriteKind::Whole(with) => with.write(&mut out, target, params, copy),
        }
        Some(out)
    }
}

fn copy(out: &mut Vec<u8>, value: &[u8], part: UrlPart) {
    match part {
        UrlPart::Path => out.extend_from_slice(value),
        UrlPart::Query | UrlPart::WholeQuery => encode(out, value, part),
    }
}

fn no_slash(with: &str) -> InvalidValue {
    InvalidValue::new(
        format!("invalid path `{with}`: it does not begin with `/`"),
        format!("write `with: /{with}`"),
    )
}

fn query_of_prefix(with: &str) -> InvalidValue {
    InvalidValue::new(
        format!("`{with}` has a query, and the rest of the path would follow it"),
        "leave it out, or write `regex` in place of `prefix`",
    )
}

fn check_text(with: &str) -> Result<(), InvalidValue> {
    if let Some(bad) = with
        .chars()
        .find(|c| !c.is_ascii_graphic() || matches!(c, '#' | '\\'))
    {
        return Err(InvalidValue::new(
            format!("invalid path `{with}`: it has {bad:?}"),
            "write it percent-encoded, as `%20` for a space",
        ));
    }
    Ok(())
}

fn check_prefix(prefix: &str, slashes: Slashes) -> Result<(), InvalidValue> {
    let help = match prefix.strip_suffix("/*").or(prefix.strip_suffix('*')) {
        Some("") => "write `prefix: /`".to_owned(),
        Some(prefix) => format!("write `prefix: {prefix}`"),
        None if !prefix.starts_with('/') => format!("write `prefix: /{prefix}`"),
        None if prefix.contains(['{', '}']) => {
            "leave `prefix` out: `with` is then the whole new path".to_owned()
        }
        None => match normalise(prefix.as_bytes(), slashes) {
            Ok(normal) if normal.rewritten().is_none() && normal.query.is_none() => return Ok(()),
            _ => "write the beginning of the path as clients send it".to_owned(),
        },
    };
    Err(InvalidValue::new(
        format!("invalid path prefix `{prefix}`"),
        help,
    ))
}

/// Checks that each `$1` and `${name}` is a group: an unknown one would silently expand to nothing.
fn check_groups(with: &str, regex: &Regex) -> Result<(), InvalidValue> {
    let mut left = with;
    while let Some(dollar) = left.find('$') {
        left = &left[dollar + 1..];
        if let Some(after) = left.strip_prefix('$') {
            left = after;
            continue;
        }
        let is_braced = left.starts_with('{');
        let (name, _) = group_name(left);
        let is_group = match name.parse::<usize>() {
            Ok(index) => index < regex.captures_len(),
            Err(_) => regex.capture_names().flatten().any(|known| known == name),
        };
        if is_group {
            continue;
        }
        let digits: String = name.chars().take_while(char::is_ascii_digit).collect();
        let help = if name.is_empty() {
            "write `$$` for a dollar sign".to_owned()
        } else if !is_braced && !digits.is_empty() && digits.len() < name.len() {
            format!("write `${{{digits}}}{}`", &name[digits.len()..])
        } else {
            format!("the groups are `$0` to `${}`", regex.captures_len() - 1)
        };
        return Err(InvalidValue::new(
            format!("`{with}` uses `${name}`, and the regular expression has no such group"),
            help,
        ));
    }
    Ok(())
}

/// Removes trailing slashes, because the rest of a path after its prefix begins with a slash.
fn trim_slash(with: &mut Template) {
    if let Some(Piece::Text(text)) = with.pieces.last_mut() {
        while text.last() == Some(&b'/') {
            text.pop();
        }
        if text.is_empty() {
            with.pieces.pop();
        }
    }
}
