//! What a filter gets to compile with.

use std::path::Path;

use crate::{
    base::{clock::Clock, metrics::Metrics},
    config::diagnostic::{Diagnostic, Diagnostics, Place},
};

/// The surroundings of one filter (or route, or upstream) while it is compiled.
///
/// Reporting never ends the compilation: it goes on to find the next problem.
pub struct CompileCx<'a> {
    /// Where the thing being compiled stands in the YAML.
    pub place: Place,
    /// The route's name as metrics and logs show it.
    pub route: &'a str,
    /// The folder of the main file: relative paths start here.
    pub folder: &'a Path,
    /// Names of the upstreams that exist.
    pub upstreams: &'a [String],
    pub clock: &'a Clock,
    pub metrics: &'a Metrics,
    pub diagnostics: &'a mut Diagnostics,
}

impl CompileCx<'_> {
    /// Reports a problem of this filter at its own place.
    pub fn report(
        &mut self,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let place = self.place;
        self.report_at(place, code, message, help);
    }

    /// Reports a problem at a place of its own.
    pub fn report_at(
        &mut self,
        place: Place,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics
            .push(Diagnostic::error(code, place, message).help(help));
    }

    /// Says something worth changing that is no error.
    pub fn warn(
        &mut self,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics
            .push(Diagnostic::warning(code, self.place, message).help(help));
    }
}
