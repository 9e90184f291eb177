//! Releases of an app: folders with a build each. While several of them run, each request goes to
//! the release that it belongs to, because browsers still have pages of earlier ones.
//!
//! A request names its release by `x-deployment-id`, by `?dpl=`, by the id of a server action, by
//! the build id in `/_next/data/`, or by a file that only one release has. A cookie could not: a
//! browser has one for all of its tabs. Everything else belongs to the current release.

mod form;
mod release;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use self::release::Release;
use super::{Build, paths, shape::is_multipart};
use crate::base::query;

pub use self::{form::MAX_BEGINNING, release::deployment_of, watch::Releases};

const DEPLOYMENT: HeaderName = HeaderName::from_static("x-deployment-id");
const ACTION: HeaderName = HeaderName::from_static("next-action");
const NEXT: &[u8] = b"/_next/";

/// The releases in a folder at one moment, the newest first.
#[derive(Debug, Default)]
pub struct ReleaseTable(Box<[Arc<Release>]>);

/// Parts of a request that say to which release it belongs.
#[derive(Clone, Copy)]
pub struct ReleaseRequest<'a> {
    pub method: &'a Method,
    /// Raw path that the app would get.
    pub path: &'a [u8],
    /// Raw query, without its `?`.
    pub query: Option<&'a [u8]>,
    pub headers: &'a HeaderMap,
    /// Beginning of the body, once it was read.
    pub beginning: Option<&'a [u8]>,
}

/// Destination of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The current release.
    Current,
    /// The release of this name.
    Release(Arc<str>),
    /// A server action of a release that does not run any more.
    ActionGone,
    /// A form for browsers without JavaScript, of a release that does not run any more.
    FormGone,
    /// Unknown before the beginning of the body is read: at most [`MAX_BEGINNING`] bytes.
    NeedsBeginning,
}

impl ReleaseTable {
    /// Returns the destination of a request. `current` is the current release; `is_up` returns true
    /// if a release has a backend in rotation.
    pub fn destination(
        &self,
        request: &ReleaseRequest<'_>,
        current: Option<&str>,
        is_up: impl Fn(&str) -> bool,
    ) -> Destination {
        let view = View {
            table: self,
            current,
            is_up: &is_up,
        };
        if *request.method == Method::POST
            && let Some(destination) = view.action(request)
        {
            return destination;
        }
        let header = request.headers.get(&DEPLOYMENT);
        let deployment = header.map(HeaderValue::as_bytes);
        if !is_of_next(request.path) {
            return deployment
                .and_then(|id| view.running(|release| release.is_deployment(id)))
                .map_or(Destination::Current, Destination::for_release);
        }
        view.of_next(request, deployment)
    }

    /// Returns the builds of all releases.
    pub fn builds(&self) -> impl Iterator<Item = &Arc<Build>> {
        self.0.iter().map(|release| &release.build)
    }

    /// Returns the build of a release.
    pub fn build(&self, name: &str) -> Option<&Arc<Build>> {
        Some(&self.named(name)?.build)
    }

    fn named(&self, name: &str) -> Option<&Arc<Release>> {
        self.0.iter().find(|release| *release.name == *name)
    }

    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|release| &release.name)
    }
}

impl Destination {
    fn for_release(release: &Arc<Release>) -> Self {
        Self::Release(Arc::clone(&release.name))
    }
}

/// Returns true for paths that may name a release: those of Next.js itself, below any base path.
fn is_of_next(path: &[u8]) -> bool {
    path.starts_with(NEXT) || memchr::memmem::find(path, NEXT).is_some()
}

/// Table with the state of its releases.
struct View<'a> {
    table: &'a ReleaseTable,
    current: Option<&'a str>,
    is_up: &'a dyn Fn(&str) -> bool,
}

impl<'a> View<'a> {
    /// Returns the releases for which `suits` returns true: the current one, then the newest.
    fn suitable(&self, suits: impl Fn(&Release) -> bool) -> impl Iterator<Item = &'a Arc<Release>> {
        let current = self.current.and_then(|name| self.table.named(name));
        let others = self.table.0.iter();
        let others = others.filter(move |it| current.is_none_or(|own| !Arc::ptr_eq(own, it)));
        current
            .into_iter()
            .chain(others)
            .filter(move |it| suits(it))
    }

    /// Returns the first suitable release with a backend in rotation.
    fn running(&self, suits: impl Fn(&Release) -> bool) -> Option<&'a Arc<Release>> {
        self.suitable(suits).find(|it| (self.is_up)(&it.name))
    }

    /// Returns the destination of a server action; `None` if the request is none.
    fn action(&self, request: &ReleaseRequest<'_>) -> Option<Destination> {
        if let Some(id) = request.headers.get(&ACTION) {
            let deployment = request.headers.get(&DEPLOYMENT).map(HeaderValue::as_bytes);
            return self.of_action(id.as_bytes(), deployment, Destination::ActionGone);
        }
        let kind = request.headers.get(header::CONTENT_TYPE)?;
        if !is_multipart(kind) || !self.has_actions() {
            return None;
        }
        let Some(beginning) = request.beginning else {
            return Some(Destination::NeedsBeginning);
        };
        let id = form::action_id(beginning)?;
        self.of_action(id, None, Destination::FormGone)
    }

    /// Returns the destination of the action with this id; `None` if the releases do not say which
    /// actions they have.
    fn of_action(
        &self,
        id: &[u8],
        deployment: Option<&[u8]>,
        gone: Destination,
    ) -> Option<Destination> {
        // An unchanged action may have one id in several releases.
        let named = deployment.and_then(|deployment| {
            self.running(|it| it.is_deployment(deployment) && it.has_action(id))
        });
        if let Some(release) = named.or_else(|| self.running(|it| it.has_action(id))) {
            return Some(Destination::for_release(release));
        }
        self.has_actions().then_some(gone)
    }

    /// Returns true if a running release lists its server actions.
    fn has_actions(&self) -> bool {
        self.running(|it| it.build.has_actions()).is_some()
    }

    /// Returns the destination of a request for a path of Next.js itself.
    fn of_next(&self, request: &ReleaseRequest<'_>, deployment: Option<&[u8]>) -> Destination {
        let (path, query) = (request.path, request.query.unwrap_or_default());
        let dpl = query::values(query, b"dpl").next();
        let dpl = dpl.map(query::form_decoded);
        let named = deployment.or(dpl.as_deref());
        let is_named = |it: &Release| named.is_some_and(|id| it.is_deployment(id));
        // The gateway has the files of releases that do not run any more.
        let named = self.suitable(|it| is_named(it) && it.has_file(path)).next();
        if let Some(release) = named.or_else(|| self.suitable(|it| it.has_file(path)).next()) {
            return Destination::for_release(release);
        }
        // Builds with a `deploymentId` have one build id.
        let data = self
            .running(|it| is_named(it) && it.has_data(path))
            .or_else(|| self.running(|it| it.has_data(path)));
        if let Some(release) = data {
            return Destination::for_release(release);
        }
        let source = query::values(query, b"url").next();
        let source = source.map(query::form_decoded);
        let has_source = |it: &Release| {
            it.build.is_image(path) && source.as_deref().is_some_and(|url| it.has_file(url))
        };
        let chosen = self
            .running(|it| is_named(it) && has_source(it))
            .or_else(|| self.running(has_source))
            // The gateway may make the image of the kept file.
            .or_else(|| self.suitable(|it| is_named(it) && has_source(it)).next())
            .or_else(|| self.suitable(has_source).next())
            .or_else(|| self.running(is_named));
        chosen.map_or(Destination::Current, Destination::for_release)
    }
}
