//! Client of the running gateway's admin API, for the commands that operate on backends.

use edgeway_base::units::Percent;
use edgeway_cli::path::segment;
use edgeway_status::{
    Snapshot,
    actions::{BackendResult, NewCanary, NewWarmUp, ReleaseResult, WarmUpPlan, WarmUpResult},
    client::{ACTION, Client, ClientError, Target},
    snapshot::{BackendStatus, UpstreamStatus},
};
use edgeway_upstreams::{CanaryStatus, CanaryVerdict, NewMember};
use serde::Deserialize;
use serde_json::json;

use super::{
    Failure,
    admin::{AdminOption, OutputFormat},
    backends::{Gateway, Name, RequestFailure},
    out,
};

/// A running gateway, reached through its admin API.
pub struct Remote(Client);

impl Remote {
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// Fetches the gateway's state.
    pub async fn snapshot(&self) -> Result<Snapshot, RequestFailure> {
        self.0.snapshot().await.map_err(trouble)
    }

    /// Adds a backend on which `release` runs. It gets no requests yet.
    pub async fn add_of_release(
        &self,
        name: &Name,
        release: &str,
    ) -> Result<BackendStatus, RequestFailure> {
        let path = format!("/v1/upstreams/{}/backends", segment(&name.upstream));
        let backend = NewMember {
            address: name.address.clone(),
            weight: 1,
            drained: true,
            release: Some(release.to_owned()),
        };
        done(self.0.post(&path, &json!(backend), ACTION).await)
    }

    /// Makes `release` the current one, and returns the one before.
    pub async fn switch_release(
        &self,
        upstream: &str,
        release: &str,
    ) -> Result<Option<String>, RequestFailure> {
        let path = format!("/v1/upstreams/{}/release", segment(upstream));
        let switch = json!({ "release": release });
        let switched = self.0.post(&path, &switch, ACTION).await;
        let switched: ReleaseResult = switched.map_err(trouble)?;
        Ok(switched.before)
    }

    /// Begins to send a part of the visitors to `release`.
    pub async fn begin_canary(
        &self,
        upstream: &str,
        release: &str,
        share: Percent,
    ) -> Result<CanaryStatus, RequestFailure> {
        let path = format!("/v1/upstreams/{}/canary", segment(upstream));
        let canary = NewCanary {
            release: release.to_owned(),
            share: Some(share),
        };
        let begun = self.0.post(&path, &json!(canary), ACTION).await;
        begun.map_err(trouble)
    }

    /// Begins to prepare `release` for its visitors, and returns requests for at most this many
    /// responses.
    pub async fn begin_warm_up(
        &self,
        upstream: &str,
        release: &str,
        responses: usize,
    ) -> Result<WarmUpPlan, RequestFailure> {
        let path = format!("/v1/upstreams/{}/warm-up", segment(upstream));
        let warm_up = NewWarmUp {
            release: release.to_owned(),
            responses,
        };
        let begun = self.0.post(&path, &json!(warm_up), ACTION).await;
        begun.map_err(trouble)
    }

    /// Ends a warm-up, and returns the number of its requests that reached the release.
    pub async fn end_warm_up(&self, upstream: &str) -> Result<u64, RequestFailure> {
        let path = format!("/v1/upstreams/{}/warm-up", segment(upstream));
        let ended: Result<WarmUpResult, _> = self.0.delete(&path, ACTION).await;
        ended.map(|ended| ended.requests).map_err(trouble)
    }

    /// Ends the trial of a release.
    pub async fn end_canary(&self, upstream: &str) -> Result<CanaryVerdict, RequestFailure> {
        let path = format!("/v1/upstreams/{}/canary", segment(upstream));
        self.0.delete(&path, ACTION).await.map_err(trouble)
    }

    /// Possible locations of the gateway.
    pub fn targets(&self) -> &[Target] {
        &self.0.targets
    }
}

/// Runs `work` with the running gateway. Failures print their own messages.
pub fn ask(
    admin: &AdminOption,
    work: impl AsyncFnOnce(Remote) -> Result<(), Failure>,
) -> Result<(), Failure> {
    admin.ask(OutputFormat::Text, |client| async {
        Ok(work(Remote(client)).await)
    })?
}

#[derive(Deserialize)]
struct Upstreams {
    upstreams: Vec<UpstreamStatus>,
}

impl Gateway for Remote {
    async fn upstream(&self, name: &str) -> Result<UpstreamStatus, RequestFailure> {
        let Upstreams { upstreams } = self.0.get("/v1/upstreams").await.map_err(trouble)?;
        let known = out::listed(upstreams.iter().map(|upstream| &upstream.name));
        let mut upstreams = upstreams.into_iter();
        upstreams
            .find(|upstream| upstream.name == name)
            .ok_or_else(|| {
                RequestFailure::Refused(format!("unknown upstream `{name}`; there is {known}"))
            })
    }

    async fn drain(&self, name: &Name, force: bool) -> Result<BackendStatus, RequestFailure> {
        let path = format!("{}/drain", path(name));
        done(self.0.post(&path, &json!({ "force": force }), ACTION).await)
    }

    async fn undrain(&self, name: &Name) -> Result<BackendStatus, RequestFailure> {
        let path = format!("{}/undrain", path(name));
        done(self.0.post(&path, &json!({}), ACTION).await)
    }

    async fn add(
        &self,
        name: &Name,
        weight: u16,
        drained: bool,
    ) -> Result<BackendStatus, RequestFailure> {
        let path = format!("/v1/upstreams/{}/backends", segment(&name.upstream));
        let backend = json!({ "address": name.address, "weight": weight, "drained": drained });
        done(self.0.post(&path, &backend, ACTION).await)
    }

    async fn remove(&self, name: &Name, force: bool) -> Result<BackendStatus, RequestFailure> {
        let path = format!("{}?force={force}", path(name));
        done(self.0.delete(&path, ACTION).await)
    }
}

fn done(done: Result<BackendResult, ClientError>) -> Result<BackendStatus, RequestFailure> {
    let done = done.map_err(trouble)?;
    if let Some(warning) = &done.warning {
        out::note(&format!("edgeway: {warning}"));
    }
    Ok(done.backend)
}

fn path(name: &Name) -> String {
    let (upstream, address) = (segment(&name.upstream), segment(&name.address));
    format!("/v1/upstreams/{upstream}/backends/{address}")
}

fn trouble(error: ClientError) -> RequestFailure {
    match error {
        ClientError::Refused { refused, .. } => RequestFailure::Refused(refused.message),
        ClientError::Stranger { .. } | ClientError::Withheld { .. } => {
            RequestFailure::Refused(error.to_string())
        }
        ClientError::Connect { .. } | ClientError::Response { .. } | ClientError::Slow { .. } => {
            RequestFailure::Away(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_segment_each() {
        let path = |name: &str| path(&name.parse().unwrap());
        assert_eq!(
            path("web/127.0.0.1:3001"),
            "/v1/upstreams/web/backends/127.0.0.1:3001"
        );
        assert_eq!(
            path("a b/unix:/run/ü.sock"),
            "/v1/upstreams/a%20b/backends/unix:%2Frun%2F%C3%BC.sock"
        );
        assert_eq!(
            path("web/[::1]:3001"),
            "/v1/upstreams/web/backends/%5B::1%5D:3001"
        );
    }
}
