//! Reload: reads, checks and compiles a configuration while another one serves, then swaps them in
//! one step, or refuses the new one without a trace.

use std::{path::Path, sync::Arc};

use edgeway_config::{diagnostic::Diagnostics, model::File, source::Sources};
use edgeway_core::zones::{SettleResult, TrialWinner};
use edgeway_gateway::{self as gateway, Gateway, profiles::ProfileSelection};

use super::{Live, SwitchReason, split::TrialSplit, supervisor::Supervisor};

/// A valid configuration that is ready to serve, or serves. It holds zones of its own until it is
/// taken or refused.
pub struct Candidate {
    pub file: File,
    pub sources: Arc<Sources>,
    /// Warnings only.
    pub diagnostics: Diagnostics,
    pub gateway: Arc<Gateway>,
}

/// A configuration with errors.
pub struct InvalidCandidate {
    pub sources: Sources,
    pub diagnostics: Diagnostics,
}

/// Reads and compiles the configuration at `path`. It blocks on files, so it needs a thread that
/// may wait. Calls must not overlap, and each result must be taken or refused before the next.
pub fn read(live: &Live, path: &Path) -> Result<Candidate, Box<InvalidCandidate>> {
    live.world.zones.begin();
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut loaded = gateway::load_with(path, live.world.overlay.as_deref());
    loaded.find_rest(folder);
    let (mut sources, mut diagnostics) = (loaded.sources, loaded.diagnostics);
    let compiled = loaded.file.and_then(|file| {
        let same = ProfileSelection::Same;
        let (gateway, problems, read) = gateway::compile_with(&file, folder, &live.world, same);
        sources.referenced = read;
        diagnostics.extend(problems);
        Some((file, gateway?))
    });
    let Some((file, gateway)) = compiled else {
        return Err(Box::new(InvalidCandidate {
            sources,
            diagnostics,
        }));
    };
    Ok(Candidate {
        file,
        sources: Arc::new(sources),
        diagnostics,
        gateway: Arc::new(gateway),
    })
}

/// Puts a candidate into service from the next request on: for all clients, or for a share of them.
/// Returns its number, and the changes of zones.
pub fn take(
    live: &Live,
    supervisor: &Supervisor,
    gateway: &Arc<Gateway>,
    how: SwitchReason,
    split: Option<Arc<TrialSplit>>,
) -> (u64, SettleResult) {
    // No request is outside of the split meanwhile.
    if split.is_some() {
        live.trials.set_split(split.clone());
    }
    let generation = live.swap(Arc::clone(gateway), how);
    supervisor.follow(gateway);
    let zones = &live.world.zones;
    if let Some(split) = split {
        supervisor.follow_beside(split.earlier(), gateway);
        return (generation, zones.settle_on_trial());
    }
    let settled = if how == SwitchReason::TakenBack {
        zones.end_trial(TrialWinner::Earlier);
        SettleResult::default()
    } else {
        zones.settle()
    };
    end_split(live, supervisor);
    (generation, settled)
}

/// Serves the configuration on trial to all clients.
pub fn keep(live: &Live, supervisor: &Supervisor) {
    live.world.zones.end_trial(TrialWinner::Candidate);
    end_split(live, supervisor);
}

/// Ends the service of the configuration beside the one that serves, if there was a trial.
fn end_split(live: &Live, supervisor: &Supervisor) {
    live.trials.set_split(None);
    supervisor.end_beside();
    live.gateway().work.serves_alone();
    live.gateway().forget_stale_metrics(&live.world.metrics);
}

/// Refuses the configuration that was read, and keeps only the reason.
pub fn refuse(live: &Live, why: String) {
    live.refused(why);
    forget(live);
}

/// Drops everything that was compiled for a configuration that does not come to serve.
pub fn forget(live: &Live) {
    live.world.zones.undo();
    // Series of the configuration beside one on trial are needed until its end.
    if !live.trials.is_split() {
        live.gateway().forget_stale_metrics(&live.world.metrics);
    }
}
