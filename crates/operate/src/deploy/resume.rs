//! Return to where the deploys left an app: after one that was killed, and with `edgeway resume`
//! after the end of the machine or the container.

use edgeway_status::snapshot::UpstreamStatus;
use edgeway_upstreams::StartMethod;

use super::{Deploy, Instance, folder::now, retire, settings, supervise};
use crate::{
    Failure,
    backends::{
        CheckBaseline, Gateway as _, Name, WaitFailure, check_interrupt, is_drained, until_good,
    },
};

impl Deploy<'_> {
    /// Undoes the steps of a deploy that was killed or lost its gateway, unless its release has
    /// visitors.
    pub(super) async fn end_interrupted(&mut self, status: &UpstreamStatus) -> Result<(), Failure> {
        let state = self.folder.state()?;
        let linked = self.folder.instances();
        for backend in &status.backends {
            // The gateway was away when a deploy took it back.
            if let Some(release) = &backend.release
                && !state.releases.contains_key(release)
                && linked.values().all(|other| other != release)
            {
                let name = Name::new(&self.upstream, &backend.address);
                self.gateway.remove(&name, true).await?;
            }
        }
        let Some(deployed) = &state.begun else {
            return Ok(());
        };
        let release = &deployed.name;
        let canary = status.canary.as_ref();
        if canary.is_some_and(|canary| canary.release == *release) {
            return Ok(self.folder.trial_began(release)?);
        }
        let served = linked.iter().filter(|(_, linked)| *linked == release);
        let instances: Vec<Instance> = served
            .map(|(port, _)| Instance::on(&self.upstream, &self.settings, *port, release))
            .collect();
        self.take_back(&instances).await;
        self.folder.remove_new(release, deployed.is_copy)?;
        self.progress.say(&format!(
            "{release}: removed, because its deploy was not completed"
        ));
        Ok(())
    }

    /// Starts what does not run of the instances that no command has stopped, or that a killed deploy
    /// has.
    pub(super) async fn resume(&mut self) -> Result<(), Failure> {
        let (status, _) = settings(self.gateway, &self.upstream).await?;
        let state = self.folder.state()?;
        let instances = self.folder.instances();
        let mut started = Vec::new();
        let mut failed = 0;
        for (port, release) in instances {
            check_interrupt(&self.interrupt)?;
            // A deploy that did not end has left it, or its time is over.
            let known = state.releases.get(&release);
            if known.is_none_or(|own| own.until.is_some_and(|until| until <= now())) {
                continue;
            }
            let instance = Instance::on(&self.upstream, &self.settings, port, &release);
            match self.start_again(&instance).await {
                Ok(()) => started.push(instance),
                Err(why) => {
                    self.progress
                        .say(&format!("edgeway: {release}: {instance}: {why}"));
                    failed += 1;
                }
            }
        }
        for instance in &started {
            if let Err(why) = self.is_back(instance, &status).await {
                self.progress
                    .say(&format!("edgeway: {}: {instance}: {why}", instance.release));
                failed += 1;
            }
        }
        retire::begin(&self.upstream, &self.common.admin)?;
        if let Some(current) = state.current() {
            if status.current_release.is_none() {
                self.wait_until_read(&current).await?;
                let switched = self.gateway.switch_release(&self.upstream, &current);
                switched.await?;
            }
            let running = started.iter().filter(|it| it.release == current).count();
            let wanted = self.settings.instances as usize;
            for _ in running..if running > 0 { wanted } else { 0 } {
                self.start(&current).await?;
            }
        }
        self.progress.pause();
        match failed {
            0 => Ok(()),
            count => Err(format!("{count} of the instances did not start again").into()),
        }
    }

    async fn start_again(&mut self, instance: &Instance) -> Result<(), String> {
        let is_supervised = matches!(self.settings.start, StartMethod::Command(_));
        if is_supervised && supervise::is_running(&self.folder, instance.port) {
            return Ok(());
        }
        self.progress
            .now(&format!("{}: starting {instance}", instance.release));
        instance.start(&self.settings, &self.folder).await
    }

    /// Waits until an instance is healthy again, and sends it requests.
    async fn is_back(
        &mut self,
        instance: &Instance,
        status: &UpstreamStatus,
    ) -> Result<(), String> {
        let name = &instance.name;
        let mut backends = status.backends.iter();
        let known = backends.find(|backend| backend.address == name.address);
        let added = match known {
            Some(backend) if backend.release.as_deref() == Some(&*instance.release) => None,
            Some(_) => return Err("another release has its port".to_owned()),
            None => {
                let added = self.gateway.add(name, 1, true, Some(&instance.release));
                Some(added.await?)
            }
        };
        let since = added
            .as_ref()
            .or(known)
            .map_or_else(CheckBaseline::return_of_gateway, CheckBaseline::now);
        let (probes, timeout) = (self.common.probes, self.common.timeout.0);
        let waited = until_good(self.gateway, name, since, probes, timeout, &self.interrupt).await;
        waited.map_err(|failure| match failure {
            WaitFailure::TooLong(seen) => format!(
                "is not healthy after {}: {seen}; {}",
                self.common.timeout,
                instance.log_hint(&self.settings, &self.folder)
            ),
            WaitFailure::Trouble(trouble) => trouble.to_string(),
            WaitFailure::Interrupted => "not waited for".to_owned(),
        })?;
        if added.is_some() || known.is_some_and(is_drained) {
            self.gateway.undrain(name).await?;
        }
        self.progress
            .say(&format!("{}: {instance} is healthy", instance.release));
        self.progress.step_done();
        Ok(())
    }
}
