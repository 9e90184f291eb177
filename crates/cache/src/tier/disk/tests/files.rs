//! Tests of the files of entries and of their index.

use super::*;

/// Returns the number of files on disk, and in the index.
fn counted(bench: &Bench) -> (usize, usize) {
    let folders = std::fs::read_dir(bench.open.folder.objects()).unwrap();
    let files = folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count());
    (files.sum(), bench.open.count().0)
}

#[test]
fn a_response_from_the_future_has_no_age_and_is_dropped() {
    let bench = bench();
    let names = [FileName::new(&key("/a"), Variance::default())];
    let requested_at = bench.clock.wall();
    for (back, dropped) in [(59, None), (62, Some(RemovalReason::Expired))] {
        assert!(bench.write("/a", 1));
        let now = requested_at - Duration::from_secs(back);
        let reading = bench.open.read(&names, &key("/a"), 8 * MIB, now).unwrap();
        assert_eq!(reading.decoded.is_some(), dropped.is_none(), "{back}");
        assert_eq!(reading.dropped, Vec::from_iter(dropped), "{back}");
    }
}

#[test]
fn files_that_cannot_be_removed_are_still_counted() {
    let bench = bench();
    for path in ["/a", "/b", "/c"] {
        assert!(bench.write(path, 1));
    }
    // `remove_file` fails on a folder.
    let file = bench.file("/a");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let mut dropped = Vec::new();
    bench.open.shrink(2 * 4096, &mut dropped).unwrap_err();
    assert_eq!((bench.open.count(), dropped.len()), ((3, 3 * 4096), 0));
    // Others are evicted before it then.
    assert!(bench.open.shrink(2 * 4096, &mut dropped).unwrap());
    assert_eq!((bench.open.count(), dropped.len()), ((2, 2 * 4096), 1));
    assert!(!bench.file("/b").exists() && bench.file("/c").exists());
}

#[test]
fn what_cannot_be_read_is_one_miss() {
    let bench = bench();
    let plant: [fn(&Path); 3] = [
        |path| std::fs::create_dir(path).unwrap(),
        |path| std::os::unix::fs::symlink("/etc/hostname", path).unwrap(),
        // Opening it would block.
        |path| {
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        },
    ];
    for (number, plant) in plant.iter().enumerate() {
        assert!(bench.write("/a", 1) && bench.write("/b", 1));
        let path = bench.file("/a");
        std::fs::remove_file(&path).unwrap();
        plant(&path);
        let reading = bench.read("/a");
        assert!(reading.decoded.is_none(), "{number}");
        assert_eq!(reading.dropped, [RemovalReason::Damaged], "{number}");
        assert!(path.symlink_metadata().is_err(), "{number}");
        assert!(bench.is_there("/b"), "{number}");
    }
}

#[test]
fn a_budget_shrinks_some_files_at_a_time() {
    let bench = bench();
    for number in 0..1030 {
        assert!(bench.write(&format!("/{number}"), 1));
    }
    let mut dropped = Vec::new();
    assert!(!bench.open.shrink(4096, &mut dropped).unwrap());
    assert_eq!((bench.open.count().0, dropped.len()), (6, 1024));
    assert!(bench.open.shrink(4096, &mut dropped).unwrap());
    assert_eq!(counted(&bench), (1, 1));
}

#[test]
fn everything_may_be_purged_while_a_folder_is_walked() {
    let mut bench = bench();
    for round in 0..edgeway_testkit::cases(8, 20) {
        for number in 0..100 {
            assert!(bench.write(&format!("/{number}"), bench.open.position()));
        }
        bench.restart();
        let walking = Arc::clone(&bench.open);
        let walking = std::thread::spawn(move || walking.walk());
        for _ in 0..round * 50 {
            std::thread::yield_now();
        }
        bench.note(&PurgeTarget::All);
        bench.open.empty().unwrap();
        bench.open.sweep().unwrap();
        walking.join().unwrap().unwrap();
        assert!(bench.open.is_walked());
        assert_eq!(counted(&bench), (0, 0), "{round}");
    }
}
