//! Upstreams that have pages of errors: which ones some route uses, and whether they can.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use edgeway_filters::error_pages::ErrorPages;
use edgeway_upstreams::Upstream;

use super::compile::Compiler;

impl<'a> Compiler<'a> {
    /// Adds the upstreams of pages to those that are `used`, and reports those that the gateway
    /// cannot ask for a page.
    pub(super) fn page_upstreams<'c>(
        &mut self,
        pages: impl Iterator<Item = &'c ErrorPages>,
        upstreams: &HashMap<Arc<str>, Arc<Upstream>>,
        used: &mut HashSet<&'a str>,
    ) {
        let mut reported = Vec::new();
        let file = self.file;
        for pages in pages {
            for (name, place) in pages.page_upstreams() {
                let keys = file.upstreams.iter().map(|(key, _)| key.name.as_str());
                used.extend(keys.filter(|key| **key == **name));
                let is_h2 = upstreams.get(name).is_some_and(|upstream| upstream.is_h2());
                // Routes share the filters of `defaults`.
                if is_h2 && !reported.contains(&place) {
                    reported.push(place);
                    self.error(
                        "edgeway::error_pages::page",
                        place,
                        format!("the gateway asks for pages over HTTP/1, and `{name}` uses HTTP/2"),
                        "write an upstream without `protocol: h2`",
                    );
                }
            }
        }
    }
}
