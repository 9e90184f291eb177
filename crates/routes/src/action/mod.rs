//! Actions of routes: forward, redirect, respond, serve files, with rewrites.

mod files;
mod host;
mod redirect;
mod respond;
mod rewrite;
mod upstream_request;

use std::{sync::Arc, time::Duration};

use edgeway_config::{
    diagnostic::{Place, closest},
    model::{RouteConfig, RouteTimeoutsConfig},
    tree::Spanned,
};
use edgeway_core::chain::CompileContext;
use edgeway_files::Files;

use crate::values::Names;

pub(crate) use self::redirect::Redirect;
pub use self::{
    files::{Otherwise, ServeFiles},
    host::HostHeader,
    respond::{PAGE_STYLE, Respond},
    rewrite::Rewrite,
    upstream_request::UpstreamRequest,
};

use super::{ParamNames, Slashes};

/// The action of a route, exactly one of these.
#[derive(Debug)]
pub enum Action {
    /// Sends the request to an upstream.
    Forward(Forward),
    Redirect(Redirect),
    Respond(Respond),
    Files(ServeFiles),
}

/// The upstream of a route, with its rewrite and WebSocket settings.
#[derive(Debug)]
pub struct Forward {
    pub upstream: Arc<str>,
    pub rewrite: Option<Rewrite>,
    /// `None` if the backend gets the client's own `Host`.
    pub host: Option<HostHeader>,
    /// `None` if upgrades are refused or ignored.
    pub websocket: Option<Websocket>,
    /// True to pass requests for a WebSocket on as ordinary ones.
    pub ignores_upgrades: bool,
    /// Time limits in place of the upstream's.
    pub timeouts: Option<Box<RouteTimeoutsConfig>>,
    /// Files that are served in place of the upstream, where there is one at the path.
    pub files: Option<Box<Files>>,
    /// Method and body in place of the client's.
    pub request: Option<Box<UpstreamRequest>>,
}

/// Settings of allowed WebSocket upgrades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Websocket {
    /// Longest silence of both sides, if the route sets one.
    pub idle: Option<Duration>,
}

impl Action {
    /// Returns the forwarding to an upstream, if it is that.
    pub fn forward(&self) -> Option<&Forward> {
        match self {
            Self::Forward(forward) => Some(forward),
            Self::Redirect(_) | Self::Respond(_) | Self::Files(_) => None,
        }
    }

    /// Compiles the action of a route. Problems go to `cx`, and `None` means that one was reported,
    /// there or by the route table.
    pub fn compile(config: &RouteConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        cx.checked(|cx| check_shape(config, cx))?;
        cx.checked(|cx| Self::compile_kind(config, cx))?
    }

    fn compile_kind(config: &RouteConfig, cx: &mut CompileContext<'_>) -> Option<Self> {
        let names = ParamNames::collect(&config.matches.value);
        if let Some(redirect) = &config.redirect {
            let compiled = Redirect::compile(&redirect.value, &names);
            let compiled = cx
                .at(redirect.place, "edgeway::route::bad_redirect")
                .reported(compiled);
            let conditions = &config.matches.value;
            // Rules and pages of errors come with another path, and the next request may lack the rest.
            let is_met_again = conditions.method.is_empty()
                && conditions.query.is_empty()
                && conditions.cookie.is_empty()
                && !conditions.internal
                && !conditions.named
                && config.rules.is_empty()
                && config.site.is_none();
            let to = redirect.value.to.as_str();
            if is_met_again && matches!(to, "{path}" | "{path}?{query}") {
                cx.at(redirect.place, "edgeway::route::redirect_loop").warn(
                    format!("`{to}` leads to the route itself, again and again"),
                    "write another path, or `match` what the next request lacks, such as `query`",
                );
            }
            return compiled.flatten().map(Self::Redirect);
        }
        if let Some(respond) = &config.respond {
            return Respond::compile(&respond.value, respond.place, cx).map(Self::Respond);
        }
        if let Some(files) = &config.files
            && config.upstream.is_none()
        {
            let compiled = ServeFiles::compile(&files.value, files.place, cx);
            let rewrite = rewrite(config, &names, cx);
            return compiled.map(|files| Self::Files(files.with_rewrite(rewrite)));
        }
        let upstream = config.upstream.as_ref()?;
        check_upstream(&upstream.value, upstream.place, cx);
        let rewrite = cx.checked(|cx| rewrite(config, &names, cx))?;
        let host = cx.checked(|cx| host(config, cx))?;
        let timeouts = config.timeouts.as_ref();
        let timeouts = cx.checked(|cx| timeouts.map(|written| checked_timeouts(written, cx)))?;
        let files = match &config.files {
            Some(files) => Some(ServeFiles::before_upstream(&files.value, files.place, cx)?),
            None => None,
        };
        let request = match &config.upstream_request {
            Some(sent) => Some(UpstreamRequest::compile(
                &sent.value,
                sent.place,
                config,
                cx,
            )?),
            None => None,
        };
        let websocket = config.websocket.as_ref();
        let ignores_upgrades = websocket.is_some_and(|w| !w.value.enabled && !w.value.refuse);
        let websocket = websocket.filter(|w| w.value.enabled);
        Some(Self::Forward(Forward {
            upstream: Arc::from(upstream.value.as_str()),
            rewrite,
            host,
            websocket: websocket.map(|websocket| Websocket {
                idle: websocket.value.idle.map(|idle| idle.0),
            }),
            ignores_upgrades,
            timeouts: timeouts.map(Box::new),
            files: files.map(Box::new),
            request: request.map(Box::new),
        }))
    }
}

/// Compiles the `host_header` of a route.
fn host(config: &RouteConfig, cx: &mut CompileContext<'_>) -> Option<HostHeader> {
    let host = config.host_header.as_ref()?;
    let compiled = Names::with(cx, |names| HostHeader::compile(&host.value, names));
    let compiled = cx
        .at(host.place, "edgeway::route::bad_host_header")
        .reported(compiled);
    compiled.flatten()
}

/// Returns the time limits of a route; reports those of zero.
fn checked_timeouts(
    written: &Spanned<RouteTimeoutsConfig>,
    cx: &mut CompileContext<'_>,
) -> RouteTimeoutsConfig {
    let Spanned { value, place } = written;
    let all = [
        ("connect", value.connect),
        ("first_byte", value.first_byte),
        ("idle", value.idle),
        ("stream_idle", value.stream_idle),
        ("total", value.total),
    ];
    for (name, time) in all {
        if time.is_some_and(|time| time.0.is_zero()) {
            cx.at(*place, "edgeway::route::zero_timeout").error(
                format!("`timeouts.{name}` must be more than zero"),
                "write how long to wait at most, such as `30s`",
            );
        }
    }
    value.clone()
}

/// Compiles the rewrite of a route, if it has one.
fn rewrite(
    config: &RouteConfig,
    names: &ParamNames,
    cx: &mut CompileContext<'_>,
) -> Option<Rewrite> {
    let rewrite = config.rewrite.as_ref()?;
    let compiled = Rewrite::compile(&rewrite.value, names, slashes(cx));
    let compiled = cx
        .at(rewrite.place, "edgeway::route::bad_rewrite")
        .reported(compiled);
    compiled.flatten()
}

/// Returns the slash treatment of the configuration.
fn slashes(cx: &CompileContext<'_>) -> Slashes {
    cx.shared.get().map(|slashes| *slashes).unwrap_or_default()
}

/// Checks that a route has exactly one action (or files before an upstream), and that `rewrite` and `websocket` are used only
/// with an action that they change.
fn check_shape(config: &RouteConfig, cx: &mut CompileContext<'_>) {
    const CODE: &str = "edgeway::route::action";
    let actions: Vec<(&str, Place)> = [
        ("upstream", config.upstream.as_ref().map(|s| s.place)),
        ("redirect", config.redirect.as_ref().map(|s| s.place)),
        ("respond", config.respond.as_ref().map(|s| s.place)),
        ("files", config.files.as_ref().map(|s| s.place)),
    ]
    .into_iter()
    .filter_map(|(key, place)| Some((key, place?)))
    .collect();
    let action = match actions[..] {
        [(action, _)] => Some(action),
        // What is no file goes to the upstream.
        [("upstream", _), ("files", _)] => Some("upstream"),
        _ => None,
    };
    let Some(action) = action else {
        let (place, message) = match actions[..] {
            [(first, _), (second, place), ..] => (
                place,
                format!("a route has one action, this one has `{first}` and `{second}`"),
            ),
            _ => (cx.place, "this route has no action".to_owned()),
        };
        let help = "give it one of `upstream`, `redirect`, `respond` and `files`";
        return cx.at(place, CODE).error(message, help);
    };
    let sent = config.upstream_request.as_ref().map(|s| s.place);
    let extras = [
        ("upstream_request", sent),
        ("rewrite", config.rewrite.as_ref().map(|s| s.place)),
        ("websocket", config.websocket.as_ref().map(|s| s.place)),
        ("host_header", config.host_header.as_ref().map(|s| s.place)),
        ("timeouts", config.timeouts.as_ref().map(|s| s.place)),
    ];
    for (key, place) in extras {
        let allows = action == "upstream" || (action == "files" && key == "rewrite");
        if let Some(place) = place
            && !allows
        {
            let message = format!("`{key}` has no effect with `{action}`");
            let needs = match key {
                "rewrite" => "an `upstream` or `files`",
                _ => "an `upstream`",
            };
            cx.at(place, CODE)
                .error(message, format!("`{key}` needs {needs}: leave it out"));
        }
    }
}

fn check_upstream(name: &str, place: Place, cx: &mut CompileContext<'_>) {
    if cx.upstreams.iter().any(|known| known == name) {
        return;
    }
    let known = || cx.upstreams.iter().map(String::as_str);
    let help = match closest(name, known()) {
        _ if name.contains(':') => {
            let address = name.trim_start_matches("http://");
            format!(
                "name it: `upstreams: {{ web: {{ backends: [\"{address}\"] }} }}`, and `web` here"
            )
        }
        Some(near) => format!("did you mean `{near}`?"),
        None if cx.upstreams.is_empty() => format!("add it: `upstreams: {{ {name}: … }}`"),
        None => {
            let known = known().collect::<Vec<_>>().join("`, `");
            format!("write `{known}`, or add it to `upstreams`")
        }
    };
    let message = format!("unknown upstream `{name}`");
    cx.at(place, "edgeway::route::unknown_upstream")
        .error(message, help);
}

#[cfg(test)]
mod tests;
