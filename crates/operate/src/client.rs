//! Client of the running gateway's admin API, for the commands that operate on backends.

use edgeway_base::units::Percent;
use edgeway_cli::path::segment;
use edgeway_status::{
    Snapshot,
    actions::{BackendResult, NewCanary, NewWarmUp, ReleaseResult, WarmUpPlan, WarmUpResult},
    client::{ACTION, Client, ClientError},
    snapshot::{BackendStatus, UpstreamStatus},
};
use edgeway_upstreams::{CanaryStatus, CanaryVerdict, NewMember};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    Failure,
    admin::{AdminOption, OutputFormat, not_found},
    backends::{Gateway, Interrupt, Name, RequestFailure, interruptible},
    out,
};

/// A running gateway, reached through its admin API.
pub struct Remote(pub Client);

impl Remote {
    fn trouble(&self, error: ClientError) -> RequestFailure {
        match error {
            ClientError::Refused { refused, .. } => RequestFailure::Refused(refused.message),
            ClientError::Stranger(_) | ClientError::Withheld { .. } => {
                RequestFailure::Refused(error.to_string())
            }
            ClientError::Connect(..) => RequestFailure::Away(not_found(&self.0.targets)),
            ClientError::Response(..) | ClientError::Slow(..) => {
                RequestFailure::Away(error.to_string())
            }
        }
    }

    /// Fetches the gateway's state.
    pub async fn snapshot(&self) -> Result<Snapshot, RequestFailure> {
        self.0.snapshot().await.map_err(|error| self.trouble(error))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        upstream: &str,
        what: &str,
        body: &impl Serialize,
    ) -> Result<T, RequestFailure> {
        let path = of_upstream(upstream, what);
        self.0
            .post(&path, body, ACTION)
            .await
            .map_err(|error| self.trouble(error))
    }

    async fn delete<T: DeserializeOwned>(
        &self,
        upstream: &str,
        what: &str,
    ) -> Result<T, RequestFailure> {
        let path = of_upstream(upstream, what);
        self.0
            .delete(&path, ACTION)
            .await
            .map_err(|error| self.trouble(error))
    }

    /// Makes `release` the current one, and returns the one before.
    pub async fn switch_release(
        &self,
        upstream: &str,
        release: &str,
    ) -> Result<Option<String>, RequestFailure> {
        let switch = json!({ "release": release });
        let switched: ReleaseResult = self.post(upstream, "release", &switch).await?;
        Ok(switched.before)
    }

    /// Begins to send a part of the visitors to `release`.
    pub async fn begin_canary(
        &self,
        upstream: &str,
        release: &str,
        share: Percent,
    ) -> Result<CanaryStatus, RequestFailure> {
        let canary = NewCanary {
            release: release.to_owned(),
            share: Some(share),
        };
        self.post(upstream, "canary", &canary).await
    }

    /// Begins to prepare `release` for its visitors, and returns requests for at most this many
    /// responses.
    pub async fn begin_warm_up(
        &self,
        upstream: &str,
        release: &str,
        responses: usize,
    ) -> Result<WarmUpPlan, RequestFailure> {
        let warm_up = NewWarmUp {
            release: release.to_owned(),
            responses,
        };
        self.post(upstream, "warm-up", &warm_up).await
    }

    /// Ends a warm-up, and returns the number of its requests that reached the release.
    pub async fn end_warm_up(&self, upstream: &str) -> Result<u64, RequestFailure> {
        let ended: WarmUpResult = self.delete(upstream, "warm-up").await?;
        Ok(ended.requests)
    }

    /// Ends the trial of a release.
    pub async fn end_canary(&self, upstream: &str) -> Result<CanaryVerdict, RequestFailure> {
        self.delete(upstream, "canary").await
    }
}

/// Runs `work` like [`ask`], with the interrupts that the user sends meanwhile.
pub fn ask_interruptible(
    admin: &AdminOption,
    work: impl AsyncFnOnce(Remote, Interrupt) -> Result<(), Failure>,
) -> Result<(), Failure> {
    ask(admin, async |gateway| {
        interruptible(|interrupt| work(gateway, interrupt)).await
    })
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
        let Upstreams { upstreams } = self
            .0
            .get("/v1/upstreams")
            .await
            .map_err(|error| self.trouble(error))?;
        let known = out::listed(upstreams.iter().map(|upstream| &upstream.name));
        let mut upstreams = upstreams.into_iter();
        upstreams
            .find(|upstream| upstream.name == name)
            .ok_or_else(|| {
                RequestFailure::Refused(format!("unknown upstream `{name}`; there is {known}"))
            })
    }

    async fn drain(&self, name: &Name, force: bool) -> Result<BackendStatus, RequestFailure> {
        let what = format!("{}/drain", backend(name));
        let body = json!({ "force": force });
        self.post(&name.upstream, &what, &body).await.map(done)
    }

    async fn undrain(&self, name: &Name) -> Result<BackendStatus, RequestFailure> {
        let what = format!("{}/undrain", backend(name));
        self.post(&name.upstream, &what, &json!({})).await.map(done)
    }

    async fn add(
        &self,
        name: &Name,
        weight: u16,
        drained: bool,
        release: Option<&str>,
    ) -> Result<BackendStatus, RequestFailure> {
        let new = NewMember {
            address: name.address.clone(),
            weight,
            drained,
            release: release.map(str::to_owned),
        };
        let added: BackendResult = self.post(&name.upstream, "backends", &new).await?;
        Ok(added.backend)
    }

    async fn remove(&self, name: &Name, force: bool) -> Result<BackendStatus, RequestFailure> {
        let what = format!("{}?force={force}", backend(name));
        self.delete(&name.upstream, &what).await.map(done)
    }
}

fn of_upstream(upstream: &str, what: &str) -> String {
    format!("/v1/upstreams/{}/{what}", segment(upstream))
}

fn done(done: BackendResult) -> BackendStatus {
    if let Some(warning) = &done.warning {
        out::note(&format!("edgeway: {warning}"));
    }
    done.backend
}

fn backend(name: &Name) -> String {
    format!("backends/{}", segment(&name.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_segment_each() {
        let path = |name: &str| {
            let name: Name = name.parse().unwrap();
            of_upstream(&name.upstream, &backend(&name))
        };
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
