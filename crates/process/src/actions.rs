//! Operator actions on the running gateway, recorded in the audit log.

use std::{
    borrow::Cow,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_base::{
    out::listed,
    reserved_headers::WARM_UP,
    secret::Secret,
    units::{Span, millis},
};
use edgeway_cache::purge::{PurgeRequest, Receipt, Source};
use edgeway_gateway::Gateway;
use edgeway_proxy::live::{
    Live,
    audit::{Actor, AuditEntry, Outcome, purges_line},
    reload::Candidate,
};
use edgeway_status::{
    actions::{
        Action, ActionError, Actions, BackendName, BackendResult, NewBan, NewCanary,
        NewConfigTrial, NewWarmUp, ProfileSelection, ReleaseResult, ReleaseSwitch, ReloadResult,
        SwitchResult, UpgradeResult, WarmUpPlan, WarmUpResult,
    },
    http::{RejectionMetrics, RejectionReason},
    sessions,
    snapshot::BanStatus,
};
use edgeway_upstreams::{
    BackendStatus, CanaryStatus, CanaryVerdict, Force, MemberError, NewMember, SAVED_AGAIN,
    Upstream, WARM_UP_TIME,
};
use parking_lot::Mutex;

use super::{
    bans,
    control::Control,
    purges,
    watch::{Reaction, WatchSettings},
};

/// Shortest interval between audit lines about rejected requests. Without it, any client that can
/// connect could fill the audit log.
const TURNED_AWAY_EVERY: Duration = Duration::from_secs(1);

/// Performs operator actions on the running gateway.
pub(super) struct Operator {
    control: Arc<Control>,
    refused: RejectionMetrics,
    turned_away: Mutex<RejectedCount>,
}

/// Number of rejected requests since the last line about them.
#[derive(Default)]
struct RejectedCount {
    last: Option<Instant>,
    left_out: u64,
}

impl RejectedCount {
    /// Returns how many were left out before this one, or `None` if this one is left out as well.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        let is_soon = |last| now.saturating_duration_since(last) < TURNED_AWAY_EVERY;
        if self.last.is_some_and(is_soon) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Operator {
    pub(super) fn new(control: &Arc<Control>) -> Self {
        Self {
            control: Arc::clone(control),
            refused: RejectionMetrics::new(&control.live.world.metrics),
            turned_away: Mutex::default(),
        }
    }

    fn live(&self) -> &Live {
        &self.control.live
    }

    /// Performs an action on the gateway that serves, and records it.
    async fn in_turn<T: Send>(
        &self,
        action: &'static str,
        who: Actor,
        target: String,
        act: impl FnOnce(&Gateway) -> Result<T, ActionError> + Send,
    ) -> Result<T, ActionError> {
        let began = self.live().world.clock.now();
        let _turn = self.turn().await;
        let outcome = match self.control.line.is_ours() {
            Ok(()) => act(&self.live().gateway()),
            Err(refused) => Err(refused),
        };
        self.record(action, who, Some(target), began, outcome.as_ref().err());
        outcome
    }

    /// Waits for its turn. An action in the middle of an upgrade would be lost on the successor.
    async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, Candidate>> {
        tokio::select! {
            turn = self.control.turn.lock() => Some(turn),
            () = self.control.stop_requested() => None,
        }
    }

    /// Purges here, serialized with upgrades, and then waits for the other gateways outside the
    /// lock.
    async fn purged(&self, order: PurgeRequest) -> Result<Receipt, ActionError> {
        let live = self.live();
        purges::link(live)?;
        let forms = || live.purge_forms(|gateway| purges::normal(&order.purges, gateway));
        forms()?;
        // Instances come first, so that everything the gateways fetch from then on is new.
        let instances = if order.fan_out {
            live.notify_instances(&order.purges).await
        } else {
            Vec::new()
        };
        let (link, mut begun) = {
            let _turn = self.turn().await;
            self.control.line.is_ours()?;
            let link = purges::link(live)?;
            let begun = link.begin(forms()?, Source::Admin).await;
            (link, begun)
        };
        begun.receipt.instances = instances;
        Ok(link.finish(begun).await)
    }

    /// Acts on an upstream in turn.
    async fn on_upstream<T: Send>(
        &self,
        action: &'static str,
        who: Actor,
        (upstream, target): (&str, String),
        act: impl FnOnce(&Upstream) -> Result<T, MemberError> + Send,
    ) -> Result<T, ActionError> {
        self.in_turn(action, who, target, |gateway| {
            let known = gateway.upstreams.keys().map(|name| &**name);
            let serving = gateway.upstreams.get(upstream);
            act(serving.ok_or_else(|| no_such_upstream(upstream, known))?).map_err(|error| {
                ActionError::new(error.status(), error.reason(), error.to_string())
            })
        })
        .await
    }

    /// Acts on a release of an upstream in turn.
    async fn on_release<T: Send>(
        &self,
        action: &'static str,
        who: Actor,
        (upstream, release): (&str, &str),
        act: impl FnOnce(&Upstream) -> Result<T, MemberError> + Send,
    ) -> Result<T, ActionError> {
        let target = format!("{upstream}/{}", bounded(release));
        self.on_upstream(action, who, (upstream, target), act).await
    }

    /// Performs an action on a configured upstream.
    async fn on_backend(
        &self,
        action: &'static str,
        who: Actor,
        name: BackendName,
        act: impl FnOnce(&Upstream, &str) -> Result<BackendStatus, MemberError> + Send,
    ) -> Result<BackendResult, ActionError> {
        let target = format!("{}/{}", name.upstream, name.address);
        let outcome = self.on_upstream(action, who, (&name.upstream, target), |upstream| {
            act(upstream, &name.address)
        });
        outcome.await.map(|mut backend| {
            backend.add_in_flight(self.in_flight_before(&name.upstream, &backend.address));
            BackendResult {
                upstream: name.upstream.clone(),
                backend,
                warning: self.live().world.keeper.unsaved().map(|why| {
                    let again = Span(SAVED_AGAIN);
                    format!("not saved: {why}; a crash would undo it; tried again in {again}")
                }),
            }
        })
    }

    /// Requests of predecessors in flight to a backend.
    fn in_flight_before(&self, upstream: &str, address: &str) -> u64 {
        let line = &self.control.line;
        line.predecessors.in_flight(upstream, address)
    }

    fn record(
        &self,
        action: &'static str,
        who: Actor,
        target: Option<String>,
        began: Instant,
        refused: Option<&ActionError>,
    ) {
        let outcome = match refused {
            None => Outcome::Ok,
            Some(refused) if refused.status >= 500 => Outcome::Failed,
            Some(_) => Outcome::Refused,
        };
        self.live().audit(&AuditEntry {
            target,
            outcome,
            reason: refused.map(|refused| refused.reason.clone()),
            message: refused.map(|refused| refused.message.clone()),
            duration_ms: Some(millis(self.live().world.clock.now() - began)),
            generation: Some(self.live().loaded().generation),
            ..AuditEntry::new(action, who)
        });
    }
}

impl WatchSettings for Operator {
    fn debounce(&self) -> Option<Duration> {
        // A process that is stopping leaves the change to its successor.
        let watch = self.live().gateway().watch;
        watch.filter(|_| !self.control.is_stopping())
    }

    fn changed(&self) -> Reaction<'_> {
        // The outcome is in the log.
        Box::pin(async move { drop(self.reload(Actor::Watch, None).await) })
    }
}

impl Actions for Operator {
    fn token(&self) -> Option<Secret> {
        self.live().gateway().admin.token.clone()
    }

    fn turned_away(&self, who: Actor, reason: RejectionReason, path: &str) {
        self.refused.by_reason[reason].inc();
        let now = self.live().world.clock.now();
        let Some(left_out) = self.turned_away.lock().one_more(now) else {
            return;
        };
        self.live().audit(&AuditEntry {
            target: Some(path.chars().take(200).collect()),
            outcome: Outcome::Refused,
            reason: Some(Cow::Borrowed(reason.word())),
            generation: Some(self.live().loaded().generation),
            message: (left_out > 0).then(|| format!("{left_out} more since the last line")),
            ..AuditEntry::new("enter", who)
        });
    }

    fn session_changed(&self, who: Actor, action: &'static str) {
        self.live().audit(&AuditEntry::new(action, who));
    }

    fn reload(&self, who: Actor, trial: Option<NewConfigTrial>) -> Action<'_, ReloadResult> {
        Box::pin(async move {
            let began = self.live().world.clock.now();
            let outcome = self.control.reload(trial).await;
            let file = self.control.path.as_ref();
            let target = file.map(|path| path.display().to_string());
            self.record("reload", who, target, began, outcome.as_ref().err());
            outcome
        })
    }

    fn upgrade(&self, who: Actor, binary: Option<PathBuf>) -> Action<'_, UpgradeResult> {
        Box::pin(async move {
            let began = self.live().world.clock.now();
            let target = binary.as_ref().map(|path| path.display().to_string());
            let outcome = self.control.upgrade(binary).await;
            self.record("upgrade", who, target, began, outcome.as_ref().err());
            outcome
        })
    }

    fn drain(&self, who: Actor, backend: BackendName, force: bool) -> Action<'_, BackendResult> {
        Box::pin(
            self.on_backend("drain", who, backend, move |upstream, address| {
                upstream.drain(address, forced(force))
            }),
        )
    }

    fn undrain(&self, who: Actor, backend: BackendName) -> Action<'_, BackendResult> {
        Box::pin(self.on_backend("undrain", who, backend, Upstream::undrain))
    }

    fn add_backend(
        &self,
        who: Actor,
        upstream: String,
        backend: NewMember,
    ) -> Action<'_, BackendResult> {
        let address = backend.address.clone();
        let name = BackendName { upstream, address };
        Box::pin(
            self.on_backend("add_backend", who, name, move |upstream, _| {
                upstream.add_member(&backend)
            }),
        )
    }

    fn remove_backend(
        &self,
        who: Actor,
        backend: BackendName,
        force: bool,
    ) -> Action<'_, BackendResult> {
        let older = self.in_flight_before(&backend.upstream, &backend.address);
        Box::pin(
            self.on_backend("remove_backend", who, backend, move |upstream, address| {
                if older > 0 && !force {
                    return Err(MemberError::Busy {
                        address: address.to_owned(),
                        in_flight: u32::try_from(older).unwrap_or(u32::MAX),
                    });
                }
                upstream.remove_member(address, forced(force))
            }),
        )
    }

    fn switch_release(
        &self,
        who: Actor,
        upstream: String,
        switch: ReleaseSwitch,
    ) -> Action<'_, ReleaseResult> {
        Box::pin(async move {
            let ReleaseSwitch { release, force } = switch;
            let outcome =
                self.on_release("switch_release", who, (&upstream, &release), |upstream| {
                    upstream.switch_release(&release, forced(force))
                });
            let before = outcome.await?;
            Ok(ReleaseResult {
                before: before.as_deref().map(str::to_owned),
                upstream,
                release,
            })
        })
    }

    fn begin_canary(
        &self,
        who: Actor,
        upstream: String,
        canary: NewCanary,
    ) -> Action<'_, CanaryStatus> {
        Box::pin(async move {
            let NewCanary { release, share } = canary;
            self.on_release("begin_canary", who, (&upstream, &release), |upstream| {
                upstream.begin_canary(&release, share)
            })
            .await
        })
    }

    fn begin_warm_up(
        &self,
        who: Actor,
        upstream: String,
        warm_up: NewWarmUp,
    ) -> Action<'_, WarmUpPlan> {
        Box::pin(async move {
            let NewWarmUp { release, responses } = warm_up;
            let secret = sessions::secret();
            let begun = self.on_release("begin_warm_up", who, (&upstream, &release), |upstream| {
                upstream.begin_warm_up(&release, &secret)
            });
            begun.await?;
            let gateway = self.live().gateway();
            let listing = tokio::task::spawn_blocking(move || {
                let upstream = gateway.upstreams.get(&*upstream);
                let current =
                    upstream.and_then(|upstream| Some((upstream, upstream.current_release()?)));
                current.map(|(upstream, current)| gateway.warm_up(upstream, &current, responses))
            });
            let list = listing.await;
            let list = list.map_err(|_| ActionError::new(503, "stopping", "the gateway stops"))?;
            let list = list.unwrap_or_default();
            let opened = self.control.listeners.opened();
            let opened = opened
                .iter()
                .map(|open| (open.name.to_string(), open.address.clone()));
            Ok(WarmUpPlan {
                header: WARM_UP.to_owned(),
                secret,
                seconds: WARM_UP_TIME.as_secs(),
                requests: list.requests,
                left_out: list.left_out,
                listeners: opened.collect(),
            })
        })
    }

    fn end_warm_up(&self, who: Actor, upstream: String) -> Action<'_, WarmUpResult> {
        Box::pin(async move {
            let target = (&*upstream, upstream.clone());
            let ended = self.on_upstream("end_warm_up", who, target, |upstream| {
                Ok(upstream.end_warm_up())
            });
            ended.await.map(|requests| WarmUpResult { requests })
        })
    }

    fn end_canary(&self, who: Actor, upstream: String) -> Action<'_, CanaryVerdict> {
        Box::pin(async move {
            let target = (&*upstream, upstream.clone());
            self.on_upstream("end_canary", who, target, Upstream::end_canary)
                .await
        })
    }

    fn profile(&self, who: Actor, to: ProfileSelection) -> Action<'_, SwitchResult> {
        Box::pin(async move {
            let began = self.live().world.clock.now();
            let target = bounded(to.name.as_deref().unwrap_or("none"));
            let outcome = self.control.switch(to.name).await;
            self.record("profile", who, Some(target), began, outcome.as_ref().err());
            outcome
        })
    }

    fn ban(&self, who: Actor, ban: NewBan) -> Action<'_, BanStatus> {
        let target = bounded(&ban.address);
        Box::pin(self.in_turn("ban", who, target, move |gateway| bans::ban(gateway, &ban)))
    }

    fn purge(&self, who: Actor, order: PurgeRequest) -> Action<'_, Receipt> {
        Box::pin(async move {
            let began = self.live().world.clock.now();
            let target = purges_line(&order.purges, &self.live().gateway().fallback.redactor);
            let outcome = self.purged(order).await;
            match outcome.as_ref().map(Receipt::shortfall) {
                Ok(Some(shortfall)) => self.live().audit(&AuditEntry {
                    target: Some(target),
                    reason: Some(Cow::Borrowed(shortfall.word())),
                    duration_ms: Some(millis(self.live().world.clock.now() - began)),
                    generation: Some(self.live().loaded().generation),
                    ..AuditEntry::new("purge", who)
                }),
                Ok(None) => self.record("purge", who, Some(target), began, None),
                Err(refused) => self.record("purge", who, Some(target), began, Some(refused)),
            }
            outcome
        })
    }

    fn unban(&self, who: Actor, address: String) -> Action<'_, BanStatus> {
        let target = bounded(&address);
        let act = move |gateway: &Gateway| bans::unban(gateway, &address);
        Box::pin(self.in_turn("unban", who, target, act))
    }
}

/// Returns the beginning of a text of an operator, for the audit log.
fn bounded(text: &str) -> String {
    text.chars().take(100).collect()
}

fn forced(force: bool) -> Force {
    if force { Force::Yes } else { Force::No }
}

fn no_such_upstream<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> ActionError {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    let message = format!("unknown upstream `{name}`; there is {}", listed(known));
    ActionError::new(404, "no_such_upstream", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeway_base::clock::Clock;

    #[test]
    fn a_flood_of_strangers_is_a_line_a_second() {
        let clock = Clock::test();
        let mut turned_away = RejectedCount::default();
        let mut one_more = || turned_away.one_more(clock.now());
        assert_eq!(one_more(), Some(0));
        for _ in 0..41 {
            assert_eq!(one_more(), None);
        }
        clock.advance(TURNED_AWAY_EVERY);
        assert_eq!(one_more(), Some(41));
        assert_eq!(one_more(), None);
        clock.advance(TURNED_AWAY_EVERY);
        assert_eq!(one_more(), Some(1));
    }

    #[test]
    fn an_unknown_upstream_is_reported_with_the_known_ones() {
        let refused = no_such_upstream("wbe", ["web", "api"].into_iter());
        assert_eq!(
            refused.message,
            "unknown upstream `wbe`; there is `api`, `web`"
        );
        let refused = no_such_upstream("web", std::iter::empty());
        assert_eq!(refused.message, "unknown upstream `web`; there is none");
    }
}
