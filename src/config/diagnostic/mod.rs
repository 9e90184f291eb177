//! Problems of a configuration: what, where, why, and what to write instead.

mod extent;
mod mask;
mod render;
#[cfg(test)]
mod tests;

pub use self::render::{Problem, Related, Style};

/// A piece of a source file, by byte offsets. Cheap to copy and to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index into [`Sources`](super::source::Sources).
    pub file: u16,
    pub start: u32,
    pub end: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable, such as `edgeway::route::unknown_upstream`.
    pub code: &'static str,
    pub place: Place,
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Other places that have to do with it, each with its own short text.
    pub related: Vec<(Place, String)>,
}

/// The problems found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// Places of secrets that nothing in the text gives away.
    hidden: Vec<Place>,
}

impl Diagnostic {
    pub fn error(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            place,
            message: message.into(),
            help: None,
            related: Vec::new(),
        }
    }

    pub fn warning(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, place, message)
        }
    }

    /// What to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// As [`Self::help`], where there may be nothing to say.
    #[must_use]
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// Another place that has to do with it.
    #[must_use]
    pub fn related(mut self, place: Place, text: impl Into<String>) -> Self {
        self.related.push((place, text.into()));
        self
    }
}

impl Diagnostics {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if !self.list.contains(&diagnostic) {
            self.list.push(diagnostic);
        }
    }

    /// What stands there is a secret, and is not to be shown.
    pub fn hide(&mut self, place: Place) {
        self.hidden.push(place);
    }

    /// The places of [`Self::hide`].
    pub fn hidden(&self) -> impl Iterator<Item = Place> {
        self.hidden.iter().copied()
    }

    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    pub fn extend(&mut self, other: Self) {
        for diagnostic in other.list {
            self.push(diagnostic);
        }
        self.hidden.extend(other.hidden);
    }
}

/// The closest of `candidates` to a word that is none of them, if it is close enough to
/// be a slip of the finger.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= candidate.len().max(word.len()) / 3 + 1 && *distance < candidate.len()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", or all there is.
pub fn suggest<'a>(
    word: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    intro: &str,
) -> String {
    if let Some((key, value)) = word.split_once(':')
        && known.clone().any(|known| known == key)
    {
        return format!("write a space after the colon: `{key}: {value}`");
    }
    if let Some(meant) = closest(word, known.clone()) {
        return format!("did you mean `{meant}`?");
    }
    let names: Vec<_> = known.map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        return "remove it".to_owned();
    }
    format!("{intro} {}", names.join(", "))
}
