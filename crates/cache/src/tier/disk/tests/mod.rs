//! Tests of the content that is read back after a crash at any moment.

mod files;
mod ledger;
mod process;

use std::{collections::HashMap, path::Path};

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;

use super::{
    journal::{AppendError, Journal, Record},
    ledger::DiskLedger,
    metrics::RemovalReason,
    *,
};
use crate::{
    policy::Lifetime,
    purge::{Id, Position, PurgeLink, PurgeTarget, stamps::WriteChange},
    store::{EntryDraft, EntryRules, RouteRules},
};

const MIB: u64 = 1 << 20;

struct Bench {
    temp: TempDir,
    store: &'static Store,
    clock: Clock,
    open: Arc<OpenDisk>,
}

fn bench() -> Bench {
    let temp = tempfile::tempdir().unwrap();
    let clock = Clock::test();
    let store = Store::new(64 * MIB, clock.clone(), &Metrics::default());
    let open = opened(temp.path());
    Bench {
        temp,
        store,
        clock,
        open,
    }
}

fn opened(folder: &Path) -> Arc<OpenDisk> {
    Arc::new(OpenDisk::take(&folder.join("cache")).unwrap())
}

fn key(path: &str) -> Key {
    Key::new("https", "shop", path.as_bytes(), None, b"extra\n")
}

impl Bench {
    fn entry(&self, key: &Key, tags: &[&str], vary: Vary, variance: Variance) -> Arc<Entry> {
        let draft = EntryDraft {
            key: key.clone(),
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            lifetime: Lifetime {
                response_time: self.clock.wall(),
                initial_age: Duration::ZERO,
                fresh_for: Duration::from_mins(1),
                stale_while_revalidate: Duration::ZERO,
                stale_if_error: Duration::ZERO,
                always_validate: false,
                must_revalidate: false,
            },
            vary,
            variance,
            about: EntryRules {
                route: Arc::new(RouteRules {
                    name: "r".into(),
                    max_object: 8 * MIB,
                    quota: None,
                    keeps_private: false,
                    rules: None,
                }),
                tags: tags.iter().map(|tag| (*tag).into()).collect(),
                is_compressible: false,
            },
            mark: self.store.mark(),
        };
        // Later than all existing ones.
        self.clock.advance(Duration::from_millis(1));
        let body = Bytes::from_static(b"body");
        self.store.insert(&draft, &[body]).expect("there is room")
    }

    /// Writes an entry. Returns true if it was written.
    fn write(&self, path: &str, position: u64) -> bool {
        let entry = self.entry(&key(path), &["t"], Vary::Nothing, Variance::default());
        let written = self.open.write(&entry, position, 64 * MIB, &mut Vec::new());
        written.unwrap().is_ok()
    }

    fn read(&self, path: &str) -> ReadOutcome {
        self.read_of(path, &HeaderMap::new())
    }

    fn read_of(&self, path: &str, headers: &HeaderMap) -> ReadOutcome {
        let key = key(path);
        let names = self.open.candidates(names(&self.open, &key, headers));
        let now = self.clock.wall();
        self.open.read(&names, &key, 8 * MIB, now).unwrap()
    }

    fn is_there(&self, path: &str) -> bool {
        self.read(path).decoded.is_some()
    }

    fn note(&self, target: &PurgeTarget) {
        for stamp in Stamp::for_target(target) {
            self.open.note(&stamp);
        }
    }

    /// Ends the process; another one takes the folder.
    fn restart(&mut self) {
        // As if the process was killed: unflushed records are lost.
        self.open.close();
        self.open = opened(self.temp.path());
    }

    fn file(&self, path: &str) -> std::path::PathBuf {
        let (folder, file) = FileName::new(&key(path), Variance::default()).file();
        self.open.folder.objects().join(folder).join(file)
    }
}

#[test]
fn flushed_purges_hold_after_a_restart_and_purge_nothing_else() {
    let mut bench = bench();
    let kinds = [
        PurgeTarget::Url("https://shop/a".into()),
        PurgeTarget::Url("/a".into()),
        PurgeTarget::Prefix("/a".into()),
        PurgeTarget::Prefix("shop/a".into()),
        PurgeTarget::Tag("t".into()),
        PurgeTarget::All,
    ];
    for (number, target) in kinds.iter().enumerate() {
        let position = bench.open.position();
        assert!(bench.write("/a", position) && bench.write("/b", position));
        bench.restart();
        assert!(bench.is_there("/a") && bench.is_there("/b"), "{target:?}");
        bench.note(target);
        assert!(bench.write("/b", bench.open.position()));
        bench.open.flush().unwrap();
        if number % 2 == 0 {
            // With or without a lookup in the meantime.
            assert!(!bench.is_there("/a"), "{target:?}");
        }
        bench.restart();
        if number % 3 == 0 {
            bench.open.walk().unwrap();
        }
        assert!(!bench.is_there("/a"), "{target:?}");
        assert!(bench.is_there("/b"), "{target:?}");
        // About to be written while it was purged.
        assert!(!bench.write("/a", position), "{target:?}");
    }
}

#[test]
fn a_purge_of_all_takes_the_files_along() {
    let mut bench = bench();
    assert!(bench.write("/a", 1));
    bench.note(&PurgeTarget::All);
    assert!(bench.open.is_to_be_emptied());
    bench.open.flush().unwrap();
    bench.open.empty().unwrap();
    assert!(!bench.file("/a").exists());
    assert!(bench.write("/a", bench.open.position()));
    assert!(bench.open.begin_to_sweep());
    bench.open.sweep().unwrap();
    let trash = bench.open.folder.base.join("trash");
    assert_eq!(std::fs::read_dir(trash).unwrap().count(), 0);
    bench.restart();
    assert!(bench.is_there("/a"));
}

#[test]
fn an_entry_is_written_no_sooner_than_its_position_is_for_good() {
    let mut bench = bench();
    bench.note(&PurgeTarget::Url("/x".into()));
    let position = bench.open.position();
    assert!(bench.write("/a", position));
    // The write has flushed it.
    bench.restart();
    assert_eq!(bench.open.position(), position);
    assert!(bench.is_there("/a"));
}

#[test]
fn damage_of_any_kind_is_dropped_and_never_served() {
    let bench = bench();
    let changes: [fn(&mut Vec<u8>); 6] = [
        |bytes| bytes.clear(),
        |bytes| bytes.truncate(20),
        |bytes| bytes.truncate(bytes.len() - 1),
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        // The position among purges.
        |bytes| bytes[31] ^= 1,
        // The version of the encoding.
        |bytes| bytes[36] ^= 3,
    ];
    for (number, change) in changes.iter().enumerate() {
        assert!(bench.write("/a", 1));
        let path = bench.file("/a");
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let reading = bench.read("/a");
        assert!(reading.decoded.is_none(), "{number}");
        assert_eq!(reading.dropped, [RemovalReason::Damaged], "{number}");
        assert!(!path.exists(), "{number}");
    }
    // The control.
    assert!(bench.write("/a", 1));
    assert!(bench.is_there("/a"));
}

#[test]
fn every_flipped_byte_is_noticed() {
    let bench = bench();
    assert!(bench.write("/a", 1));
    let path = bench.file("/a");
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, damaged).unwrap();
        assert!(!bench.is_there("/a"), "{at}");
    }
}

#[test]
fn the_file_of_another_key_is_a_miss() {
    let bench = bench();
    assert!(bench.write("/a", 1) && bench.write("/b", 1));
    std::fs::rename(bench.file("/a"), bench.file("/b")).unwrap();
    assert_eq!(bench.read("/b").dropped, [RemovalReason::Damaged]);
}

#[test]
fn entries_without_their_journal_are_dropped() {
    let mut bench = bench();
    assert!(bench.write("/a", 1));
    let original = std::fs::read(bench.file("/a")).unwrap();
    std::fs::remove_file(bench.open.folder.base.join("journal")).unwrap();
    bench.restart();
    assert!(!bench.is_there("/a"));
    // Not even if a file is put back.
    let path = bench.file("/a");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, original).unwrap();
    assert_eq!(bench.read("/a").dropped, [RemovalReason::Damaged]);
}

#[test]
fn variants_are_found_by_lists_that_survive() {
    let mut bench = bench();
    let language = HeaderName::from_static("accept-language");
    let vary = Vary::Fields([language.clone()].into());
    let request = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(language.clone(), value.parse().unwrap());
        headers
    };
    for value in ["de", "fr"] {
        let variance = vary.variance(&request(value));
        let entry = bench.entry(&key("/a"), &[], vary.clone(), variance);
        let written = bench.open.write(&entry, 1, 64 * MIB, &mut Vec::new());
        assert!(written.unwrap().is_ok());
    }
    bench.open.flush().unwrap();
    bench.restart();
    for is_walked in [false, true] {
        if is_walked {
            bench.open.walk().unwrap();
        }
        for value in ["de", "fr"] {
            let read = bench.read_of("/a", &request(value));
            assert!(read.decoded.is_some(), "{value}");
        }
        assert!(bench.read_of("/a", &request("it")).decoded.is_none());
        assert!(!bench.is_there("/a"));
    }
}

#[test]
fn the_budget_holds_over_restarts_and_the_newest_stay() {
    let mut bench = bench();
    for number in 0..8 {
        let path = format!("/{number}");
        let entry = bench.entry(&key(&path), &[], Vary::Nothing, Variance::default());
        let mut dropped = Vec::new();
        let written = bench.open.write(&entry, 1, 5 * 4096, &mut dropped);
        assert!(written.unwrap().is_ok());
        assert_eq!(dropped.len(), usize::from(number >= 5), "{number}");
        let file = std::fs::File::open(bench.file(&path)).unwrap();
        file.set_modified(bench.clock.wall()).unwrap();
    }
    assert_eq!(bench.open.count(), (5, 5 * 4096));
    // Partial files are removed; foreign files stay and are not counted.
    let objects = bench.open.folder.objects();
    let (partial, other) = (objects.join("00/x.tmp"), objects.join("00/README"));
    std::fs::create_dir_all(objects.join("00")).unwrap();
    std::fs::write(&partial, "x").unwrap();
    std::fs::write(&other, "x").unwrap();
    bench.restart();
    bench.open.walk().unwrap();
    assert_eq!(bench.open.count(), (5, 5 * 4096));
    assert!(!partial.exists() && other.exists());
    // Used last, and so evicted last.
    bench.clock.advance(Duration::from_secs(5));
    assert!(bench.is_there("/3"));
    let mut dropped = Vec::new();
    bench.open.shrink(2 * 4096, &mut dropped).unwrap();
    assert_eq!(dropped.len(), 3);
    let left = |bench: &Bench| -> Vec<String> {
        let all = (0..8).map(|number| format!("/{number}"));
        all.filter(|path| bench.file(path).exists()).collect()
    };
    assert_eq!(left(&bench), ["/3", "/7"]);
    bench.restart();
    bench.open.walk().unwrap();
    bench.open.shrink(4096, &mut dropped).unwrap();
    assert_eq!(left(&bench), ["/3"]);
}

#[test]
fn expired_entries_are_removed() {
    let bench = bench();
    assert!(bench.write("/a", 1));
    bench.clock.advance(Duration::from_secs(61));
    assert_eq!(bench.read("/a").dropped, [RemovalReason::Expired]);
    assert!(!bench.file("/a").exists());
}

#[test]
fn purges_of_a_process_without_the_folder_are_taken_over() {
    let mut bench = bench();
    assert!(bench.write("/a", 1) && bench.write("/b", 1));
    let folder = bench.open.folder.deferred();
    let stamps = Stamp::for_target(&PurgeTarget::Url("/a".into()));
    let path = deferred_purges::leave(&folder, &stamps).unwrap();
    assert!(bench.open.take_deferred().unwrap());
    assert!(!path.exists());
    bench.restart();
    assert!(!bench.is_there("/a") && bench.is_there("/b"));
    // Without a running process, the next one that opens the folder takes them over.
    deferred_purges::leave(&folder, &[Stamp::All]).unwrap();
    bench.restart();
    assert!(!bench.is_there("/b"));
}

#[test]
fn a_full_journal_is_written_again() {
    let mut bench = bench();
    assert!(bench.write("/a", 1) && bench.write("/b", 1));
    bench.note(&PurgeTarget::Url("/a".into()));
    // More than fit into one file.
    for number in 0..60_u32 {
        for more in 0..2000_u32 {
            let digest = u128::from(number * 2000 + more % 40).to_be_bytes();
            bench.open.note(&Stamp::Everywhere(digest));
        }
        bench.open.flush().unwrap();
    }
    let journal = bench.open.folder.base.join("journal");
    assert_eq!(std::fs::metadata(&journal).unwrap().len(), 4 * MIB);
    bench.restart();
    assert!(!bench.is_there("/a") && bench.is_there("/b"));
}

#[test]
fn entries_older_than_forgotten_purges_count_as_purged() {
    let mut bench = bench();
    assert!(bench.write("/a", bench.open.position()));
    for number in 0..50_001_u128 {
        bench.open.note(&Stamp::Everywhere(number.to_be_bytes()));
    }
    assert!(bench.write("/b", bench.open.position()));
    bench.open.flush().unwrap();
    bench.restart();
    assert!(!bench.is_there("/a") && bench.is_there("/b"));
}

proptest! {
    /// Invariant: after a purge is durable, no entry that it affects is read again, in whatever
    /// order entries are written and purged, and wherever the process ends.
    #[test]
    fn nothing_that_was_purged_comes_back(steps in vec((0_u8..12, 0_usize..4), 1..60)) {
        let mut bench = bench();
        // Positions of requests; positions of purges since; and purges that may not be durable.
        let mut requested: HashMap<usize, u64> = HashMap::new();
        let mut purged: HashMap<usize, u64> = HashMap::new();
        let mut unflushed: Vec<(usize, u64)> = Vec::new();
        let path = |number: usize| format!("/{number}/x");
        for (step, number) in steps {
            match step {
                0..3 => {
                    // The response may take a long time.
                    requested.entry(number).or_insert_with(|| bench.open.position());
                }
                3..6 => {
                    if let Some(position) = requested.remove(&number) {
                        let may = purged.get(&number).is_none_or(|at| *at <= position);
                        prop_assert_eq!(bench.write(&path(number), position), may);
                    }
                }
                6 => bench.note(&PurgeTarget::Url(path(number))),
                7 => bench.note(&PurgeTarget::Prefix(format!("/{number}/"))),
                8 => bench.open.flush().unwrap(),
                9 => bench.open.walk().unwrap(),
                10 => bench.note(&PurgeTarget::All),
                _ => {
                    let lost = bench.open.noted();
                    let is_flushed = bench.open.is_synced(lost);
                    bench.restart();
                    requested.clear();
                    // Purges that were never reported as done may be lost.
                    if !is_flushed {
                        let saved = bench.open.position();
                        purged.retain(|_, at| *at <= saved);
                    }
                }
            }
            if matches!(step, 6 | 7) {
                purged.insert(number, bench.open.position());
                unflushed.push((number, bench.open.position()));
            }
            if step == 10 {
                (0..4).for_each(|number| {
                    purged.insert(number, bench.open.position());
                });
            }
            for number in 0..4 {
                let reading = bench.read(&path(number));
                if reading.decoded.is_some() {
                    let file = std::fs::read(bench.file(&path(number))).unwrap();
                    let position = u64::from_be_bytes(*file[24..32].first_chunk().unwrap());
                    let at = purged.get(&number).copied().unwrap_or(0);
                    prop_assert!(at <= position, "{number}: purged at {at}, requested at {position}");
                }
            }
        }
    }
}
