//! Files of a folder, as the action of a route.

use std::sync::Arc;

use crate::{
    chain::CompileContext,
    config::{diagnostic::Place, model::FilesConfig},
    files::Files,
};

use super::{Rewrite, check_upstream};

/// Compiled `files` of a route.
#[derive(Debug)]
pub struct ServeFiles {
    pub files: Files,
    pub rewrite: Option<Rewrite>,
    /// Upstreams that may send these files with `X-Accel-Redirect`; clients get none of them then.
    pub internal: Option<Box<[Arc<str>]>>,
}

impl ServeFiles {
    pub(super) fn compile(
        config: &FilesConfig,
        place: Place,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        let mut are_known = true;
        for name in &config.internal.0 {
            are_known &= check_upstream(&name.value, name.place, cx);
        }
        let internal = config.internal.0.iter();
        let internal = internal.map(|name| Arc::from(name.value.as_str()));
        let files = Files::compile(config, place, cx)?;
        are_known.then(|| Self {
            files,
            rewrite: None,
            internal: (!config.internal.is_empty()).then(|| internal.collect()),
        })
    }

    /// Compiles the files of a route whose other requests go to an upstream.
    pub(super) fn before_upstream(
        config: &FilesConfig,
        place: Place,
        cx: &mut CompileContext<'_>,
    ) -> Option<Files> {
        let keys = [
            ("fallback", config.fallback.is_some()),
            ("not_found", config.not_found.is_some()),
            ("internal", !config.internal.is_empty()),
        ];
        let mut misplaced = keys.into_iter().filter(|(_, is_there)| *is_there);
        if let Some((key, _)) = misplaced.next() {
            cx.report_at(
                place,
                "edgeway::route::action",
                format!("`{key}` has no effect beside `upstream`, which gets what is no file"),
                format!("leave `{key}` out, or the `upstream`"),
            );
            return None;
        }
        Files::compile(config, place, cx)
    }

    pub(super) fn with_rewrite(self, rewrite: Option<Rewrite>) -> Self {
        Self { rewrite, ..self }
    }
}
