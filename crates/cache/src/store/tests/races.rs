//! Purges race with fills, refreshes and inserts in other threads.

use std::{
    sync::atomic::{AtomicBool, AtomicU64},
    thread,
};

use futures_util::FutureExt;

use super::*;

/// Returns the current response of the origin.
fn draft_of(bench: &Bench, page: &Key, versions: &AtomicU64) -> EntryDraft {
    // The mark is taken before the request.
    let mut draft = bench.tagged(page, &["t"]);
    let version = versions.load(Ordering::SeqCst);
    draft.headers.insert(header::ETAG, version.into());
    draft
}

fn version_of(entry: &Entry) -> u64 {
    entry.headers()[header::ETAG]
        .to_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn write_all(bench: &Bench, page: &Key, versions: &AtomicU64, is_done: &AtomicBool) {
    let body = Bytes::from_static(b"some bytes");
    while !is_done.load(Ordering::SeqCst) {
        let draft = draft_of(bench, page, versions);
        if fastrand::bool() {
            bench.put(&draft, &body);
        }
        let draft = draft_of(bench, page, versions);
        let mut fill = bench.store.begin(&draft);
        let reader = fill.own_reader();
        fill.write(body.clone()).now_or_never().unwrap().unwrap();
        thread::yield_now();
        fill.write(body.clone()).now_or_never().unwrap().unwrap();
        fill.finish().unwrap();
        // Whatever happened to it, its reader gets the whole body.
        let read = read_all(reader).now_or_never().unwrap().unwrap();
        assert_eq!(read.len(), 20);
        let draft = draft_of(bench, page, versions);
        if let Some(old) = bench.get(page).filter(|old| old.is_complete()) {
            bench.store.refresh(&Refresh {
                headers: draft.headers,
                lifetime: old.lifetime(),
                vary: Vary::Nothing,
                variance: Variance(0),
                mark: draft.mark,
                old,
            });
        }
    }
}

#[test]
fn nothing_older_than_a_purge_is_found_after_it() {
    let bench = bench(10 * MIB);
    let page = key("/a");
    let (versions, is_done) = (AtomicU64::new(1), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| write_all(&bench, &page, &versions, &is_done));
        }
        let mut found = 0;
        for round in 0..edgeway_testkit::cases(1000, 5000) {
            let version = versions.fetch_add(1, Ordering::SeqCst) + 1;
            match round % 4 {
                0 => bench.purge(PurgeTarget::Url("/a".into()), PurgeEffect::Hard),
                1 => bench.purge(PurgeTarget::Tag("t".into()), PurgeEffect::Hard),
                2 => bench.purge(
                    PurgeTarget::Prefix("https://shop/".into()),
                    PurgeEffect::Hard,
                ),
                _ => bench.store.remove(&page),
            };
            for _ in 0..3 {
                if let Some(entry) = bench.get(&page) {
                    found += 1;
                    assert!(version_of(&entry) >= version, "round {round}");
                }
                thread::yield_now();
            }
        }
        is_done.store(true, Ordering::SeqCst);
        assert!(found > 0, "there was something to be found at times");
    });
    bench.purge(PurgeTarget::All, PurgeEffect::Hard);
    bench.expect_empty();
}

#[test]
fn concurrent_changes_are_counted_correctly() {
    let bench = bench(MIB);
    thread::scope(|scope| {
        for thread in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for _ in 0..3000 {
                    let page = key(&format!("/{}", random.u8(..40)));
                    match random.u8(..8) {
                        0 => {
                            bench.purge(
                                PurgeTarget::Tag(format!("{}", random.u8(..4))),
                                PurgeEffect::Hard,
                            );
                        }
                        1 => {
                            if let Some(entry) = bench.get(&page) {
                                let form = Bytes::from(vec![1; random.usize(..30_000)]);
                                bench.store.add_form(&entry, Encoding::Gzip, &form);
                                bench.store.add_file(&entry).unwrap();
                            }
                        }
                        _ => {
                            let tag = random.u8(..4).to_string();
                            let mut draft = bench.tagged(&page, &[&tag]);
                            Arc::make_mut(&mut draft.about.route).quota =
                                Some(bench.store.quota(&tag, 300_000));
                            let body = vec![1; random.usize(..100_000)];
                            bench.put(&draft, &body);
                        }
                    }
                }
            });
        }
    });
    assert!(bench.store.bytes() <= MIB, "{}", bench.store.bytes());
    bench.purge(PurgeTarget::All, PurgeEffect::Hard);
    for tag in ["0", "1", "2", "3"] {
        assert_eq!(bench.store.quota(tag, 300_000).used(), 0);
    }
    bench.expect_empty();
}
