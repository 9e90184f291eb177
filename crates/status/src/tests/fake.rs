//! Gateway that records the actions that the admin listener asks of it.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use edgeway_base::{metrics::Exposition, secret::Secret};
use edgeway_cache::purge::{PeerStates, PurgeRequest, PurgeTarget, Receipt};
use edgeway_gateway::explain::{ExplainError, ExplainRequest, Explanation};
use edgeway_proxy::live::{audit::Actor, history::RequestHistory};
use edgeway_upstreams::{CanaryStatus, CanaryVerdict, NewMember};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    Snapshot,
    actions::{
        Action, ActionError, Actions, BackendName, BackendResult, NewBan, NewCanary,
        NewConfigTrial, NewWarmUp, ProfileSelection, ReleaseResult, ReleaseSwitch, ReloadResult,
        SwitchResult, UpgradeResult, WarmUpPlan, WarmUpResult,
    },
    http::RejectionReason,
    snapshot::{BanStatus, NotReady, Source},
    table,
};

/// A gateway that records the actions it receives.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) is_down: AtomicBool,
    /// Address that links name.
    pub(super) address: Option<std::net::SocketAddr>,
    pub(super) token: Option<Secret>,
    pub(super) done: Mutex<Vec<String>>,
    pub(super) history: Arc<RequestHistory>,
    pub(super) turned_away: Mutex<Vec<RejectionReason>>,
    /// Changes of sessions.
    pub(super) sessions: Mutex<Vec<String>>,
    /// Gate that actions wait for.
    pub(super) gate: Option<Semaphore>,
    /// Threads on which snapshots were taken.
    pub(super) snapshots: Mutex<Vec<std::thread::ThreadId>>,
}

impl Source for Fake {
    fn snapshot(&self) -> Snapshot {
        self.snapshots.lock().push(std::thread::current().id());
        table::testkit::full()
    }

    fn explain(&self, question: &ExplainRequest) -> Result<Explanation, ExplainError> {
        Err(ExplainError::Url(question.url.clone()))
    }

    fn bans(&self) -> Vec<BanStatus> {
        vec![BanStatus {
            address: "192.0.2.7".to_owned(),
            reason: "flood".to_owned(),
            ..BanStatus::default()
        }]
    }

    fn ready(&self) -> Result<(), Vec<NotReady>> {
        if self.is_down.load(Ordering::Relaxed) {
            let down = ["api", "web"].map(|name| NotReady::Upstream(name.to_owned()));
            return Err(down.to_vec());
        }
        Ok(())
    }

    fn admin_address(&self) -> Option<std::net::SocketAddr> {
        self.address
    }

    fn history(&self) -> Arc<RequestHistory> {
        Arc::clone(&self.history)
    }

    fn upstream_ready(&self, upstream: &str) -> Option<bool> {
        ["web", "a b/c"]
            .contains(&upstream)
            .then(|| self.ready().is_ok())
    }

    fn metrics(&self, format: Exposition) -> Vec<u8> {
        match format {
            Exposition::Text => b"# TYPE edgeway_x_total counter\nedgeway_x_total 1\n".to_vec(),
            Exposition::OpenMetrics => b"# EOF\n".to_vec(),
        }
    }
}

impl Fake {
    async fn act(&self, action: String) -> Result<BackendResult, ActionError> {
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        self.done.lock().push(action);
        Ok(BackendResult {
            upstream: "web".to_owned(),
            ..BackendResult::default()
        })
    }
}

impl Actions for Fake {
    fn token(&self) -> Option<Secret> {
        self.token.clone()
    }

    fn turned_away(&self, _who: Actor, reason: RejectionReason, _path: &str) {
        self.turned_away.lock().push(reason);
    }

    fn session_changed(&self, who: Actor, action: &'static str) {
        let kind = match who {
            Actor::Page { .. } => "page",
            Actor::Peer(_) => "peer",
            _ => "other",
        };
        self.sessions.lock().push(format!("{action} {kind}"));
    }

    fn switch_release(
        &self,
        _who: Actor,
        upstream: String,
        switch: ReleaseSwitch,
    ) -> Action<'_, ReleaseResult> {
        Box::pin(async move {
            self.act(format!("switch {upstream} {switch:?}")).await?;
            Ok(ReleaseResult {
                upstream,
                release: switch.release,
                before: None,
            })
        })
    }

    fn begin_canary(
        &self,
        _who: Actor,
        upstream: String,
        canary: NewCanary,
    ) -> Action<'_, CanaryStatus> {
        Box::pin(async move {
            self.act(format!("canary {upstream} {canary:?}")).await?;
            Ok(CanaryStatus::default())
        })
    }

    fn begin_warm_up(
        &self,
        _who: Actor,
        upstream: String,
        warm_up: NewWarmUp,
    ) -> Action<'_, WarmUpPlan> {
        Box::pin(async move {
            self.act(format!("warm up {upstream} {warm_up:?}")).await?;
            Ok(WarmUpPlan::default())
        })
    }

    fn end_warm_up(&self, _who: Actor, upstream: String) -> Action<'_, WarmUpResult> {
        Box::pin(async move {
            self.act(format!("end warm-up {upstream}")).await?;
            Ok(WarmUpResult::default())
        })
    }

    fn end_canary(&self, _who: Actor, upstream: String) -> Action<'_, CanaryVerdict> {
        Box::pin(async move {
            self.act(format!("end canary {upstream}")).await?;
            Ok(CanaryVerdict::default())
        })
    }

    fn upgrade(&self, _who: Actor, binary: Option<PathBuf>) -> Action<'_, UpgradeResult> {
        Box::pin(async move {
            self.act(format!("upgrade {binary:?}")).await?;
            Ok(UpgradeResult::default())
        })
    }

    fn reload(&self, _who: Actor, trial: Option<NewConfigTrial>) -> Action<'_, ReloadResult> {
        Box::pin(async move {
            self.act("reload".to_owned()).await?;
            Ok(ReloadResult {
                generation: 2,
                trial: trial.map(|trial| trial.length),
                share: trial.map(|trial| trial.share),
                ..ReloadResult::default()
            })
        })
    }

    fn drain(&self, _who: Actor, name: BackendName, force: bool) -> Action<'_, BackendResult> {
        Box::pin(async move {
            if name.upstream == "nowhere" {
                return Err(ActionError::new(404, "no_such_upstream", "there is none"));
            }
            let action = format!("drain {}/{} {force}", name.upstream, name.address);
            self.act(action).await
        })
    }

    fn profile(&self, _who: Actor, to: ProfileSelection) -> Action<'_, SwitchResult> {
        Box::pin(async move {
            self.act(format!("profile {:?}", to.name)).await?;
            Ok(SwitchResult::default())
        })
    }

    fn ban(&self, _who: Actor, ban: NewBan) -> Action<'_, BanStatus> {
        Box::pin(async move {
            self.act(format!(
                "ban {} {} {:?}",
                ban.address, ban.lasts, ban.reason
            ))
            .await?;
            Ok(BanStatus::default())
        })
    }

    fn unban(&self, _who: Actor, address: String) -> Action<'_, BanStatus> {
        Box::pin(async move {
            self.act(format!("unban {address}")).await?;
            Ok(BanStatus::default())
        })
    }

    fn purge(&self, _who: Actor, order: PurgeRequest) -> Action<'_, Receipt> {
        Box::pin(async move {
            self.act(format!("purge {:?} {}", order.purges, order.fan_out))
                .await?;
            let others = match order.purges[0].target {
                PurgeTarget::Tag(_) => PeerStates::Waiting,
                PurgeTarget::Prefix(_) => PeerStates::Unreached,
                PurgeTarget::Url(_) | PurgeTarget::Written(_) | PurgeTarget::All => {
                    PeerStates::Reached
                }
            };
            Ok(Receipt {
                others,
                purges: order.purges,
                gateway: "a".to_owned(),
                id: None,
                applied: vec![],
                lapsed: vec![],
                pending: vec![],
                instances: vec![],
                took_ms: 1.5,
            })
        })
    }

    fn undrain(&self, _who: Actor, name: BackendName) -> Action<'_, BackendResult> {
        Box::pin(async move {
            let action = format!("undrain {}/{}", name.upstream, name.address);
            self.act(action).await
        })
    }

    fn add_backend(
        &self,
        _who: Actor,
        upstream: String,
        new: NewMember,
    ) -> Action<'_, BackendResult> {
        Box::pin(async move { self.act(format!("add {upstream} {new:?}")).await })
    }

    fn remove_backend(
        &self,
        _who: Actor,
        name: BackendName,
        force: bool,
    ) -> Action<'_, BackendResult> {
        Box::pin(async move {
            let action = format!("remove {}/{} {force}", name.upstream, name.address);
            self.act(action).await
        })
    }
}
