//! Media types that are worth compressing.

use edgeway_base::http::essence;

/// Types that compress well; `text/x-component` is what Next.js sends to its router. Images,
/// videos, archives and woff2 are compressed already.
pub(super) const DEFAULT: &str = include_str!("types.txt");

/// Type of server-sent events. They must arrive one by one in clients that read them through a
/// decoder of their own, so no list of types can include them.
const EVENTS: &[u8] = b"text/event-stream";

/// A list of media types, each with at most one `*`.
#[derive(Debug)]
pub(super) struct MediaTypes(Box<[Pattern]>);

#[derive(Debug)]
enum Pattern {
    Exact(Box<str>),
    /// Text before and after the `*`.
    Wild(Box<str>, Box<str>),
}

impl MediaTypes {
    /// Parses a list; each error has the index of its entry.
    pub(super) fn parse<'a>(
        list: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Vec<(usize, String)>> {
        let (mut patterns, mut errors) = (Vec::new(), Vec::new());
        for (index, text) in list.into_iter().enumerate() {
            match Pattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(help) => errors.push((index, help)),
            }
        }
        if errors.is_empty() {
            Ok(Self(patterns.into()))
        } else {
            Err(errors)
        }
    }

    /// Returns true if a `Content-Type` matches the list.
    pub(super) fn contain(&self, content_type: &[u8]) -> bool {
        let essence = essence(content_type);
        (self.0.iter().any(|p| p.is(essence)) || self.0.iter().any(|p| p.matches(essence)))
            && !essence.eq_ignore_ascii_case(EVENTS)
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        if text.as_bytes().eq_ignore_ascii_case(EVENTS) {
            return Err("remove it: server-sent events are never compressed".into());
        }
        if let Some((bare, _)) = text.split_once(';') {
            return Err(format!("write it without parameters: `{}`", bare.trim()));
        }
        let is_token = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+*".contains(&b))
        };
        match text.split_once('/') {
            Some((kind, subtype)) if is_token(kind) && is_token(subtype) => {}
            _ => return Err("write `TYPE/SUBTYPE`, such as `text/html` or `text/*`".into()),
        }
        let text = text.to_ascii_lowercase();
        match text.split_once('*') {
            None => Ok(Self::Exact(text.into())),
            Some((_, after)) if after.contains('*') => {
                Err("write one `*` only, as in `text/*` or `application/*+json`".into())
            }
            Some((before, after)) => Ok(Self::Wild(before.into(), after.into())),
        }
    }

    /// Returns true if the type is exactly this text, as in nearly every response.
    fn is(&self, essence: &[u8]) -> bool {
        matches!(self, Self::Exact(text) if text.as_bytes() == essence)
    }

    fn matches(&self, essence: &[u8]) -> bool {
        match self {
            Self::Exact(text) => essence.eq_ignore_ascii_case(text.as_bytes()),
            Self::Wild(before, after) => {
                essence.len() > before.len() + after.len()
                    && essence[..before.len()].eq_ignore_ascii_case(before.as_bytes())
                    && essence[essence.len() - after.len()..].eq_ignore_ascii_case(after.as_bytes())
            }
        }
    }
}
