//! The API below `/v1`, as described in `docs/admin.md`.

use std::{future::Future, path::PathBuf, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use edgeway_base::units::Span;
use edgeway_cache::purge::PurgeRequest;
use edgeway_gateway::explain::ExplainRequest;
use edgeway_proxy::live::audit::Actor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AdminState, PeerAddress, Route, bounded,
    extract::{JsonBody, OptionalJsonBody, UrlPart},
    off_thread,
};
use crate::{
    Snapshot,
    actions::{
        ActionError, Actions, BackendName, NewBackend, NewBan, NewCanary, NewWarmUp,
        ProfileSelection, Profiles, ReleaseSwitch,
    },
};

/// Size limit of a purge order, enough for hundreds of URLs.
const MAX_PURGE_LEN: usize = 256 * 1024;

pub(super) fn routes() -> Vec<Route> {
    vec![
        (&["GET"], "/v1/status", get(status)),
        (&["POST"], "/v1/reload", post(reload)),
        (&["POST"], "/v1/upgrade", post(upgrade)),
        (&["GET"], "/v1/upstreams", get(upstreams)),
        (
            &["POST"],
            "/v1/upstreams/{upstream}/backends",
            post(add_backend),
        ),
        (
            &["DELETE"],
            "/v1/upstreams/{upstream}/backends/{address}",
            delete(remove_backend),
        ),
        (
            &["POST"],
            "/v1/upstreams/{upstream}/backends/{address}/drain",
            post(drain),
        ),
        (
            &["POST"],
            "/v1/upstreams/{upstream}/backends/{address}/undrain",
            post(undrain),
        ),
        (
            &["POST"],
            "/v1/upstreams/{upstream}/release",
            post(switch_release),
        ),
        (
            &["POST", "DELETE"],
            "/v1/upstreams/{upstream}/canary",
            post(begin_canary).delete(end_canary),
        ),
        (
            &["POST", "DELETE"],
            "/v1/upstreams/{upstream}/warm-up",
            post(begin_warm_up).delete(end_warm_up),
        ),
        (&["GET", "POST"], "/v1/bans", get(bans).post(ban)),
        (&["DELETE"], "/v1/bans/{address}", delete(unban)),
        (
            &["POST"],
            "/v1/purge",
            post(purge).layer(DefaultBodyLimit::max(MAX_PURGE_LEN)),
        ),
        (&["POST"], "/v1/explain", post(explain)),
        (&["GET"], "/v1/profiles", get(profiles)),
        (&["POST"], "/v1/profile", post(profile)),
    ]
}

type From = ConnectInfo<PeerAddress>;

/// Options of a reload.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReloadOptions {
    /// Time for which the configuration is on trial.
    canary: Option<Span>,
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

async fn profile(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    JsonBody(to): JsonBody<ProfileSelection>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.profile(who, to).await
    })
    .await
}

async fn explain(
    State(served): State<AdminState>,
    JsonBody(question): JsonBody<ExplainRequest>,
) -> Response {
    match served.source.explain(&question) {
        Ok(explanation) => Json(explanation).into_response(),
        Err(error) => ActionError::new(422, "bad_request", error.to_string()).into_response(),
    }
}

async fn ban(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    JsonBody(new): JsonBody<NewBan>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.ban(who, new).await
    })
    .await
}

async fn unban(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    UrlPart(Path(address)): UrlPart<Path<String>>,
    OptionalJsonBody(EmptyBody {}): OptionalJsonBody<EmptyBody>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.unban(who, address).await
    })
    .await
}

async fn purge(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    JsonBody(order): JsonBody<serde_json::Value>,
) -> Response {
    let order = match PurgeRequest::from_json(&order) {
        Ok(order) => order,
        Err(error) => return ActionError::new(422, "bad_purge", error.to_string()).into_response(),
    };
    let receipt = finish(served, peer, |actions, who| async move {
        actions.purge(who, order).await
    });
    match receipt.await {
        Ok(receipt) => (receipt.status(), Json(receipt)).into_response(),
        Err(refused) => refused.into_response(),
    }
}

async fn reload(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    OptionalJsonBody(options): OptionalJsonBody<ReloadOptions>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.reload(who, options.canary).await
    })
    .await
}

/// The program to start. The same program again if absent.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UpgradeProgram {
    binary: Option<PathBuf>,
}

async fn upgrade(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    OptionalJsonBody(UpgradeProgram { binary }): OptionalJsonBody<UpgradeProgram>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.upgrade(who, binary).await
    })
    .await
}

async fn add_backend(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    UrlPart(Path(upstream)): UrlPart<Path<String>>,
    JsonBody(backend): JsonBody<NewBackend>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.add_backend(who, upstream, backend).await
    })
    .await
}

async fn remove_backend(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    UrlPart(Path(backend)): UrlPart<Path<BackendName>>,
    UrlPart(Query(Force { force })): UrlPart<Query<Force>>,
) -> Response {
    act(served, peer, move |actions, who| async move {
        actions.remove_backend(who, backend, force).await
    })
    .await
}

async fn drain(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    UrlPart(Path(backend)): UrlPart<Path<BackendName>>,
    OptionalJsonBody(Force { force }): OptionalJsonBody<Force>,
) -> Response {
    act(served, peer, move |actions, who| async move {
        actions.drain(who, backend, force).await
    })
    .await
}

async fn switch_release(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    UrlPart(Path(upstream)): UrlPart<Path<String>>,
    JsonBody(switch): JsonBody<ReleaseSwitch>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.switch_release(who, upstream, switch).await
    })
    .await
}

async fn begin_canary(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    UrlPart(Path(upstream)): UrlPart<Path<String>>,
    JsonBody(canary): JsonBody<NewCanary>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.begin_canary(who, upstream, canary).await
    })
    .await
}

async fn begin_warm_up(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    UrlPart(Path(upstream)): UrlPart<Path<String>>,
    JsonBody(warm_up): JsonBody<NewWarmUp>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.begin_warm_up(who, upstream, warm_up).await
    })
    .await
}

async fn end_warm_up(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    UrlPart(Path(upstream)): UrlPart<Path<String>>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.end_warm_up(who, upstream).await
    })
    .await
}

async fn end_canary(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    UrlPart(Path(upstream)): UrlPart<Path<String>>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.end_canary(who, upstream).await
    })
    .await
}

async fn undrain(
    State(served): State<AdminState>,
    ConnectInfo(peer): From,
    UrlPart(Path(backend)): UrlPart<Path<BackendName>>,
    OptionalJsonBody(EmptyBody {}): OptionalJsonBody<EmptyBody>,
) -> Response {
    act(served, peer, |actions, who| async move {
        actions.undrain(who, backend).await
    })
    .await
}

/// Performs an action and responds with its result.
async fn act<T, F>(
    served: AdminState,
    peer: PeerAddress,
    action: impl FnOnce(Arc<dyn Actions>, Actor) -> F,
) -> Response
where
    T: Serialize + Send + 'static,
    F: Future<Output = Result<T, ActionError>> + Send + 'static,
{
    match finish(served, peer, action).await {
        Ok(done) => Json(done).into_response(),
        Err(refused) => refused.into_response(),
    }
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
