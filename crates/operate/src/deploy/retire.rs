//! End of replaced releases: a process that `edgeway deploy` leaves behind stops their instances
//! once browsers had time to leave them, and removes releases that nobody needs any more.

use std::{collections::BTreeMap, fs::File, io::Write as _, process::Stdio, time::Duration};

use edgeway_base::units::Span;
use edgeway_status::snapshot::UpstreamStatus;
use edgeway_upstreams::ReleaseSettings;
use futures_util::future::join_all;
use rustix::process::setsid;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use super::{
    folder::{ReleaseFolder, State, now},
    instances::Instance,
    left_behind, settings,
};
use crate::{
    Failure,
    admin::AdminOption,
    backends::{Interrupt, interrupted, serves},
    client::{self, Remote},
};

/// Interval of checks: a gateway may be upgraded, and an operator may go back to a release.
const EVERY: Duration = Duration::from_secs(5);
/// Interval of looks at a signal while a deploy is waited for.
const POLL: Duration = Duration::from_millis(10);
/// Attempts to take the place of another such process, a second each. Within them it has looked at
/// what the gateway does now, or has ended.
const ATTEMPTS: u32 = 11;

#[derive(Debug, clap::Args)]
pub struct RetireOptions {
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
    let failed = |error| format!("cannot start the process that ends releases: {error}");
    let mut process = left_behind::command("retire-releases").map_err(failed)?;
    process
        .arg(upstream)
        .args(admin.arguments())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    left_behind::begin(&mut process).map_err(failed)
}

pub fn run(options: &RetireOptions) -> Result<(), Failure> {
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
    let mut outage = Outage {
        since: None,
        patience,
    };
    let config = loop {
        match settings(gateway, upstream).await {
            Ok((_, config)) => break config,
            Err(why) if *interrupt.borrow() => return Err(why),
            // The gateway may be restarting.
            Err(why) => outage.lasts(why)?,
        }
        outage.pause(&interrupt).await;
    };
    let folder = ReleaseFolder::new(&config);
    let lock = || folder.lock("retire", "another process ends releases").ok();
    let Some(mut alone) = (0..ATTEMPTS).find_map(|_| lock()) else {
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

/// Releases of an upstream, which no command changes meanwhile.
struct Settled {
    status: UpstreamStatus,
    own: ReleaseSettings,
    state: State,
    _alone: File,
}

impl Settled {
    /// Reads them once no command changes them; `None` if the process is to end before.
    async fn read(
        gateway: &Remote,
        upstream: &str,
        folder: &ReleaseFolder,
        interrupt: &Interrupt,
    ) -> Result<Option<Self>, String> {
        let place = folder.own("");
        let alone = loop {
            if *interrupt.borrow() {
                return Ok(None);
            }
            if !place.exists() {
                return Err(format!("`{}` is gone", place.display()));
            }
            match folder.lock("deploy", "a deploy has not ended") {
                Ok(alone) => break alone,
                Err(_) => sleep(POLL).await,
            }
        };
        let (status, config) = settings(gateway, upstream).await?;
        let linger = Duration::from_secs(config.linger);
        Ok(Some(Self {
            state: folder.settled(&status, linger)?,
            status,
            own: config,
            _alone: alone,
        }))
    }

    /// Returns true if a release has been replaced for long enough, and the current one serves. An
    /// unfinished deploy may have left one without a time: it is not the business of this process.
    fn is_over(&self, release: &str) -> bool {
        let until = self.state.releases.get(release).and_then(|own| own.until);
        let current = self.status.current_release.as_deref();
        let is_over = current != Some(release) && until.is_some_and(|until| until <= now());
        is_over && current.is_some_and(|current| serves(&self.status, current))
    }

    /// Returns the instances of releases that are not the current one, also if the gateway has lost
    /// their backends.
    fn replaced(&self, folder: &ReleaseFolder) -> Vec<Instance> {
        let upstream = &self.status.name;
        let linked = folder.instances().into_iter();
        let linked =
            linked.map(|(port, release)| (port, Instance::on(upstream, &self.own, port, &release)));
        let mut all: BTreeMap<u16, Instance> = linked.collect();
        for backend in &self.status.backends {
            let release = backend.release.as_ref();
            let served = release.and_then(|it| Instance::at(upstream, &backend.address, it));
            all.extend(served.map(|instance| (instance.port, instance)));
        }
        let current = self.status.current_release.as_ref();
        all.retain(|_, instance| current != Some(&instance.release));
        all.into_values().collect()
    }
}

/// Ends the releases whose time is over.
///
/// Invariant: no instance ends whose release is the current one, lingers or is being started, and none
/// while the current one is down. An operator may go back to it at any time, so each step looks again,
/// with the commands kept out.
async fn round(
    gateway: &Remote,
    upstream: &str,
    folder: &ReleaseFolder,
    interrupt: &Interrupt,
) -> Result<Round, String> {
    let read = || Settled::read(gateway, upstream, folder, interrupt);
    let Some(settled) = read().await? else {
        return Ok(Round::Again);
    };
    let mut over = settled.replaced(folder);
    over.retain(|instance| settled.is_over(&instance.release));
    let settings = settled.own.clone();
    drop(settled);
    let turn = Mutex::new(());
    let (read, turn, settings) = (&read, &turn, &settings);
    let ends = over.iter().map(|instance| async move {
        let may_end = async || {
            // To wait for the lock of another one blocks the thread.
            let turn = turn.lock().await;
            let now = read().await?;
            let now = now.filter(|now| now.is_over(&instance.release));
            Ok(now.map(|now| (now, turn)))
        };
        instance
            .end(Some(gateway), settings, folder, interrupt, may_end)
            .await
    });
    // One that cannot be stopped is tried again, and keeps no other one from its end.
    drop(join_all(ends).await);
    let Some(settled) = read().await? else {
        return Ok(Round::Again);
    };
    let replaced = settled.replaced(folder).into_iter();
    let mut running: Vec<String> = replaced.map(|instance| instance.release).collect();
    let is_known = |release: &String| settled.state.releases.contains_key(release);
    let lingers = running.iter().any(is_known);
    running.extend(settled.status.current_release.clone());
    let has_removed = folder.prune(&settled.own, &running);
    let is_over = !lingers && settled.status.canary.is_none();
    // The commands are kept out no longer.
    drop(settled);
    // On a full disk, nothing can be written before.
    folder.empty_removed()?;
    let is_over = is_over && !has_removed?;
    Ok(if is_over { Round::Over } else { Round::Again })
}
