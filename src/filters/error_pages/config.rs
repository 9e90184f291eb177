//! Configuration of `error_pages` as written, and its compilation.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ErrorPage, ErrorPages};
use crate::{chain::CompileContext, config::tree::Spanned};

/// Maximum size of a page: all of them stay in memory.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Own HTML pages in place of the built-in one.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ErrorPagesConfig {
    /// HTML files by status: `404`, or `4xx` and `5xx` for all others of that class. Read when the
    /// configuration is loaded.
    pages: BTreeMap<String, Spanned<PathBuf>>,
    /// True to replace the error responses of backends too, as `proxy_intercept_errors` of nginx
    /// does.
    #[serde(default)]
    intercept: bool,
}

impl ErrorPagesConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<ErrorPages> {
        if self.pages.is_empty() {
            cx.report(
                "edgeway::error_pages::none",
                "`error_pages` names no page",
                "write `pages: { 404: errors/404.html, 5xx: errors/50x.html }`",
            );
            return None;
        }
        let mut pages = Vec::new();
        for (key, file) in &self.pages {
            let statuses = statuses(key);
            if statuses.is_none() {
                cx.report_at(
                    file.place,
                    "edgeway::error_pages::status",
                    format!("`{key}` is no status of an error"),
                    "write one from 400 to 599, or `4xx` or `5xx`",
                );
            }
            let body = read(file, cx);
            if let (Some((first, last)), Some(body)) = (statuses, body) {
                pages.push(ErrorPage { first, last, body });
            }
        }
        if pages.len() < self.pages.len() {
            return None;
        }
        // A single status before its class.
        pages.sort_by_key(|page| page.last - page.first);
        Some(ErrorPages {
            pages: pages.into(),
            intercepts: self.intercept,
        })
    }
}

/// Returns the first and the last status of a key.
fn statuses(key: &str) -> Option<(u16, u16)> {
    match key {
        "4xx" => Some((400, 499)),
        "5xx" => Some((500, 599)),
        _ => {
            let status = key.parse().ok()?;
            (400..600).contains(&status).then_some((status, status))
        }
    }
}

/// Reads a page, and reports why it cannot be used.
fn read(file: &Spanned<PathBuf>, cx: &mut CompileContext<'_>) -> Option<Bytes> {
    let path = cx.folder.join(&file.value);
    match bytes_of(&path) {
        Ok(bytes) => {
            cx.beside.read(path, &bytes);
            Some(bytes.into())
        }
        Err(why) => {
            cx.report_at(
                file.place,
                "edgeway::error_pages::file",
                format!("`{}` cannot be used as a page: {why}", path.display()),
                "write the path of an HTML file, relative to this one",
            );
            cx.beside.missed(path);
            None
        }
    }
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, String> {
    let is_html = path
        .extension()
        .is_some_and(|extension| extension == "html" || extension == "htm");
    if !is_html {
        return Err("its name does not end in `.html`".to_owned());
    }
    let facts = fs::metadata(path).map_err(|error| error.to_string())?;
    if !facts.is_file() {
        return Err("it is no file".to_owned());
    }
    let length = facts.len();
    if length > MAX_FILE_SIZE {
        return Err(format!("it has {length} bytes, and 1 MiB is the most"));
    }
    fs::read(path).map_err(|error| error.to_string())
}
