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
use edgeway_cache::purge::{PurgeRequest, PurgeSource, Receipt};
use edgeway_gateway::Gateway;
use edgeway_proxy::live::{
    Live,
    audit::{Actor, AuditEntry, Outcome, purges_line},
    reload::Candidate,
};
use edgeway_status::{
    actions::{
        Action, ActionError, Actions, BackendName, BackendResult, Done, NewCanary, NewWarmUp,
        Operation, ReleaseResult, ReleaseSwitch, WarmUpPlan, WarmUpResult,
    },
    http::{RejectionMetrics, RejectionReason},
    sessions,
};
use edgeway_upstreams::{BackendStatus, Force, MemberError, SAVED_AGAIN, Upstream, WARM_UP_TIME};
use parking_lot::Mutex;
use tokio::sync::MutexGuard;

use super::{
    bans,
    control::Control,
    predecessors::PredecessorCommand,
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

    /// Performs an action on the gateway that serves.
    async fn in_turn<T: Send>(
        &self,
        act: impl FnOnce(&Gateway) -> Result<T, ActionError> + Send,
    ) -> Result<T, ActionError> {
        let _turn = self.turn().await?;
        act(&self.live().gateway())
    }

    /// Waits for its turn. An action in the middle of an upgrade would be lost on the successor.
    async fn turn(&self) -> Result<Option<MutexGuard<'_, Candidate>>, ActionError> {
        let turn = tokio::select! {
            turn = self.control.turn.lock() => Some(turn),
            () = self.control.stop_requested() => None,
        };
        self.control.line.is_ours().map(|()| turn)
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
        let (link, mut started) = {
            let _turn = self.turn().await?;
            let link = purges::link(live)?;
            let started = link.begin(forms()?, PurgeSource::Admin).await;
            (link, started)
        };
        started.receipt.instances = instances;
        Ok(link.finish(started).await)
    }

    /// Acts on an upstream in turn.
    async fn on_upstream<T: Send>(
        &self,
        upstream: &str,
        act: impl FnOnce(&Upstream) -> Result<T, MemberError> + Send,
    ) -> Result<T, ActionError> {
        let _turn = self.turn().await?;
        let gateway = self.live().gateway();
        let known = gateway.upstreams.keys().map(|name| &**name);
        let serving = gateway.upstreams.get(upstream);
        let serving = serving.ok_or_else(|| no_such_upstream(upstream, known))?;
        let done = act(serving)
            .map_err(|error| ActionError::new(error.status(), error.reason(), error.to_string()))?;
        let decided = PredecessorCommand::Decisions(upstream.to_owned(), serving.decided());
        self.control.line.predecessors.tell(&decided).await;
        Ok(done)
    }

    /// Performs an action on a backend of a configured upstream.
    async fn on_backend(
        &self,
        BackendName { upstream, address }: BackendName,
        act: impl FnOnce(&Upstream, &str) -> Result<BackendStatus, MemberError> + Send,
    ) -> Result<Done, ActionError> {
        let mut backend = self
            .on_upstream(&upstream, |upstream| act(upstream, &address))
            .await?;
        backend.add_in_flight(self.in_flight_before(&upstream, &backend.address));
        Ok(Done::Backend(BackendResult {
            upstream,
            backend,
            warning: self.live().world.keeper.unsaved().map(|why| {
                let again = Span(SAVED_AGAIN);
                format!("not saved: {why}; a crash would undo it; tried again in {again}")
            }),
        }))
    }

    async fn remove_backend(&self, backend: BackendName, force: bool) -> Result<Done, ActionError> {
        let older = self.in_flight_before(&backend.upstream, &backend.address);
        let remove = |upstream: &Upstream, address: &str| {
            if older > 0 && !force {
                return Err(MemberError::Busy {
                    address: address.to_owned(),
                    in_flight: u32::try_from(older).unwrap_or(u32::MAX),
                });
            }
            upstream.remove_member(address, forced(force))
        };
        self.on_backend(backend, remove).await
    }

    /// Requests of predecessors in flight to a backend.
    fn in_flight_before(&self, upstream: &str, address: &str) -> u64 {
        let line = &self.control.line;
        line.predecessors.in_flight(upstream, address)
    }

    async fn begin_warm_up(
        &self,
        upstream: String,
        NewWarmUp { release, responses }: NewWarmUp,
    ) -> Result<WarmUpPlan, ActionError> {
        let secret = sessions::secret();
        self.on_upstream(&upstream, |upstream| {
            upstream.begin_warm_up(&release, &secret)
        })
        .await?;
        let gateway = self.live().gateway();
        let listing = tokio::task::spawn_blocking(move || {
            let upstream = gateway.upstreams.get(&*upstream)?;
            let current = upstream.current_release()?;
            Some(gateway.warm_up(upstream, &current, responses))
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
    }

    async fn run(&self, operation: Operation) -> Result<Done, ActionError> {
        match operation {
            Operation::Reload(trial) => self.control.reload(trial).await.map(Done::Reload),
            Operation::Upgrade(binary) => self.control.upgrade(binary).await.map(Done::Upgrade),
            Operation::Drain { backend, force } => {
                self.on_backend(backend, |upstream, address| {
                    upstream.drain(address, forced(force))
                })
                .await
            }
            Operation::Undrain(backend) => self.on_backend(backend, Upstream::undrain).await,
            Operation::AddBackend(upstream, new) => {
                let address = new.address.clone();
                let name = BackendName { upstream, address };
                self.on_backend(name, |upstream, _| upstream.add_member(&new))
                    .await
            }
            Operation::RemoveBackend { backend, force } => {
                self.remove_backend(backend, force).await
            }
            Operation::SwitchRelease(upstream, ReleaseSwitch { release, force }) => {
                let switch = |of: &Upstream| of.switch_release(&release, forced(force));
                let before = self.on_upstream(&upstream, switch).await?;
                Ok(Done::Release(ReleaseResult {
                    before: before.as_deref().map(str::to_owned),
                    upstream,
                    release,
                }))
            }
            Operation::BeginCanary(upstream, NewCanary { release, share }) => {
                let begin = |of: &Upstream| of.begin_canary(&release, share);
                self.on_upstream(&upstream, begin).await.map(Done::Canary)
            }
            Operation::EndCanary(upstream) => {
                let ended = self.on_upstream(&upstream, Upstream::end_canary).await;
                ended.map(Done::Verdict)
            }
            Operation::BeginWarmUp(upstream, new) => {
                self.begin_warm_up(upstream, new).await.map(Done::WarmUp)
            }
            Operation::EndWarmUp(upstream) => {
                let end = |of: &Upstream| Ok(of.end_warm_up());
                let requests = self.on_upstream(&upstream, end).await?;
                Ok(Done::WarmedUp(WarmUpResult { requests }))
            }
            Operation::Profile(to) => self.control.switch(to.name).await.map(Done::Profile),
            Operation::Ban(new) => {
                let banned = self.in_turn(|gateway| bans::ban(gateway, &new)).await?;
                let ban = PredecessorCommand::Ban(new);
                self.control.line.predecessors.tell(&ban).await;
                Ok(Done::Banned(banned))
            }
            Operation::Unban(address) => {
                let lifted = self
                    .in_turn(|gateway| bans::unban(gateway, &address))
                    .await?;
                let unban = PredecessorCommand::Unban(address);
                self.control.line.predecessors.tell(&unban).await;
                Ok(Done::Unbanned(lifted))
            }
            Operation::Purge(order) => self.purged(order).await.map(Done::Purged),
        }
    }

    /// Returns the name of an operation in the audit log, and what it is about.
    fn line(&self, operation: &Operation) -> (&'static str, Option<String>) {
        let release = |upstream: &str, release: &str| format!("{upstream}/{}", bounded(release));
        let path = |path: &PathBuf| path.display().to_string();
        let (name, target) = match operation {
            Operation::Reload(_) => return ("reload", self.control.path.as_ref().map(path)),
            Operation::Upgrade(binary) => return ("upgrade", binary.as_ref().map(path)),
            Operation::Drain { backend, .. } => ("drain", backend.to_string()),
            Operation::Undrain(backend) => ("undrain", backend.to_string()),
            Operation::AddBackend(of, new) => ("add_backend", format!("{of}/{}", new.address)),
            Operation::RemoveBackend { backend, .. } => ("remove_backend", backend.to_string()),
            Operation::SwitchRelease(of, to) => ("switch_release", release(of, &to.release)),
            Operation::BeginCanary(of, new) => ("begin_canary", release(of, &new.release)),
            Operation::EndCanary(of) => ("end_canary", of.clone()),
            Operation::BeginWarmUp(of, new) => ("begin_warm_up", release(of, &new.release)),
            Operation::EndWarmUp(of) => ("end_warm_up", of.clone()),
            Operation::Profile(to) => ("profile", bounded(to.name.as_deref().unwrap_or("none"))),
            Operation::Ban(new) => ("ban", bounded(&new.address)),
            Operation::Unban(address) => ("unban", bounded(address)),
            Operation::Purge(order) => {
                let redactor = &self.live().gateway().fallback.redactor;
                ("purge", purges_line(&order.purges, redactor))
            }
        };
        (name, Some(target))
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
        Box::pin(async move { drop(self.perform(Actor::Watch, Operation::Reload(None)).await) })
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

    fn perform(&self, who: Actor, operation: Operation) -> Action<'_> {
        Box::pin(async move {
            let began = self.live().world.clock.now();
            let (action, target) = self.line(&operation);
            let done = self.run(operation).await;
            let refused = done.as_ref().err();
            let shortfall = match &done {
                Ok(Done::Purged(receipt)) => receipt.shortfall(),
                _ => None,
            };
            let entry = AuditEntry::new(action, who);
            self.live().audit(&AuditEntry {
                target,
                outcome: match refused {
                    None => entry.outcome,
                    Some(refused) if refused.status >= 500 => Outcome::Failed,
                    Some(_) => Outcome::Refused,
                },
                reason: refused
                    .map(|refused| refused.reason.clone())
                    .or_else(|| shortfall.map(|shortfall| Cow::Borrowed(shortfall.word()))),
                message: refused.map(|refused| refused.message.clone()),
                duration_ms: Some(millis(self.live().world.clock.now() - began)),
                generation: Some(self.live().loaded().generation),
                ..entry
            });
            done
        })
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
