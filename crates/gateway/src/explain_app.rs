//! Explanation of what an upstream's app gets: its release, and what the gateway serves in its place.

use std::{net::IpAddr, sync::Arc};

use edgeway_base::http::asks_for_websocket;
use edgeway_cache::nextjs::{Destination, ReleaseRequest};
use edgeway_routes::{Params, Target};
use edgeway_upstreams::TrialRequest;
use http::Method;
use pingora::http::RequestHeader;

use super::{Gateway, Route, explain::sent_target, releases::ReleaseChoice};

/// Returns the release that the request goes to, as far as its headers tell.
fn choice(
    gateway: &Gateway,
    route: &Route,
    target: &Target<'_>,
    head: &RequestHeader,
    client: IpAddr,
) -> Option<ReleaseChoice> {
    let asked = ReleaseRequest {
        method: &head.method,
        path: target.path,
        query: target.query,
        headers: &head.headers,
        beginning: None,
    };
    gateway.release_of(route.upstream.as_ref()?, &asked, client)
}

/// Returns the release whose app or files the request gets.
fn own_release(
    gateway: &Gateway,
    route: &Route,
    target: &Target<'_>,
    head: &RequestHeader,
    client: IpAddr,
) -> Option<Arc<str>> {
    let choice = choice(gateway, route, target, head, client)?;
    match choice.destination {
        Destination::Release(release) => Some(release),
        _ => choice.own,
    }
}

/// Describes the file of the app that the gateway serves in the app's place; `None` if it asks the
/// app.
pub(super) fn app_file(
    gateway: &Gateway,
    route: &Route,
    (target, params): (&Target<'_>, &Params),
    head: &RequestHeader,
    client: IpAddr,
) -> Option<String> {
    let upstream = route.upstream.as_ref()?;
    let mut apps = gateway.app_files.iter();
    let (_, app) = apps.find(|(own, _)| Arc::ptr_eq(own, upstream))?;
    let is_read = matches!(head.method, Method::GET | Method::HEAD);
    if !is_read || asks_for_websocket(&head.headers) {
        return None;
    }
    let sent = sent_target(route, target, params, head);
    let target = Target::new("", &sent);
    let release = own_release(gateway, route, &target, head, client);
    let release = release.as_deref();
    let release = release.map(|name| (name, upstream.is_release_up(name)));
    let (files, path) = app.find(target.path, release)?;
    let file = String::from_utf8_lossy(&path);
    let folder = files.root().display();
    files.has(&path).then(|| {
        format!(
            "file {file} in {folder}, in place of upstream {}",
            upstream.name
        )
    })
}

/// Says where an image of the app is made; `None` if the request is for something else, or the app
/// makes its images.
pub(super) fn image(
    gateway: &Gateway,
    route: &Route,
    (target, params): (&Target<'_>, &Params),
    head: &RequestHeader,
    client: IpAddr,
) -> Option<String> {
    let upstream = route.upstream.as_ref()?;
    let mut apps = gateway.app_images.iter();
    let (_, images) = apps.find(|(own, _)| Arc::ptr_eq(own, upstream))?;
    let sent = sent_target(route, target, params, head);
    let target = Target::new("", &sent);
    let release = own_release(gateway, route, &target, head, client);
    let release = release.as_deref();
    let release = release.map(|name| (name, upstream.is_release_up(name)));
    let explained = images.explain((target.path, target.query), &head.headers, release)?;
    Some(match &route.cache {
        None => "left to the app: the route has no `cache`".to_owned(),
        Some(_) if head.method != Method::GET => "left to the app: it is no GET".to_owned(),
        Some(_) => explained.to_owned(),
    })
}

/// Returns the release that the request belongs to, as far as its headers tell.
pub(super) fn release(
    gateway: &Gateway,
    route: &Route,
    (target, params): (&Target<'_>, &Params),
    head: &RequestHeader,
    client: IpAddr,
) -> Option<String> {
    let sent = sent_target(route, target, params, head);
    let target = Target::new("", &sent);
    let choice = choice(gateway, route, &target, head, client)?;
    let is_tried = choice.trial.as_ref().is_some_and(TrialRequest::is_of_new);
    Some(match (choice.destination, choice.own) {
        (Destination::Current, Some(own)) if is_tried => format!("{own} (on trial)"),
        (Destination::Current, Some(own)) => format!("{own} (the current one)"),
        (Destination::Current, None) => "none is known yet".to_owned(),
        (Destination::Release(release), _) => release.to_string(),
        (Destination::ActionGone, _) => "one that has gone: the page is loaded again".to_owned(),
        (Destination::FormGone, _) => "one that has gone: 409".to_owned(),
        (Destination::NeedsBeginning, _) => "depends on the beginning of the body".to_owned(),
    })
}
