//! Filters that no other part of the gateway looks into, and the list of all kinds, in the order in
//! which requests meet them.
//!
//! A new filter is a folder here, a `mod` line and an [`Entry`]; see `docs/adding-a-filter.md`.

#[macro_use(filter_kind)]
extern crate edgeway_core;

pub mod access;
pub mod api_key;
pub mod basic_auth;
pub mod body_limit;
pub mod cache_control;
pub mod client_cert;
pub mod conditions;
pub mod cors;
pub mod csrf;
pub mod forward_auth;
pub mod in_flight;
pub mod jwt;
pub mod methods;
pub mod rate_limit;
pub mod request_id;
pub mod response_rewrite;
pub mod security_headers;
#[cfg(test)]
mod tests;
pub mod timing;
pub mod upstream_by;

use std::path::PathBuf;

use edgeway_base::named_file;
use edgeway_config::tree::Spanned;
use edgeway_core::{
    chain::CompileContext,
    registry::{self, Entry},
};
use edgeway_core_filters::{access_log, cache, compression, error_pages, headers, plugins};

/// Every built-in kind of filter. The list's order is the chain's order on requests.
pub const FILTERS: &[Entry] = &[
    Entry::new::<request_id::RequestId>().shareable(),
    Entry::new::<timing::Timing>().shareable(),
    Entry::new::<access_log::AccessLog>().shareable(),
    Entry::new::<plugins::Plugins>(),
    // Before all that guards, as nginx looks at its own conditions first.
    Entry::new::<conditions::Conditions>().shareable(),
    Entry::new::<methods::Methods>().shareable(),
    Entry::new::<access::Access>().shareable(),
    Entry::new::<client_cert::ClientCert>(),
    Entry::new::<in_flight::InFlight>(),
    Entry::new::<rate_limit::RateLimit>(),
    Entry::new::<body_limit::BodyLimit>().shareable(),
    Entry::new::<csrf::Csrf>().shareable(),
    Entry::new::<cors::Cors>().shareable(),
    Entry::new::<api_key::ApiKey>(),
    Entry::new::<basic_auth::BasicAuth>(),
    Entry::new::<jwt::Jwt>(),
    Entry::new::<forward_auth::ForwardAuth>(),
    Entry::new::<upstream_by::UpstreamBy>().shareable(),
    Entry::new::<response_rewrite::ResponseRewrite>().shareable(),
    Entry::new::<headers::Headers>().shareable(),
    // After `cache` on responses, whose `browser_ttl` it overrides.
    Entry::new::<cache_control::CacheControl>().shareable(),
    Entry::new::<cache::Cache>(),
    Entry::new::<compression::Compression>().shareable(),
    // First on responses: the other filters then add to a map that has capacity.
    Entry::new::<security_headers::SecurityHeaders>().shareable(),
    // Before them, while a response has the headers of its backend alone.
    Entry::new::<error_pages::ErrorPages>().shareable(),
];

/// Hands the built-in filters over, unless this process has its filters already: for tests.
pub fn register() {
    let _is_there = registry::register(FILTERS, []);
}

/// Reads a file of `what`, and reports a problem with it.
fn read_list(
    file: &Spanned<PathBuf>,
    what: &str,
    code: &'static str,
    help: &str,
    cx: &mut CompileContext<'_>,
) -> Option<String> {
    // A larger one is not a list of users or keys.
    const MAX_FILE_SIZE: u64 = 8 << 20;
    let path = cx.folder.join(&file.value);
    match named_file::read_text(&path, MAX_FILE_SIZE) {
        Ok(text) => {
            cx.referenced.read(path, text.as_bytes());
            Some(text)
        }
        Err(error) => {
            let message = format!("cannot read the {what} in `{}`: {error}", path.display());
            cx.referenced.missed(path);
            cx.at(file.place, code).refuse(message, help)
        }
    }
}
