//! Classification of a request before any lookup: if it may use the store, if its response may be
//! stored, and which parts of it belong to the key.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::{Build, ImageForms, InvalidImageRequest, NextRules, PageCache, build::Decided, paths};
use crate::{
    base::{http::begins_with, query},
    chain::KeyBuilder,
};

/// Cookies of requests in draft mode.
const DRAFT: [&[u8]; 2] = [b"__prerender_bypass", b"__next_preview_data"];

/// Maximum length of a segment's name; the router never sends longer ones.
const MAX_SEGMENT_LEN: usize = 1024;

/// Kinds of paths in Next.js.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathKind {
    /// A file of a build, named by its content.
    File,
    /// An image of the optimizer. A build leaves it as it is if its source is a file that is named by
    /// its content, or on another server.
    Image { outlives_build: bool },
    /// A page, its payload, a route handler, or a file in `public/`.
    Page,
}

impl PathKind {
    fn is_image(self) -> bool {
        matches!(self, Self::Image { .. })
    }
}

/// Classification of a request, computed once; see [`shape`].
#[derive(Clone, Debug)]
pub struct RequestShape {
    pub(super) kind: PathKind,
    pub(super) is_rsc: bool,
    pub(super) prefetch: Option<HeaderValue>,
    pub(super) segment: Option<HeaderValue>,
    pub(super) forms: ImageForms,
    pub(super) briefly: Option<Duration>,
    wants_data: bool,
    decided: Decided,
    bypass: Option<&'static str>,
    /// Reason why the response must not be stored.
    personal: Option<&'static str>,
    /// True if the origin may receive `Cookie` and `Authorization`. The image optimizer may not: its
    /// responses are shared by all clients (CVE-2025-57752).
    pub keeps_credentials: bool,
    /// Mark of the build; 0 if none is known.
    build: u128,
    /// Digest of the build's settings for images; 0 if none are known.
    image_mark: u64,
    /// Query by which an image is stored, or the error of an invalid request for one.
    image: Option<Result<Box<[u8]>, Box<InvalidImageRequest>>>,
}

/// Classifies a request: `path` and `query` (without its `?`) are as the client sent them, or with
/// literal dot segments resolved; `headers` are the client's own. `release` is the one that the
/// request goes to, if the app has releases.
pub fn shape(
    method: &Method,
    path: &[u8],
    query: Option<&[u8]>,
    headers: &HeaderMap,
    rules: &NextRules,
    release: Option<&str>,
) -> RequestShape {
    let build = rules.build.as_ref().map(|watch| watch.now());
    // Before the first deploy, the app of `folder` serves.
    let is_of_release = release.is_some() || build.is_none();
    let releases = rules.releases.as_ref().filter(|_| is_of_release);
    let of_release = releases.map(|releases| {
        let build = release.and_then(|release| releases.build(release));
        build.unwrap_or_else(|| Arc::new(Build::unknown()))
    });
    let build = of_release
        .as_deref()
        .or(build.as_deref().map(|build| &**build));
    let kind = kind(path, query, build);
    let credentials_count = match kind {
        PathKind::File => false,
        PathKind::Image { .. } => rules.image_credentials,
        PathKind::Page => true,
    };
    let mut seen = HeaderFacts::default();
    for (name, value) in headers {
        seen.header(name, value, rules);
    }

    let is_data_path = memchr::memmem::find(path, paths::DATA).is_some();
    let decided = build.map(|build| build.decided(path, headers, kind == PathKind::File));
    let decided = decided.unwrap_or_default();
    let bypass = if !matches!(*method, Method::GET | Method::HEAD) {
        Some("method")
    } else if seen.is_action {
        Some("next_action")
    } else if seen.is_internal || (seen.wants_data && !is_data_path) {
        Some("internal_header")
    } else if seen.is_multipart {
        Some("multipart")
    } else if seen.is_odd {
        Some("router_headers")
    } else if credentials_count && seen.is_draft {
        Some("draft")
    } else if credentials_count && seen.has_authorization {
        Some("authorization")
    } else if rules.pages == PageCache::Off && kind == PathKind::Page {
        Some("page_cache_off")
    } else if is_guarded(path, kind, build, rules) {
        let is_unknown = rules.guarded.is_none() && build.is_some_and(|build| build.mark == 0);
        if is_unknown {
            Some("no_build")
        } else {
            Some("guarded")
        }
    } else if decided.is_unknown || kind.is_image() && seen.forms.are_unclear() {
        Some("unclear")
    } else {
        None
    };
    let is_personal =
        credentials_count && seen.has_personal_cookie && rules.pages != PageCache::All;
    RequestShape {
        kind,
        is_rsc: seen.is_rsc,
        prefetch: seen.prefetch,
        segment: seen.segment,
        forms: seen.forms,
        briefly: rules.briefly,
        wants_data: seen.wants_data,
        decided,
        bypass,
        personal: is_personal.then_some("cookies"),
        keeps_credentials: credentials_count,
        build: build.map_or(0, |build| build.mark),
        image_mark: build.map_or(0, |build| build.image_mark),
        image: match (kind, build) {
            (PathKind::Image { .. }, Some(build)) => {
                let checked = build.image_query(path, query);
                let checked = checked.map(|query| query.map(Vec::into_boxed_slice));
                checked.map_err(Box::new).transpose()
            }
            _ => None,
        },
    }
}

impl RequestShape {
    /// Returns the reason why the store is neither read nor filled; `None` if this request may use
    /// it.
    pub fn bypass(&self) -> Option<&'static str> {
        self.bypass
    }

    /// Returns true if the response may be stored, provided that the response allows it too. If
    /// not, the request may still be served from the store.
    pub fn may_fill(&self) -> bool {
        self.bypass.or(self.personal).is_none()
    }

    /// Returns the reason why the response must not be stored.
    pub fn no_fill(&self) -> Option<&'static str> {
        self.bypass.or(self.personal)
    }

    /// Converts the shape for a request sent without `Cookie`, such as a background revalidation:
    /// it is anonymous, and its response may be stored.
    #[must_use]
    pub fn without_cookies(self) -> Self {
        Self {
            personal: None,
            ..self
        }
    }

    /// Returns the error of an invalid image request: the app would respond with 400 and this text.
    pub fn bad_image(&self) -> Option<&InvalidImageRequest> {
        self.image.as_ref()?.as_ref().err().map(|error| &**error)
    }

    /// Returns the query by which an image is stored, without its `?`; `None` if that is the one of
    /// the request.
    pub fn query(&self) -> Option<&[u8]> {
        self.image.as_ref()?.as_deref().ok()
    }

    /// Returns true if cookies of the client decide about the response.
    pub fn is_decided_by_cookies(&self) -> bool {
        self.decided.has_cookies
    }

    /// Returns the tag of responses whose page has another path, by a rewrite of the app's
    /// configuration: a revalidation names the page's own path alone.
    pub fn tag(&self) -> Option<&'static str> {
        self.decided.is_rewritten.then_some("edgeway:rewritten")
    }

    /// Returns true for an image of the optimizer.
    pub fn is_image(&self) -> bool {
        self.kind.is_image()
    }

    /// Adds the parts by which responses to this URL differ, beside `Vary`.
    pub fn key_parts(&self, key: &mut KeyBuilder) {
        key.framed(&self.decided.key);
        let of_build = match self.kind {
            PathKind::File => return,
            PathKind::Image { outlives_build } => {
                key.part("image", &[self.forms.letter()]);
                if outlives_build && self.image_mark != 0 {
                    key.part("settings", &self.image_mark.to_be_bytes());
                }
                !outlives_build
            }
            PathKind::Page => {
                // HTML and payload are two responses, whatever `_rsc` contains.
                if self.is_rsc {
                    key.part("rsc", b"1");
                }
                if let Some(prefetch) = &self.prefetch {
                    key.part("prefetch", prefetch.as_bytes());
                }
                if let Some(segment) = &self.segment {
                    key.part("segment", segment.as_bytes());
                }
                if self.wants_data {
                    key.part("data", b"1");
                }
                true
            }
        };
        if of_build && self.build != 0 {
            key.part("build", &self.build.to_be_bytes());
        }
    }
}

/// Facts from a request's headers, collected in one pass.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a header's presence")]
struct HeaderFacts {
    is_rsc: bool,
    rsc_lines: u8,
    prefetch: Option<HeaderValue>,
    segment: Option<HeaderValue>,
    forms: ImageForms,
    wants_data: bool,
    is_action: bool,
    is_internal: bool,
    is_multipart: bool,
    is_odd: bool,
    is_draft: bool,
    has_authorization: bool,
    has_personal_cookie: bool,
}

impl HeaderFacts {
    fn header(&mut self, name: &HeaderName, value: &HeaderValue, rules: &NextRules) {
        match name.as_str() {
            "rsc" => {
                // Node joins lines: `1, 1` is not `1`.
                self.is_odd |= self.rsc_lines > 0;
                self.rsc_lines = 1;
                self.is_rsc = value.as_bytes() == b"1";
            }
            "next-router-prefetch" => self.router(value, |seen| &mut seen.prefetch),
            "next-router-segment-prefetch" => self.router(value, |seen| &mut seen.segment),
            "accept" => self.forms.add(value),
            "cookie" => self.cookies(value, rules),
            "authorization" => self.has_authorization = true,
            "next-action" => self.is_action = true,
            "content-type" => self.is_multipart |= is_multipart(value),
            "x-nextjs-data" => self.wants_data = true,
            name => self.is_internal |= is_internal(name),
        }
    }

    fn router(&mut self, value: &HeaderValue, of: fn(&mut Self) -> &mut Option<HeaderValue>) {
        self.is_odd |= value.len() > MAX_SEGMENT_LEN;
        self.is_odd |= of(self).replace(value.clone()).is_some();
    }

    fn cookies(&mut self, line: &HeaderValue, rules: &NextRules) {
        if !query::is_clear_line(line) {
            // The app may read other cookies than these.
            let line = line.as_bytes();
            let names = |name: &&[u8]| memchr::memmem::find(line, name).is_some();
            self.is_draft |= DRAFT.iter().any(names);
            self.has_personal_cookie |= !rules.cookies.is_all();
        }
        for name in query::cookie_names_in(line) {
            // Node's parsers differ on the space before `=`.
            let bare = name.trim_ascii_end();
            self.is_draft |= DRAFT.contains(&bare);
            self.has_personal_cookie |= !rules.cookies.contains(name);
        }
    }
}

/// Returns true for the content type of forms that may carry files, and calls of actions.
pub(super) fn is_multipart(content_type: &HeaderValue) -> bool {
    begins_with(
        content_type.as_bytes().trim_ascii_start(),
        b"multipart/form-data",
    )
}

/// Returns true for headers between parts of Next.js. They are removed before the app sees them,
/// but a client that sends one still wants the app's own response.
fn is_internal(name: &str) -> bool {
    if name == "next-resume" {
        return true;
    }
    let Some(name) = name.strip_prefix("x-") else {
        return false;
    };
    name.starts_with("middleware-")
        || name.starts_with("invoke-")
        || name.starts_with("prerender-revalidate")
        || name.starts_with("next-revalidate")
        || name.starts_with("next-resume-")
        || name == "matched-path"
        || name == "now-route-matches"
}

/// Returns the part of a raw path below the app's own; empty if it is not the app's.
fn below<'p>(build: Option<&Build>, path: &'p [u8]) -> &'p [u8] {
    build.map_or(path, |build| build.below(path).unwrap_or_default())
}

fn kind(path: &[u8], query: Option<&[u8]>, build: Option<&Build>) -> PathKind {
    let is_image = match build {
        Some(build) => build.is_image(path),
        None => path == paths::IMAGE.as_bytes(),
    };
    if is_image {
        let url = query.and_then(|query| query::values(query, b"url").next());
        let outlives_build = url.is_some_and(|url| {
            let url = query::form_decoded(url);
            let is_file = below(build, &url).starts_with(paths::STATIC);
            let is_elsewhere = [&b"https://"[..], b"http://"].map(|it| url.starts_with(it));
            is_elsewhere.contains(&true) || (is_file && !paths::may_be_another(&url))
        });
        return PathKind::Image { outlives_build };
    }
    if below(build, path).starts_with(paths::STATIC) && !paths::may_be_another(path) {
        PathKind::File
    } else {
        PathKind::Page
    }
}

fn is_guarded(path: &[u8], kind: PathKind, build: Option<&Build>, rules: &NextRules) -> bool {
    match &rules.guarded {
        Some(guarded) => guarded.have(path) || (!guarded.is_empty() && paths::may_be_another(path)),
        // A middleware without a matcher runs for these files too. But they are code that every
        // page links to, and the app itself marks them `public`.
        None => kind != PathKind::File && build.is_some_and(|build| build.is_guarded(path)),
    }
}

/// Headers to remove from a request before its response may be shared.
pub const CREDENTIALS: [HeaderName; 2] = [header::COOKIE, header::AUTHORIZATION];
