//! Background supervision: connects, checks that connections respond, and reconnects.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::RedisError;
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    Mode, Problem, Redis, Span,
    links::{Connections, MAX_FAILURES, RedisConnection},
    patience,
    settings::{ClientFactory, at},
    slots::slot,
};

/// Time between two health checks.
const PING: Duration = Duration::from_secs(1);
/// Shortest and longest wait before another attempt.
const MIN_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(2);
/// Limits on the time to connect: for a single instance, and for a cluster or sentinels, where
/// several nodes are queried and one may hang.
const CONNECT: Duration = Duration::from_secs(1);
const CONNECT_BY_OTHERS: Duration = Duration::from_secs(5);
/// Connections that lasted this long are considered stable.
const SETTLED: Duration = Duration::from_secs(5);
/// Time after which a cluster whose parts do not recover is reconnected from scratch.
const RECONNECT_AFTER: Duration = Duration::from_secs(2);
/// Keys probed in each part of a cluster: one node may own only some of it.
const PROBES: usize = 4;

impl Redis {
    /// Waits for the first attempt to connect, and at most for a second, so that a configuration
    /// has Redis from its first request on.
    pub async fn connect_before_use(redis: Option<&Arc<Self>>) {
        if let Some(new) = redis.filter(|redis| redis.state.lock().is_up.is_none()) {
            let client = Arc::clone(new);
            let attempt = new.on_workers(async move { client.attempt(&client.probes()).await });
            drop(timeout(CONNECT, attempt.join_all()).await);
        }
    }

    /// Spawns work where requests are served. Dropping the set ends the work.
    fn on_workers(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinSet<()> {
        let mut set = JoinSet::new();
        let workers = self.workers.clone().unwrap_or_else(Handle::current);
        set.spawn_on(work, &workers);
        set
    }

    /// Connects and maintains the connections for as long as it is polled.
    pub async fn supervise(self: Arc<Self>) {
        // Once it is dropped, the next supervisor takes over.
        let mut work = self.on_workers(Arc::clone(&self).keep());
        while let Some(ended) = work.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                log::error!(error:%; "redis supervisor panicked");
            }
        }
    }

    async fn keep(self: Arc<Self>) {
        let probes = self.probes();
        let mut waits = Backoff::default();
        loop {
            if let Some(links) = self.links.load_full() {
                let since = Instant::now();
                self.watch(&links, &probes).await;
                drop(links);
                if since.elapsed() >= SETTLED {
                    waits = Backoff::default();
                }
            }
            sleep(waits.next(fastrand::f64())).await;
            self.attempt(&probes).await;
        }
    }

    async fn attempt(&self, probes: &[Vec<String>]) {
        match self.connect(probes).await {
            Ok(links) => {
                let is_complete = links.is_complete();
                self.links.store(Some(Arc::new(links)));
                if is_complete {
                    self.went_up();
                }
            }
            Err(why) => self.went_down(&why),
        }
    }

    /// Connects, and returns only connections that respond.
    async fn connect(&self, probes: &[Vec<String>]) -> Result<Connections, String> {
        let limit = match self.settings.mode {
            Mode::Single => CONNECT,
            Mode::Cluster | Mode::Sentinel { .. } => CONNECT_BY_OTHERS,
        };
        let connected = timeout(limit, Connections::make(&self.settings, &self.changed)).await;
        let links = match connected {
            Ok(Ok(links)) => links,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_elapsed) => return Err(format!("no connection within {}", Span(limit))),
        };
        self.ask(&links, probes).await?;
        Ok(links)
    }

    /// Watches the connections until they are lost, or must be replaced.
    async fn watch(&self, links: &Arc<Connections>, probes: &[Vec<String>]) {
        let mut broken_since = None;
        let mut maker = self.settings.maker().ok();
        loop {
            let is_complete = links.is_complete();
            if is_complete {
                broken_since = None;
            }
            let wait = if is_complete { PING } else { MIN_DELAY };
            let _woken = timeout(wait, self.changed.notified()).await;
            let current = self.links.load_full();
            if !current.is_some_and(|current| Arc::ptr_eq(&current, links)) {
                return;
            }
            match self.ask(links, probes).await {
                Ok(()) if has_moved(links, maker.as_mut()).await => {
                    // For some seconds the old master takes writes that will be lost.
                    self.lose(links, "the sentinels name another master");
                    return;
                }
                Ok(()) if links.is_complete() => self.went_up(),
                Ok(()) => {
                    let since = *broken_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= RECONNECT_AFTER {
                        // Working parts stay in use meanwhile.
                        return;
                    }
                }
                Err(why) => {
                    self.lose(links, &why);
                    return;
                }
            }
        }
    }

    /// Checks that these connections are usable. Clears `is_open` on the parts of a cluster that
    /// respond, and sets it on those that do not.
    async fn ask(&self, links: &Connections, probes: &[Vec<String>]) -> Result<(), String> {
        if !self.is_cluster() {
            for mut link in links.all() {
                self.probe(&mut link, &redis::cmd("PING")).await?;
            }
            links.parts[0].passed();
            return Ok(());
        }
        let mut tasks = JoinSet::new();
        let limit = self.settings.timeout;
        for (index, keys) in probes.iter().enumerate() {
            let (mut link, keys) = (links.pick(), keys.clone());
            tasks.spawn(async move {
                for key in keys {
                    let mut exists = redis::cmd("EXISTS");
                    exists.arg(key);
                    if let Err(why) = probe(&mut link, &exists, limit).await {
                        return (index, Some(why));
                    }
                }
                (index, None)
            });
        }
        let (mut passed, mut last) = (0, String::new());
        while let Some(result) = tasks.join_next().await {
            let Ok((index, why)) = result else { continue };
            let part = &links.parts[index];
            let Some(why) = why else {
                passed += 1;
                part.passed();
                part.is_open.store(false, Ordering::Relaxed);
                continue;
            };
            if !part.is_open.swap(true, Ordering::Relaxed) {
                self.went_down(&why);
            }
            last = why;
        }
        if passed == 0 { Err(last) } else { Ok(()) }
    }

    async fn probe(&self, link: &mut RedisConnection, cmd: &redis::Cmd) -> Result<(), String> {
        probe(link, cmd, self.settings.timeout).await
    }

    /// Returns the keys that probe each part of a cluster.
    fn probes(&self) -> Vec<Vec<String>> {
        if !self.is_cluster() {
            return Vec::new();
        }
        let parts = usize::from(super::links::PARTS);
        let step = usize::from(super::slots::SLOTS) / (parts * PROBES);
        let mut keys: Vec<Option<String>> = vec![None; parts * PROBES];
        let mut number = 0_u32;
        while keys.iter().any(Option::is_none) {
            let key = format!("{}probe:{number}", self.settings.prefix);
            let place = &mut keys[usize::from(slot(key.as_bytes())) / step];
            place.get_or_insert(key);
            number += 1;
        }
        let keys: Vec<String> = keys.into_iter().flatten().collect();
        keys.chunks(PROBES).map(<[String]>::to_vec).collect()
    }
}

/// Returns true if most sentinels name another master than that of these connections.
async fn has_moved(links: &Connections, maker: Option<&mut ClientFactory>) -> bool {
    let Some(maker) = maker else { return false };
    let current = links.master.as_ref();
    let named = maker.instance(current).await.ok().flatten();
    named.is_some_and(|named| current != Some(at(&named)))
}

/// Sends a command up to three times, with the deadline of a request's command.
async fn probe(
    link: &mut RedisConnection,
    cmd: &redis::Cmd,
    limit: Duration,
) -> Result<(), String> {
    let mut why = String::new();
    for _ in 0..MAX_FAILURES {
        match timeout(patience(limit), link.send(cmd)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => return refused(&error),
            Err(_elapsed) => why = format!("no response within {}", Span(limit)),
        }
    }
    Err(why)
}

/// Treats a refused command as success: other commands may be permitted.
fn refused(error: &RedisError) -> Result<(), String> {
    match Problem::classify(error) {
        Problem::Response(why) => {
            log::debug!(error = why; "redis rejected the health check");
            Ok(())
        }
        Problem::Timeout => Err(error.to_string()),
        Problem::Connection(why) | Problem::ReadOnly(why) => Err(why),
    }
}

/// Waits before each attempt: none, then from [`MIN_DELAY`] doubling to [`MAX_DELAY`], each randomly
/// shortened by up to half, so that gateways do not reconnect in step.
#[derive(Default)]
struct Backoff(u32);

impl Backoff {
    /// Returns the next wait; `chance` is from 0 to 1.
    fn next(&mut self, chance: f64) -> Duration {
        let attempt = self.0;
        self.0 = self.0.saturating_add(1);
        if attempt == 0 {
            return Duration::ZERO;
        }
        let factor = 2_u32.saturating_pow(attempt - 1);
        let delay = MIN_DELAY.saturating_mul(factor).min(MAX_DELAY);
        delay.mul_f64(0.5 + chance / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_begin_at_once_and_grow_rare() {
        let mut waits = Backoff::default();
        let millis: Vec<u128> = (0..8).map(|_| waits.next(1.0).as_millis()).collect();
        assert_eq!(millis, [0, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(waits.next(0.0).as_millis(), 1000);
    }
}
