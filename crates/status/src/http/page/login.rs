//! Login by the token or by a link for one use, logout, and the links.

use axum::{
    Extension, Json,
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderValue, header},
    response::{Html, IntoResponse as _, Response},
};
use edgeway_base::out::hints;
use edgeway_proxy::live::audit::Actor;
use serde::Deserialize;

use super::{LOGIN, STATUS, forms::FormFields, forms::PageForm, view};
use crate::{
    actions::{ActionError, PageLink},
    http::{
        AdminState, PeerAddress,
        access::RejectionReason,
        extract::{OptionalJsonBody, QueryPart},
        guard::{Admission, cookie_name, see_other},
    },
    sessions::{LINK, LoginError, SESSION},
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LoginQuery {
    /// Reason why the last login failed.
    why: Option<String>,
    /// Key of a link for one use. It is used up by the form, so that programs which look at links
    /// in advance leave it as it is.
    link: Option<String>,
}

pub(super) async fn form(
    State(served): State<AdminState>,
    ConnectInfo(peer): ConnectInfo<PeerAddress>,
    QueryPart(query): QueryPart<LoginQuery>,
) -> Response {
    if matches!(peer.who, Actor::Unix { .. }) {
        return see_other(STATUS);
    }
    let why = query.why.as_deref().and_then(|word| {
        let reasons = [
            RejectionReason::TokenWrong,
            RejectionReason::SessionMissing,
            RejectionReason::LinkUnknown,
            RejectionReason::LoginRate,
        ];
        let reason = reasons.into_iter().find(|reason| reason.word() == word)?;
        Some(hints(&reason.refused().message).into_owned())
    });
    let page = view::rendered(&view::Login {
        link: query.link.as_deref(),
        why: why.as_deref(),
        has_token: served.actions.token().is_some(),
    });
    Html(page).into_response()
}

pub(super) async fn enter(
    State(served): State<AdminState>,
    ConnectInfo(peer): ConnectInfo<PeerAddress>,
    headers: HeaderMap,
    fields: FormFields,
) -> Response {
    let Actor::Peer(address) = peer.who else {
        return see_other(STATUS);
    };
    let token = served.actions.token();
    let (token, sessions) = (token.as_ref(), &served.sessions);
    let entered = if let Some(key) = fields.get("link") {
        sessions.enter_by_link(key, token)
    } else {
        let shown = fields.get("token").unwrap_or_default();
        sessions.enter_by_token(address.ip(), shown.trim(), token)
    };
    let secret = match entered {
        Ok(secret) => secret,
        Err(error) => {
            let reason = match error {
                LoginError::Wrong => RejectionReason::TokenWrong,
                LoginError::UnknownLink => RejectionReason::LinkUnknown,
                LoginError::TooMany => RejectionReason::LoginRate,
            };
            served.actions.turned_away(peer.who, reason, LOGIN);
            return see_other(&format!("{LOGIN}?why={}", reason.word()));
        }
    };
    if let Some(session) = sessions.find(&secret, token) {
        let session = session.id.short();
        let who = Actor::Page {
            peer: address,
            session,
        };
        served.actions.session_changed(who, "login");
    }
    with_cookie(see_other(STATUS), &headers, &secret, SESSION.as_secs())
}

pub(super) async fn leave(
    State(served): State<AdminState>,
    headers: HeaderMap,
    form: PageForm,
) -> Response {
    if let Admission::Session(session) = &form.admission {
        served.sessions.end(session.id);
        served.actions.session_changed(form.peer.who, "logout");
    }
    with_cookie(see_other(LOGIN), &headers, "", 0)
}

fn with_cookie(mut response: Response, headers: &HeaderMap, value: &str, seconds: u64) -> Response {
    let name = cookie_name(headers);
    let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict");
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// An empty JSON object.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoFields {}

/// Creates a link for one use.
pub(super) async fn link(
    State(served): State<AdminState>,
    ConnectInfo(peer): ConnectInfo<PeerAddress>,
    Extension(_): Extension<Admission>,
    OptionalJsonBody(NoFields {}): OptionalJsonBody<NoFields>,
) -> Response {
    let Some(address) = served.source.admin_address() else {
        let message = "the page needs an admin address, and this gateway has none: \
                       `admin.address` is off, or another program had it at the start. Write \
                       another one, or forward the gateway's socket, as in `ssh -L \
                       9901:/run/edgeway/admin.sock HOST`, and open http://localhost:9901/";
        return ActionError::new(409, "no_address", message).into_response();
    };
    served.actions.session_changed(peer.who, "page_link");
    let ip = address.ip().to_canonical();
    let is_usual = ip.is_unspecified() || ip == std::net::Ipv4Addr::LOCALHOST;
    // A name of its own keeps the cookie from apps at other ports of localhost.
    let host = if is_usual || ip == std::net::Ipv6Addr::LOCALHOST {
        format!("edgeway.localhost:{}", address.port())
    } else {
        address.to_string()
    };
    Json(PageLink {
        url: format!("http://{host}{LOGIN}?link={}", served.sessions.link()),
        seconds: LINK.as_secs(),
    })
    .into_response()
}
