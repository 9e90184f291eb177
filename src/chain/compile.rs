//! What a filter gets to compile with.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    path::Path,
    sync::Arc,
};

use http::HeaderName;

use super::BoxFuture;
use crate::{
    base::{clock::Clock, metrics::Metrics, own_headers::OwnHeaders},
    config::{
        diagnostic::{Diagnostic, Diagnostics, Place},
        source::Beside,
        tree::Spanned,
    },
    zones::Zones,
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
    /// Query parameters of the route whose values are secrets by its filters' configuration.
    pub secret_queries: &'a [String],
    pub clock: &'a Clock,
    pub metrics: &'a Metrics,
    /// Live state that outlives this configuration.
    pub zones: &'a Zones,
    /// What the file's own sections were compiled to before any route.
    pub shared: &'a Shared,
    /// What is to run beside requests, as long as this configuration serves.
    pub work: &'a mut Work,
    /// Files that are read for it: a configuration that is watched is read anew when they
    /// change.
    pub beside: &'a mut Beside,
    pub diagnostics: &'a mut Diagnostics,
}

/// What several filters or routes use and the file says once, each thing by its type.
#[derive(Default)]
pub struct Shared(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl Shared {
    pub fn insert<T: Any + Send + Sync>(&mut self, value: Arc<T>) {
        self.0.insert(TypeId::of::<T>(), value);
    }

    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let value = Arc::clone(self.0.get(&TypeId::of::<T>())?);
        value.downcast().ok()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Work beside requests that filters ask for: it begins when the configuration serves and
/// ends with it.
#[derive(Default)]
pub struct Work(Vec<(String, Start)>);

type Start = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

impl Work {
    /// Has `start` called once this configuration serves; `name` is what logs call it by.
    /// Two filters that share what they work on give it one name, and it runs once.
    pub fn add<F>(&mut self, name: impl Into<String>, start: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        if self.0.iter().all(|(other, _)| *other != name) {
            self.0.push((name, Box::new(move || Box::pin(start()))));
        }
    }

    /// Each by its name, begun anew.
    pub fn begin(&self) -> impl Iterator<Item = (&str, BoxFuture<'static, ()>)> {
        self.0.iter().map(|(name, start)| (name.as_str(), start()))
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
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

    /// Says something worth changing that is no error, at a place of its own.
    pub fn warn_at(
        &mut self,
        place: Place,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics
            .push(Diagnostic::warning(code, place, message).help(help));
    }

    /// A header that is to be the gateway's own word to a backend. What is wrong with it is
    /// reported.
    pub fn own_header(
        &mut self,
        written: &Spanned<String>,
        code: &'static str,
    ) -> Option<HeaderName> {
        OwnHeaders::parse(&written.value)
            .map_err(|error| self.report_at(written.place, code, error.to_string(), error.help))
            .ok()
    }

    /// Says something worth changing that is no error.
    pub fn warn(
        &mut self,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.warn_at(self.place, code, message, help);
    }
}
