//! Tests of the buckets that a table stores, and of its cost.

use serde_json::json;

use super::*;

fn table(max_keys: usize, clock: &Clock) -> BucketTable {
    let forgotten = IntCounter::new("forgotten", "forgotten").unwrap();
    BucketTable::new(max_keys, clock).counting(forgotten)
}

fn forgotten(table: &BucketTable) -> u64 {
    table.forgotten.as_ref().map_or(0, IntCounter::get)
}

fn quota(count: u32, per: &str, burst: u32) -> Quota {
    let per = per.parse::<crate::base::units::Span>().unwrap().0;
    Quota::new(count, per, burst).unwrap()
}

fn key(table: &BucketTable, number: u64) -> Key {
    let mut hasher = table.hashing().begin();
    hasher.part(b'#', &number.to_le_bytes());
    hasher.finish()
}

fn take(table: &BucketTable, number: u64, quota: &Quota) -> Decision {
    let key = key(table, number);
    table.take(key, quota, 1, Duration::ZERO, table.clock.now())
}

fn passes(table: &BucketTable, number: u64, quota: &Quota, requests: u32) -> u32 {
    let passed = (0..requests).filter(|_| take(table, number, quota).passes());
    u32::try_from(passed.count()).unwrap()
}

#[test]
fn each_key_has_a_bucket_of_its_own() {
    let clock = Clock::test();
    let (table, quota) = (table(DEFAULT_MAX_KEYS, &clock), quota(10, "1s", 5));
    for number in 0..1000 {
        assert_eq!(passes(&table, number, &quota, 8), 5);
    }
    assert_eq!(table.len(), 1000);
    clock.advance(Duration::from_millis(200));
    assert_eq!(passes(&table, 7, &quota, 8), 2);
    clock.advance(Duration::from_millis(500));
    assert_eq!(table.len(), 0, "a full bucket is as good as none");
}

#[test]
fn slots_of_full_buckets_serve_others() {
    let clock = Clock::test();
    let (table, quota) = (table(DEFAULT_MAX_KEYS, &clock), quota(10, "1s", 1));
    for number in 0..200_000 {
        take(&table, number, &quota);
        if number % 1000 == 0 {
            clock.advance(Duration::from_millis(100));
        }
    }
    assert!(table.memory() < 300_000, "{}", table.memory());
    assert_eq!(forgotten(&table), 0);
}

#[test]
fn hot_keys_keep_exact_counts_under_a_scan_of_as_many_as_fit() {
    const KEYS: usize = DEFAULT_MAX_KEYS / 8;
    let clock = Clock::test();
    let (table, quota) = (table(KEYS, &clock), quota(100, "1h", 100));
    let hot = 0..100;
    let mut passed = vec![0; 100];
    for number in 0..KEYS as u64 {
        take(&table, 1_000_000 + number, &quota);
        if number % 625 == 0 {
            for hot in hot.clone() {
                passed[usize::try_from(hot).unwrap()] += passes(&table, hot, &quota, 1);
            }
        }
    }
    assert!(passed.iter().all(|passed| *passed == 100), "{passed:?}");
    // As documented: 27 MiB for a million keys.
    assert!(table.memory() <= KEYS * 28, "{}", table.memory());
    // Nearly all of them are still stored.
    let known = table.len();
    assert!(known > KEYS * 85 / 100, "{known}");
    assert!(known as u64 + forgotten(&table) >= KEYS as u64 + 100);
}

#[test]
fn what_is_nearest_to_full_gives_way() {
    let clock = Clock::test();
    let (table, quota) = (table(MIN_KEYS, &clock), quota(100, "1h", 100));
    for number in 0..64 {
        passes(&table, number, &quota, 50);
    }
    for number in 1000..20_000 {
        take(&table, number, &quota);
    }
    assert_eq!(table.memory(), MIN_KEYS * 28);
    assert!(forgotten(&table) > 18_000);
    for number in 0..64 {
        assert_eq!(passes(&table, number, &quota, 60), 50, "{number}");
    }
}

#[test]
fn what_is_given_back_was_never_taken() {
    let clock = Clock::test();
    let (table, quota) = (table(DEFAULT_MAX_KEYS, &clock), quota(1, "1h", 5));
    let (key, now) = (key(&table, 1), clock.now());
    for _ in 0..20 {
        assert!(table.take(key, &quota, 5, Duration::ZERO, now).passes());
        table.give_back(key, &quota, 5, now, now);
    }
    assert_eq!(table.len(), 0);
    assert_eq!(passes(&table, 1, &quota, 10), 5);
}

#[test]
fn a_smaller_table_keeps_the_emptiest_buckets() {
    let clock = Clock::test();
    let (table, quota) = (table(DEFAULT_MAX_KEYS, &clock), quota(100, "1h", 100));
    for number in 0..50_000 {
        take(&table, number, &quota);
    }
    passes(&table, 7, &quota, 89);
    table.resize(1024, Duration::from_hours(1));
    assert!(table.len() <= 1024);
    assert_eq!(table.memory(), 1024 * 28);
    assert_eq!(passes(&table, 7, &quota, 100), 10);
}

#[test]
fn no_bucket_is_further_from_full_than_the_new_rate_has_it() {
    let clock = Clock::test();
    let (table, slow, quick) = (
        table(DEFAULT_MAX_KEYS, &clock),
        quota(5, "1h", 5),
        quota(5, "1s", 5),
    );
    passes(&table, 1, &slow, 5);
    table.resize(DEFAULT_MAX_KEYS, quick.fill());
    assert_eq!(passes(&table, 1, &quick, 1), 0);
    clock.advance(Duration::from_millis(600));
    assert_eq!(passes(&table, 1, &quick, 9), 3);
}

#[test]
fn a_successor_counts_on() {
    let clock = Clock::test();
    let quota = quota(10, "100s", 10);
    let (old, new) = (
        table(DEFAULT_MAX_KEYS, &clock),
        table(DEFAULT_MAX_KEYS, &clock),
    );
    assert_eq!(old.export(), None);
    passes(&old, 1, &quota, 10);
    passes(&old, 2, &quota, 4);
    let exported = old.export().unwrap();
    let read: Value = serde_json::from_str(&exported.to_string()).unwrap();
    // Time passes while the successor starts.
    clock.advance(Duration::from_secs(10));
    new.import(&read);
    assert!(new.hashing() == old.hashing());
    for number in [1, 2, 3] {
        let expected = passes(&old, number, &quota, 10);
        assert_eq!(passes(&new, number, &quota, 10), expected, "{number}");
    }
}

#[test]
fn exports_of_another_version_are_left_out() {
    let clock = Clock::test();
    let quota = quota(10, "100s", 10);
    for exported in [
        json!(null),
        json!({ "at": 1 }),
        json!({ "at": 1, "seed": [1, 2], "buckets": "?" }),
        json!({ "at": u64::MAX, "seed": [1, 2], "buckets": "AAAA" }),
    ] {
        let table = table(DEFAULT_MAX_KEYS, &clock);
        table.import(&exported);
        assert_eq!(passes(&table, 1, &quota, 20), 10);
    }
}

#[test]
fn of_too_many_the_emptiest_are_handed_over() {
    let clock = Clock::test();
    let quota = quota(100, "1h", 100);
    let (old, new) = (
        table(DEFAULT_MAX_KEYS, &clock),
        table(DEFAULT_MAX_KEYS, &clock),
    );
    for number in 0..300_000 {
        take(&old, number, &quota);
    }
    for number in 0..100 {
        passes(&old, number, &quota, 99);
    }
    let exported = old.export().unwrap();
    let size = exported.to_string().len();
    assert!(size < EXPORTED * 24 * 4 / 3 + 200, "{size}");
    new.import(&exported);
    assert!(
        (EXPORTED - SHARDS..=EXPORTED).contains(&new.len()),
        "{}",
        new.len()
    );
    for number in 0..100 {
        assert_eq!(passes(&new, number, &quota, 10), 0, "{number}");
    }
}
