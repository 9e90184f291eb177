//! The forms of the page. Each leads back to the page, with its result.

use std::{collections::BTreeMap, net::IpAddr};

use axum::{
    Extension,
    extract::{ConnectInfo, FromRequest, FromRequestParts as _, Request, State},
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};
use edgeway_gateway::explain::{ExplainRequest, Explanation};
use edgeway_proxy::live::audit::Actor;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::{CSRF_FIELD, STATUS, csrf, hidden_csrf, notice::Notice, view};
use crate::{
    actions::{ActionError, BackendName, Operation},
    http::{
        AdminState, PeerAddress,
        access::RejectionReason,
        extract,
        guard::{Admission, see_other},
        v1::{self, perform, purge_order},
    },
};

/// Fields of a form. Of several with one name the last counts.
pub(super) struct FormFields(BTreeMap<String, String>);

impl FormFields {
    /// Returns the text of a field, unless it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().trim().to_owned()
    }
}

impl<S: Send + Sync> FromRequest<S> for FormFields {
    type Rejection = ActionError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ActionError> {
        const FORM: &str = "application/x-www-form-urlencoded";
        let content_type = extract::content_type(request.headers());
        if !content_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case(FORM)) {
            let message =
                "this path is for the forms of the page; programs use the paths below /v1";
            return Err(ActionError::new(415, "content_type", message));
        }
        let bytes = extract::body(request, state).await?;
        Ok(Self(form_urlencoded::parse(&bytes).into_owned().collect()))
    }
}

/// A form of the page, by the same session that the page was made for.
pub(super) struct PageForm {
    pub(super) peer: PeerAddress,
    pub(super) admission: Admission,
    pub(super) fields: FormFields,
}

impl FromRequest<AdminState> for PageForm {
    type Rejection = Response;

    async fn from_request(request: Request, served: &AdminState) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let failed = |error: ActionError| error.into_response();
        let missing = |_| failed(RejectionReason::SessionMissing.refused());
        let peer = ConnectInfo::<PeerAddress>::from_request_parts(&mut parts, served).await;
        let ConnectInfo(mut peer) = peer.map_err(IntoResponse::into_response)?;
        let admission = Extension::<Admission>::from_request_parts(&mut parts, served).await;
        let Extension(admission) = admission.map_err(missing)?;
        let request = Request::from_parts(parts, body);
        let path = request.uri().path().to_owned();
        let fields = FormFields::from_request(request, served)
            .await
            .map_err(failed)?;
        let expected = csrf(served, &admission);
        let is_ours = |expected: String| fields.get(CSRF_FIELD) == Some(&*expected);
        if !expected.is_none_or(is_ours) {
            let reason = RejectionReason::Csrf;
            served.actions.turned_away(peer.who, reason, &path);
            let refused = reason.refused();
            let notice = &view::rendered(&Notice::Failed(&refused));
            let page = view::rendered(&view::Message { notice });
            return Err((StatusCode::FORBIDDEN, Html(page)).into_response());
        }
        if let (Actor::Peer(address), Some(session)) = (&peer.who, admission.session()) {
            peer.who = Actor::Page {
                peer: *address,
                session: session.short(),
            };
        }
        Ok(Self {
            peer,
            admission,
            fields,
        })
    }
}

impl PageForm {
    /// Stores the result, and leads back to the page.
    fn show(&self, served: &AdminState, result: &Notice<'_>) -> Response {
        let owner = self.admission.session();
        let key = served.sessions.put_result(owner, view::rendered(result));
        see_other(&format!("{STATUS}?result={key}"))
    }

    /// Performs an operation, and leads back to the page with its result.
    async fn act(self, served: AdminState, operation: Operation) -> Response {
        let done = perform(served.clone(), self.peer.clone(), operation).await;
        self.show(&served, &outcome(&done, Notice::Done))
    }

    fn backend(&self) -> BackendName {
        BackendName {
            upstream: self.fields.text("upstream"),
            address: self.fields.text("address"),
        }
    }
}

pub(super) async fn drain(State(served): State<AdminState>, form: PageForm) -> Response {
    let backend = form.backend();
    let operation = Operation::Drain {
        backend: backend.clone(),
        force: form.fields.get("force").is_some(),
    };
    let done = perform(served.clone(), form.peer.clone(), operation).await;
    let notice = match &done {
        Err(refused) if refused.reason == "last_backend" => Notice::LastBackend {
            refused,
            backend,
            csrf: hidden_csrf(csrf(&served, &form.admission).as_deref()),
        },
        done => outcome(done, Notice::Done),
    };
    form.show(&served, &notice)
}

pub(super) async fn undrain(State(served): State<AdminState>, form: PageForm) -> Response {
    let operation = Operation::Undrain(form.backend());
    form.act(served, operation).await
}

pub(super) async fn unban(State(served): State<AdminState>, form: PageForm) -> Response {
    let operation = Operation::Unban(form.fields.text("address"));
    form.act(served, operation).await
}

pub(super) async fn purge(State(served): State<AdminState>, form: PageForm) -> Response {
    match purge_order(&order(&form.fields)) {
        Ok(order) => form.act(served, Operation::Purge(order)).await,
        Err(refused) => form.show(&served, &Notice::Failed(&refused)),
    }
}

/// Returns the order of a purge form as the API takes it.
fn order(fields: &FormFields) -> Value {
    let (kind, value) = (fields.text("kind"), fields.text("value"));
    let mut order = Map::new();
    // With a text beside it, `all` is likely a mistake.
    let target = if kind == "all" && value.is_empty() {
        json!(true)
    } else {
        json!(value)
    };
    order.insert(kind, target);
    if fields.get("soft").is_some() {
        order.insert("soft".to_owned(), json!(true));
    }
    Value::Object(order)
}

pub(super) async fn lookup(State(served): State<AdminState>, form: PageForm) -> Response {
    let explained = explained(&served, &form.fields);
    form.show(&served, &outcome(&explained, Notice::Lookup))
}

pub(super) async fn explain(State(served): State<AdminState>, form: PageForm) -> Response {
    let explained = explained(&served, &form.fields);
    form.show(&served, &outcome(&explained, Notice::Explanation))
}

fn explained(
    served: &AdminState,
    fields: &FormFields,
) -> Result<(ExplainRequest, Explanation), ActionError> {
    let client = fields.get("client").unwrap_or("127.0.0.1").trim();
    let client: IpAddr = client.parse().map_err(|_| {
        let message = format!("invalid client address `{client}`: write one such as 192.0.2.7");
        ActionError::new(422, "bad_request", message)
    })?;
    let headers = fields.get("headers").unwrap_or_default().lines();
    let question = ExplainRequest {
        method: fields.get("method").unwrap_or("GET").trim().to_owned(),
        url: fields.text("url"),
        headers: headers
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect(),
        client,
        listener: None,
    };
    let explanation = v1::explained(served, &question)?;
    Ok((question, explanation))
}

/// Shows what an action has done, or why it was refused.
fn outcome<'a, T>(
    done: &'a Result<T, ActionError>,
    show: impl FnOnce(&'a T) -> Notice<'a>,
) -> Notice<'a> {
    done.as_ref().map_or_else(Notice::Failed, show)
}
