//! Gateway that records the actions that the admin listener asks of it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use edgeway_base::{metrics::Exposition, secret::Secret};
use edgeway_cache::purge::{PeerStates, PurgeRequest, PurgeTarget, Receipt};
use edgeway_gateway::explain::{ExplainError, ExplainRequest, Explanation};
use edgeway_proxy::live::{audit::Actor, history::RequestHistory};
use edgeway_upstreams::{CanaryStatus, CanaryVerdict};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    Snapshot,
    actions::{
        Action, ActionError, Actions, BackendResult, Done, Operation, ReleaseResult, ReloadResult,
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
    async fn record(&self, action: String) {
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        self.done.lock().push(action);
    }

    async fn run(&self, operation: Operation) -> Result<Done, ActionError> {
        if let Operation::Drain { backend, .. } = &operation
            && backend.upstream == "nowhere"
        {
            return Err(ActionError::new(404, "no_such_upstream", "there is none"));
        }
        self.record(line(&operation)).await;
        Ok(match operation {
            Operation::SwitchRelease(upstream, to) => Done::Release(ReleaseResult {
                upstream,
                release: to.release,
                before: None,
            }),
            Operation::BeginCanary(..) => Done::Canary(CanaryStatus::default()),
            Operation::EndCanary(_) => Done::Verdict(CanaryVerdict::default()),
            Operation::BeginWarmUp(..) => Done::WarmUp(WarmUpPlan::default()),
            Operation::EndWarmUp(_) => Done::WarmedUp(WarmUpResult::default()),
            Operation::Upgrade(_) => Done::Upgrade(UpgradeResult::default()),
            Operation::Reload(trial) => Done::Reload(ReloadResult {
                generation: 2,
                trial: trial.map(|trial| trial.length),
                share: trial.map(|trial| trial.share),
                ..ReloadResult::default()
            }),
            Operation::Profile(_) => Done::Profile(SwitchResult::default()),
            Operation::Ban(_) => Done::Banned(BanStatus::default()),
            Operation::Unban(_) => Done::Unbanned(BanStatus::default()),
            Operation::Purge(order) => Done::Purged(receipt(order)),
            Operation::Drain { .. }
            | Operation::Undrain(_)
            | Operation::AddBackend(..)
            | Operation::RemoveBackend { .. } => Done::Backend(BackendResult {
                upstream: "web".to_owned(),
                ..BackendResult::default()
            }),
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

    fn perform(&self, _who: Actor, operation: Operation) -> Action<'_> {
        Box::pin(self.run(operation))
    }
}

/// Returns what a test compares of an operation.
fn line(operation: &Operation) -> String {
    match operation {
        Operation::SwitchRelease(upstream, to) => format!("switch {upstream} {to:?}"),
        Operation::BeginCanary(upstream, new) => format!("canary {upstream} {new:?}"),
        Operation::EndCanary(upstream) => format!("end canary {upstream}"),
        Operation::BeginWarmUp(upstream, new) => format!("warm up {upstream} {new:?}"),
        Operation::EndWarmUp(upstream) => format!("end warm-up {upstream}"),
        Operation::Upgrade(binary) => format!("upgrade {binary:?}"),
        Operation::Reload(_) => "reload".to_owned(),
        Operation::Profile(to) => format!("profile {:?}", to.name),
        Operation::Ban(new) => format!("ban {} {} {:?}", new.address, new.lasts, new.reason),
        Operation::Unban(address) => format!("unban {address}"),
        Operation::Purge(order) => format!("purge {:?} {}", order.purges, order.fan_out),
        Operation::Drain { backend, force } => format!("drain {backend} {force}"),
        Operation::Undrain(backend) => format!("undrain {backend}"),
        Operation::AddBackend(upstream, new) => format!("add {upstream} {new:?}"),
        Operation::RemoveBackend { backend, force } => format!("remove {backend} {force}"),
    }
}

fn receipt(order: PurgeRequest) -> Receipt {
    let others = match order.purges[0].target {
        PurgeTarget::Tag(_) => PeerStates::Waiting,
        PurgeTarget::Prefix(_) => PeerStates::Unreached,
        PurgeTarget::Url(_) | PurgeTarget::Written(_) | PurgeTarget::All => PeerStates::Reached,
    };
    Receipt {
        others,
        purges: order.purges,
        gateway: "a".to_owned(),
        id: None,
        applied: vec![],
        lapsed: vec![],
        pending: vec![],
        instances: vec![],
        took_ms: 1.5,
    }
}
