//! Configuration of `error_pages` as written, and its compilation.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use edgeway_config::{
    diagnostic::{Place, closest},
    tree::{
        Spanned,
        short::{self, Short, short_form},
    },
};
use edgeway_core::chain::CompileContext;
use edgeway_files::PageFile;
use edgeway_routes::values::{Destination, Encoding, Template};
use http::{HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Content, ErrorPage, ErrorPages, HTML, PageSource, of_route::PageRoute};

/// Maximum size of a page: all of them stay in memory.
const CODE: &str = "edgeway::error_pages::page";
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Media type of a page that has none of its own and is no file.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Your own pages, texts and redirects in place of the built-in page.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorPagesConfig {
    /// HTML files or other replies by status: `404`, or `4xx` and `5xx` for all others of that
    /// class. Files are read when the configuration is loaded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pages: BTreeMap<String, Spanned<PageConfig>>,
    /// Format of the built-in page: `html` for all clients; the one that `Accept` prefers if absent.
    built_in: Option<BuiltIn>,
    /// True to replace the error responses of backends too, as `proxy_intercept_errors` of nginx
    /// does.
    #[serde(default)]
    intercept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum BuiltIn {
    Html,
}

/// Response in place of an error's: the path of an HTML file, or a mapping with one of `file`,
/// `body`, `redirect` and `upstream`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, default)]
#[schemars(transform = short::or_text)]
struct PageConfig {
    /// File to send, of at most 1 MiB.
    file: Option<PathBuf>,
    /// Text to send, with the placeholders of `headers`; `{status}` is the status of the error.
    body: Option<String>,
    /// Media type of the file or text; `text/html` for HTML files and `text/plain` for texts if
    /// absent.
    content_type: Option<String>,
    /// Target of a redirect, with the placeholders of `headers`, such as `/login?next={uri}`.
    redirect: Option<String>,
    /// Upstream that has the page. It gets a `GET` of the gateway, or the client's own request
    /// (`as_sent`).
    upstream: Option<String>,
    /// Path of the page at the `upstream`, with the placeholders of `headers`; the client's path if
    /// absent.
    path: Option<String>,
    /// Name of a route (`match: { named: true }`) that has the page. It gets the client's own
    /// request.
    route: Option<String>,
    /// Path that chooses the route of the page, with the placeholders of `headers`. The page is
    /// requested with `GET`.
    reroute: Option<String>,
    /// True to send the client's cookies and `Authorization` to the `upstream`, and cookies of the
    /// page to the client.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    credentials: bool,
    /// True to send the client's own request to the `upstream`: with its body, conditions and
    /// range, and with its method if there is no `path`. Implies `credentials`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    as_sent: bool,
    /// True to send the status of the page, in place of the error's own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    own_status: bool,
    /// Status in place of the error's own: from 200 to 599. For a redirect, 301, 302, 303, 307 or
    /// 308; 302 if absent.
    #[schemars(range(min = 200, max = 599))]
    status: Option<u16>,
    /// Clients that get it: `all`, or `html`: those that prefer HTML to JSON and plain text, or
    /// have no preference.
    clients: Clients,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Clients {
    #[default]
    All,
    Html,
}

impl Short for PageConfig {
    const WHAT: &'static str =
        "the path of an HTML file, or a mapping such as `{ redirect: /login }`";

    fn text(path: &str) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            file: Some(path.into()),
            clients: Clients::Html,
            ..Self::default()
        }))
    }
}

short_form!(PageConfig);

impl ErrorPagesConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<ErrorPages> {
        if self.pages.is_empty() && self.built_in.is_none() {
            return cx.here("edgeway::error_pages::none").refuse(
                "`error_pages` names no page",
                "write `pages: { 404: errors/404.html, 5xx: errors/50x.html }`",
            );
        }
        let mut pages = Vec::new();
        for (key, page) in &self.pages {
            let statuses = statuses(key);
            if statuses.is_none() {
                cx.at(page.place, "edgeway::error_pages::status").error(
                    format!("`{key}` is no status of an error"),
                    "write one from 400 to 599, or `4xx` or `5xx`",
                );
            }
            let content = page.value.content(page.place, cx);
            let status = page.value.status(page.place, cx);
            if let (Some((first, last)), Some(content)) = (statuses, content) {
                pages.push(ErrorPage {
                    first,
                    last,
                    content,
                    status,
                    is_for_all: page.value.clients == Clients::All,
                    has_own_status: page.value.own_status,
                });
            }
        }
        // A single status before its class.
        pages.sort_by_key(|page| page.last - page.first);
        Some(ErrorPages {
            pages: pages.into(),
            intercepts: self.intercept,
            is_html: self.built_in == Some(BuiltIn::Html),
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

impl PageConfig {
    fn content(&self, place: Place, cx: &mut CompileContext<'_>) -> Option<Content> {
        let content_type = match &self.content_type {
            None => None,
            Some(text) => match HeaderValue::from_str(text) {
                Ok(value) if self.redirect.is_none() => Some(value),
                _ => {
                    let help = "write one such as `application/json` beside `file` or `body`";
                    return cx
                        .at(place, CODE)
                        .refuse(format!("misplaced or invalid media type `{text}`"), help);
                }
            },
        };
        if self.route.is_some() || self.reroute.is_some() {
            return self.of_route(place, cx).map(Content::Route);
        }
        let is_of_upstream = self.upstream.is_some();
        let is_asked = self.path.is_some() || self.credentials || self.as_sent || self.own_status;
        if !is_of_upstream && is_asked {
            let help = "write the `upstream` that has the page, or leave them out";
            let message = "`path`, `credentials`, `as_sent` and `own_status` are for pages of an \
                           upstream";
            return cx.at(place, CODE).refuse(message, help);
        }
        if self.own_status && self.status.is_some() {
            let help = "leave one of them out";
            return cx.at(place, CODE).refuse("the page has two statuses", help);
        }
        match (&self.file, &self.body, &self.redirect) {
            (None, None, None) if content_type.is_none() && is_of_upstream => {
                self.of_upstream(place, cx).map(Content::Upstream)
            }
            _ if is_of_upstream => {
                let help = "write one of `file`, `body`, `redirect` and `upstream`, and \
                            `content_type` beside `file` or `body` alone";
                cx.at(place, CODE).refuse("a page needs one content", help)
            }
            (Some(file), None, None) => {
                let (body, facts) = read(file, content_type.is_some(), place, cx)?;
                let content_type = content_type.unwrap_or(HTML);
                // An error is about this request alone; a success may be stored.
                let is_success = self.status == Some(200);
                Some(match PageFile::new(&facts).filter(|_| is_success) {
                    Some(file) => Content::File(content_type, body, Box::new(file)),
                    None => Content::Body(content_type, body),
                })
            }
            (None, Some(body), None) => {
                let content_type = content_type.unwrap_or(TEXT);
                let destination = Destination::Body(Encoding::of_body(&content_type));
                let text = Template::compile_of_response(body, place, destination, CODE, cx)?;
                Some(match text.plain_text() {
                    Some(plain) => Content::Body(content_type, plain.to_owned().into()),
                    None => Content::Text(content_type, text),
                })
            }
            (None, None, Some(to)) => {
                template(to, Destination::Redirect, place, cx).map(Content::Redirect)
            }
            _ => {
                let help = "write one of `file`, `body`, `redirect` and `upstream`";
                cx.at(place, CODE).refuse("a page needs one content", help)
            }
        }
    }

    /// Compiles the source of a page that another route has.
    fn of_route(&self, place: Place, cx: &mut CompileContext<'_>) -> Option<PageRoute> {
        let others = [
            self.file.is_some(),
            self.body.is_some(),
            self.redirect.is_some(),
            self.upstream.is_some(),
            self.content_type.is_some(),
            self.path.is_some(),
            self.credentials,
            self.as_sent,
        ];
        match (&self.route, &self.reroute) {
            _ if others.contains(&true) || (self.own_status && self.status.is_some()) => {}
            (Some(name), None) => return Some(PageRoute::Named(name.as_str().into(), place)),
            (None, Some(path)) if path.starts_with(['/', '{']) => {
                return template(path, Destination::Target, place, cx).map(PageRoute::Path);
            }
            _ => {}
        }
        let help = "write `route` with the name of a route, or `reroute` with a path, and `status` \
                    or `own_status` alone beside it";
        cx.at(place, CODE).refuse("a page needs one content", help)
    }

    /// Compiles the source of a page that an upstream has.
    fn of_upstream(&self, place: Place, cx: &mut CompileContext<'_>) -> Option<PageSource> {
        let name = self.upstream.as_deref()?;
        let path = match &self.path {
            None => None,
            Some(path) if path.starts_with('/') => {
                Some(template(path, Destination::Target, place, cx)?)
            }
            Some(path) => {
                let help = "write one such as `/errors/404`";
                return cx
                    .at(place, CODE)
                    .refuse(format!("`{path}` is no path"), help);
            }
        };
        if !cx.upstreams.iter().any(|known| known == name) {
            let known = cx.upstreams.iter().map(String::as_str);
            let help = match closest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("add it: `upstreams: {{ {name}: … }}`"),
            };
            return cx
                .at(place, CODE)
                .refuse(format!("unknown upstream `{name}`"), help);
        }
        Some(PageSource {
            upstream: name.into(),
            path,
            sends_credentials: self.credentials || self.as_sent,
            is_as_sent: self.as_sent,
        })
    }

    /// Returns the status in place of the error's own.
    fn status(&self, place: Place, cx: &mut CompileContext<'_>) -> Option<StatusCode> {
        let is_redirect = self.redirect.is_some();
        let Some(number) = self.status else {
            return is_redirect.then_some(StatusCode::FOUND);
        };
        let redirects = [301, 302, 303, 307, 308].contains(&number);
        let has_body = !matches!(number, 204 | 205 | 206 | 304);
        let is_good = (200..600).contains(&number) && redirects == is_redirect && has_body;
        if is_good {
            return StatusCode::from_u16(number).ok();
        }
        let help =
            "write one from 200 to 599 that has a body, for a redirect 301, 302, 303, 307 or 308";
        cx.at(place, CODE)
            .refuse(format!("status {number} does not fit the page"), help)
    }
}

fn template(
    text: &str,
    destination: Destination<'_>,
    place: Place,
    cx: &mut CompileContext<'_>,
) -> Option<Template> {
    Template::compile(text, place, destination, CODE, cx)
}

/// Reads a page, and reports why it cannot be used. `is_typed`: its media type is written.
fn read(
    file: &Path,
    is_typed: bool,
    place: Place,
    cx: &mut CompileContext<'_>,
) -> Option<(Bytes, Metadata)> {
    let path = cx.folder.join(file);
    match bytes_of(&path, is_typed) {
        Ok((bytes, facts)) => {
            cx.referenced.read(path, &bytes);
            Some((bytes.into(), facts))
        }
        Err(why) => {
            cx.at(place, "edgeway::error_pages::file").error(
                format!("`{}` cannot be used as a page: {why}", path.display()),
                "write the path of an HTML file, relative to this one, or `file` and \
                 `content_type`",
            );
            cx.referenced.missed(path);
            None
        }
    }
}

fn bytes_of(path: &Path, is_typed: bool) -> Result<(Vec<u8>, Metadata), String> {
    let is_html = path
        .extension()
        .is_some_and(|extension| extension == "html" || extension == "htm");
    if !is_html && !is_typed {
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
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    if bytes.len() as u64 != length {
        return Err("it is being written".to_owned());
    }
    Ok((bytes, facts))
}
