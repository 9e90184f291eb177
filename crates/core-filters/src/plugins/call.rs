//! Calls of hooks on a route, with their metrics and the handling of their failures.

use std::net::IpAddr;

use edgeway_base::breaker::Permission;
use edgeway_core::chain::{Exchange, Reply};
use edgeway_script::{Failure, FailureKind, Hook, Input, Output};
use http::StatusCode;

use super::RoutePlugin;

/// Reason of requests that a plugin's failure ends.
const FAILED: &str = "plugin_failed";

impl RoutePlugin {
    pub(super) async fn call(&self, hook: Hook, input: Input) -> Result<Output, Failure> {
        self.is_enabled()?;
        let client = input.ip;
        let start = self.clock.now();
        let outcome = self.plugin.call(hook, input).await;
        self.metrics.called(hook, self.clock.now() - start);
        match (&outcome, &self.breaker) {
            (Ok(_), Some(breaker)) => breaker.passed(),
            (Ok(_), None) => {}
            (Err(failure), _) => self.count(client, failure),
        }
        outcome
    }

    /// Returns `Err` while the plugin is skipped.
    pub(super) fn is_enabled(&self) -> Result<(), Failure> {
        let Some(breaker) = &self.breaker else {
            return Ok(());
        };
        match breaker.asks(|| self.clock.now()) {
            Permission::Yes => {}
            Permission::Again => {
                self.metrics.is_open.set(0);
                log::info!(plugin = &**self.plugin.name(); "plugin called again after its pause");
            }
            Permission::No => {
                self.metrics.left_out.inc();
                return Err(Failure::script(
                    "it failed too often and is paused for a while",
                ));
            }
        }
        Ok(())
    }

    /// Counts a hook that failed for this client, or returned something impossible.
    pub(super) fn count(&self, client: Option<IpAddr>, failure: &Failure) {
        self.metrics.failures[failure.kind].inc();
        self.recent.count(failure);
        if failure.kind == FailureKind::Stuck {
            self.metrics.stuck(&self.plugin);
        }
        if let Some(breaker) = &self.breaker
            && breaker.failed(client, self.clock.now())
        {
            self.metrics.is_open.set(1);
            log::warn!(plugin = &**self.plugin.name(); "plugin failed too often, paused for a while");
        }
    }

    /// Runs a hook whose failure lets the request continue.
    pub(super) async fn run(
        &self,
        ex: &mut Exchange<'_>,
        hook: Hook,
        input: Input,
    ) -> Option<Output> {
        match self.call(hook, input).await {
            Ok(output) => Some(output),
            Err(failure) => {
                self.report_failure(ex, hook, &failure);
                None
            }
        }
    }

    /// Handles a failure of the plugin; returns a reply if the request is to end.
    pub(super) fn failed(
        &self,
        ex: &mut Exchange<'_>,
        hook: Hook,
        failure: &Failure,
    ) -> Option<Reply> {
        self.report_failure(ex, hook, failure);
        if self.breaker.is_some() {
            return None;
        }
        Some(Reply::refuse(StatusCode::SERVICE_UNAVAILABLE, FAILED))
    }

    pub(super) fn warn(&self, hook: Hook, request_id: &str, failure: &Failure) {
        log::warn!(
            plugin = &**self.plugin.name(), hook = hook.name(), kind = failure.kind.word(),
            request_id, error:% = failure;
            "plugin failed"
        );
    }

    pub(super) fn report_failure(&self, ex: &mut Exchange<'_>, hook: Hook, failure: &Failure) {
        ex.facts.degraded = Some(FAILED);
        self.warn(hook, ex.facts.request_id.as_str(), failure);
    }
}
