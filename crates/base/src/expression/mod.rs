//! Regular expressions whose work on one text is bounded: in linear time, or with look-around and
//! back-references within a number of bytes.
//!
//! The engine for look-around limits its steps back, and may look at all of the text between two of
//! them. So the limit is computed from the expression and the length of the text.

use fancy_regex::{Assertion, CompileError, Error, Expr, LookAround, Regex, RegexBuilder};

/// Bytes that one evaluation looks at, at most: some milliseconds, rarely 0.1 s.
const MAX_WORK: usize = 1 << 20;

/// Lengths of texts up to which an expression has the same limit of steps. No longer text is
/// compared.
const LENGTHS: [usize; 5] = [256, 1 << 10, 4 << 10, 16 << 10, 64 << 10];

/// Error of an evaluation that would take too much work: there may be a match, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an expression would look at too many bytes")]
pub struct Undecided;

/// Compiled expression over text.
#[derive(Clone, Debug)]
pub struct Expression {
    text: Box<str>,
    /// True for one without look-around and back-references, which needs no limit.
    is_plain: bool,
    /// Limits of steps back by length, and what is compiled with them: no request waits for that.
    by_length: Box<[(usize, Regex)]>,
}

/// Groups of an expression that matched a text.
#[derive(Debug)]
pub struct Groups<'t>(fancy_regex::Captures<'t, str>);

/// Returns the reason why an expression is invalid, in one line: the last one of the error, which
/// also shows the expression.
pub fn reason_of(error: &impl std::fmt::Display) -> String {
    let error = error.to_string();
    let reason = error.lines().last().unwrap_or_default().trim();
    reason.trim_start_matches("error: ").to_owned()
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Returns the reason, in one line.
    pub fn new(text: &str, ignores_case: bool) -> Result<Self, String> {
        Self::parse(text, ignores_case).map_err(|error| match regex::Regex::new(text) {
            Err(plain) if Expr::parse_tree(text).is_err() => reason_of(&plain),
            _ => match *error {
                Error::CompileError(error) if matches!(*error, CompileError::InnerError(_)) => {
                    "it is too large: repeat less, or `[a-z]` in place of `\\w`".to_owned()
                }
                error => reason_of(&error),
            },
        })
    }

    /// Compiles an expression behind a `~`, or behind `~*` without regard to case; `None` if the text
    /// does not begin so.
    pub fn of_text(text: &str) -> Option<Result<Self, String>> {
        let text = text.strip_prefix('~')?;
        Some(match text.strip_prefix('*') {
            Some(text) => Self::new(text, true),
            None => Self::new(text, false),
        })
    }

    /// Compiles an expression.
    ///
    /// # Errors
    /// Fails if it is none.
    pub fn parse(text: &str, ignores_case: bool) -> Result<Self, Box<fancy_regex::Error>> {
        let expr = Expr::parse_tree(text)?.expr;
        let is_searched = !is_anchored(&expr);
        // The next place where a match may begin can be at the end of the text.
        let is_far = is_searched && is_open(&expr);
        let is_plain = is_plain(&expr);
        let mut by_length = Vec::new();
        for length in &LENGTHS[..if is_plain { 1 } else { LENGTHS.len() }] {
            let search = if is_far { *length } else { 1 };
            let steps = MAX_WORK / reach(&expr, *length).saturating_add(search);
            if steps == 0 && !by_length.is_empty() {
                break;
            }
            let mut builder = RegexBuilder::new(text);
            builder.case_insensitive(ignores_case);
            // Only where a match may begin, steps are taken.
            builder.seek(is_searched).backtrack_limit(steps);
            by_length.push((steps, builder.build()?));
        }
        Ok(Self {
            text: text.into(),
            is_plain,
            by_length: by_length.into(),
        })
    }

    /// Returns the expression with the limit for this text.
    fn regex(&self, text: &str) -> Result<&Regex, Undecided> {
        let fits = |length: &usize| self.is_plain || text.len() <= *length;
        let class = LENGTHS.iter().position(fits).ok_or(Undecided)?;
        match self.by_length.get(class) {
            Some((1.., regex)) => Ok(regex),
            // The way to the first step back may be too long.
            _ => Err(Undecided),
        }
    }

    /// Returns the expression without regard to case, or as it is if that would be too large.
    #[must_use]
    pub fn folded(&self) -> Self {
        Self::parse(&self.text, true).unwrap_or_else(|_| self.clone())
    }

    /// Returns true if the expression matches somewhere in the text.
    ///
    /// # Errors
    /// Fails if it would take too much work.
    pub fn is_match(&self, text: &str) -> Result<bool, Undecided> {
        self.regex(text)?.is_match(text).map_err(|_| Undecided)
    }

    /// Returns the groups of the first match.
    ///
    /// # Errors
    /// Fails if it would take too much work.
    pub fn groups<'t>(&self, text: &'t str) -> Result<Option<Groups<'t>>, Undecided> {
        let captures = self.regex(text)?.captures(text).map_err(|_| Undecided)?;
        Ok(captures.map(Groups))
    }

    /// Returns the name of each group, if it has one.
    pub fn names(&self) -> Vec<Option<&str>> {
        self.by_length[0].1.capture_names().collect()
    }

    /// Returns the number of a group, named or numbered.
    pub fn group(&self, name: &str) -> Option<usize> {
        let names = self.names();
        let number = name.parse().ok().filter(|number| *number < names.len());
        number.or_else(|| names.iter().position(|own| *own == Some(name)))
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

impl<'t> Groups<'t> {
    /// Returns the text of a group; an empty one if the group took no part.
    pub fn get(&self, index: usize) -> &'t str {
        self.0.get(index).map_or("", |group| group.as_str())
    }

    /// Returns a group by its name, if it took part.
    pub fn name(&self, name: &str) -> Option<fancy_regex::Match<'t>> {
        self.0.name(name)
    }
}

/// Returns the number of bytes that an expression may look at in a text of this length without a
/// step back.
fn reach(expr: &Expr, length: usize) -> usize {
    match expr {
        Expr::Repeat { child, hi, .. } => {
            let each = reach(child, length);
            let all = each.saturating_mul((*hi).clamp(1, length));
            // A regular expression looks at each byte once.
            let max = if is_plain(child) { length } else { usize::MAX };
            if steps_back(child) {
                each
            } else {
                all.min(max)
            }
        }
        Expr::Backref { .. } => length,
        Expr::Literal { val, .. } => val.len(),
        Expr::Concat(_)
        | Expr::Alt(_)
        | Expr::Group(_)
        | Expr::AtomicGroup(_)
        | Expr::LookAround(..)
        | Expr::Conditional { .. } => {
            let parts = expr.children_iter();
            parts.fold(1, |sum: usize, part| {
                sum.saturating_add(reach(part, length))
            })
        }
        Expr::KeepOut
        | Expr::ContinueFromPreviousMatchEnd
        | Expr::BackrefExistsCondition { .. }
        | Expr::Assertion(_)
        | Expr::GeneralNewline { .. } => 2,
        // One character.
        _ if is_plain(expr) => 4,
        // Recursion, and what else has no bound of its own.
        _ => usize::MAX,
    }
}

/// Returns true if an expression is a regular one, which needs no steps back.
fn is_plain(expr: &Expr) -> bool {
    match expr {
        Expr::Empty
        | Expr::Any { .. }
        | Expr::Literal { .. }
        | Expr::LiteralBytes { .. }
        | Expr::Delegate { .. }
        | Expr::Assertion(
            Assertion::StartText
            | Assertion::EndText
            | Assertion::StartLine { .. }
            | Assertion::EndLine { .. }
            | Assertion::WordBoundary
            | Assertion::NotWordBoundary,
        ) => true,
        Expr::Concat(_) | Expr::Alt(_) | Expr::Group(_) | Expr::Repeat { .. } => {
            expr.children_iter().all(is_plain)
        }
        _ => false,
    }
}

/// Returns true if each match of an expression has cost a step back: that of a negative look-around.
fn steps_back(expr: &Expr) -> bool {
    match expr {
        Expr::LookAround(_, kind) => {
            matches!(kind, LookAround::LookAheadNeg | LookAround::LookBehindNeg)
        }
        Expr::Alt(_) => expr.children_iter().all(steps_back),
        Expr::Concat(_) | Expr::Group(_) => expr.children_iter().any(steps_back),
        _ => false,
    }
}

/// Returns true if matches of an expression have no longest length.
fn is_open(expr: &Expr) -> bool {
    let is_loop = match expr {
        Expr::Repeat { hi, .. } => *hi == usize::MAX,
        Expr::Backref { .. } => true,
        _ => false,
    };
    is_loop || expr.children_iter().any(is_open)
}

/// Returns true if each match of an expression begins where the text does.
fn is_anchored(expr: &Expr) -> bool {
    match expr {
        Expr::Assertion(assertion) => *assertion == Assertion::StartText,
        // A flag is an empty part.
        Expr::Concat(parts) => {
            let mut parts = parts.iter().filter(|part| **part != Expr::Empty);
            parts.next().is_some_and(is_anchored)
        }
        Expr::Alt(_) | Expr::Group(_) => expr.children_iter().all(is_anchored),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
