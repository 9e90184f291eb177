//! The Lua scripts of cache level 2: cases of a response on its way to Redis.

use crate::support::redis::Redis;

/// The scripts of level 2, run by `redis-cli`.
struct Scripts<'a>(&'a Redis);

impl Scripts<'_> {
    fn run(&self, text: &str, keys: &[&str], args: &[&str]) -> String {
        let text = format!(
            "{}{text}",
            include_str!("../../crates/cache/src/tier/lua/common.lua")
        );
        let count = keys.len().to_string();
        let call = [&["EVAL", &text, &count], keys, args].concat();
        self.0.cli(&call).replace('\n', " ")
    }

    fn tick(&self) -> u64 {
        let text = include_str!("../../crates/cache/src/tier/lua/tick.lua");
        self.run(text, &["position"], &["0"])
            .parse()
            .expect("a position is a number")
    }

    /// Stamps a purge; two digests and two prefixes are kept beside the four members of each set.
    fn stamp(&self, position: u64, stamps: &[&str]) {
        let text = include_str!("../../crates/cache/src/tier/lua/stamp.lua");
        let position = position.to_string();
        let args = [&[position.as_str(), "7", "2"], stamps].concat();
        self.run(text, &["stamps"], &args);
    }

    fn store(&self, position: u64, passed: u64, body: &str) -> String {
        let text = include_str!("../../crates/cache/src/tier/lua/store.lua");
        let (position, passed) = (position.to_string(), passed.to_string());
        let args = [
            &position, &passed, "60000", "64", "0", "", body, "shop/a?x", "5", "hash", "7", "8",
            "u1", "t1",
        ];
        let keys = ["entry", "stamps", "marker", "writes"];
        let response = self.run(text, &keys, &args);
        response.split(' ').next().unwrap_or_default().to_owned()
    }

    /// Records a write.
    fn written(&self, position: u64, key: &str, slot: &str) {
        let text = include_str!("../../crates/cache/src/tier/lua/written.lua");
        let position = position.to_string();
        self.run(text, &["stamps", "writes", key], &[&position, slot]);
    }

    fn load(&self) -> String {
        let text = include_str!("../../crates/cache/src/tier/lua/load.lua");
        let keys = ["entry", "stamps", "marker"];
        let response = self.run(text, &keys, &["99", "hash", "", "0"]);
        let last = response.rsplit(' ').next().unwrap_or_default();
        let first = response.split(' ').next().unwrap_or_default();
        let result = if first == "hit" { last } else { first };
        result.to_owned()
    }
}

#[tokio::test]
async fn a_fill_that_began_before_a_purge_is_neither_written_nor_read_after_it() {
    let redis = Redis::start().await;
    let scripts = Scripts(&redis);
    assert_eq!(
        (&*scripts.store(1, 0, "a"), &*scripts.load()),
        ("lost", "lost")
    );
    scripts.stamp(scripts.tick(), &[]);
    // The position is older than the stamps: purges before them are unknown.
    assert_eq!(scripts.store(1, 0, "a"), "purged");
    for stamp in [
        ["digest", "u1"],
        ["digest", "t1"],
        ["prefix", "shop/"],
        ["prefix", "/a?"],
        ["prefix", ""],
        ["all", ""],
    ] {
        let before = scripts.tick();
        assert_eq!(scripts.store(before, 0, "old"), "stored", "{stamp:?}");
        assert_eq!(scripts.load(), "old", "{stamp:?}");
        scripts.stamp(scripts.tick(), &stamp);
        assert_eq!(scripts.load(), "miss", "{stamp:?}");
        assert_eq!(scripts.store(before, 0, "late"), "purged", "{stamp:?}");
        assert_eq!(scripts.load(), "miss", "{stamp:?}");
        let after = scripts.tick();
        assert_eq!(scripts.store(after, 0, "new"), "stored", "{stamp:?}");
        assert_eq!(scripts.load(), "new", "{stamp:?}");
    }
    // Stamps of other responses.
    for stamp in [["digest", "u2"], ["prefix", "shop/b"], ["prefix", "/b"]] {
        let after = scripts.tick();
        assert_eq!(scripts.store(after, 0, "new"), "stored");
        scripts.stamp(scripts.tick(), &stamp);
        assert_eq!(scripts.load(), "new", "{stamp:?}");
    }
    // A later position that was stamped first is not lost to an earlier one.
    let (one, two) = (scripts.tick(), scripts.tick());
    assert_eq!(scripts.store(one, 0, "one"), "stored");
    scripts.stamp(two, &["digest", "u1"]);
    scripts.stamp(one, &["all", ""]);
    assert_eq!(scripts.load(), "miss");
    // The later response stays, whichever is written last.
    let now = scripts.tick();
    assert_eq!(scripts.store(now, 0, "late"), "stored");
    assert_eq!(scripts.store(now, 5000, "early"), "older");
    assert_eq!(scripts.load(), "late");
}

/// Writes leave nothing behind that grows, and remove only the responses that they apply to.
#[tokio::test]
async fn a_fill_that_began_before_an_unsafe_request_is_neither_written_nor_read_after_it() {
    let redis = Redis::start().await;
    let scripts = Scripts(&redis);
    scripts.stamp(scripts.tick(), &[]);
    for key in ["entry", "marker"] {
        let before = scripts.tick();
        assert_eq!(scripts.store(before, 0, "old"), "stored", "{key}");
        assert_eq!(scripts.load(), "old");
        scripts.written(scripts.tick(), key, "7");
        assert_eq!(scripts.load(), "miss", "{key}");
        assert_eq!(scripts.store(before, 0, "late"), "purged", "{key}");
        assert_eq!(scripts.load(), "miss", "{key}");
        let after = scripts.tick();
        assert_eq!(scripts.store(after, 0, "new"), "stored", "{key}");
        assert_eq!(scripts.load(), "new", "{key}");
        for number in 9..2000 {
            let other = format!("other{number}");
            if number % 100 == 0 {
                scripts.written(scripts.tick(), &other, &(number % 50 + 9).to_string());
            }
        }
        assert_eq!(scripts.load(), "new", "{key}");
    }
    // If Redis has evicted a marker, the entries that it covered count as purged.
    redis.cli(&["DEL", "marker"]);
    assert_eq!(scripts.load(), "miss");
    let now = scripts.tick();
    assert_eq!(scripts.store(now, 0, "again"), "stored");
    assert_eq!(scripts.load(), "again");
    assert!(redis.cli(&["ZCARD", "stamps"]).parse::<u32>().unwrap() <= 4);
}

/// A write elsewhere may share the slot of this URL, and keeps out responses in flight.
#[tokio::test]
async fn a_response_that_is_refused_leaves_no_older_one_behind() {
    let redis = Redis::start().await;
    let scripts = Scripts(&redis);
    scripts.stamp(scripts.tick(), &[]);
    for slot in ["7", "8"] {
        let before = scripts.tick();
        assert_eq!(scripts.store(before, 5000, "older"), "stored", "{slot}");
        scripts.written(scripts.tick(), "elsewhere", slot);
        assert_eq!(scripts.load(), "older", "{slot}");
        assert_eq!(scripts.store(before, 9000, "oldest"), "purged", "{slot}");
        assert_eq!(scripts.load(), "older", "{slot}");
        assert_eq!(scripts.store(before, 0, "newer"), "purged", "{slot}");
        assert_eq!(scripts.load(), "miss", "{slot}");
        let after = scripts.tick();
        assert_eq!(scripts.store(after, 0, "newest"), "stored", "{slot}");
        assert_eq!(scripts.load(), "newest", "{slot}");
        redis.cli(&["DEL", "entry"]);
        // The refused gateway learned of positions long ago, and sent its request a moment ago.
        let lagging = scripts.tick();
        scripts.written(scripts.tick(), "elsewhere", slot);
        let now = scripts.tick();
        assert_eq!(scripts.store(now, 5000, "old"), "stored", "{slot}");
        assert_eq!(scripts.load(), "old", "{slot}");
        assert_eq!(scripts.store(lagging, 9000, "older"), "purged", "{slot}");
        assert_eq!(scripts.load(), "old", "{slot}");
        assert_eq!(scripts.store(lagging, 0, "new"), "purged", "{slot}");
        assert_eq!(scripts.load(), "miss", "{slot}");
        redis.cli(&["DEL", "entry"]);
    }
}

/// A queued response is stored even if stamps are queued too: the stamp removes it.
#[tokio::test]
async fn a_response_stored_before_its_purge_is_stamped_goes_with_the_stamp() {
    let redis = Redis::start().await;
    let scripts = Scripts(&redis);
    scripts.stamp(scripts.tick(), &[]);
    for kind in ["entry", "marker", "u1", "t1", "shop/", "/a?", "all"] {
        let take_out = |position| match kind {
            "entry" | "marker" => scripts.written(position, kind, "7"),
            "u1" | "t1" => scripts.stamp(position, &["digest", kind]),
            "all" => scripts.stamp(position, &["all", ""]),
            prefix => scripts.stamp(position, &["prefix", prefix]),
        };
        // Requested before the purge was recorded, and after its position was taken.
        let before = scripts.tick();
        let purge = scripts.tick();
        assert_eq!(scripts.store(before, 0, "old"), "stored", "{kind}");
        assert_eq!(scripts.load(), "old", "{kind}");
        take_out(purge);
        assert_eq!(scripts.load(), "miss", "{kind}");
        assert_eq!(scripts.store(before, 0, "again"), "purged", "{kind}");
        // An earlier position that arrives later undoes nothing.
        take_out(before);
        assert_eq!(scripts.store(before, 0, "again"), "purged", "{kind}");
        assert_eq!(scripts.load(), "miss", "{kind}");
        let after = scripts.tick();
        assert_eq!(scripts.store(after, 0, "new"), "stored", "{kind}");
        assert_eq!(scripts.load(), "new", "{kind}");
    }
}

#[tokio::test]
async fn stamps_are_bounded_and_older_entries_count_as_purged() {
    let redis = Redis::start().await;
    let scripts = Scripts(&redis);
    scripts.stamp(scripts.tick(), &[]);
    let old = scripts.tick();
    assert_eq!(scripts.store(old, 0, "old"), "stored");
    for number in 0..3 {
        scripts.stamp(scripts.tick(), &["digest", &format!("x{number}")]);
        assert_eq!(scripts.load(), "old", "{number}");
    }
    for number in 3..9 {
        scripts.stamp(scripts.tick(), &["digest", &format!("x{number}")]);
    }
    assert_eq!(scripts.load(), "miss");
    assert!(redis.cli(&["ZCARD", "stamps"]).parse::<u32>().unwrap() <= 8);
    let now = scripts.tick();
    assert_eq!(scripts.store(now, 0, "now"), "stored");
    for number in 0..2 {
        scripts.stamp(scripts.tick(), &["prefix", &format!("/p{number}")]);
        assert_eq!(scripts.load(), "now", "{number}");
    }
    scripts.stamp(scripts.tick(), &["prefix", "/p2"]);
    assert_eq!(scripts.load(), "miss");
}
