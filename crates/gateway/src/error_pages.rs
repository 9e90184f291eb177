//! Upstreams that have pages of errors.

use std::collections::HashSet;

use edgeway_core_filters::error_pages::ErrorPages;

use super::compile::Compiler;

impl<'a> Compiler<'a> {
    /// Adds the upstreams of pages to those that are `used`.
    pub(super) fn page_upstreams<'c>(
        &self,
        pages: impl Iterator<Item = &'c ErrorPages>,
        used: &mut HashSet<&'a str>,
    ) {
        let names = self.file.upstreams.iter().map(|(key, _)| key.name.as_str());
        let pages: Vec<_> = pages.flat_map(ErrorPages::page_upstreams).collect();
        used.extend(names.filter(|name| pages.iter().any(|page| ***page == **name)));
    }
}
