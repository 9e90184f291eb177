//! End of replaced releases: a process that `edgeway deploy` leaves behind stops their instances
//! once browsers had time to leave them, and removes releases that nobody needs any more.

use std::{collections::BTreeMap, io::Write as _, process::Stdio, time::Duration};

use edgeway_base::units::Span;
use edgeway_status::snapshot::UpstreamStatus;
use edgeway_upstreams::ReleaseSettings;
use rustix::process::setsid;
use tokio::time::{Instant, timeout};

use super::{
    folder::{ReleaseFolder, now},
    instances::Instance,
    left_behind, settings,
};
use crate::{
    Failure,
    admin::AdminOption,
    backends::{Interrupt, interrupted},
    client::{self, Remote},
};

/// Interval of checks: a gateway may be upgraded, and an operator may go back to a release.
const EVERY: Duration = Duration::from_secs(5);
/// Attempts to take the place of another such process, a second each. Within them it has looked at
/// what the gateway does now, or has ended.
const ATTEMPTS: u32 = 11;

#[derive(Debug, clap::Args)]
pub struct Options {
    upstream: String,
    /// The time without the gateway or the folder of releases after which the process ends; the next
    /// deploy begins another one
    #[arg(long, value_name = "TIME", default_value = "60s")]
    patience: Span,
    #[command(flatten)]
    admin: AdminOption,
}

/// Begins a process that ends replaced releases.
pub(super) fn begin(upstream: &str, admin: &AdminOption) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut process = std::process::Command::new(program);
    process
        .arg("retire-releases")
        .arg(upstream)
        .args(admin.arguments())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    left_behind::begin(&mut process)
        .map_err(|error| format!("cannot start the process that ends releases: {error}"))
}

pub fn run(options: &Options) -> Result<(), Failure> {
    // Signals of the terminal that the deploy was started in do not reach it. It fails only if the
    // process leads a session already.
    let _leads = setsid();
    client::ask_interruptible(&options.admin, async |gateway, interrupt| {
        let patience = options.patience.0;
        Ok(retire(&gateway, &options.upstream, patience, interrupt).await?)
    })
}

async fn retire(
    gateway: &Remote,
    upstream: &str,
    patience: Duration,
    interrupt: Interrupt,
) -> Result<(), String> {
    let mut outage = Outage::new(patience);
    let own = loop {
        match settings(gateway, upstream).await {
            Ok((_, own)) => break own,
            Err(why) if *interrupt.borrow() => return Err(why),
            // The gateway may be restarting.
            Err(why) => outage.lasts(why)?,
        }
        outage.pause(&interrupt).await;
    };
    let folder = ReleaseFolder::new(&own);
    let lock = |_| {
        // It would be made again where it was removed.
        let is_there = own.folder.exists();
        is_there
            .then(|| folder.lock("retire", "another process ends releases").ok())
            .flatten()
    };
    let Some(mut alone) = (0..ATTEMPTS).find_map(lock) else {
        return Ok(());
    };
    // For an operator who looks for it.
    write!(alone, "{}", std::process::id()).map_err(|error| error.to_string())?;
    while !*interrupt.borrow() {
        match round(gateway, upstream, &folder, &interrupt).await {
            Ok(Round::Over) => return Ok(()),
            Ok(Round::Again) => outage.since = None,
            Err(why) => outage.lasts(why)?,
        }
        outage.pause(&interrupt).await;
    }
    Ok(())
}

/// Time for which every check has failed.
struct Outage {
    since: Option<Instant>,
    patience: Duration,
}

impl Outage {
    fn new(patience: Duration) -> Self {
        Self {
            since: None,
            patience,
        }
    }

    /// Counts a failed check.
    ///
    /// # Errors
    ///
    /// Why it failed, if there was none for too long that did not.
    fn lasts(&mut self, why: String) -> Result<(), String> {
        let since = self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < self.patience {
            Ok(())
        } else {
            Err(why)
        }
    }

    /// Waits until the next check.
    async fn pause(&self, interrupt: &Interrupt) {
        // It ends at once if it is interrupted.
        drop(timeout(EVERY.min(self.patience), interrupted(interrupt)).await);
    }
}

enum Round {
    Again,
    Over,
}

/// Ends the releases whose time is over.
async fn round(
    gateway: &Remote,
    upstream: &str,
    folder: &ReleaseFolder,
    interrupt: &Interrupt,
) -> Result<Round, String> {
    let (mut status, own) = settings(gateway, upstream).await?;
    if !own.folder.exists() {
        return Err(format!("`{}` is gone", own.folder.display()));
    }
    let linger = Duration::from_secs(own.linger);
    let mut state = folder.state()?;
    if state.settle(&status, linger) {
        let Ok(_alone) = folder.lock("deploy", "a deploy has not ended") else {
            // It decides itself.
            return Ok(Round::Again);
        };
        (status, _) = settings(gateway, upstream).await?;
        folder.change(|state| state.settle(&status, linger))?;
        state = folder.state()?;
    }
    let replaced = replaced(&status, &own, folder);
    let mut running: Vec<String> = status.current_release.iter().cloned().collect();
    let mut has_stopped = false;
    for (release, instances) in &replaced {
        let until = state.releases.get(release).and_then(|state| state.until);
        // An unfinished deploy may have left it: it is not the business of this process.
        let Some(until) = until else {
            running.push(release.clone());
            continue;
        };
        if until > now() {
            running.push(release.clone());
            continue;
        }
        has_stopped = true;
        for instance in instances {
            instance.end(Some(gateway), &own, folder, interrupt).await?;
        }
    }
    folder.prune(&own, &running)?;
    let lingers = replaced
        .keys()
        .any(|release| running.contains(release) && state.releases.contains_key(release));
    // A release may have been deployed while instances were stopped.
    Ok(if lingers || has_stopped || status.canary.is_some() {
        Round::Again
    } else {
        Round::Over
    })
}

/// Returns the instances of releases that are not the current one, also if the gateway has lost
/// their backends.
fn replaced(
    status: &UpstreamStatus,
    own: &ReleaseSettings,
    folder: &ReleaseFolder,
) -> BTreeMap<String, Vec<Instance>> {
    let mut linked = folder.instances();
    let mut replaced: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
    let mut add = |release: &String, instance: Option<Instance>| {
        if status.current_release.as_ref() != Some(release) {
            let instances = replaced.entry(release.clone()).or_default();
            instances.extend(instance);
        }
    };
    for backend in &status.backends {
        if let Some(release) = &backend.release {
            let instance = Instance::at(&status.name, own, &backend.address, release);
            linked.retain(|port, _| instance.as_ref().is_none_or(|known| known.port != *port));
            add(release, instance);
        }
    }
    for (port, release) in &linked {
        if let Some(lost) = Instance::on(&status.name, own, *port, release) {
            add(release, Some(lost));
        }
    }
    replaced
}
