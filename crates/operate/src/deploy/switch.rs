//! The moment from which a release has visitors.

use std::time::Duration;

use edgeway_base::units::Span;
use edgeway_status::snapshot::UpstreamStatus;
use tokio::time::{Instant, sleep};

use super::{
    Deploy,
    canary::{EVERY, PATIENCE},
    settings,
};
use crate::{
    Failure,
    backends::{Gateway as _, RequestFailure, check_interrupt},
};

impl Deploy<'_> {
    /// Waits until the release can get visitors.
    pub(super) async fn ready(&self, release: &str) -> Result<(), Failure> {
        check_interrupt(&self.interrupt)?;
        self.wait_until_read(release).await?;
        if self.is_new {
            self.warm(release).await;
            check_interrupt(&self.interrupt)?;
        }
        Ok(())
    }

    /// Sends the traffic to the release, and lets the replaced one linger.
    pub(super) async fn switch(&mut self, release: &str) -> Result<(), Failure> {
        self.ready(release).await?;
        let (status, _) = settings(self.gateway, &self.upstream).await?;
        let before = status.current_release;
        let asked = self.gateway.switch_release(&self.upstream, release).await;
        let is_made = |now: &UpstreamStatus| now.current_release.as_deref() == Some(release);
        self.decided(asked, is_made).await?;
        let linger = Duration::from_secs(self.settings.linger);
        if let Err(why) = self.folder.switched(release, before.as_deref(), linger) {
            // The next command finds it out from the gateway.
            self.progress.say(&format!("edgeway: {why}"));
        }
        self.progress.step_done();
        self.progress.pause();
        let replaced = match before.as_deref() {
            Some(before) if before != release => format!(
                "; `{before}` stays for {} for browsers that have its pages",
                Span(linger)
            ),
            _ => String::new(),
        };
        self.progress.say(&format!(
            "release `{release}` serves upstream `{}`{replaced}",
            self.upstream
        ));
        Ok(())
    }

    /// Waits until the gateway has read the folder of the release.
    pub(super) async fn wait_until_read(&self, release: &str) -> Result<(), Failure> {
        for _ in 0..100 {
            let (status, _) = settings(self.gateway, &self.upstream).await?;
            if status.known_releases.iter().any(|known| known == release) {
                return Ok(());
            }
            check_interrupt(&self.interrupt)?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(format!(
            "the gateway has not read release `{release}`: its log has the reason; the gateway \
             needs the right to read `{}`",
            self.settings.folder.display()
        )
        .into())
    }

    /// Handles the response to a change that sends visitors to the release. A gateway that was lost
    /// before it responded may have made the change, which its state then shows.
    pub(super) async fn decided<T>(
        &mut self,
        asked: Result<T, RequestFailure>,
        is_made: impl Fn(&UpstreamStatus) -> bool,
    ) -> Result<(), Failure> {
        let why = match asked {
            Ok(_) => {
                self.may_serve = true;
                return Ok(());
            }
            Err(RequestFailure::Away(why)) => why,
            Err(refused) => return Err(refused.into()),
        };
        self.may_serve = true;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            check_interrupt(&self.interrupt)?;
            if let Ok(status) = self.gateway.upstream(&self.upstream).await {
                self.may_serve = is_made(&status);
                return if self.may_serve {
                    Ok(())
                } else {
                    Err(why.into())
                };
            }
            sleep(EVERY).await;
        }
        Err(format!(
            "{why}; it may have made the change: once it runs, `edgeway deploys {}` shows that",
            self.upstream
        )
        .into())
    }
}
