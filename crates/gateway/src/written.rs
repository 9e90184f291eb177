//! Values that a route writes into requests for its backend, as parts of the cache key: `Vary` of a
//! response is about what clients wrote.

use edgeway_core::{
    chain::{Chain, Exchange, KeyBuilder},
    limits::key::Source,
};
use edgeway_core_filters::headers::Changes;
use edgeway_routes::{Action, HostHeader, values::Template};
use http::{HeaderName, header};

/// Values of a route that nothing else in its keys determines.
#[derive(Debug)]
pub(super) struct WrittenValues {
    values: Box<[(HeaderName, Template)]>,
    /// True if some of them come from headers, of which a request in the background has fewer.
    read_headers: bool,
}

impl WrittenValues {
    pub(super) fn collect(action: &Action, chain: &Chain) -> Self {
        let changes = chain.extension::<Changes>().unwrap_or_default();
        let mut values: Vec<(HeaderName, Template)> = changes.written().cloned().collect();
        if let Action::Forward(forward) = action
            && let Some(HostHeader::Template(host)) = &forward.host
        {
            values.push((header::HOST, host.clone()));
        }
        values.retain(|(_, value)| value.is_keyed());
        let mut sources = Vec::new();
        for (_, value) in &values {
            value.sources(&mut sources);
        }
        let is_header = |source: &Source| matches!(source, Source::Header(_) | Source::Cookie(_));
        Self {
            values: values.into(),
            read_headers: sources.iter().any(is_header),
        }
    }

    /// Adds the values to a key. Returns true if only the client's own request has them.
    pub(super) fn put(&self, ex: &Exchange<'_>, key: &mut KeyBuilder) -> bool {
        for (name, template) in &self.values {
            let mut value = String::new();
            // What is sent has the default of a table that cannot decide, too.
            let _undecided = template.write(ex, &mut value);
            key.written(name, value.as_bytes());
        }
        !self.values.is_empty() && (self.read_headers || ex.facts.rerouted.is_some())
    }
}
