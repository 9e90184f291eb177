//! Values of requests that a route's cache goes by: those that bypass it, those whose responses are
//! not stored, and those in its key.

use edgeway_config::tree::Spanned;
use edgeway_core::{
    chain::{CompileContext, Exchange, KeyBuilder},
    limits::key::{KeyValue, Source},
};
use edgeway_routes::values::{Destination, Template};

use super::config::RouteCacheConfig;

/// Compiled values, of which at least one is there.
#[derive(Debug)]
pub struct RequestValues {
    bypass: Box<[Template]>,
    no_store: Box<[Template]>,
    key: Box<[Template]>,
    /// Parts of the request that the values come from, and that a client may send twice.
    sources: Box<[Source]>,
    is_keyed_by_cookies: bool,
}

impl RequestValues {
    /// Returns `None` if there are no values.
    pub(super) fn compile(config: &RouteCacheConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        let bypass = templates(&config.bypass_if, cx);
        let no_store = templates(&config.no_store_if, cx);
        let key = templates(&config.key.values, cx);
        let mut sources = Vec::new();
        key.iter()
            .for_each(|template| template.sources(&mut sources));
        let is_keyed_by_cookies = reads_cookies(&sources);
        for template in bypass.iter().chain(&no_store) {
            template.sources(&mut sources);
        }
        let is_empty = bypass.is_empty() && no_store.is_empty() && key.is_empty();
        (!is_empty).then(|| Self {
            bypass,
            no_store,
            key,
            sources: sources.into(),
            is_keyed_by_cookies,
        })
    }

    /// Returns true if values in the key come from cookies.
    pub fn are_keyed_by_cookies(&self) -> bool {
        self.is_keyed_by_cookies
    }

    /// Returns true if a value has several readings: the origin may use another one than the gateway.
    pub fn are_unclear(&self, ex: &Exchange<'_>) -> bool {
        let mut sources = self.sources.iter();
        sources.any(|source| source.sent(ex) == KeyValue::Unclear)
    }

    /// Returns true if cookies matter.
    pub fn read_cookies(&self) -> bool {
        reads_cookies(&self.sources)
    }

    /// Returns true if the request goes to the origin whatever is stored.
    pub fn bypass(&self, ex: &Exchange<'_>) -> bool {
        is_any_set(&self.bypass, ex)
    }

    /// Returns true if the response to the request is not stored.
    pub fn forbid_storing(&self, ex: &Exchange<'_>) -> bool {
        is_any_set(&self.no_store, ex)
    }

    pub(super) fn are_in_key(&self) -> bool {
        !self.key.is_empty()
    }

    pub(super) fn add_to_key(&self, ex: &Exchange<'_>, key: &mut KeyBuilder) {
        let mut value = String::new();
        for template in &self.key {
            value.clear();
            // What a table decides is never stored undecided where it is a header of the request.
            let _undecided = template.write(ex, &mut value);
            key.part("value", value.as_bytes());
        }
    }
}

fn reads_cookies(sources: &[Source]) -> bool {
    let mut sources = sources.iter();
    sources.any(|source| matches!(source, Source::Cookie(_)))
}

/// Returns true if one of the values is neither empty nor `0`.
fn is_any_set(templates: &[Template], ex: &Exchange<'_>) -> bool {
    let mut value = String::new();
    templates.iter().any(|template| {
        value.clear();
        let written = template.write(ex, &mut value);
        written.is_err() || !matches!(&*value, "" | "0")
    })
}

/// Compiles values; reports all problems.
fn templates(texts: &[Spanned<String>], cx: &mut CompileContext<'_>) -> Box<[Template]> {
    let mut template = |text: &Spanned<String>| {
        let (destination, code) = (Destination::Comparison, "edgeway::cache::value");
        Template::compile(&text.value, text.place, destination, code, cx)
    };
    texts.iter().filter_map(&mut template).collect()
}
