//! Choice of an image format by `Accept`, as the image optimizer of Next.js makes it.

/// Entry of `Accept`.
struct Range {
    kind: String,
    subtype: String,
    quality: f64,
}

/// Image format for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FormatChoice {
    /// This media type, which the client names.
    Named(Box<str>),
    /// That of the source: the client names none of the formats.
    OfSource,
}

/// Returns the first of `formats` that a client prefers; `None` for a header that is left to the
/// app.
pub(super) fn choose<'a>(
    formats: &[Box<str>],
    accept: impl Iterator<Item = &'a [u8]>,
) -> Option<FormatChoice> {
    let lines: Vec<&[u8]> = accept.collect();
    let header = String::from_utf8(lines.join(&b", "[..])).ok()?;
    if formats.is_empty() || header.is_empty() {
        // Without the header any format would do, but none is named.
        return Some(FormatChoice::OfSource);
    }
    if header.contains('"') {
        return None;
    }
    let mut all = Vec::new();
    for entry in header.split(',') {
        let entry: String = entry
            .chars()
            .filter(|it| !matches!(it, ' ' | '\t'))
            .collect();
        if entry.is_empty() {
            continue;
        }
        all.push(range(&entry)?);
    }
    let is_named = |format: &str| {
        let mut named = all.iter();
        named.any(|it| {
            format
                .strip_prefix(&it.kind)
                .and_then(|rest| rest.strip_prefix('/'))
                == Some(&it.subtype)
        })
    };
    let mut accepted: Vec<&Range> = all.iter().filter(|it| it.quality > 0.0).collect();
    let wild_last = |name: &str| (name == "*", name.to_owned());
    accepted.sort_by(|a, b| {
        let by_quality = b.quality.total_cmp(&a.quality);
        by_quality
            .then_with(|| wild_last(&a.kind).cmp(&wild_last(&b.kind)))
            .then_with(|| wild_last(&a.subtype).cmp(&wild_last(&b.subtype)))
    });
    let chosen = accepted.into_iter().find_map(|range| {
        let mut formats = formats.iter();
        formats.find(|format| {
            let Some((kind, subtype)) = format.split_once('/') else {
                return false;
            };
            match (&*range.kind, &*range.subtype) {
                ("*", _) => !is_named(format),
                (own, "*") => own == kind && !is_named(format),
                (own, name) => own == kind && name == subtype,
            }
        })
    });
    // What a wildcard stands for is not named.
    let named = chosen.filter(|format| header.contains(&***format));
    Some(named.map_or(FormatChoice::OfSource, |format| {
        FormatChoice::Named(format.clone())
    }))
}

/// Reads an entry; `None` for one with parameters of its own.
fn range(entry: &str) -> Option<Range> {
    let mut parts = entry.split(';');
    let media = parts.next()?.to_ascii_lowercase();
    let (kind, subtype) = media.split_once('/')?;
    let is_token = |text: &str| {
        let is_allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty() && text.bytes().all(is_allowed)
    };
    if !is_token(kind) || !is_token(subtype) || (kind == "*" && subtype != "*") {
        return None;
    }
    let mut quality = 1.0;
    if let Some(parameter) = parts.next() {
        let value = parameter
            .strip_prefix("q=")
            .or_else(|| parameter.strip_prefix("Q="))?;
        let number: f64 = value.parse().ok()?;
        let is_usual = number == 0.0 || (0.001..=1.0).contains(&number);
        quality = if is_usual { number } else { return None };
    }
    parts.next().is_none().then(|| Range {
        kind: kind.to_owned(),
        subtype: subtype.to_owned(),
        quality,
    })
}
