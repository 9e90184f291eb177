//! Predecessors that are still draining: the reports they send us, the commands we send them, and
//! the same with our successor.
//!
//! Each predecessor has its own pair of sockets. Our end passes from successor to successor, and the
//! other one closes with the process, so the process that serves knows of all of them.

use std::{
    collections::BTreeMap,
    future::pending,
    io,
    os::{fd::OwnedFd, unix::net},
    sync::{Arc, OnceLock},
    time::Duration,
};

use edgeway_base::clock::rfc3339;
use edgeway_cache::{
    Cache,
    purge::{Purge, PurgeSource, SuccessorPurge},
};
use edgeway_net::tasks::Tasks;
use edgeway_proxy::live::Live;
use edgeway_status::{
    actions::NewBan,
    sessions::{EndedSession, Sessions},
    snapshot::Predecessor,
};
use log::{debug, info, warn};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{oneshot, watch},
};

use super::{bans, purges};

/// Interval of reports from a draining process. A script that waits for a drained backend restarts
/// its app once no request is in flight here either.
const TELL: Duration = Duration::from_millis(250);

/// Time limit for a draining process to confirm a command.
const CONFIRMS_WITHIN: Duration = Duration::from_secs(2);

/// All predecessors that are left, the oldest first.
#[derive(Default)]
pub(super) struct Predecessors {
    left: Mutex<Vec<RemainingPredecessor>>,
    readers: Tasks,
    count: watch::Sender<usize>,
    /// True until the process that started us reports that everything is ours.
    is_awaited: watch::Sender<bool>,
    /// Called with each note of a predecessor.
    heeds: OnceLock<Box<NoteHandler>>,
    /// Held until a command is confirmed, so that two are not confused.
    telling: tokio::sync::Mutex<()>,
}

type NoteHandler = dyn Fn(SuccessorNote) + Send + Sync;

/// Removal in a draining process of something that its successor has inherited.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum SuccessorNote {
    Purge(SuccessorPurge),
    Session(EndedSession),
    /// A note that another process has read in part: it may have been any of them.
    #[serde(skip)]
    Unknown,
}

/// Command that the process that serves has carried out, for those that still drain, as a line of
/// JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum PredecessorCommand {
    /// Decisions of operators on an upstream.
    Decisions(String, Value),
    Ban(NewBan),
    Unban(String),
    Purge(Vec<Purge>),
}

impl PredecessorCommand {
    async fn carry_out(self, live: &Live) {
        let gateway = live.gateway();
        match self {
            Self::Decisions(upstream, decided) => {
                if let Some(upstream) = gateway.upstreams.get(&*upstream) {
                    upstream.follow(&decided);
                }
            }
            // Refused only if it holds here already.
            Self::Ban(new) => drop(bans::ban(&gateway, &new)),
            Self::Unban(address) => drop(bans::unban(&gateway, &address)),
            Self::Purge(purges) => {
                if let Ok(link) = purges::link(live) {
                    link.apply(&purges, PurgeSource::Gateway).await;
                }
            }
        }
    }
}

struct RemainingPredecessor {
    pipe: Arc<OwnedFd>,
    report: watch::Sender<Option<Predecessor>>,
    /// True once it has not confirmed one in time.
    is_silent: bool,
}

impl Predecessors {
    /// Reads the predecessors' pipes. The last one is the process that started us. `handed_over` is
    /// called once that process reports that everything is ours, or cannot report any more, and
    /// `heeds` with each note of a predecessor.
    pub(super) fn follow(
        self: &Arc<Self>,
        pipes: Vec<OwnedFd>,
        heeds: impl Fn(SuccessorNote) + Send + Sync + 'static,
        handed_over: impl FnOnce() + Send + 'static,
    ) {
        let _first = self.heeds.set(Box::new(heeds));
        let left = pipes.into_iter().map(|pipe| RemainingPredecessor {
            pipe: Arc::new(pipe),
            report: watch::Sender::default(),
            is_silent: false,
        });
        self.left.lock().extend(left);
        self.is_awaited.send_replace(true);
        let this = Arc::clone(self);
        self.read(Some(Box::new(move || {
            handed_over();
            this.is_awaited.send_replace(false);
        })));
    }

    /// Waits until the process that started us has reported that everything is ours, or has ended.
    /// If reading stops before that, this waits for ever.
    pub(super) async fn handed_over(&self) {
        let mut is_awaited = self.is_awaited.subscribe();
        // The sender is a field of `self`, so it outlives this.
        drop(is_awaited.wait_for(|awaited| !*awaited).await);
    }

    fn read(self: &Arc<Self>, mut handed_over: Option<Box<dyn FnOnce() + Send>>) {
        let left = self.left.lock();
        self.count.send_replace(left.len());
        for (index, one) in left.iter().enumerate() {
            let is_last = index + 1 == left.len();
            let mut handed_over = handed_over.take_if(|_| is_last);
            let (this, pipe) = (Arc::clone(self), Arc::clone(&one.pipe));
            self.readers.spawn("predecessor", async move {
                let heard = this.hear(&pipe, &mut handed_over).await;
                if let Err(error) = heard {
                    debug!(error:%; "cannot read from a predecessor");
                }
                if let Some(call) = handed_over {
                    call();
                }
                this.forget(&pipe);
            });
        }
    }

    async fn hear(
        &self,
        pipe: &Arc<OwnedFd>,
        handed_over: &mut Option<Box<dyn FnOnce() + Send>>,
    ) -> io::Result<()> {
        let mut lines = BufReader::new(stream(pipe)?).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some(call) = handed_over.take() {
                call();
            }
            // Notes come first: a `Predecessor` counts absent fields as zero, so it would parse.
            if let (Ok(note), Some(heeds)) = (serde_json::from_str(&line), self.heeds.get()) {
                heeds(note);
                continue;
            }
            let Ok(report) = serde_json::from_str::<Predecessor>(&line) else {
                // The end of a line whose beginning another process of ours has read.
                if let (Err(_), Some(heeds)) =
                    (serde_json::from_str::<IgnoredAny>(&line), self.heeds.get())
                {
                    heeds(SuccessorNote::Unknown);
                }
                continue;
            };
            self.change(pipe, |one| drop(one.report.send_replace(Some(report))));
        }
        Ok(())
    }

    fn change(&self, pipe: &Arc<OwnedFd>, change: impl FnOnce(&mut RemainingPredecessor)) {
        let mut left = self.left.lock();
        if let Some(one) = left.iter_mut().find(|one| Arc::ptr_eq(&one.pipe, pipe)) {
            change(one);
        }
    }

    /// Sends a command to each predecessor, and waits until all have carried it out, or have ended.
    pub(super) async fn tell(&self, command: &PredecessorCommand) {
        if self.left.lock().is_empty() {
            return;
        }
        let _alone = self.telling.lock().await;
        let Ok(mut line) = serde_json::to_vec(command) else {
            return;
        };
        line.push(b'\n');
        let listening = |one: &RemainingPredecessor| {
            (!one.is_silent).then(|| (Arc::clone(&one.pipe), one.report.subscribe()))
        };
        let listening: Vec<_> = self.left.lock().iter().filter_map(listening).collect();
        let count = |report: &Option<Predecessor>| report.as_ref().map_or(0, |it| it.commands);
        for (pipe, mut report) in listening {
            let before = count(&report.borrow());
            let confirming = async {
                stream(&pipe)?.write_all(&line).await?;
                // The sender is dropped with a process that has ended.
                drop(report.wait_for(|report| count(report) > before).await);
                io::Result::Ok(())
            };
            if tokio::time::timeout(CONFIRMS_WITHIN, confirming)
                .await
                .is_err()
            {
                self.change(&pipe, |one| one.is_silent = true);
                warn!("a previous process did not confirm a command, and may not obey it");
            }
        }
    }

    fn forget(&self, pipe: &Arc<OwnedFd>) {
        let mut left = self.left.lock();
        if let Some(index) = left.iter().position(|one| Arc::ptr_eq(&one.pipe, pipe)) {
            let pid = left
                .remove(index)
                .report
                .borrow()
                .as_ref()
                .map_or(0, |report| report.pid);
            info!(pid, left = left.len(); "previous process finished and exited");
        }
        self.count.send_replace(left.len());
    }

    /// The last report of each predecessor.
    pub(super) fn list(&self) -> Vec<Predecessor> {
        let left = self.left.lock();
        left.iter()
            .filter_map(|one| one.report.borrow().clone())
            .collect()
    }

    /// Number of the predecessors' requests in flight to a backend.
    pub(super) fn in_flight(&self, upstream: &str, address: &str) -> u64 {
        let name = backend_name(upstream, address);
        let left = self.left.lock();
        let count = |one: &RemainingPredecessor| {
            let report = one.report.borrow();
            report.as_ref()?.in_flight.get(&name).copied()
        };
        left.iter().filter_map(count).sum()
    }

    /// Waits until the last predecessor has left.
    pub(super) async fn gone(&self) {
        let mut count = self.count.subscribe();
        // The sender is a field of `self`, so it outlives this.
        drop(count.wait_for(|count| *count == 0).await);
    }

    /// Stops reading and returns the pipes for a successor. A line read by one process is lost to
    /// the other.
    pub(super) fn lend(&self) -> io::Result<Vec<OwnedFd>> {
        let left = self.left.lock();
        let lent: io::Result<_> = left.iter().map(|one| one.pipe.try_clone()).collect();
        if lent.is_ok() {
            self.readers.stop();
        }
        lent
    }

    /// Resumes reading after an upgrade has failed.
    pub(super) fn resume(self: &Arc<Self>) {
        self.read(None);
    }

    /// Drops the predecessors, which belong to the successor now.
    pub(super) fn leave(&self) {
        self.left.lock().clear();
        self.count.send_replace(0);
    }
}

/// Sends reports to the successor until this process ends. The first line means that everything is
/// the successor's; `reported` is used once it is written, and dropped if it cannot be.
pub(super) async fn report_to_successor(
    pipe: OwnedFd,
    live: Arc<Live>,
    sessions: Arc<Sessions>,
    reported: oneshot::Sender<()>,
) {
    let (reader, mut pipe) = match stream(&pipe) {
        Ok(stream) => stream.into_split(),
        Err(error) => return debug!(error:%; "cannot tell the successor how much is left"),
    };
    let mut lines = BufReader::new(reader).lines();
    let mut commands = 0;
    let since = rfc3339(live.world.clock.wall());
    let cache = live.gateway().cache.clone();
    let mut tick = tokio::time::interval(TELL);
    let mut reported = Some(reported);
    // The runtime refuses to write until it knows that there is room.
    if let Err(error) = pipe.writable().await {
        return debug!(error:%; "successor exited");
    }
    loop {
        let note = tokio::select! {
            biased;
            _ = tick.tick() => None,
            Ok(Some(line)) = lines.next_line() => {
                if let Ok(command) = serde_json::from_str::<PredecessorCommand>(&line) {
                    command.carry_out(&live).await;
                    commands += 1;
                }
                None
            }
            note = next_purge(cache.as_deref()) => Some(SuccessorNote::Purge(note)),
            ended = sessions.next_ended() => Some(SuccessorNote::Session(ended)),
        };
        if let Some(note) = note {
            let Ok(mut line) = serde_json::to_vec(&note) else {
                continue;
            };
            line.push(b'\n');
            // Written in full, because a note is sent only once.
            if let Err(error) = pipe.write_all(&line).await {
                return debug!(error:%; "successor exited");
            }
            // An older build takes the note for an empty report, so a report follows at once.
            tick.reset_immediately();
            continue;
        }
        let report = Predecessor {
            pid: std::process::id(),
            version: edgeway_base::VERSION.to_owned(),
            connections: u64::try_from(live.connections.open()).unwrap_or(u64::MAX),
            in_flight: in_flight(&live),
            commands,
            since: since.clone(),
        };
        let Ok(mut line) = serde_json::to_vec(&report) else {
            return;
        };
        line.push(b'\n');
        match pipe.try_write(&line) {
            // A partial line is completed, because the next one may be a note.
            Ok(written) => {
                if let Err(error) = pipe.write_all(&line[written..]).await {
                    return debug!(error:%; "successor exited");
                }
                if let Some(reported) = reported.take() {
                    let _is_awaited = reported.send(());
                }
            }
            // The successor does not read. The next report will contain the same and more.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return debug!(error:%; "successor exited"),
        }
    }
}

/// Returns our end of the sockets, which other tasks and processes use as well.
fn stream(pipe: &OwnedFd) -> io::Result<UnixStream> {
    let stream = net::UnixStream::from(pipe.try_clone()?);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn next_purge(cache: Option<&Cache>) -> SuccessorPurge {
    match cache {
        Some(cache) => cache.link().notes.next().await,
        None => pending().await,
    }
}

/// This process's requests in flight, by backend.
fn in_flight(live: &Live) -> BTreeMap<String, u64> {
    let gateway = live.gateway();
    let mut all = BTreeMap::new();
    for upstream in gateway.upstreams.values() {
        let backends = upstream.snapshot().backends.into_iter();
        all.extend(
            backends
                .filter(|backend| backend.in_flight > 0)
                .map(|backend| {
                    let name = backend_name(&upstream.name, &backend.address);
                    (name, backend.in_flight)
                }),
        );
    }
    all
}

fn backend_name(upstream: &str, address: &str) -> String {
    format!("{upstream}/{address}")
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::mpsc;

    use super::*;

    fn pipe() -> (OwnedFd, net::UnixStream) {
        let (read, write) = net::UnixStream::pair().unwrap();
        (read.into(), write)
    }

    async fn until(mut holds: impl FnMut() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        assert!(ended.is_ok(), "waited in vain");
    }

    fn line(pid: u32, connections: usize) -> String {
        format!(
            "{{\"pid\":{pid},\"version\":\"1\",\"connections\":{connections},\
             \"in_flight\":{{\"web/a:1\":{connections}}}}}\n"
        )
    }

    #[tokio::test]
    async fn the_last_report_is_known_until_its_process_ends() {
        let ((first, mut first_writer), (last, mut last_writer)) = (pipe(), pipe());
        let calls = Arc::new(AtomicUsize::new(0));
        let called = Arc::clone(&calls);
        let predecessors = Arc::new(Predecessors::default());
        let (heeds, mut heeded) = mpsc::unbounded_channel();
        let heeds = move |note| heeds.send(note).unwrap();
        predecessors.follow(vec![first, last], heeds, move || {
            called.fetch_add(1, Ordering::Relaxed);
        });
        first_writer.write_all(line(1, 7).as_bytes()).unwrap();
        until(|| predecessors.list().len() == 1).await;
        // The one before the last was succeeded long ago.
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        // It still removes an entry from its cache.
        let note = "{\"removed\":[104,105]}\n{\"ended_session\":\"0a\"}\n";
        first_writer.write_all(note.as_bytes()).unwrap();
        let removed = SuccessorPurge::Removed(b"hi".to_vec());
        let ended = serde_json::from_str("{\"ended_session\":\"0a\"}").unwrap();
        for expected in [SuccessorNote::Purge(removed), SuccessorNote::Session(ended)] {
            assert_eq!(heeded.recv().await, Some(expected));
        }
        // A line of a later version has no meaning for us. The end of a line that another process
        // has begun to read may have been about anything.
        first_writer.write_all(b"\"later\"\n:[104]}\n").unwrap();
        assert_eq!(heeded.recv().await, Some(SuccessorNote::Unknown));
        last_writer.write_all(line(2, 3).as_bytes()).unwrap();
        last_writer.write_all(line(2, 1).as_bytes()).unwrap();
        until(|| {
            predecessors
                .list()
                .iter()
                .any(|p| (p.pid, p.connections) == (2, 1))
        })
        .await;
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert_eq!(predecessors.in_flight("web", "a:1"), 8);
        assert_eq!(predecessors.in_flight("web", "a:2"), 0);
        drop(last_writer);
        until(|| predecessors.list().len() == 1).await;
        assert_eq!(predecessors.in_flight("web", "a:1"), 7);
        assert_eq!(predecessors.list()[0].pid, 1);
        drop(first_writer);
        tokio::time::timeout(Duration::from_secs(10), predecessors.gone())
            .await
            .unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_predecessor_that_dies_before_its_report_leaves_everything_to_us() {
        let (last, writer) = pipe();
        let (call, mut called) = tokio::sync::oneshot::channel();
        let predecessors = Arc::new(Predecessors::default());
        predecessors.follow(vec![last], |_| (), move || call.send(()).unwrap());
        tokio::task::yield_now().await;
        assert!(called.try_recv().is_err());
        let at_once = Duration::ZERO;
        let handed_over = tokio::time::timeout(at_once, predecessors.handed_over());
        assert!(handed_over.await.is_err());
        drop(writer);
        called.await.unwrap();
        predecessors.handed_over().await;
        predecessors.gone().await;
    }

    #[tokio::test]
    async fn a_process_without_a_predecessor_does_not_wait() {
        let predecessors = Predecessors::default();
        predecessors.handed_over().await;
        predecessors.gone().await;
    }

    #[tokio::test]
    async fn a_successor_that_failed_takes_nothing_away() {
        let (first, mut writer) = pipe();
        let predecessors = Arc::new(Predecessors::default());
        predecessors.follow(vec![first], |_| (), || ());
        let lent = predecessors.lend().unwrap();
        assert_eq!(lent.len(), 1);
        drop(lent);
        predecessors.resume();
        writer.write_all(line(1, 5).as_bytes()).unwrap();
        until(|| predecessors.list().len() == 1).await;
    }
}
