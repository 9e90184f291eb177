//! Tests of one process and the folders that it opens one after the other.

use super::*;

struct Process {
    disk: Arc<Disk>,
    bench: Bench,
}

fn process() -> Process {
    let bench = bench();
    let disk = Arc::new(Disk::new(bench.store, &bench.clock, &Metrics::default()));
    Process { disk, bench }
}

impl Process {
    fn settings(&self, folder: &str) -> DiskSettings {
        DiskSettings {
            folder: self.bench.temp.path().join(folder),
            size: 64 * MIB,
            max_object: 8 * MIB,
        }
    }

    fn open(&self, folder: &str) -> Arc<OpenFolder> {
        let settings = self.settings(folder);
        self.disk.settings.store(Some(Arc::new(settings.clone())));
        let open = OpenDisk::take(&settings.folder).unwrap();
        self.disk.begin(open, &settings)
    }

    /// Simulates that the folder vanishes.
    fn lose(&self, opened: &OpenFolder) {
        self.disk.end(opened);
        opened.open.close();
    }

    fn purge(&self) {
        self.disk
            .purged(&Stamp::for_target(&PurgeTarget::Url("/x".into()))[0]);
    }
}

/// Returns true if all entries of the folder count as purged.
fn is_all_purged(opened: &OpenFolder) -> bool {
    opened.open.is_to_be_emptied()
}

#[tokio::test]
async fn a_folder_released_with_all_purges_is_as_it_was() {
    let process = process();
    let first = process.open("a");
    process.purge();
    process.disk.leave(&first).await;
    assert!(!process.disk.owes());
    process.purge();
    assert!(process.disk.owes());
    let second = process.open("a");
    assert!(!is_all_purged(&second));
    assert_eq!(second.open.position(), first.open.position() + 1);
    second.open.flush().unwrap();
    process.lose(&second);
    assert!(!process.disk.owes());
    assert!(!is_all_purged(&process.open("a")));
}

#[test]
fn a_folder_that_was_lost_before_its_journal_had_all_purges_is_emptied() {
    let process = process();
    let first = process.open("a");
    process.purge();
    process.lose(&first);
    assert!(process.disk.owes());
    assert!(is_all_purged(&process.open("a")));
}

#[test]
fn a_folder_that_comes_back_in_the_place_of_another_is_emptied() {
    let process = process();
    let path = |name: &str| process.bench.temp.path().join(name);
    let first = process.open("a");
    process.lose(&first);
    // As if a volume vanishes and comes back later.
    std::fs::rename(path("a"), path("away")).unwrap();
    let second = process.open("a");
    process.purge();
    second.open.flush().unwrap();
    process.lose(&second);
    std::fs::rename(path("a"), path("b")).unwrap();
    std::fs::rename(path("away"), path("a")).unwrap();
    assert!(is_all_purged(&process.open("a")));
}

#[tokio::test]
async fn purges_of_a_process_that_never_had_the_folder_reach_its_owner() {
    let process = process();
    let bench = &process.bench;
    assert!(bench.write("/x", 1) && bench.write("/y", 1));
    let settings = process.settings("cache");
    process.disk.settings.store(Some(Arc::new(settings)));
    process.purge();
    assert!(process.disk.owes());
    process.disk.pass_on().await;
    assert!(process.disk.owes(), "nobody may be there");
    process.disk.set(State::Busy, None);
    process.disk.pass_on().await;
    assert!(!process.disk.owes());
    assert!(bench.open.take_deferred().unwrap());
    assert!(!bench.is_there("/x") && bench.is_there("/y"));
    // Later purges too.
    process.disk.purged(&Stamp::All);
    let settling = process.disk.settle();
    let taking = async {
        while !bench.open.take_deferred().unwrap() {
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(settling, taking);
    assert!(!bench.is_there("/y"));
}

#[test]
fn openings_are_distinguished_however_many_there_are() {
    let process = process();
    let mut before = process.open("a");
    for epoch in [127, 128, 129, 255, 256, EPOCHS - 1] {
        let old = process.bench.store.mark().disk;
        assert!(before.position(old).is_some(), "{epoch}");
        before.open.flush().unwrap();
        process.lose(&before);
        process.disk.epochs.store(epoch, Ordering::SeqCst);
        let opened = process.open("a");
        let mark = process.bench.store.mark().disk;
        assert_eq!(opened.position(mark), Some(opened.open.position()));
        assert_eq!(opened.position(old), None, "{epoch}");
        before = opened;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_known_to_hang_is_not_waited_for() {
    let process = process();
    let opened = process.open("a");
    process.disk.set(State::Up, None);
    let hanging = Arc::clone(&process.disk.flushing).lock_owned().await;
    process.purge();
    let began = tokio::time::Instant::now();
    process.disk.settle().await;
    assert_eq!(began.elapsed(), PURGE_TIMEOUT);
    process.disk.set(State::Down(FolderFault::Slow), None);
    let began = tokio::time::Instant::now();
    process.disk.settle().await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(!opened.open.is_synced(opened.open.noted()));
    drop(hanging);
    // The flush is tried all the same.
    process.disk.settle().await;
    let _turn = process.disk.flushing.lock().await;
    assert!(opened.open.is_synced(opened.open.noted()));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_respond_is_left_alone_for_a_while() {
    let process = process();
    let _opened = process.open("a");
    process.disk.is_caught_up.store(true, Ordering::SeqCst);
    process.disk.set(State::Up, None);
    let all = u32::try_from(READS).unwrap();
    let hanging = Arc::clone(&process.disk.reads).acquire_many_owned(all);
    let _hanging = hanging.await.unwrap();
    for waited in [READ_TIMEOUT, READ_TIMEOUT, READ_TIMEOUT, Duration::ZERO] {
        let began = tokio::time::Instant::now();
        let loaded = process.disk.load(&key("/a"), &HeaderMap::new()).await;
        assert!(loaded.is_none());
        assert_eq!(began.elapsed(), waited);
    }
    let state = process.disk.health.state();
    assert_eq!(state, State::Down(FolderFault::Slow));
}

/// Supervises a disk that the configuration does not have.
async fn without_a_folder(process: &Process) {
    let (store, clock) = (process.bench.store, &process.bench.clock);
    let metrics = Metrics::default();
    let caches = Arc::new(crate::tier::Tiers::new(store, clock, &metrics));
    let link = PurgeLink::new("a", caches, clock, &metrics);
    let supervising = process.disk.supervise(None, &link, false);
    let ended = timeout(Duration::from_millis(10), supervising).await;
    assert!(ended.is_err());
}

fn waiting_writes(process: &Process) -> usize {
    let waiting = process.disk.deferred.waiting.lock();
    waiting.purges.purges(Kind::Write).count()
}

#[tokio::test]
async fn writes_are_not_listed_for_a_folder_that_the_configuration_lacks() {
    let mut process = process();
    assert!(process.bench.write("/x", 1));
    process.bench.open.close();
    let write = |host: &str, number: usize| {
        let target = PurgeTarget::Written(format!("https://{host}/{number}"));
        process.disk.purged(&Stamp::for_target(&target)[0]);
    };
    // At the start, the folder of the configuration is not known yet.
    write("other", 0);
    assert_eq!(waiting_writes(&process), 1);
    without_a_folder(&process).await;
    for number in 0..1000 {
        write("other", number);
    }
    assert_eq!(waiting_writes(&process), 1);
    assert!(process.disk.owes());
    // Of a folder that a reload names, the written hosts are lost.
    let is_kept = |process: &mut Process| {
        let opened = process.open("cache");
        process.bench.open = Arc::clone(&opened.open);
        let is_there = process.bench.is_there("/x");
        process.lose(&opened);
        is_there
    };
    assert!(is_kept(&mut process));
    without_a_folder(&process).await;
    let target = PurgeTarget::Written("https://shop/elsewhere".to_owned());
    process.disk.purged(&Stamp::for_target(&target)[0]);
    assert!(!is_kept(&mut process));
}
