//! Tags of a route's responses, with placeholders for path parameters: `product:{id}`.

use http::{HeaderMap, HeaderName};

/// Response header with tags, a comma-separated list as CDNs read it.
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
/// Response header with tags, a list separated by blanks.
const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");

/// Response headers meant only for caches in front of the origin, not needed once a response is
/// stored.
pub const TAGS: [HeaderName; 2] = [SURROGATE_KEY, CACHE_TAG];

/// Maximum number of tags of one response, and maximum bytes of a tag: twice what Next.js allows a
/// page. Beyond that the tags would be larger than the rest of the response.
const MAX_TAGS: usize = 256;
const MAX_TAG_LEN: usize = 256;

/// Returns the tags that the origin gave a response. An error means that the response must not be
/// stored: a purge by a tag that was left out would not find it.
pub fn tags_of(headers: &HeaderMap) -> Result<Vec<Box<str>>, &'static str> {
    let mut tags = Vec::new();
    for (name, separators) in [(CACHE_TAG, &b","[..]), (SURROGATE_KEY, b" \t")] {
        if !headers.contains_key(&name) {
            continue;
        }
        let lines = headers.get_all(&name).into_iter();
        let is_separator = |byte: &u8| separators.contains(byte);
        let written = lines.flat_map(|line| line.as_bytes().split(is_separator));
        // A purge is always text, so it could not name a tag that is not.
        let texts = written.filter_map(|tag| std::str::from_utf8(tag.trim_ascii()).ok());
        tags.extend(texts.filter(|tag| !tag.is_empty()).map(Box::<str>::from));
    }
    tags.sort_unstable();
    tags.dedup();
    if tags.len() > MAX_TAGS || tags.iter().any(|tag| tag.len() > MAX_TAG_LEN) {
        return Err("tags");
    }
    Ok(tags)
}

/// A tag, compiled with the slots of its placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagTemplate<Slot = String> {
    pieces: Vec<TagPiece<Slot>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TagPiece<Slot> {
    Text(String),
    Slot(Slot),
}

/// Reason why a tag is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagProblem {
    #[error("`{0}` is empty, or has a space or a comma, which separate tags")]
    Separator(String),
    #[error("`{0}` has an unmatched brace")]
    Brace(String),
    #[error("`{{{name}}}` of `{tag}` is not a parameter of every path of the route")]
    Unknown { tag: String, name: String },
}

impl TagTemplate {
    pub fn parse(text: &str) -> Result<Self, TagProblem> {
        if text.is_empty() || text.contains([' ', ',', '\t']) {
            return Err(TagProblem::Separator(text.to_owned()));
        }
        let brace = || TagProblem::Brace(text.to_owned());
        let mut pieces = Vec::new();
        let mut left = text;
        while let Some(at) = left.find(['{', '}']) {
            let (before, from) = left.split_at(at);
            let end = from.find('}').filter(|end| *end > 1).ok_or_else(brace)?;
            pieces.extend((!before.is_empty()).then(|| TagPiece::Text(before.to_owned())));
            pieces.push(TagPiece::Slot(from[1..end].to_owned()));
            left = &from[end + 1..];
        }
        pieces.extend((!left.is_empty()).then(|| TagPiece::Text(left.to_owned())));
        Ok(Self { pieces })
    }

    /// Replaces each placeholder by the slot that `slot` returns for its name.
    pub fn bind<Slot>(
        &self,
        slot: impl Fn(&str) -> Option<Slot>,
    ) -> Result<TagTemplate<Slot>, TagProblem> {
        let bound = self.pieces.iter().map(|piece| match piece {
            TagPiece::Text(text) => Ok(TagPiece::Text(text.clone())),
            TagPiece::Slot(name) => slot(name).map(TagPiece::Slot).ok_or_else(|| {
                let (tag, name) = (self.to_string(), name.clone());
                TagProblem::Unknown { tag, name }
            }),
        });
        Ok(TagTemplate {
            pieces: bound.collect::<Result<_, _>>()?,
        })
    }
}

impl<Slot> TagTemplate<Slot> {
    /// Renders the tag for one response.
    pub fn render<'v>(&self, value: impl Fn(&Slot) -> &'v [u8]) -> String {
        let mut tag = String::new();
        for piece in &self.pieces {
            match piece {
                TagPiece::Text(text) => tag.push_str(text),
                TagPiece::Slot(slot) => tag.push_str(&String::from_utf8_lossy(value(slot))),
            }
        }
        tag
    }
}

impl std::fmt::Display for TagTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for piece in &self.pieces {
            match piece {
                TagPiece::Text(text) => f.write_str(text)?,
                TagPiece::Slot(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}
