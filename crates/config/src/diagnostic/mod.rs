//! Problems of a configuration: message, place, reason, and help.

mod extent;
mod mask;
mod near_place;
pub mod other_gateways;
mod render;
#[cfg(test)]
mod tests;

pub use self::render::{Problem, Related, Style};

/// A span of a source file, by byte offsets. Cheap to copy and to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index into [`Sources`](super::source::Sources).
    pub file: u16,
    pub start: u32,
    pub end: u32,
}

edgeway_base::enum_table! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Severity => word {
        Error = "error",
        Warning = "warning",
    }
}

/// A problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// Stable code such as `edgeway::route::unknown_upstream`.
    pub code: &'static str,
    pub place: Place,
    pub message: String,
    /// Correct form to write instead.
    pub help: Option<String>,
    /// Related places, each with its own short text.
    pub related: Vec<(Place, String)>,
}

/// The problems found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// Number of errors that were reported, those included that are not listed again.
    errors: usize,
    /// Places of secrets that nothing in the text reveals as such.
    hidden: Vec<Place>,
    /// Places of values that could not be determined, which is reported.
    undetermined: Vec<Place>,
    /// True if wrong keys and types kept names and values from being looked at.
    pub is_partial: bool,
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

    /// Sets the help text.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Sets the help text, if there is any.
    #[must_use]
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// Adds a related place.
    #[must_use]
    pub fn related(mut self, place: Place, text: impl Into<String>) -> Self {
        self.related.push((place, text.into()));
        self
    }
}

/// A place and the code of what is wrong there: a problem is added with a message and a help text.
#[derive(Debug)]
pub struct Reporter<'a> {
    diagnostics: &'a mut Diagnostics,
    place: Place,
    code: &'static str,
}

impl Reporter<'_> {
    /// Adds an error.
    pub fn error(self, message: impl Into<String>, help: impl Into<String>) {
        let error = Diagnostic::error(self.code, self.place, message);
        self.diagnostics.push(error.help(help));
    }

    /// Adds an error, and returns the nothing that an invalid value becomes.
    pub fn refuse<T>(self, message: impl Into<String>, help: impl Into<String>) -> Option<T> {
        self.error(message, help);
        None
    }

    /// Returns what was found; if it is a problem, which has a message and a help text, adds that.
    pub fn reported<T>(self, result: Result<T, impl Into<(String, String)>>) -> Option<T> {
        result
            .map_err(|problem| {
                let (message, help) = problem.into();
                self.error(message, help);
            })
            .ok()
    }

    /// Adds a warning, which is no error.
    pub fn warn(self, message: impl Into<String>, help: impl Into<String>) {
        let warning = Diagnostic::warning(self.code, self.place, message);
        self.diagnostics.push(warning.help(help));
    }
}

impl Diagnostics {
    /// Returns what adds a problem with this code at a place.
    pub fn at(&mut self, place: Place, code: &'static str) -> Reporter<'_> {
        Reporter {
            diagnostics: self,
            place,
            code,
        }
    }

    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.errors += usize::from(diagnostic.severity == Severity::Error);
        if !self.list.contains(&diagnostic) && !self.is_consequence(&diagnostic) {
            self.list.push(diagnostic);
        }
    }

    /// Adds a problem; if the same one was found at another place, adds only the place to it, with
    /// the text `again`.
    pub fn push_once(&mut self, diagnostic: Diagnostic, again: &str) {
        let (code, place) = (diagnostic.code, diagnostic.place);
        let mut all = self.list.iter_mut();
        match all.find(|known| known.code == code && known.message == diagnostic.message) {
            Some(known) if known.place == place => {}
            Some(known) => known.related.push((place, again.to_owned())),
            None => self.push(diagnostic),
        }
    }

    /// Marks a value as undetermined, after its problem was reported: problems with the value
    /// itself are consequences, and are not reported.
    pub fn undetermined(&mut self, place: Place) {
        self.undetermined.push(place);
    }

    fn is_consequence(&self, diagnostic: &Diagnostic) -> bool {
        let Place { file, start, end } = diagnostic.place;
        let mut all = self.undetermined.iter();
        all.any(|value| value.file == file && value.start <= start && end <= value.end)
    }

    /// Marks a place as secret, so that it is not shown.
    pub fn hide(&mut self, place: Place) {
        self.hidden.push(place);
    }

    /// Returns the places marked with [`Self::hide`].
    pub fn hidden(&self) -> impl Iterator<Item = Place> {
        self.hidden.iter().copied()
    }

    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    /// Returns the number of errors reported so far, to find out whether a check adds some.
    pub fn errors(&self) -> usize {
        self.errors
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    pub fn extend(&mut self, other: Self) {
        for diagnostic in other.list {
            self.push(diagnostic);
        }
        self.hidden.extend(other.hidden);
        self.undetermined.extend(other.undetermined);
    }
}

/// Returns the candidate closest to an unknown word, if it is close enough to be a typo.
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

/// Suggests "did you mean `x`?", or lists all known words.
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
