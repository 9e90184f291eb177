//! The status page: the state of the gateway for people, with forms for the usual actions.
//!
//! Forms and links work without script; with script, sections are replaced as they change.

mod figures;
mod forms;
mod live;
mod login;
mod notice;
mod rendered;
mod tail;
mod tiles;
mod view;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
    response::{Html, IntoResponse, Response},
};
use edgeway_base::accept;
use serde::Deserialize;

pub(super) use self::rendered::SharedSections;
use self::{
    tail::Tail,
    view::{CSRF_FIELD, Page, hidden_csrf},
};
use super::{
    AdminState, Route,
    access::PathKind,
    extract::QueryPart,
    guard::{Admission, see_other},
    off_thread, pages,
};

pub(super) const LOGIN: &str = "/login";
/// The login, with the message that a session has ended.
pub(super) const LOGIN_AGAIN: &str = "/login?why=session_missing";
const STATUS: &str = "/status";
const STYLE_PATH: &str = "/status/page.css";
const SCRIPT_PATH: &str = "/status/page.js";
const ICON_PATH: &str = "/status/icon.svg";
const LOGOUT: &str = "/logout";
const STREAM: &str = "/status/stream";
/// Beginning of the paths of forms.
const ACT: &str = "/status/act/";

/// The logo.
pub const ICON: &str = include_str!("icon.svg");

pub(super) fn routes() -> Vec<Route> {
    routes! {
        GET "/" => async || see_other(STATUS),
        GET STATUS => status,
        GET STREAM => live::follow,
        GET STYLE_PATH => async || (typed("text/css; charset=utf-8"), include_str!("page.css")),
        GET SCRIPT_PATH => async || (typed("text/javascript; charset=utf-8"), include_str!("page.js")),
        GET ICON_PATH => async || (typed("image/svg+xml"), ICON),
        GET LOGIN => login::form,
        POST LOGIN => login::enter,
        POST LOGOUT => login::leave,
        POST "/v1/page-link" => login::link,
        POST "/status/act/drain" => forms::drain,
        POST "/status/act/undrain" => forms::undrain,
        POST "/status/act/unban" => forms::unban,
        POST "/status/act/purge" => forms::purge,
        POST "/status/act/lookup" => forms::lookup,
        POST "/status/act/explain" => forms::explain,
    }
}

fn typed(content_type: &'static str) -> [(HeaderName, &'static str); 1] {
    [(header::CONTENT_TYPE, content_type)]
}

/// Returns the kind of a path.
pub(super) fn kind_of(path: &str) -> PathKind {
    match path {
        pages::METRICS => PathKind::Metrics,
        LOGIN | STYLE_PATH | SCRIPT_PATH | ICON_PATH => PathKind::Login,
        "/" | STATUS => PathKind::Page,
        LOGOUT => PathKind::Form,
        _ if pages::is_open(path) => PathKind::Health,
        _ if path.starts_with(ACT) => PathKind::Form,
        _ => PathKind::Other,
    }
}

pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|value| {
        accept::preferred(value.as_bytes(), &["application/json", "text/html"]) == Some(1)
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusQuery {
    /// Key to the result of a form.
    result: Option<String>,
    /// `off` if the page must not load itself again.
    refresh: Option<String>,
}

async fn status(
    State(served): State<AdminState>,
    Extension(admission): Extension<Admission>,
    headers: HeaderMap,
    uri: Uri,
    QueryPart(query): QueryPart<StatusQuery>,
) -> Response {
    let wants_html = wants_html(&headers);
    let done = off_thread(move || {
        if wants_html {
            Html(rendered_page(&served, &admission, &uri, &query)).into_response()
        } else {
            Json(served.source.snapshot()).into_response()
        }
    });
    let mut response = done.await.into_response();
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn rendered_page(
    served: &AdminState,
    admission: &Admission,
    uri: &Uri,
    query: &StatusQuery,
) -> String {
    let result = query.result.as_deref();
    let result = result.and_then(|key| served.sessions.result(admission.session(), key));
    let status = served.source.snapshot();
    let csrf = csrf(served, admission);
    view::rendered(&Page {
        sections: view::sections(&status, served.source.bans(), csrf.as_deref()),
        status: &status,
        tail: Tail::from_uri(uri, &served.source.history()),
        csrf: hidden_csrf(csrf.as_deref()),
        may_leave: admission.session().is_some(),
        result: result.as_deref(),
        // A result stays until it was read.
        is_refreshed: query.refresh.is_none() && query.result.is_none(),
    })
}

/// Returns the value that forms repeat; `None` for programs with a token, which need none.
fn csrf(served: &AdminState, admission: &Admission) -> Option<String> {
    match admission {
        Admission::Session(session) => Some(session.csrf.clone()),
        Admission::Socket => Some(served.sessions.socket_csrf()),
        Admission::Token | Admission::Open => None,
    }
}
