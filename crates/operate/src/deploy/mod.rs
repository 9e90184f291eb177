//! `edgeway deploy`, `rollback` and `deploys`: puts a release of an app beside the running one,
//! starts its instances, and sends it the traffic once they are healthy. The replaced release stays
//! for the browsers that have its pages.

mod canary;
mod folder;
mod instances;
mod left_behind;
mod overlap;
mod prune;
mod resume;
mod retire;
mod stop;
mod supervise;
mod switch;
mod warm;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use edgeway_base::units::{Percent, Span};
use edgeway_cache::nextjs::deployment_of;
use edgeway_config::model::ReleaseOverlap;
use edgeway_status::snapshot::{BackendStatus, UpstreamStatus};
use edgeway_upstreams::{ReleaseSettings, StartMethod, is_release_name};
use serde_json::json;

use self::{
    folder::{Kind, ReleaseFolder},
    instances::Instance,
};
pub use self::{retire::run as run_retire, supervise::run as run_supervise};
use super::{
    Failure,
    admin::AdminOption,
    backends::{
        CheckBaseline, Gateway, Interrupt, WaitFailure, check_interrupt, is_drained, until_good,
    },
    client::{self, Remote},
    out,
    progress::Progress,
};

pub use self::{retire::RetireOptions, supervise::SuperviseOptions};

#[derive(Debug, clap::Args)]
pub struct DeployOptions {
    /// The upstream; its configuration has `releases`
    upstream: String,
    /// The folder of the new release, with its build in `.next`: it is copied into place
    folder: PathBuf,
    /// The name of the release; the time if absent
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Send this part of the visitors to the release first, such as `5%`; the gateway compares it
    /// with the current one, and sends it more visitors or rolls it back
    #[arg(long, value_name = "SHARE")]
    canary: Option<Percent>,
    /// Start its instances, and wait for `edgeway switch`: first on all gateways of a site, so that
    /// each knows the release before one of them sends its pages
    #[arg(long, conflicts_with = "canary")]
    hold: bool,
    #[command(flatten)]
    common: CommonOptions,
}

#[derive(Debug, clap::Args)]
pub struct RollbackOptions {
    /// The upstream; its configuration has `releases`
    upstream: String,
    /// The release to go back to; the one before the current one if absent
    release: Option<String>,
    #[command(flatten)]
    common: CommonOptions,
}

#[derive(Debug, clap::Args)]
pub struct SwitchOptions {
    /// The upstream; its configuration has `releases`
    upstream: String,
    /// The release that visitors get, such as one that `edgeway deploy --hold` has started
    release: String,
    #[command(flatten)]
    common: CommonOptions,
}

#[derive(Debug, clap::Args)]
pub struct ResumeOptions {
    /// The upstream; its configuration has `releases`
    upstream: String,
    #[command(flatten)]
    common: CommonOptions,
}

#[derive(Debug, clap::Args)]
pub struct ListOptions {
    /// The upstream; its configuration has `releases`
    upstream: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Stop all of its instances, and the process that ends replaced releases, also if the gateway
    /// has ended
    #[arg(long, conflicts_with = "json")]
    stop: bool,
    #[command(flatten)]
    admin: AdminOption,
}

#[derive(Debug, clap::Args)]
struct CommonOptions {
    /// Good checks in a row until an instance counts as healthy
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    probes: u64,
    /// Time limit for an instance to pass its checks
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Span,
    #[command(flatten)]
    admin: AdminOption,
}

pub fn run(options: &DeployOptions) -> Result<(), Failure> {
    begun(&options.upstream, &options.common, async |mut deploy| {
        deploy.check_no_trial(options.canary).await?;
        deploy.check_overlap(options)?;
        let release = deploy.put(&options.folder, options.name.as_deref())?;
        deploy.is_new = true;
        let served = match options.canary {
            Some(share) => deploy.try_out(&release, share).await,
            None if options.hold => deploy.hold(&release).await,
            None => deploy.serve(&release).await,
        };
        if let Err(error) = served {
            if deploy.may_serve {
                return Err(error);
            }
            deploy.folder.remove_new(&release, deploy.is_copy)?;
            return Err(error);
        }
        match options.canary {
            Some(_) => deploy.follow_trial(&release).await,
            None => Ok(()),
        }
    })
}

pub fn run_rollback(options: &RollbackOptions) -> Result<(), Failure> {
    let release = options.release.as_deref();
    go_to(&options.upstream, release, &options.common)
}

pub fn run_switch(options: &SwitchOptions) -> Result<(), Failure> {
    let release = Some(&*options.release);
    go_to(&options.upstream, release, &options.common)
}

/// Makes a release that is there the current one: the one before the current one if none is given.
fn go_to(upstream: &str, release: Option<&str>, common: &CommonOptions) -> Result<(), Failure> {
    begun(upstream, common, async |mut deploy| {
        if release.is_none() && deploy.end_trial().await? {
            return Ok(retire::begin(upstream, &common.admin)?);
        }
        let release = deploy.earlier(release)?;
        deploy.serve(&release).await
    })
}

pub fn run_resume(options: &ResumeOptions) -> Result<(), Failure> {
    begun(&options.upstream, &options.common, async |mut deploy| {
        deploy.resume().await
    })
}

/// Runs a command that changes the releases of an upstream.
fn begun(
    upstream: &str,
    common: &CommonOptions,
    work: impl AsyncFnOnce(Deploy<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    client::ask_interruptible(&common.admin, async |gateway, interrupt| {
        let deploy = Deploy::begin(&gateway, upstream, common, interrupt);
        work(deploy.await?).await
    })
}

pub fn run_list(options: &ListOptions) -> Result<(), Failure> {
    if options.stop {
        return stop::run(options);
    }
    client::ask(&options.admin, async |gateway| {
        let (status, settings) = settings(&gateway, &options.upstream).await?;
        let folder = ReleaseFolder::new(&settings);
        let list = folder.list(&status, Duration::from_secs(settings.linger))?;
        if options.json {
            out::data(&json!({ "releases": list }).to_string());
        } else {
            out::data(&folder::table(&list));
        }
        Ok(())
    })
}

/// Fetches the state of an upstream that has releases.
async fn settings(
    gateway: &Remote,
    upstream: &str,
) -> Result<(UpstreamStatus, ReleaseSettings), String> {
    let status = gateway.upstream(upstream).await?;
    match status.releases.clone() {
        Some(settings) => Ok((status, settings)),
        None => Err(format!(
            "upstream `{upstream}` has no `releases`: write such as `releases: {{ folder: \
             /srv/{upstream}/releases, ports: 4000-4031, start: [npm, start] }}` and reload; an app \
             that is not of Next.js is deployed with `edgeway rollout {upstream}`"
        )),
    }
}

/// Deploy or rollback in progress.
struct Deploy<'a> {
    gateway: &'a Remote,
    upstream: String,
    settings: ReleaseSettings,
    folder: ReleaseFolder,
    common: &'a CommonOptions,
    progress: Progress,
    interrupt: Interrupt,
    /// True if the release is new, and no rollback: that waits for nothing.
    is_new: bool,
    /// True if the folder of the release was copied into place.
    is_copy: bool,
    /// True if the gateway sends it visitors, or may do so: it stays.
    may_serve: bool,
    /// Keeps another deploy of the same upstream out.
    alone: Option<std::fs::File>,
}

impl<'a> Deploy<'a> {
    async fn begin(
        gateway: &'a Remote,
        upstream: &str,
        common: &'a CommonOptions,
        interrupt: Interrupt,
    ) -> Result<Self, Failure> {
        let (_, config) = settings(gateway, upstream).await?;
        let folder = ReleaseFolder::new(&config);
        let snapshot = gateway.snapshot().await?;
        let alone = folder.begin_deploy(&snapshot.config.file)?;
        // From now on no other command decides, and the gateway may have decided before.
        let (status, settings) = settings(gateway, upstream).await?;
        let linger = Duration::from_secs(settings.linger);
        folder.settled(&status, linger)?;
        let mut deploy = Self {
            gateway,
            upstream: upstream.to_owned(),
            alone: Some(alone),
            folder,
            common,
            progress: Progress::new(settings.instances as usize + 1),
            settings,
            interrupt,
            is_new: false,
            is_copy: false,
            may_serve: false,
        };
        deploy.end_interrupted(&status).await?;
        Ok(deploy)
    }

    /// Copies a new release into place, and returns its name.
    fn put(&mut self, from: &Path, name: Option<&str>) -> Result<String, Failure> {
        let name = name.map_or_else(folder::name_of_now, str::to_owned);
        if !is_release_name(&name) || folder::RESERVED.contains(&name.as_str()) {
            return Err(format!(
                "invalid name of a release `{name}`; write letters, digits, `.`, `-` and `_`, at \
                 most 100, the first of them a letter or a digit, and none of the gateway's own \
                 names: {}",
                folder::RESERVED.join(", ")
            )
            .into());
        }
        if self.folder.instances().values().any(|other| *other == name) {
            return Err(format!(
                "release `{name}` runs already, and its instances keep the build that they were \
                 started with: deploy another build under another name, or send visitors to this \
                 one with `edgeway switch {} {name}`",
                self.upstream
            )
            .into());
        }
        self.progress
            .now(&format!("{name}: copying {}", from.display()));
        self.is_copy = self.folder.put(from, &name)?;
        let is_ours = matches!(self.settings.start, StartMethod::Command(_));
        if is_ours && supervise::runs_as_root(&self.folder.release(&name)) {
            out::note(&format!(
                "edgeway: the app runs as root, because that owns `{}`: give the folder to another \
                 user before you deploy it, with such as `chown -R www-data`",
                from.display()
            ));
        }
        if let Some((other, id)) = self.namesake(&name)? {
            out::note(&format!(
                "edgeway: release `{other}` has the `deploymentId` `{id}` as well: its pages that are \
                 open in browsers get parts of `{name}`; give each deploy a `deploymentId` of its own"
            ));
        }
        Ok(name)
    }

    /// Returns a release that pages in browsers may be of and that has the `deploymentId` of `name`.
    fn namesake(&self, name: &str) -> Result<Option<(String, String)>, Failure> {
        let Some(id) = deployment_of(&self.folder.release(name)) else {
            return Ok(None);
        };
        let others = self.folder.state()?.in_browsers();
        let mut others = others.into_iter().filter(|other| other != name);
        let other =
            others.find(|other| deployment_of(&self.folder.release(other)).as_ref() == Some(&id));
        Ok(other.map(|other| (other, id)))
    }

    /// Returns the release to go back to.
    fn earlier(&mut self, wanted: Option<&str>) -> Result<String, Failure> {
        let state = self.folder.state()?;
        match wanted {
            Some(name) if self.folder.kind(name) == Some(Kind::Whole) => Ok(name.to_owned()),
            Some(name) => Err(format!(
                "there is no whole release `{name}` in `{}`: `edgeway deploys {}` lists them",
                self.settings.folder.display(),
                self.upstream
            )
            .into()),
            None => {
                let whole = |name: &String| self.folder.kind(name) == Some(Kind::Whole);
                let before = state.before_current(whole);
                Ok(before.ok_or_else(|| {
                    format!("upstream `{}` has no earlier release", self.upstream)
                })?)
            }
        }
    }

    /// Starts the instances of a release as needed, and switches to it.
    async fn serve(&mut self, release: &str) -> Result<(), Failure> {
        match self.settings.overlap {
            ReleaseOverlap::One => self.replace_one_by_one(release).await?,
            ReleaseOverlap::All => self.replace_at_once(release).await?,
        }
        retire::begin(&self.upstream, &self.common.admin)?;
        Ok(())
    }

    /// Starts the instances of a release, and lets it wait for its visitors.
    async fn hold(&mut self, release: &str) -> Result<(), Failure> {
        let linger = Duration::from_secs(self.settings.linger);
        self.with_instances(release, async |deploy| {
            deploy.ready(release).await?;
            Ok(deploy.folder.held(release, linger)?)
        })
        .await?;
        self.progress.step_done();
        self.progress.pause();
        self.progress.say(&format!(
            "release `{release}` of upstream `{}` is ready, for {}: `edgeway switch {0} {release}` \
             makes it the current one",
            self.upstream,
            Span(linger)
        ));
        retire::begin(&self.upstream, &self.common.admin)?;
        Ok(())
    }

    async fn replace_at_once(&mut self, release: &str) -> Result<(), Failure> {
        self.with_instances(release, async |deploy| deploy.switch(release).await)
            .await
    }

    /// Starts the instances of a release that do not run, and then takes a step with them. If it
    /// fails, they are stopped, unless they have visitors.
    async fn with_instances(
        &mut self,
        release: &str,
        then: impl AsyncFnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let started = self.start_missing(release).await?;
        let done = then(self).await;
        if done.is_err() && !self.may_serve {
            self.take_back(&started).await;
        }
        done
    }

    /// Returns the healthy instances of a release. Those that were drained get requests again: the
    /// process that ends releases may have begun to end them.
    async fn running(
        &self,
        status: &UpstreamStatus,
        release: &str,
    ) -> Result<Vec<Instance>, Failure> {
        let mut running = Vec::new();
        let of_it = |it: &&BackendStatus| it.healthy && it.release.as_deref() == Some(release);
        for backend in status.backends.iter().filter(of_it) {
            let instance = Instance::at(&self.upstream, &backend.address, release);
            if let (true, Some(drained)) = (is_drained(backend), &instance) {
                self.gateway.undrain(&drained.name).await?;
            }
            running.extend(instance);
        }
        Ok(running)
    }

    /// Starts the instances of a release that do not run.
    async fn start_missing(&mut self, release: &str) -> Result<Vec<Instance>, Failure> {
        let (status, _) = settings(self.gateway, &self.upstream).await?;
        let running = self.running(&status, release).await?.len();
        let missing = (self.settings.instances as usize).saturating_sub(running);
        let mut started = Vec::new();
        for _ in 0..missing {
            match self.start(release).await {
                Ok(instance) => started.push(instance),
                Err(error) => {
                    self.take_back(&started).await;
                    return Err(error);
                }
            }
            self.progress.step_done();
        }
        Ok(started)
    }

    /// Starts one instance, and waits until it is healthy.
    async fn start(&mut self, release: &str) -> Result<Instance, Failure> {
        check_interrupt(&self.interrupt)?;
        let snapshot = self.gateway.snapshot().await?;
        let instance = Instance::free(
            &self.upstream,
            &self.settings,
            &self.folder,
            &snapshot,
            release,
        )?;
        let name = instance.name.clone();
        self.progress
            .now(&format!("{release}: starting {instance}"));
        let healthy = async {
            instance.start(&self.settings, &self.folder).await?;
            let added = self.gateway.add(&name, 1, true, Some(release)).await?;
            let (probes, timeout) = (self.common.probes, self.common.timeout.0);
            let since = CheckBaseline::now(&added);
            let waited =
                until_good(self.gateway, &name, since, probes, timeout, &self.interrupt).await;
            match waited {
                Ok(()) => {
                    self.gateway.undrain(&name).await?;
                    Ok(())
                }
                Err(WaitFailure::TooLong(seen)) => Err(Failure::from(format!(
                    "{instance} of release `{release}` is not healthy after {}: {seen}; {}",
                    self.common.timeout,
                    instance.log_hint(&self.settings, &self.folder)
                ))),
                Err(WaitFailure::Trouble(trouble)) => Err(trouble.into()),
                Err(WaitFailure::Interrupted) => Err(Failure::INTERRUPTED),
            }
        };
        match healthy.await {
            Ok(()) => {
                self.progress
                    .say(&format!("{release}: {instance} is healthy"));
                Ok(instance)
            }
            Err(error) => {
                self.take_back(std::slice::from_ref(&instance)).await;
                Err(error)
            }
        }
    }

    /// Removes instances that never got a request of the current release.
    async fn take_back(&mut self, instances: &[Instance]) {
        for instance in instances {
            // It may not have been added.
            drop(self.gateway.remove(&instance.name, true).await);
            if let Err(why) = instance.stop(&self.settings, &self.folder).await {
                self.progress.say(&format!("edgeway: {instance}: {why}"));
            }
        }
    }

    /// Checks that there may be enough instances for what is wanted.
    fn check_overlap(&self, options: &DeployOptions) -> Result<(), Failure> {
        let option = match (options.canary, options.hold) {
            (Some(_), _) => "--canary",
            (None, true) => "--hold",
            (None, false) => return Ok(()),
        };
        match self.settings.overlap {
            ReleaseOverlap::All => Ok(()),
            ReleaseOverlap::One => Err(format!(
                "`{option}` needs the instances of both releases, but upstream `{}` has `overlap: \
                 one`: deploy without `{option}`",
                self.upstream
            )
            .into()),
        }
    }
}
