//! Registry of every kind of filter, in the order in which requests meet them.
//!
//! A new filter is a folder here, a `mod` line and an [`Entry`]; see `docs/adding-a-filter.md`.

/// Makes `$filter` a [`FilterKind`](edgeway_core::chain::FilterKind) whose configuration compiles
/// itself; `None` means that it cannot.
macro_rules! filter_kind {
    ($filter:ty: $config:ty = $name:literal $(, on_by_default = $is_on:literal)?) => {
        impl edgeway_core::chain::FilterKind for $filter {
            const NAME: &'static str = $name;
            $(const ON_BY_DEFAULT: bool = $is_on;)?
            type Config = $config;
            type Filter = Self;

            fn compile(
                config: $config,
                cx: &mut edgeway_core::chain::CompileContext<'_>,
            ) -> Option<Self> {
                config.compile(cx).into()
            }
        }
    };
}

pub mod access;
pub mod access_log;
pub mod api_key;
pub mod basic_auth;
pub mod body_limit;
pub mod cache;
pub mod cache_control;
pub mod client_cert;
pub mod compression;
pub mod conditions;
pub mod cors;
pub mod csrf;
pub mod custom;
pub mod error_pages;
pub mod forward_auth;
pub mod headers;
pub mod in_flight;
pub mod jwt;
pub mod methods;
pub mod plugins;
pub mod rate_limit;
pub mod request_id;
pub mod response_rewrite;
pub mod security_headers;
#[cfg(test)]
mod tests;
pub mod timing;
pub mod upstream_by;

use std::{path::PathBuf, sync::Arc};

use edgeway_base::named_file;
use edgeway_config::{
    diagnostic::Diagnostics,
    tree::{self, Node, Spanned},
};
use edgeway_core::chain::{CompileContext, CompiledFilter, FilterKind};
use schemars::{Schema, SchemaGenerator};

/// A kind of filter with its types erased.
#[derive(Clone, Copy)]
pub struct Entry {
    pub name: &'static str,
    pub on_by_default: bool,
    /// True if filters with the same settings are alike on every route, so that routes may share one.
    pub is_shareable: bool,
    /// Reads and compiles the filter; `None` means that problems were reported.
    pub compile: fn(&Node, &mut CompileContext<'_>) -> Option<CompiledFilter>,
    /// Returns the query parameters whose values a configuration declares secret; none if it cannot
    /// be read, which [`Self::compile`] reports.
    pub secret_names: fn(&Node) -> Vec<String>,
    /// Returns the configuration with every default filled in; `None` if it cannot be read, which
    /// [`Self::compile`] reports.
    pub print: fn(&Node) -> Option<serde_json::Value>,
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

impl Entry {
    pub const fn new<K: FilterKind>() -> Self {
        Self {
            name: K::NAME,
            on_by_default: K::ON_BY_DEFAULT,
            is_shareable: false,
            compile: |node, cx| {
                let config = tree::read_value::<K::Config>(K::NAME, None, node, cx.diagnostics)?;
                let filter = cx.checked(|cx| K::compile(config, cx))??;
                Some(CompiledFilter::new(K::NAME, Arc::new(filter)))
            },
            secret_names: |node| {
                let config = tree::read::<K::Config>(node, &mut Diagnostics::default());
                config.map_or_else(Vec::new, |config| K::secret_names(&config))
            },
            print: |node| {
                let config: K::Config = tree::read(node, &mut Diagnostics::default())?;
                serde_json::to_value(config).ok()
            },
            schema: |generator| generator.subschema_for::<K::Config>(),
        }
    }

    /// Returns this kind as one whose filters routes may share: it makes no use of the route's name,
    /// and keeps nothing of one route.
    const fn shareable(mut self) -> Self {
        self.is_shareable = true;
        self
    }
}

/// Every built-in kind of filter. The list's order is the chain's order on requests.
pub const FILTERS: &[Entry] = &[
    Entry::new::<request_id::RequestId>().shareable(),
    Entry::new::<timing::Timing>().shareable(),
    Entry::new::<access_log::AccessLogKind>().shareable(),
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

/// Returns the built-in filters, with those that the program registered ([`custom`]) at their places.
pub fn all() -> &'static [Entry] {
    custom::all()
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
