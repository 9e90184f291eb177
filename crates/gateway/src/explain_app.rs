//! Explanation of what an upstream's app gets: its release, and what the gateway serves in its place.

use std::{net::IpAddr, sync::Arc};

use edgeway_base::http::asks_for_websocket;
use edgeway_cache::nextjs::{Destination, ReleaseRequest};
use edgeway_routes::{Params, Target};
use edgeway_upstreams::Upstream;
use http::Method;
use pingora::http::RequestHeader;

use super::{Gateway, Route, explain::sent_target, releases::ReleaseChoice};

/// A request to the app of a route's upstream, after the route's rewrite.
pub(super) struct AppRequest<'a> {
    gateway: &'a Gateway,
    route: &'a Route,
    upstream: &'a Arc<Upstream>,
    head: &'a RequestHeader,
    sent: Vec<u8>,
    /// The release that the request goes to, as far as its headers tell.
    choice: Option<ReleaseChoice>,
}

impl<'a> AppRequest<'a> {
    pub(super) fn new(
        gateway: &'a Gateway,
        route: &'a Route,
        (target, params): (&Target<'_>, &Params),
        head: &'a RequestHeader,
        client: IpAddr,
    ) -> Option<Self> {
        let upstream = route.upstream.as_ref()?;
        let sent = sent_target(route, target, params, head);
        let target = Target::new("", &sent);
        let asked = ReleaseRequest {
            method: &head.method,
            path: target.path,
            query: target.query,
            headers: &head.headers,
            beginning: None,
        };
        let choice = gateway.release_of(upstream, &asked, client);
        Some(Self {
            gateway,
            route,
            upstream,
            head,
            sent,
            choice,
        })
    }

    /// Returns what `apps` keeps for the upstream's app.
    fn kept_in<T>(&self, apps: &'a [(Arc<Upstream>, T)]) -> Option<&'a T> {
        let mut apps = apps.iter();
        let (_, app) = apps.find(|(upstream, _)| Arc::ptr_eq(upstream, self.upstream))?;
        Some(app)
    }

    /// Returns the release whose app or files the request gets, and whether a backend of it is up.
    pub(super) fn own_release(&self) -> Option<(&str, bool)> {
        let choice = self.choice.as_ref()?;
        let release = match &choice.destination {
            Destination::Release(release) => release,
            _ => choice.own.as_ref()?,
        };
        Some((release, self.upstream.is_release_up(release)))
    }

    /// Describes the file of the app that the gateway serves in the app's place; `None` if it asks the
    /// app.
    pub(super) fn file(&self) -> Option<String> {
        let is_read = matches!(self.head.method, Method::GET | Method::HEAD);
        if !is_read || asks_for_websocket(&self.head.headers) {
            return None;
        }
        let target = Target::new("", &self.sent);
        let app = self.kept_in(&self.gateway.app_files)?;
        let (files, path) = app.find(target.path, self.own_release())?;
        let file = String::from_utf8_lossy(&path);
        let (folder, upstream) = (files.root().display(), &self.upstream.name);
        let text = || format!("file {file} in {folder}, in place of upstream {upstream}");
        files.has(&path).then(text)
    }

    /// Says where an image of the app is made; `None` if the request is for something else, or the
    /// app makes its images.
    pub(super) fn image(&self) -> Option<String> {
        let target = Target::new("", &self.sent);
        let images = self.kept_in(&self.gateway.app_images)?;
        let target = (target.path, target.query);
        let explained = images.explain(target, &self.head.headers, self.own_release())?;
        Some(match &self.route.cache {
            None => "left to the app: the route has no `cache`".to_owned(),
            Some(_) if self.head.method != Method::GET => {
                "left to the app: it is no GET".to_owned()
            }
            Some(_) => explained.to_owned(),
        })
    }

    /// Names the release that the request belongs to.
    pub(super) fn release(&self) -> Option<String> {
        let choice = self.choice.as_ref()?;
        let is_tried = choice.trial.as_ref().is_some_and(|trial| trial.is_new);
        Some(match (&choice.destination, &choice.own) {
            (Destination::Current, Some(own)) if is_tried => format!("{own} (on trial)"),
            (Destination::Current, Some(own)) => format!("{own} (the current one)"),
            (Destination::Current, None) => "none is known yet".to_owned(),
            (Destination::Release(release), _) => release.to_string(),
            (Destination::ActionGone, _) => {
                "one that has gone: the page is loaded again".to_owned()
            }
            (Destination::FormGone, _) => "one that has gone: 409".to_owned(),
            (Destination::NeedsBeginning, _) => "depends on the beginning of the body".to_owned(),
        })
    }
}
