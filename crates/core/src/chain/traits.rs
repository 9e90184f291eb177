//! Properties of filters, which are read when a configuration is compiled, and never for a request.

use std::{
    any::{Any, TypeId},
    sync::Arc,
};

use http::HeaderName;

use super::{AsyncFilter, Credential, Filter, Guard, Phase, Phases, RequestChanges};

/// Use that the response phase of a filter makes of the headers of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderUse {
    /// Reads no header that other filters set: these may bypass it as
    /// [`ReadyLines`](super::ReadyLines).
    #[default]
    OwnOnly,
    /// Reads or changes headers that other filters set.
    Others,
    /// Changes nothing, and has to see the headers that the client gets: it runs after the response
    /// phases of all other filters.
    Sent,
}

/// Requests that a guard lets pass although they prove nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leniency {
    #[default]
    Never,
    /// All of them, without an identity (`optional: true`).
    Always,
    /// All of them while a service fails (`on_error: allow`).
    WhileFailing,
    /// All that code lets pass, by what it adds to no cache key.
    ByCode,
}

impl Leniency {
    /// Returns this leniency if it is configured.
    #[must_use]
    pub fn when(self, is_so: bool) -> Self {
        if is_so { self } else { Self::Never }
    }
}

/// Properties of a filter. `docs/adding-a-filter.md` has a table of them.
#[derive(Clone, Default)]
pub struct Traits {
    /// Hooks to call.
    pub phases: Phases,
    /// Phases in which the filter waits, and the filter with the hooks for them; see
    /// [`Traits::waiting`].
    pub asynchronous: Option<(Phases, Arc<dyn AsyncFilter>)>,
    /// Protection of the paths of the route.
    pub guard: Guard,
    /// Filter with the guard alone, if this one does more than guard.
    pub guard_alone: Option<Arc<dyn Filter>>,
    /// True if the filter handles only some requests of its route, as decided by
    /// [`Filter::is_for`].
    pub is_selective: bool,
    /// Use that the response phase makes of the headers of the response.
    pub response_headers: HeaderUse,
    /// Type of the slot in [`RequestFacts`](super::RequestFacts) without which
    /// [`Filter::on_response_body`] leaves the body as it is; `None` if it has to see every body.
    pub body_slot: Option<TypeId>,
    /// True if the filter changes `Location` itself, so that the gateway leaves a backend's own
    /// address in it.
    pub replaces_location: bool,
    /// Request headers that only this filter may set for a backend: clients cannot send them to any
    /// route.
    pub own_headers: Vec<HeaderName>,
    /// Parts of a request that identify the client to this filter: clients may send them. While a
    /// request has one, valid or not, its response may be for its client alone.
    pub credentials: Vec<Credential>,
    /// Requests that pass a guard without proof.
    pub leniency: Leniency,
    /// Headers that [`Filter::on_upstream`] may change. A stored response that varies by one of them
    /// is looked up by the value that the backend would get, which costs more.
    pub request_changes: RequestChanges,
    /// True if a cache key need not hold what [`Filter::on_upstream`] writes: it is the same for all
    /// requests, or an id of each, or [`Filter::on_cache_key`] adds it. Implied by
    /// `request_changes` with names and no `own_headers`. Otherwise the headers that the filter
    /// writes become part of the key, and a request whose changes are not known in advance bypasses
    /// the cache.
    pub is_keyed_without: bool,
    /// Configuration of this filter that other parts of the gateway look up by its type.
    pub extension: Option<Arc<dyn Any + Send + Sync>>,
}

impl Traits {
    /// Returns the properties of a filter with these hooks that makes use of nothing else.
    pub fn new(phases: Phases, guard: Guard) -> Self {
        Self {
            phases,
            guard,
            ..Self::default()
        }
    }

    /// Adds `phases` in which the filter waits: their `_async` hooks are called. Hooks without such a
    /// variant are called as they are.
    #[must_use]
    pub fn waiting(mut self, phases: Phases, filter: Arc<dyn AsyncFilter>) -> Self {
        self.phases = self.phases | phases;
        self.asynchronous = Some((phases, filter));
        self
    }

    /// Returns the filter that has the asynchronous hook of `phase`, if that is the one to call.
    pub(super) fn waiting_in(&self, phase: Phase) -> Option<&Arc<dyn AsyncFilter>> {
        let (phases, filter) = self.asynchronous.as_ref()?;
        phases.wants(phase).then_some(filter)
    }

    /// Returns the headers that have credentials.
    pub fn credential_headers(&self) -> impl Iterator<Item = HeaderName> {
        let credentials = self.credentials.iter();
        credentials.filter_map(|each| each.place.header())
    }

    /// Returns the changes of requests, without headers in which the filter only reads credentials.
    pub(super) fn changes_beside_credentials(&self) -> RequestChanges {
        let mut changes = self.request_changes.clone();
        if let RequestChanges::Only { names, .. } = &mut changes {
            let is_read = |name: &HeaderName| self.credential_headers().any(|own| own == *name);
            names.retain(|name| self.own_headers.contains(name) || !is_read(name));
        }
        changes
    }

    /// Returns true if what the filter writes into requests has to be part of a cache key.
    pub(super) fn is_keyed(&self) -> bool {
        let is_declared = matches!(self.request_changes, RequestChanges::Only { .. });
        !(self.is_keyed_without || is_declared && self.own_headers.is_empty())
    }
}

/// A compiled filter with its YAML key and its properties.
#[derive(Clone)]
pub struct CompiledFilter {
    pub name: &'static str,
    pub filter: Arc<dyn Filter>,
    pub traits: Arc<Traits>,
}

impl CompiledFilter {
    pub fn new(name: &'static str, filter: Arc<dyn Filter>) -> Self {
        Self {
            name,
            traits: Arc::new(Arc::clone(&filter).traits()),
            filter,
        }
    }

    /// Returns the filter with its guard alone.
    #[must_use]
    pub fn guard_alone(&self) -> Self {
        match &self.traits.guard_alone {
            Some(alone) => Self::new(self.name, Arc::clone(alone)),
            None => self.clone(),
        }
    }
}
