//! Listener of a URL, headers of a request as routes see them, and the rules of a route, for
//! explanations.

use std::sync::Arc;

use edgeway_base::{hop_by_hop::nominated, reserved_headers::Reserved};
use edgeway_core::chain::{Client, Reply, RequestFacts, Scheme};
use edgeway_routes::{Action, RuleCourse, Rules};
use http::{
    HeaderName, HeaderValue, Uri,
    header::{self, LOCATION},
};
use pingora::http::RequestHeader;

use super::{
    Gateway, Listener, Route,
    explain::{ExplainError, ExplainRequest, plain_action},
};

/// Finds the listener that is named, or else the one that a client of the URL would reach: by its
/// port, else by its scheme. A path reaches the first one.
pub fn listener<'g>(
    gateway: &'g Gateway,
    question: &ExplainRequest,
) -> Result<Option<&'g Arc<Listener>>, ExplainError> {
    let mut all = gateway.listeners.iter();
    if let Some(name) = &question.listener {
        let named = all.find(|one| *one.name == **name);
        let named = named.ok_or_else(|| ExplainError::Listener(name.clone()))?;
        return Ok(Some(named));
    }
    let uri: Option<Uri> = question.url.parse().ok();
    let scheme = uri.as_ref().and_then(Uri::scheme_str);
    let named = scheme.and_then(|scheme| {
        let is_https = scheme == "https";
        let usual = if is_https { 443 } else { 80 };
        let port = uri.as_ref().and_then(Uri::port_u16).unwrap_or(usual);
        let by_port = all.clone().find(|one| one.address.port() == Some(port));
        by_port.or_else(|| all.clone().find(|one| one.tls.is_some() == is_https))
    });
    Ok(named.or_else(|| all.next()))
}

/// Removes headers that clients may not send, and writes the forwarding headers if routes read
/// them.
pub(super) fn settle(
    request: &mut RequestHeader,
    gateway: &Gateway,
    facts: &RequestFacts,
) -> Result<(), ExplainError> {
    let is_reserved = |name: &&HeaderName| {
        let reserved = gateway.reserved.find(name.as_str().as_bytes());
        matches!(reserved, Some(Reserved::Always | Reserved::Untrusted))
    };
    let mut doomed: Vec<HeaderName> = request
        .headers
        .keys()
        .filter(is_reserved)
        .cloned()
        .collect();
    nominated(&request.headers, &mut doomed).map_err(|_| ExplainError::Connection)?;
    for name in doomed {
        request.remove_header(&name);
    }
    let mut routes = gateway.routes.iter();
    if !gateway.reserved.is_read && !routes.any(|route| route.reads_written) {
        return Ok(());
    }
    let ip = facts.client.ip.to_string();
    let host = request.headers.get(header::HOST).cloned();
    let forwarding = [
        ("x-real-ip", HeaderValue::from_str(&ip).ok()),
        ("x-forwarded-for", HeaderValue::from_str(&ip).ok()),
        (
            "x-forwarded-proto",
            Some(HeaderValue::from_static(facts.client.scheme.as_str())),
        ),
        ("x-forwarded-host", host),
    ];
    for (name, value) in forwarding {
        if let Some(value) = value {
            let inserted = request.insert_header(name, value);
            debug_assert!(inserted.is_ok(), "four names more");
        }
    }
    Ok(())
}

/// Describes a route's action in a few words, and what comes before it.
pub fn action(route: &Route) -> String {
    let rules = route.rules.iter().chain(route.site.as_deref());
    let before = match rules.map(Rules::count).sum() {
        0 => String::new(),
        1 => "1 rule, then ".to_owned(),
        count => format!("{count} rules, then "),
    };
    let only = if route.is_internal {
        "404 for clients, else "
    } else {
        ""
    };
    format!("{only}{before}{}", plain_action(route))
}

/// Returns the upstream that a route's action names.
pub fn upstream(route: &Route) -> Option<&str> {
    match &route.action {
        Action::Forward(forward) => Some(&forward.upstream),
        Action::Redirect(_) | Action::Respond(_) | Action::Files(_) => None,
    }
}

/// Describes the reply that the client gets whatever its route is, if it does.
pub(super) fn before_routes(
    gateway: &Gateway,
    client: &Client,
    path: &[u8],
    without_route: Option<u16>,
) -> Option<String> {
    if gateway.bans.left(client.ip).is_some() && !gateway.trusted.trusts(client.ip) {
        return Some("refused with 403 banned: `edgeway bans` lists the client".to_owned());
    }
    let mut all = gateway.listeners.iter();
    let listener = all.find(|listener| listener.name == client.listener)?;
    let to = listener.redirect.as_ref()?;
    let goes = without_route != Some(421) && client.scheme != Scheme::Https && to.takes(path);
    goes.then(|| "redirect 308 to HTTPS, by the listener".to_owned())
}

/// Describes an action with what comes before it for this request, and returns the target that rules
/// make it, if it stays on its route.
pub(super) fn with_rules(
    gateway: &Gateway,
    route: &Route,
    head: &RequestHeader,
    facts: &mut RequestFacts,
    action: String,
) -> (String, Option<String>) {
    if route.is_internal {
        return (format!("404 for clients, else {action}"), None);
    }
    // A site's rules run before the route is final: a new path chooses it again.
    let site = route.site.as_deref().map(|rules| (rules, true));
    let all = site
        .into_iter()
        .chain(route.rules.iter().map(|rules| (rules, false)));
    let mut head = head.clone();
    let sent = head.raw_path().to_vec();
    let (mut outcome, mut target) = (None, None);
    for (rules, is_site) in all {
        let course = rules.run(&mut head, facts, gateway.slashes);
        let path = String::from_utf8_lossy(head.raw_path());
        let (text, is_last) = match course {
            Ok(RuleCourse::GoOn) if head.raw_path() == sent => {
                (format!("no rule applies: {action}"), false)
            }
            Ok(RuleCourse::GoOn) if !is_site => {
                target = Some(path.clone().into_owned());
                (format!("a rule makes it {path}: {action}"), false)
            }
            Ok(RuleCourse::GoOn | RuleCourse::Reroute) => {
                let text = format!(
                    "a rule makes it {path}, which chooses the route again: what follows is about this one"
                );
                (text, true)
            }
            Ok(RuleCourse::Named(name)) => {
                let text =
                    format!("a rule leads to the route {name}: what follows is about this one");
                (text, true)
            }
            Ok(RuleCourse::Reply(reply, _)) => (replied(&reply), true),
            Err(_) => (
                "refused with 400: a rule makes it an invalid path".to_owned(),
                true,
            ),
        };
        outcome = Some(text);
        if is_last {
            break;
        }
    }
    // The other parts of the explanation are about the request as it was sent.
    facts.rerouted = None;
    (outcome.unwrap_or(action), target)
}

fn replied(reply: &Reply) -> String {
    let status = reply.status.as_u16();
    let mut headers = reply.headers.iter();
    let location = headers.find(|(name, _)| name == LOCATION);
    match location.and_then(|(_, value)| value.to_str().ok()) {
        Some(to) => format!("a rule redirects: {status} to {to}"),
        None => format!("a rule responds {status}"),
    }
}
