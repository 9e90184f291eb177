//! Context for compiling a filter.

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
    base::{clock::Clock, gateway_headers::GatewayHeaders, metrics::Metrics},
    config::{
        diagnostic::{Diagnostics, Place, Reporter},
        source::ReferencedFiles,
        tree::Spanned,
    },
    zones::Zones,
};

/// Context of one filter (or route, or upstream) while it is compiled.
///
/// A reported problem never ends the compilation: it continues to find the next problem.
pub struct CompileContext<'a> {
    /// Position in the YAML of the item being compiled.
    pub place: Place,
    /// Name of the route in metrics and logs.
    pub route: &'a str,
    /// Folder of the main file; relative paths are resolved against it.
    pub folder: &'a Path,
    /// Names of all upstreams.
    pub upstreams: &'a [String],
    /// Query parameters and headers of the route whose values are secrets according to its filters'
    /// configuration.
    pub secret_names: &'a [String],
    pub clock: &'a Clock,
    pub metrics: &'a Metrics,
    /// Live state that outlives this configuration.
    pub zones: &'a Zones,
    /// Compiled top-level sections of the file; they are compiled before any route.
    pub shared: &'a Shared,
    /// Background work that runs as long as this configuration serves.
    pub work: &'a mut BackgroundWork,
    /// Files that the item reads. A watched configuration is reloaded when one of them changes.
    pub referenced: &'a mut ReferencedFiles,
    pub diagnostics: &'a mut Diagnostics,
}

/// Values that several filters or routes use and the file states once, keyed by type.
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

edgeway_base::opaque_debug!(Shared);

/// Background work of filters. It starts when the configuration begins to serve and ends with it.
#[derive(Default)]
pub struct BackgroundWork {
    tasks: Vec<BackgroundTask>,
    /// Steps that are taken once no other configuration serves beside this one.
    alone: Vec<Box<dyn Fn() + Send + Sync>>,
}

struct BackgroundTask {
    name: String,
    /// Address of the state that the work is about; zero if the name says it all.
    state: usize,
    start: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl BackgroundWork {
    /// Registers `start`, to be called once this configuration serves; logs show `name`. Two
    /// filters that share the work give the same name, and it runs once.
    pub fn add<F>(&mut self, name: impl Into<String>, start: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.put(name.into(), 0, start);
    }

    /// Registers work about `state` as [`BackgroundWork::add`] does. Beside a configuration on trial
    /// it goes on unless the latter has the same state.
    pub fn add_about<T, F>(
        &mut self,
        name: impl Into<String>,
        state: &Arc<T>,
        start: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.put(name.into(), Arc::as_ptr(state).addr(), start);
    }

    fn put<F>(&mut self, name: String, state: usize, start: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.tasks.iter().all(|other| other.name != name) {
            let start = Box::new(move || -> BoxFuture<'static, ()> { Box::pin(start()) });
            self.tasks.push(BackgroundTask { name, state, start });
        }
    }

    /// Starts the work that `other` does not do, and returns it with the names.
    pub fn begin_beside(
        &self,
        other: &Self,
    ) -> impl Iterator<Item = (&str, BoxFuture<'static, ()>)> {
        let is_done = |work: &&BackgroundTask| {
            let mut others = other.tasks.iter();
            others.any(|other| (&other.name, other.state) == (&work.name, work.state))
        };
        let left = self.tasks.iter().filter(move |work| !is_done(work));
        left.map(|work| (work.name.as_str(), (work.start)()))
    }

    /// Registers what is done once no other configuration serves beside this one.
    pub fn add_alone(&mut self, work: impl Fn() + Send + Sync + 'static) {
        self.alone.push(Box::new(work));
    }

    /// Does what waits for the end of a trial.
    pub fn serves_alone(&self) {
        self.alone.iter().for_each(|work| work());
    }

    /// Starts all work again and returns it with the names.
    pub fn begin(&self) -> impl Iterator<Item = (&str, BoxFuture<'static, ()>)> {
        self.tasks
            .iter()
            .map(|work| (work.name.as_str(), (work.start)()))
    }
}

impl fmt::Debug for BackgroundWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.tasks.iter().map(|work| &work.name))
            .finish()
    }
}

impl CompileContext<'_> {
    /// Returns what `compile` returns, unless it reported an error.
    pub fn checked<T>(&mut self, compile: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let before = self.diagnostics.errors();
        let compiled = compile(self);
        (self.diagnostics.errors() == before).then_some(compiled)
    }

    /// Returns what reports a problem with this code at the place of this filter.
    pub fn here(&mut self, code: &'static str) -> Reporter<'_> {
        self.diagnostics.at(self.place, code)
    }

    /// Returns what reports a problem with this code at the given place.
    pub fn at(&mut self, place: Place, code: &'static str) -> Reporter<'_> {
        self.diagnostics.at(place, code)
    }

    /// Parses the name of a header that only the gateway may send to a backend, with the client's
    /// identity. Reports an invalid name.
    pub fn own_header(
        &mut self,
        written: &Spanned<String>,
        code: &'static str,
    ) -> Option<HeaderName> {
        self.at(written.place, code)
            .reported(GatewayHeaders::parse_identity(&written.value))
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    /// Invariant: beside a configuration on trial, work about a state goes on if the trial has
    /// another one, and other work if the trial does not do it.
    #[test]
    fn work_that_a_trial_does_not_do_goes_on_beside_it() {
        let (mut earlier, mut trial) = (BackgroundWork::default(), BackgroundWork::default());
        let (shared, windows) = (Arc::new(1), Arc::new(1));
        for work in [&mut earlier, &mut trial] {
            work.add("cache", || ready(()));
            work.add_about("redis", &shared, || ready(()));
        }
        earlier.add_about("flood guard", &windows, || ready(()));
        trial.add_about("flood guard", &Arc::new(1), || ready(()));
        earlier.add("tracing", || ready(()));
        let names: Vec<_> = earlier.begin_beside(&trial).map(|(name, _)| name).collect();
        assert_eq!(names, ["flood guard", "tracing"]);
        assert_eq!(earlier.begin_beside(&earlier).count(), 0);
        assert_eq!(earlier.begin().count(), 4);
    }
}
