//! Results of forms, as they are shown on the page.

use askama::Template;
use edgeway_base::out;
use edgeway_gateway::explain::{ExplainRequest, Explanation, StoredEntry};

use crate::{
    actions::{ActionError, BackendName, Done},
    receipt,
};

#[derive(Template)]
#[template(path = "notice.html", whitespace = "minimize")]
pub(super) enum Notice<'a> {
    Failed(&'a ActionError),
    /// The refusal to drain the last backend, with the form that does it all the same.
    LastBackend {
        refused: &'a ActionError,
        backend: BackendName,
        csrf: String,
    },
    Done(&'a Done),
    /// The result of a lookup in the cache, in one sentence, and its details.
    Lookup(&'a (ExplainRequest, Explanation)),
    Explanation(&'a (ExplainRequest, Explanation)),
}

fn freshness(entry: &StoredEntry) -> String {
    match entry.ttl {
        ttl @ 0.. => format!("{} s old, fresh for {ttl} s", entry.age),
        ttl => format!("{} s old, stale for {} s", entry.age, ttl.unsigned_abs()),
    }
}
