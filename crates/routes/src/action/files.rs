//! Files of a folder, as the action of a route.

use std::sync::Arc;

use edgeway_config::{
    diagnostic::Place,
    model::{FilesConfig, OtherwiseConfig},
    tree::Spanned,
};
use edgeway_core::chain::CompileContext;
use edgeway_files::Files;
use http::StatusCode;

use crate::values::{Destination, Template};

use super::{Rewrite, check_upstream};

/// Compiled `files` of a route.
#[derive(Debug)]
pub struct ServeFiles {
    pub files: Files,
    pub rewrite: Option<Rewrite>,
    /// Paths of which the first file is served; that of the request if there are none.
    pub candidates: Box<[Candidate]>,
    /// Place that a request is led to where there is no file.
    pub otherwise: Option<Otherwise>,
    /// Names of files that are looked up in a folder, and then choose the route again.
    pub rerouted_index: Box<[Box<str>]>,
    /// Upstreams that may send these files with `X-Accel-Redirect`; clients get none of them then.
    pub internal: Option<Box<[Arc<str>]>>,
}

/// Path that is looked up.
#[derive(Debug)]
pub struct Candidate {
    pub path: Template,
    /// True for a folder with an index. As with nginx, the text as written decides.
    pub is_folder: bool,
}

/// Place that a request is led to where there is no file.
#[derive(Debug)]
pub enum Otherwise {
    /// Name of a route, and the place where it is written.
    Named(Arc<str>, Place),
    Path(Template),
    Status(StatusCode),
}

impl Otherwise {
    fn compile(config: &Spanned<OtherwiseConfig>, cx: &mut CompileContext<'_>) -> Option<Self> {
        let Spanned { value, place } = config;
        match (&value.route, &value.reroute, &value.status) {
            (Some(name), None, None) => Some(Self::Named(Arc::from(&*name.value), name.place)),
            (None, Some(path), None) => template(path, Destination::Target, cx).map(Self::Path),
            (None, None, Some(status)) => {
                let known = StatusCode::from_u16(status.value).ok();
                let known = known.filter(|known| known.as_u16() >= 400);
                if known.is_none() {
                    let message = format!("{} is no status of an error", status.value);
                    cx.at(status.place, CODE)
                        .error(message, "write one from 400 to 599");
                }
                known.map(Self::Status)
            }
            _ => {
                let help = "write one of `route`, `reroute` and `status`";
                cx.at(*place, CODE).error("`otherwise` needs one key", help);
                None
            }
        }
    }
}

const CODE: &str = "edgeway::route::bad_files";

/// Compiles a path with placeholders.
fn template(
    path: &Spanned<String>,
    destination: Destination<'_>,
    cx: &mut CompileContext<'_>,
) -> Option<Template> {
    if !path.value.starts_with(['/', '{']) {
        let message = format!("`{}` is no path", path.value);
        return cx.at(path.place, CODE).refuse(message, "begin it with `/`");
    }
    Template::compile(&path.value, path.place, destination, CODE, cx)
}

impl ServeFiles {
    pub(super) fn compile(
        config: &FilesConfig,
        place: Place,
        cx: &mut CompileContext<'_>,
    ) -> Option<Self> {
        for name in &config.internal.0 {
            check_upstream(&name.value, name.place, cx);
        }
        let internal = config.internal.0.iter();
        let internal = internal.map(|name| Arc::from(name.value.as_str()));
        let candidate = |text: &Spanned<String>| {
            let is_folder = text.value.ends_with('/');
            template(text, Destination::Path, cx).map(|path| Candidate { path, is_folder })
        };
        let candidates = config.candidates.iter().filter_map(candidate).collect();
        let otherwise = match &config.otherwise {
            Some(otherwise) => Some(Otherwise::compile(otherwise, cx)?),
            None => None,
        };
        if otherwise.is_some() && (config.fallback.is_some() || config.not_found.is_some()) {
            let help = "leave out `otherwise`, or `fallback` and `not_found`";
            let message = "`files` has two rules for paths without a file";
            return cx.at(place, CODE).refuse(message, help);
        }
        let index = config.index.0.iter().map(|name| name.value.as_str().into());
        let files = Files::compile(config, place, cx)?;
        Some(Self {
            files,
            rewrite: None,
            candidates,
            otherwise,
            rerouted_index: if config.reroute_index {
                index.collect()
            } else {
                Box::default()
            },
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
            ("try", !config.candidates.is_empty()),
            ("otherwise", config.otherwise.is_some()),
        ];
        let mut misplaced = keys.into_iter().filter(|(_, is_there)| *is_there);
        if let Some((key, _)) = misplaced.next() {
            return cx.at(place, "edgeway::route::action").refuse(
                format!("`{key}` has no effect beside `upstream`, which gets all other requests"),
                format!("leave `{key}` out, or the `upstream`"),
            );
        }
        Files::compile(config, place, cx)
    }

    pub(super) fn with_rewrite(self, rewrite: Option<Rewrite>) -> Self {
        Self { rewrite, ..self }
    }
}
