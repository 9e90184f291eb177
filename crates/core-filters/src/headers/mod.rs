//! Sets, adds and removes headers, towards the origin and towards the client.

mod config;
mod expires;
#[cfg(test)]
mod lookup_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use edgeway_config::model::StatusSet;
use edgeway_core::chain::{Exchange, Filter, Guard, HeaderUse, Phases, RequestChanges, Traits};
use edgeway_routes::values::Template;
use http::{HeaderMap, HeaderName, HeaderValue, response};

use self::expires::Expires;

/// The compiled filter.
#[derive(Debug)]
pub struct Headers {
    request: Arc<Changes>,
    response: Changes,
    /// Time at which responses expire, between what is set and what is added.
    expires: Option<Expires>,
    /// Changes of responses with certain statuses, after the changes of all responses.
    by_status: Box<[(StatusSet, Changes)]>,
}

impl Headers {
    fn changes_responses(&self) -> bool {
        let mut by_status = self.by_status.iter();
        !self.response.is_empty()
            || self.expires.is_some()
            || by_status.any(|(_, changes)| !changes.is_empty())
    }
}

/// Changes of one header section, in the order of the fields.
#[derive(Debug, Default)]
pub struct Changes {
    remove: Box<[HeaderName]>,
    /// Prefixes of names: `x-internal-` for `X-Internal-*`.
    remove_prefixes: Box<[Box<str>]>,
    set: Box<[(HeaderName, Template)]>,
    add: Box<[(HeaderName, Template)]>,
}

filter_kind!(Headers: config::HeadersConfig = "headers");

impl Filter for Headers {
    fn traits(self: Arc<Self>) -> Traits {
        let request = &self.request;
        let written = request.set.iter().chain(&request.add).map(|(name, _)| name);
        let upstream = Phases::UPSTREAM.when(!request.is_empty());
        let response = Phases::RESPONSE.when(self.changes_responses());
        Traits {
            response_headers: HeaderUse::Others,
            request_changes: RequestChanges::Only {
                names: request.remove.iter().chain(written).cloned().collect(),
                prefixes: request.remove_prefixes.to_vec(),
            },
            // Placeholders of these changes are part of the cache key.
            extension: Some(Arc::clone(request) as _),
            ..Traits::new(upstream | response, Guard::Nothing)
        }
    }

    fn on_upstream(&self, ex: &mut Exchange<'_>, headers: &mut HeaderMap) {
        let changes = &self.request;
        changes.remove_from(headers);
        for (name, template) in &changes.set {
            set(headers, name, template.value(ex));
        }
        for (name, template) in &changes.add {
            add(headers, name, template.value(ex));
        }
    }

    fn on_response(&self, ex: &mut Exchange<'_>, head: &mut response::Parts) {
        self.response.apply(ex, self.expires.as_ref(), head);
        for (statuses, changes) in &self.by_status {
            if statuses.contains(head.status.as_u16()) {
                changes.apply(ex, None, head);
            }
        }
    }
}

impl Changes {
    /// Returns the headers that are written, with their values.
    pub fn written(&self) -> impl Iterator<Item = &(HeaderName, Template)> {
        self.set.iter().chain(&self.add)
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.remove_prefixes.is_empty() && self.len() == 0
    }

    /// Returns the number of headers that may be added.
    fn len(&self) -> usize {
        self.set.len() + self.add.len()
    }

    fn apply(&self, ex: &Exchange<'_>, expires: Option<&Expires>, head: &mut response::Parts) {
        self.remove_from(&mut head.headers);
        for (name, template) in &self.set {
            let value = template.response_value(ex, head);
            set(&mut head.headers, name, value);
        }
        if let Some(expires) = expires {
            expires.apply(ex, head);
        }
        for (name, template) in &self.add {
            let value = template.response_value(ex, head);
            add(&mut head.headers, name, value);
        }
    }

    fn remove_from(&self, map: &mut HeaderMap<HeaderValue>) {
        for name in &self.remove {
            map.remove(name);
        }
        if !self.remove_prefixes.is_empty() {
            self.remove_by_prefix(map);
        }
    }

    fn remove_by_prefix(&self, map: &mut HeaderMap<HeaderValue>) {
        let doomed: Vec<HeaderName> = map
            .keys()
            .filter(|name| {
                let begins = |prefix: &str| name.as_str().starts_with(prefix);
                self.remove_prefixes.iter().any(|prefix| begins(prefix))
                    && !config::is_framing(name)
            })
            .cloned()
            .collect();
        for name in doomed {
            map.remove(name);
        }
    }
}

/// Sets a header. A value that turns out empty, as from a map without a default, or that no header
/// may hold (bytes of a `Host` that are not repeated) leaves its header out.
fn set(map: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => map.insert(name, value),
        None => map.remove(name),
    };
}

fn add(map: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        map.append(name, value);
    }
}
