//! The API below `/v1`, as described in `docs/admin.md`.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    handler::Handler as _,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use edgeway_base::units::{Percent, Span};
use edgeway_cache::purge::PurgeRequest;
use edgeway_gateway::explain::{ExplainRequest, Explanation};
use edgeway_upstreams::NewMember;
use serde::Deserialize;
use serde_json::Value;

use super::{
    AdminState, PeerAddress, Route, bounded,
    extract::{JsonBody, OptionalJsonBody, PathPart, QueryPart},
    off_thread,
};
use crate::{
    Snapshot,
    actions::{
        ActionError, BackendName, Done, NewBan, NewCanary, NewConfigTrial, NewWarmUp, Operation,
        ProfileSelection, Profiles, ReleaseSwitch,
    },
};

/// Size limit of a purge order, enough for hundreds of URLs.
const MAX_PURGE_LEN: usize = 256 * 1024;

/// Handler that performs an operation made of the values that its extractors read.
macro_rules! action {
    ($($extractor:ident $value:ident: $type:ty),+ => $operation:expr) => {
        (|State(served): State<AdminState>,
          ConnectInfo(peer): From,
          $($extractor($value): $extractor<$type>),+| async move {
            perform(served, peer, $operation).await
        })
    };
}

pub(super) fn routes() -> Vec<Route> {
    routes! {
        GET "/v1/status" => status,
        POST "/v1/reload" =>
            action!(OptionalJsonBody with: ReloadOptions => Operation::Reload(with.trial())),
        POST "/v1/upgrade" =>
            action!(OptionalJsonBody program: UpgradeProgram => Operation::Upgrade(program.binary)),
        GET "/v1/upstreams" => upstreams,
        POST "/v1/upstreams/{upstream}/backends" =>
            action!(PathPart of: String, JsonBody new: NewMember => Operation::AddBackend(of, new)),
        DELETE "/v1/upstreams/{upstream}/backends/{address}" =>
            action!(PathPart backend: BackendName, QueryPart with: ForceParameter =>
                Operation::RemoveBackend { backend, force: with.force }),
        POST "/v1/upstreams/{upstream}/backends/{address}/drain" =>
            action!(PathPart backend: BackendName, OptionalJsonBody with: ForceParameter =>
                Operation::Drain { backend, force: with.force }),
        POST "/v1/upstreams/{upstream}/backends/{address}/undrain" =>
            action!(PathPart backend: BackendName, OptionalJsonBody _empty: EmptyBody =>
                Operation::Undrain(backend)),
        POST "/v1/upstreams/{upstream}/release" =>
            action!(PathPart of: String, JsonBody to: ReleaseSwitch => Operation::SwitchRelease(of, to)),
        POST "/v1/upstreams/{upstream}/canary" =>
            action!(PathPart of: String, JsonBody new: NewCanary => Operation::BeginCanary(of, new)),
        DELETE "/v1/upstreams/{upstream}/canary" =>
            action!(PathPart of: String => Operation::EndCanary(of)),
        POST "/v1/upstreams/{upstream}/warm-up" =>
            action!(PathPart of: String, JsonBody new: NewWarmUp => Operation::BeginWarmUp(of, new)),
        DELETE "/v1/upstreams/{upstream}/warm-up" =>
            action!(PathPart of: String => Operation::EndWarmUp(of)),
        GET "/v1/bans" => bans,
        POST "/v1/bans" => action!(JsonBody new: NewBan => Operation::Ban(new)),
        DELETE "/v1/bans/{address}" =>
            action!(PathPart address: String, OptionalJsonBody _empty: EmptyBody =>
                Operation::Unban(address)),
        POST "/v1/purge" =>
            action!(JsonBody order: Value => Operation::Purge(purge_order(&order)?))
                .layer(DefaultBodyLimit::max(MAX_PURGE_LEN)),
        POST "/v1/explain" => explain,
        GET "/v1/profiles" => profiles,
        POST "/v1/profile" => action!(JsonBody to: ProfileSelection => Operation::Profile(to)),
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

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Purged(receipt) => receipt.status(),
            _ => StatusCode::OK,
        };
        (status, Json(self)).into_response()
    }
}

/// An empty JSON object.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EmptyBody {}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ForceParameter {
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

/// Performs an operation to completion, even if the client disconnects.
pub(super) async fn perform(
    served: AdminState,
    peer: PeerAddress,
    operation: Operation,
) -> Result<Done, ActionError> {
    peer.life.allow(bounded::ACTION);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    served.tasks.spawn("admin action", async move {
        // A client that has disconnected gets no response.
        drop(sender.send(served.actions.perform(peer.who, operation).await));
    });
    // The process ends, and aborts the action.
    let message = "the gateway stops: the action was not finished";
    let stopping = |_| ActionError::new(503, "stopping", message);
    receiver.await.map_err(stopping)?
}
