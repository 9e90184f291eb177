//! Section `media_types`, compiled before the routes whose files have these types.

use std::sync::Arc;

use edgeway_config::tree::Spanned;
use edgeway_files::MediaTypes;

use super::compile::Compiler;

impl Compiler<'_> {
    /// Compiles the media types of all routes with `files`.
    pub(super) fn media_types(&mut self) {
        if let Some(Spanned { value, place }) = &self.file.media_types {
            let mut cx = self.cx(*place, "");
            if let Some(types) = MediaTypes::compile(value, &mut cx) {
                self.shared.insert(Arc::new(types));
            }
        }
    }
}
