//! Templates of redirects and rewrites: text with `{param}`, `{rest}`, `{path}`, `{query}` and
//! `{host}` in it.

use edgeway_config::diagnostic::closest;

use super::{
    InvalidValue, ParamNames, ParamSlot, Params, Target,
    params::{NoSlot, RESERVED},
};

/// A compiled template.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(Vec<u8>),
    Slot(ParamSlot),
    Rest,
    Path,
    /// The request's query after this byte (`?` or `&`); nothing without a query.
    Query(u8),
    Host,
}

impl Template {
    /// Parses a template; placeholders besides `names` are those of `reserved`.
    ///
    /// `Ok(None)` if it uses a name of an invalid path, which was reported.
    pub(super) fn parse(
        text: &str,
        names: &ParamNames,
        reserved: &[&str],
    ) -> Result<Option<Self>, InvalidValue> {
        let mut pieces = Vec::new();
        let mut left = text;
        while let Some(start) = left.find(['{', '}']) {
            let (before, from) = left.split_at(start);
            let end = from.find('}').filter(|end| *end > 0).ok_or_else(|| {
                InvalidValue::new(
                    format!("`{text}` has an unmatched `{}`", &from[..1]),
                    "write `{name}` for a placeholder, `%7B` and `%7D` for braces",
                )
            })?;
            let name = &from[1..end];
            left = &from[end + 1..];
            push_text(&mut pieces, before);
            match placeholder(text, name, names, reserved)? {
                Some(Piece::Query(_)) => {
                    let piece = query_piece(text, &mut pieces, left)?;
                    pieces.push(piece);
                }
                Some(piece) => pieces.push(piece),
                None => return Ok(None),
            }
        }
        push_text(&mut pieces, left);
        Ok(Some(Self { pieces }))
    }

    /// Appends the expanded template for a request; `encode` writes each byte that is not from the
    /// template itself.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        target: &Target<'_>,
        params: &Params,
        encode: fn(&mut Vec<u8>, &[u8], UrlPart),
    ) {
        let mut part = UrlPart::Path;
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => {
                    out.extend_from_slice(text);
                    if text.contains(&b'?') {
                        part = UrlPart::Query;
                    }
                }
                Piece::Slot(slot) => encode(out, params.get(*slot, target.path), part),
                Piece::Rest => encode(out, params.rest(target.path), part),
                Piece::Path if target.path == b"*" => out.push(b'/'),
                Piece::Path => encode(out, target.path, part),
                Piece::Query(lead) => {
                    if let Some(query) = target.query.filter(|query| !query.is_empty()) {
                        out.push(*lead);
                        encode(out, query, UrlPart::WholeQuery);
                    }
                }
                Piece::Host => out.extend_from_slice(target.host.as_bytes()),
            }
        }
    }
}

/// Part of a URL that a value is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UrlPart {
    Path,
    /// A value within a query.
    Query,
    WholeQuery,
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    pieces.extend((!text.is_empty()).then(|| Piece::Text(text.as_bytes().to_vec())));
}

fn placeholder(
    text: &str,
    name: &str,
    names: &ParamNames,
    reserved: &[&str],
) -> Result<Option<Piece>, InvalidValue> {
    if RESERVED.contains(&name) && reserved.contains(&name) {
        return match name {
            "rest" if !names.has_rest && names.is_whole => Err(InvalidValue::new(
                format!("`{text}` uses `{{rest}}`, but a path of this route has no `/*`"),
                "`{rest}` is what `/*` matched: end each path of the route with `/*`",
            )),
            "rest" => Ok(Some(Piece::Rest)),
            "path" => Ok(Some(Piece::Path)),
            "query" => Ok(Some(Piece::Query(b'?'))),
            _ => Ok(Some(Piece::Host)),
        };
    }
    match names.lookup(name) {
        Ok(slot) => Ok(Some(Piece::Slot(slot))),
        Err(_) if !names.is_whole => Ok(None),
        Err(NoSlot::NotEverywhere) => Err(InvalidValue::new(
            format!("`{text}` uses `{{{name}}}`, but only some paths of this route have it"),
            "use the same names in all of the route's paths, or write two routes",
        )),
        Err(NoSlot::Unknown) => {
            let known: Vec<&str> = names
                .iter()
                .map(|(name, _)| name)
                .chain(reserved.iter().copied())
                .collect();
            let help = match closest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{{{near}}}`?"),
                None => format!("there are `{{{}}}`", known.join("}`, `{")),
            };
            Err(InvalidValue::new(
                format!("unknown placeholder `{{{name}}}` in `{text}`"),
                help,
            ))
        }
    }
}

/// Parses `{query}`, which includes the `?` or `&` before it, so that neither is left alone.
fn query_piece(text: &str, pieces: &mut Vec<Piece>, after: &str) -> Result<Piece, InvalidValue> {
    let refuse = |help: &str| {
        Err(InvalidValue::new(
            format!("misplaced `{{query}}` in `{text}`"),
            help,
        ))
    };
    if !after.is_empty() {
        return refuse("write it last: `{path}?{query}` or `/x?a=1&{query}`");
    }
    let Some(Piece::Text(before)) = pieces.last_mut() else {
        return refuse("write a `?` before it: `{path}?{query}`");
    };
    match before.pop() {
        // A `&` without a `?` before it would still be part of the path, or of a host.
        Some(lead @ (b'?' | b'&')) if lead == b'?' || text.contains('?') => {
            if before.is_empty() {
                pieces.pop();
            }
            Ok(Piece::Query(lead))
        }
        _ => refuse("write a `?` before it: `{path}?{query}`"),
    }
}
