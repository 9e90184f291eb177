//! The API below `/v1`, as described in `docs/admin.md`.

use std::{future::Future, path::PathBuf, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    handler::Handler as _,
    response::{IntoResponse, Response},
};
use edgeway_base::units::{Percent, Span};
use edgeway_cache::purge::PurgeRequest;
use edgeway_gateway::explain::{ExplainRequest, Explanation};
use edgeway_proxy::live::audit::Actor;
use edgeway_upstreams::NewMember;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AdminState, PeerAddress, Route, bounded,
    extract::{JsonBody, OptionalJsonBody, PathPart, QueryPart},
    off_thread,
};
use crate::{
    Snapshot,
    actions::{
        ActionError, Actions, BackendName, NewBan, NewCanary, NewConfigTrial, NewWarmUp,
        ProfileSelection, Profiles, ReleaseSwitch,
    },
};

/// Size limit of a purge order, enough for hundreds of URLs.
const MAX_PURGE_LEN: usize = 256 * 1024;

/// Handler that performs an action with the values that its extractors read.
macro_rules! action {
    ($action:ident, $($extractor:ident $value:ident: $type:ty),+ => $($argument:expr),+) => {
        |State(served): State<AdminState>,
         ConnectInfo(peer): From,
         $($extractor($value): $extractor<$type>),+| {
            act(served, peer, move |actions, who| async move {
                actions.$action(who, $($argument),+).await
            })
        }
    };
}

pub(super) fn routes() -> Vec<Route> {
    routes! {
        GET "/v1/status" => status,
        POST "/v1/reload" =>
            action!(reload, OptionalJsonBody with: ReloadOptions => with.trial()),
        POST "/v1/upgrade" =>
            action!(upgrade, OptionalJsonBody program: UpgradeProgram => program.binary),
        GET "/v1/upstreams" => upstreams,
        POST "/v1/upstreams/{upstream}/backends" =>
            action!(add_backend, PathPart of: String, JsonBody new: NewMember => of, new),
        DELETE "/v1/upstreams/{upstream}/backends/{address}" =>
            action!(remove_backend, PathPart name: BackendName, QueryPart with: Force => name, with.force),
        POST "/v1/upstreams/{upstream}/backends/{address}/drain" =>
            action!(drain, PathPart name: BackendName, OptionalJsonBody with: Force => name, with.force),
        POST "/v1/upstreams/{upstream}/backends/{address}/undrain" =>
            action!(undrain, PathPart name: BackendName, OptionalJsonBody _empty: EmptyBody => name),
        POST "/v1/upstreams/{upstream}/release" =>
            action!(switch_release, PathPart of: String, JsonBody to: ReleaseSwitch => of, to),
        POST "/v1/upstreams/{upstream}/canary" =>
            action!(begin_canary, PathPart of: String, JsonBody new: NewCanary => of, new),
        DELETE "/v1/upstreams/{upstream}/canary" => action!(end_canary, PathPart of: String => of),
        POST "/v1/upstreams/{upstream}/warm-up" =>
            action!(begin_warm_up, PathPart of: String, JsonBody new: NewWarmUp => of, new),
        DELETE "/v1/upstreams/{upstream}/warm-up" => action!(end_warm_up, PathPart of: String => of),
        GET "/v1/bans" => bans,
        POST "/v1/bans" => action!(ban, JsonBody new: NewBan => new),
        DELETE "/v1/bans/{address}" =>
            action!(unban, PathPart address: String, OptionalJsonBody _empty: EmptyBody => address),
        POST "/v1/purge" => purge.layer(DefaultBodyLimit::max(MAX_PURGE_LEN)),
        POST "/v1/explain" => explain,
        GET "/v1/profiles" => profiles,
        POST "/v1/profile" => action!(profile, JsonBody to: ProfileSelection => to),
    }
}

type From = ConnectInfo<PeerAddress>;

/// Options of a reload.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReloadOptions {
    /// Time for which the configuration is on trial.
    canary: Option<Span>,
    /// Share of the clients that get it meanwhile.
    share: Option<Percent>,
}

impl ReloadOptions {
    /// Returns the trial that is asked for. A share alone is one without a time, which is refused.
    fn trial(self) -> Option<NewConfigTrial> {
        let is_asked = self.canary.is_some() || self.share.is_some();
        is_asked.then(|| NewConfigTrial {
            length: self.canary.unwrap_or_default(),
            share: self.share.unwrap_or(NewConfigTrial::SHARE),
        })
    }
}

/// An empty JSON object.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EmptyBody {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Force {
    force: bool,
}

async fn status(State(served): State<AdminState>) -> Result<Json<Snapshot>, ActionError> {
    snapshot(&served).await.map(Json)
}

async fn upstreams(State(served): State<AdminState>) -> Result<Json<Value>, ActionError> {
    let upstreams = snapshot(&served).await?.upstreams;
    Ok(Json(serde_json::json!({ "upstreams": upstreams })))
}

async fn bans(State(served): State<AdminState>) -> Result<Json<Value>, ActionError> {
    let bans = off_thread(move || served.source.bans()).await?;
    Ok(Json(serde_json::json!({ "bans": bans })))
}

async fn profiles(State(served): State<AdminState>) -> Result<Json<Profiles>, ActionError> {
    let config = snapshot(&served).await?.config;
    let (active, profiles) = (config.profile, config.profiles);
    Ok(Json(Profiles { active, profiles }))
}

async fn snapshot(served: &AdminState) -> Result<Snapshot, ActionError> {
    let source = Arc::clone(&served.source);
    off_thread(move || source.snapshot()).await
}

async fn explain(
    State(served): State<AdminState>,
    JsonBody(question): JsonBody<ExplainRequest>,
) -> Result<Json<Explanation>, ActionError> {
    explained(&served, &question).map(Json)
}

pub(super) fn explained(
    served: &AdminState,
    question: &ExplainRequest,
) -> Result<Explanation, ActionError> {
    let explanation = served.source.explain(question);
    explanation.map_err(|error| ActionError::new(422, "bad_request", error.to_string()))
}

async fn purge(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    JsonBody(order): JsonBody<Value>,
) -> Result<Response, ActionError> {
    let order = purge_order(&order)?;
    let receipt = finish(served, peer, |actions, who| async move {
        actions.purge(who, order).await
    });
    let receipt = receipt.await?;
    Ok((receipt.status(), Json(receipt)).into_response())
}

pub(super) fn purge_order(json: &Value) -> Result<PurgeRequest, ActionError> {
    PurgeRequest::from_json(json)
        .map_err(|error| ActionError::new(422, "bad_purge", error.to_string()))
}

/// The program to start. The same program again if absent.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UpgradeProgram {
    binary: Option<PathBuf>,
}

/// Performs an action and responds with its result.
async fn act<T, F>(
    served: AdminState,
    peer: PeerAddress,
    action: impl FnOnce(Arc<dyn Actions>, Actor) -> F,
) -> Result<Json<T>, ActionError>
where
    T: Serialize + Send + 'static,
    F: Future<Output = Result<T, ActionError>> + Send + 'static,
{
    finish(served, peer, action).await.map(Json)
}

/// Performs an action to completion, even if the client disconnects.
pub(super) async fn finish<T, F>(
    served: AdminState,
    peer: PeerAddress,
    action: impl FnOnce(Arc<dyn Actions>, Actor) -> F,
) -> Result<T, ActionError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ActionError>> + Send + 'static,
{
    peer.life.allow(bounded::ACTION);
    let action = action(served.actions, peer.who);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    served.tasks.spawn("admin action", async move {
        // A client that has disconnected gets no response.
        drop(sender.send(action.await));
    });
    // The process ends, and aborts the action.
    let message = "the gateway stops: the action was not finished";
    let stopping = |_| ActionError::new(503, "stopping", message);
    receiver.await.map_err(stopping)?
}
