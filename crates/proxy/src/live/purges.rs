//! Purges while the gateway serves: during a trial they reach the responses and the apps of both
//! configurations.

use std::sync::Arc;

use edgeway_cache::purge::{Instance, Purge};
use edgeway_gateway::Gateway;

use super::Live;

impl Live {
    /// Returns the configurations that serve: during a trial two, the one on trial first.
    pub fn serving(&self) -> Vec<Arc<Gateway>> {
        match self.trials.split() {
            Some(split) => split.gateways().map(Arc::clone).into(),
            None => vec![self.gateway()],
        }
    }

    /// Notifies the instances of the apps, each once.
    pub async fn notify_instances(&self, purges: &[Purge]) -> Vec<Instance> {
        let mut notified = Vec::new();
        for gateway in self.serving() {
            if let Some(fan_out) = &gateway.fan_out {
                let others = fan_out.notify(purges, &notified).await;
                notified.extend(others);
            }
        }
        notified
    }

    /// Returns the purges that `purges_of` returns for each configuration, with the forms in which
    /// it stores responses.
    pub fn purge_forms<E>(
        &self,
        purges_of: impl Fn(&Gateway) -> Result<Vec<Purge>, E>,
    ) -> Result<Vec<Purge>, E> {
        let mut all: Vec<Purge> = Vec::new();
        for gateway in self.serving() {
            let forms = gateway.purge_forms(purges_of(&gateway)?);
            if all.is_empty() {
                all = forms;
                continue;
            }
            for form in forms {
                all.extend((!all.contains(&form)).then_some(form));
            }
        }
        Ok(all)
    }
}
