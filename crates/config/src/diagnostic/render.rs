//! Rendering of problems as a report for people, as lines for tools, and as JSON.

use std::fmt;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    SourceCode, SourceSpan, SpanContents,
};
use serde::{Deserialize, Serialize};

use super::{Diagnostic, Diagnostics, Place, Severity, mask::Mask};
use crate::source::{Lines, Location, Locator, Sources};

/// Problems of a severity that a report for people shows.
const MAX_SHOWN: usize = 100;
/// Related places of a problem that it shows.
const MAX_RELATED: usize = 20;

/// Output format of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A report with excerpts of the file and a caret below the place.
    Graphical { colour: bool },
    /// A line for each problem: `conf/x.yaml:12:5: error: …`.
    Lines,
    /// An array with an object for each problem.
    Json,
}

impl Diagnostics {
    /// Returns all problems in the order of their places, main file first.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<_> = self.list().iter().collect();
        sorted.sort_by_key(|d| (d.place.file, d.place.start, d.severity));
        sorted
    }

    /// Counts problems: `3 errors, 1 warning`; `None` if there are none.
    pub fn summary(&self) -> Option<String> {
        let count = |severity: Severity| {
            let count = self
                .list()
                .iter()
                .filter(|d| d.severity == severity)
                .count();
            let plural = if count == 1 { "" } else { "s" };
            (count > 0).then(|| format!("{count} {}{plural}", severity.word()))
        };
        match (count(Severity::Error), count(Severity::Warning)) {
            (Some(errors), Some(warnings)) => Some(format!("{errors}, {warnings}")),
            (one, None) | (None, one) => one,
        }
    }

    /// Renders all problems; empty if there are none. A report for people has a summary line, and at
    /// most [`MAX_SHOWN`] of each severity.
    pub fn render(&self, sources: &Sources, style: Style) -> String {
        let mask = Mask::for_sources(sources, &self.hidden);
        let places = Locator::new(sources);
        let sorted = self.sorted();
        let mut out = String::new();
        match style {
            Style::Graphical { colour } => {
                let shown = Locator::new(&mask.shown);
                let mut left = [MAX_SHOWN; Severity::ALL.len()];
                let all = sorted.len();
                let few = sorted.into_iter().filter(|problem| {
                    let left = &mut left[problem.severity as usize];
                    let is_shown = *left > 0;
                    *left = left.saturating_sub(1);
                    is_shown
                });
                let few: Vec<_> = few.collect();
                for problem in &few {
                    let problem = traced(mask.diagnostic(problem), sources);
                    out.push_str(&graphical(&problem, &places, &shown, colour));
                    out.push('\n');
                }
                if let Some(summary) = self.summary() {
                    out.push_str(&summary);
                    if few.len() < all {
                        let more = format!("; {} more are not shown", all - few.len());
                        out.push_str(&more);
                    }
                    if self.is_partial {
                        out.push_str("; names, paths and values are checked once this is right");
                    }
                    out.push('\n');
                }
            }
            Style::Lines => {
                for problem in sorted {
                    let problem = traced(mask.diagnostic(problem), sources);
                    out.push_str(&problem.plain_line(&places));
                    out.push('\n');
                }
            }
            Style::Json => {
                out = serde_json::to_string_pretty(&self.problems(sources)).expect("plain data");
                out.push('\n');
            }
        }
        out
    }
}

impl Diagnostics {
    /// Returns all problems as plain data, in the order of their places.
    pub fn problems(&self, sources: &Sources) -> Vec<Problem> {
        let mask = Mask::for_sources(sources, &self.hidden);
        let places = Locator::new(sources);
        self.sorted()
            .into_iter()
            .map(|problem| Problem::new(&traced(mask.diagnostic(problem), sources), &places))
            .collect()
    }

    /// Returns a line for each problem, in the order of their places.
    pub fn lines(&self, sources: &Sources) -> Vec<String> {
        let mask = Mask::for_sources(sources, &self.hidden);
        let places = Locator::new(sources);
        let sorted = self.sorted().into_iter();
        sorted
            .map(|problem| mask.diagnostic(problem).plain_line(&places))
            .collect()
    }
}

/// Adds the user's own line to a problem in a preset.
fn traced(problem: Diagnostic, sources: &Sources) -> Diagnostic {
    match sources.extends {
        Some((file, place)) if problem.place.file == file => {
            problem.related(place, "this preset is extended here")
        }
        _ => problem,
    }
}

/// A problem as plain data, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `error` or `warning`.
    pub severity: String,
    pub code: String,
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub end_line: usize,
    pub end_column: usize,
    pub message: String,
    pub help: Option<String>,
    pub related: Vec<Related>,
}

/// A place related to a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Related {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl Problem {
    fn new(problem: &Diagnostic, places: &Locator<'_>) -> Self {
        let location = places.locate(problem.place);
        let related = problem.related.iter().map(|(place, text)| {
            let location = places.locate(*place);
            Related {
                file: location.file,
                line: location.line,
                column: location.column,
                message: text.clone(),
            }
        });
        Self {
            severity: problem.severity.word().to_owned(),
            code: problem.code.to_owned(),
            file: location.file,
            line: location.line,
            column: location.column,
            end_line: location.end_line,
            end_column: location.end_column,
            message: problem.message.clone(),
            help: problem.help.clone(),
            related: related.collect(),
        }
    }
}

impl Diagnostic {
    /// Formats `conf/x.yaml:12:5: error: …; help: …`, on one line.
    pub fn line(&self, sources: &Sources) -> String {
        let mask = Mask::for_sources(sources, &[]);
        mask.diagnostic(self).plain_line(&Locator::new(sources))
    }

    fn plain_line(&self, places: &Locator<'_>) -> String {
        let Location {
            file, line, column, ..
        } = places.locate(self.place);
        let mut text = format!(
            "{file}:{line}:{column}: {}: {}",
            self.severity.word(),
            self.message
        );
        if let Some(help) = &self.help {
            text.push_str("; help: ");
            text.push_str(help);
        }
        text.replace(['\r', '\n'], " ")
    }
}

/// Renders a report; excerpts come from `shown`, whose texts are masked.
fn graphical(
    problem: &Diagnostic,
    places: &Locator<'_>,
    shown: &Locator<'_>,
    colour: bool,
) -> String {
    let location = places.locate(problem.place);
    let severity = match (colour, problem.severity) {
        (false, severity) => severity.word().to_owned(),
        (true, Severity::Error) => "\u{1b}[1;31merror\u{1b}[0m".to_owned(),
        (true, Severity::Warning) => "\u{1b}[1;33mwarning\u{1b}[0m".to_owned(),
    };
    // Editors and terminals turn this line into a link.
    let mut out = format!(
        "{}:{}:{}: {severity}: {} [{}]\n",
        location.file, location.line, location.column, problem.message, problem.code
    );
    let theme = if colour {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_width(100)
        .with_wrap_lines(false)
        .with_context_lines(1)
        .with_links(false);
    let report = Report::for_problem(problem, shown);
    snippet(&mut out, &handler, &report);
    for other in &report.elsewhere {
        snippet(&mut out, &handler, other);
    }
    out
}

fn snippet(out: &mut String, handler: &GraphicalReportHandler, report: &Report<'_>) {
    let mut text = String::new();
    if handler.render_report(&mut text, report).is_err() {
        return;
    }
    // The first line is the message, which is printed above already.
    for line in text.lines().skip(1) {
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// A problem in miette's form. Its text is a single line, because it is removed again.
#[derive(derive_more::Debug, derive_more::Display)]
#[debug("{message}")]
#[display("{}", message.replace('\n', " "))]
struct Report<'a> {
    problem: Option<&'a Diagnostic>,
    text: SourceText<'a>,
    labels: Vec<LabeledSpan>,
    /// Related places in other files.
    elsewhere: Vec<Report<'a>>,
    message: &'a str,
}

impl<'a> Report<'a> {
    fn for_problem(problem: &'a Diagnostic, shown: &'a Locator<'a>) -> Self {
        let place = problem.place;
        let mut report = Self::at(place, &problem.message, None, shown);
        report.problem = Some(problem);
        for (other, text) in problem.related.iter().take(MAX_RELATED) {
            if other.file == place.file {
                let span = first_line(report.text.lines.text, *other);
                report
                    .labels
                    .push(LabeledSpan::new_with_span(Some(text.clone()), span));
            } else {
                report
                    .elsewhere
                    .push(Self::at(*other, text, Some(text), shown));
            }
        }
        report
    }

    fn at(place: Place, message: &'a str, label: Option<&str>, shown: &'a Locator<'a>) -> Self {
        let lines = shown.lines(place.file);
        let span = first_line(lines.text, place);
        Self {
            problem: None,
            text: SourceText {
                name: shown.locate(place).file,
                lines,
            },
            labels: vec![LabeledSpan::new_primary_with_span(
                label.map(str::to_owned),
                span,
            )],
            elsewhere: Vec::new(),
            message,
        }
    }
}

/// Returns the part of a place on its first line: a mapping of fifty lines needs no fifty carets.
fn first_line(text: &str, place: Place) -> SourceSpan {
    let start = (place.start as usize).min(text.len());
    let end = (place.end as usize).clamp(start, text.len());
    let covered = text.get(start..end).unwrap_or_default();
    let len = covered.lines().next().unwrap_or_default().trim_end().len();
    (start, len).into()
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.problem.map(|p| p.severity) {
            Some(Severity::Error) => miette::Severity::Error,
            Some(Severity::Warning) => miette::Severity::Warning,
            None => miette::Severity::Advice,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        let help = self.problem?.help.as_deref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        // A file that could not be read has no excerpt.
        (!self.text.lines.text.is_empty()).then_some(&self.text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        (!self.text.lines.text.is_empty())
            .then(|| Box::new(self.labels.iter().cloned()) as Box<dyn Iterator<Item = _>>)
    }
}

/// A file whose columns count characters; miette's own count bytes.
struct SourceText<'a> {
    name: String,
    lines: &'a Lines<'a>,
}

impl SourceCode for SourceText<'_> {
    fn read_span<'b>(
        &'b self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'b> + 'b>, MietteError> {
        // miette reads a text from its beginning. It gets the lines of the excerpt, and one more at
        // each end, which tells it where they end.
        let lines = self.lines;
        let first = lines.line(span.offset()).saturating_sub(before + 1);
        let last = lines.line(span.offset() + span.len()) + after + 2;
        let start = lines.start(first);
        let part = &lines.text[start..lines.start(last)];
        let within = (span.offset().saturating_sub(start), span.len()).into();
        let contents = part.read_span(&within, before, after)?;
        let offset = start + contents.span().offset();
        let position = lines.position(offset);
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            contents.data(),
            (offset, contents.span().len()).into(),
            first + contents.line(),
            position.1 - 1,
            contents.line_count(),
        )))
    }
}
