//! Profile switches: compiles the running configuration again with another profile.

use std::{path::Path, sync::Arc};

use edgeway_base::{out::listed, units::millis};
use edgeway_config::{model::File, source::Sources};
use edgeway_gateway::{
    self as gateway, Gateway,
    profiles::{self, ProfileSelection},
};
use edgeway_proxy::live::{
    SwitchReason,
    reload::{self, Candidate},
};
use edgeway_status::actions::{ActionError, SwitchResult};
use log::info;

use super::control::Control;

impl Control {
    /// Serves with another profile, or with none.
    ///
    /// The files are not read again: changes in them wait for a reload.
    pub(super) async fn switch(
        self: &Arc<Self>,
        profile: Option<String>,
    ) -> Result<SwitchResult, ActionError> {
        let began = self.live.world.clock.now();
        let mut serving = tokio::select! {
            serving = self.turn.lock() => serving,
            () = self.stop_requested() => {
                let message = "the gateway is stopping: no profile is switched";
                return Err(ActionError::new(409, "stopping", message));
            }
        };
        self.line.is_ours()?;
        if let Some(name) = &profile {
            is_known(&serving.file, name)?;
        }
        let before = self.live.gateway();
        let mut switched = SwitchResult {
            active: profile.clone(),
            profiles: before.profiles.names().map(ToString::to_string).collect(),
            ..SwitchResult::default()
        };
        if before.profiles.active.as_deref() == profile.as_deref() {
            switched.generation = self.live.loaded().generation;
            return Ok(switched);
        }
        let was_on_trial = self.live.trials.is_split();
        let candidate = self.compile_again(&serving, profile).await?;
        let taken = self.take(&candidate, SwitchReason::Switched, None).await;
        let (generation, _) = taken.inspect_err(|_| reload::forget(&self.live))?;
        switched.generation = generation;
        switched.reset = self.reset_lifetimes(before, &candidate.gateway).await;
        *serving = candidate;
        if was_on_trial {
            self.store_last_good(&serving.sources);
        }
        let took = self.live.world.clock.now() - began;
        switched.took_ms = millis(took);
        info!(
            profile = switched.active.as_deref().unwrap_or("none"),
            generation,
            reset = switched.reset,
            ms = switched.took_ms;
            "profile switched"
        );
        Ok(switched)
    }

    /// Gives stored responses the lifetimes of the configuration that serves `now`. Returns how many
    /// have another one.
    pub(super) async fn reset_lifetimes(&self, before: Arc<Gateway>, now: &Arc<Gateway>) -> usize {
        let now = Arc::clone(now);
        // There may be millions of stored responses, so this does not run on a worker.
        let reset = tokio::task::spawn_blocking(move || profiles::reset_lifetimes(&before, &now));
        reset.await.unwrap_or_default()
    }

    /// Compiles the configuration that serves with another profile.
    async fn compile_again(
        &self,
        serving: &Candidate,
        profile: Option<String>,
    ) -> Result<Candidate, ActionError> {
        let live = Arc::clone(&self.live);
        let folder = self.path.as_deref().and_then(Path::parent);
        let folder = folder.unwrap_or(Path::new("")).to_owned();
        let (file, sources) = (serving.file.clone(), Arc::clone(&serving.sources));
        let compiled = self.compiling.run(move || {
            live.world.zones.begin();
            let wanted = profile
                .as_deref()
                .map_or(ProfileSelection::Nothing, ProfileSelection::Named);
            let compiled = gateway::compile_with(&file, &folder, &live.world, wanted);
            (file, compiled)
        });
        let (file, (gateway, diagnostics, referenced)) = compiled.await.map_err(|broken| {
            reload::forget(&self.live);
            let message = format!("the configuration could not be compiled: {broken}");
            ActionError::new(500, "internal", message)
        })?;
        let Some(gateway) = gateway else {
            reload::forget(&self.live);
            // External inputs have changed since it was read: certificates, folders.
            return Err(ActionError::configuration(&sources, &diagnostics));
        };
        let sources = Sources {
            referenced,
            ..Sources::clone(&sources)
        };
        Ok(Candidate {
            file,
            sources: Arc::new(sources),
            diagnostics,
            gateway: Arc::new(gateway),
        })
    }
}

fn is_known(file: &File, name: &str) -> Result<(), ActionError> {
    let known = || file.profiles.iter().map(|(key, _)| &key.name);
    if known().any(|known| **known == *name) {
        return Ok(());
    }
    let message = format!("unknown profile `{name}`; there is {}", listed(known()));
    Err(ActionError::new(404, "no_such_profile", message))
}
