//! Key-value storage of plugins, with expiry; each plugin has its own.
//!
//! Values are in the memory of this process, or in the Redis that gateways share. An unavailable
//! Redis is an error that the plugin sees and handles itself.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use edgeway_net::redis::{Redis, Script, cmd};
use parking_lot::Mutex;

use crate::base::{clock::Clock, units::whole_millis};

/// Most keys that a plugin may have in memory.
const MAX_ENTRIES: usize = 10_000;
/// Longest key and value together, in bytes.
const MAX_VALUE_LEN: usize = 64 << 10;
/// Most bytes of all keys and values of a plugin in memory.
const MAX_BYTES: usize = 8 << 20;
/// Longest time to live. Beyond it a value never expires: neither clocks nor Redis count that far.
const MAX_TTL: Duration = Duration::from_hours(100 * 365 * 24);

/// Adds to a number and returns the result, as text: numbers of Lua have 53 bits. A new number gets a
/// time to live. Returns nil if the value is no number: that is no fault of Redis.
const INCREMENT: &str = "
local is_new = redis.call('EXISTS', KEYS[1]) == 0
local now = redis.pcall('INCRBY', KEYS[1], ARGV[1])
if type(now) == 'table' then
  return not (now.err:find('not an integer') or now.err:find('overflow')) and now
end
if is_new and ARGV[2] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return redis.call('GET', KEYS[1])";

/// Problem of a value that cannot be added to.
const NO_NUMBER: &str = "kv: the value is not an integer, or would overflow";

/// Checks that a key and its value are short enough to be stored, in bytes.
pub(super) fn fits(key: usize, text: usize) -> Result<(), String> {
    if key.saturating_add(text) > MAX_VALUE_LEN {
        return Err(format!(
            "a key and its value can have at most {MAX_VALUE_LEN} bytes"
        ));
    }
    Ok(())
}

/// Values of one plugin.
#[derive(Debug)]
pub struct Kv(Store);

#[derive(Debug)]
enum Store {
    Memory(Arc<Memory>),
    Redis(Box<Remote>),
}

#[derive(Debug)]
struct Remote {
    redis: Arc<Redis>,
    prefix: String,
    increment: Script,
}

/// Values in memory.
#[derive(Debug)]
pub struct Memory {
    clock: Clock,
    values: Mutex<Values>,
}

#[derive(Debug, Default)]
struct Values {
    all: HashMap<String, StoredValue>,
    bytes: usize,
}

#[derive(Debug)]
struct StoredValue {
    text: String,
    until: Option<std::time::Instant>,
}

impl Kv {
    pub fn memory(memory: Arc<Memory>) -> Self {
        Self(Store::Memory(memory))
    }

    /// Stores values in Redis, under the name of the plugin.
    pub fn redis(redis: Arc<Redis>, plugin: &str) -> Self {
        let prefix = prefix(redis.prefix(), plugin);
        Self(Store::Redis(Box::new(Remote {
            redis,
            prefix,
            increment: Script::new(INCREMENT),
        })))
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<String>, String> {
        match &self.0 {
            Store::Memory(memory) => Ok(memory.get(key)),
            Store::Redis(remote) => {
                let key = remote.key(key);
                let value = remote.redis.run(&key, cmd("GET").arg(&key)).await;
                value.map_err(unavailable)
            }
        }
    }

    /// Stores a value; it expires after `time`.
    pub(super) async fn put(
        &self,
        key: &str,
        text: String,
        time: Option<Duration>,
    ) -> Result<(), String> {
        fits(key.len(), text.len())?;
        let time = time.filter(|time| *time <= MAX_TTL);
        match &self.0 {
            Store::Memory(memory) => {
                let mut values = memory.values.lock();
                values.put(key, text, time, &memory.clock)
            }
            Store::Redis(remote) => {
                let key = remote.key(key);
                let mut command = cmd("SET");
                command.arg(&key).arg(text);
                if let Some(time) = time {
                    command.arg("PX").arg(whole_millis(time).max(1));
                }
                let stored = remote.redis.run::<()>(&key, &command).await;
                stored.map_err(unavailable)
            }
        }
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), String> {
        match &self.0 {
            Store::Memory(memory) => {
                memory.values.lock().remove(key);
                Ok(())
            }
            Store::Redis(remote) => {
                let key = remote.key(key);
                let removed = remote.redis.run::<u64>(&key, cmd("DEL").arg(&key)).await;
                removed.map(drop).map_err(unavailable)
            }
        }
    }

    /// Adds to a number, zero if absent, and returns the result. `time` is the time to live of a
    /// new number.
    pub(super) async fn increment(
        &self,
        key: &str,
        by: i64,
        time: Option<Duration>,
    ) -> Result<i64, String> {
        let time = time.filter(|time| *time <= MAX_TTL);
        match &self.0 {
            Store::Memory(memory) => memory.increment(key, by, time),
            Store::Redis(remote) => {
                let key = remote.key(key);
                let time = time.map_or(0, |time| whole_millis(time).max(1));
                let args = [by.to_string(), time.to_string()];
                let keys: [&[u8]; 1] = [&key];
                let now = remote.redis.eval(&remote.increment, &keys, &args).await;
                let now: Option<i64> = now.map_err(unavailable)?;
                now.ok_or_else(|| NO_NUMBER.to_owned())
            }
        }
    }
}

/// Returns the prefix of a plugin's keys. It includes the length of the name, so that no name and
/// key together equal another name and key.
fn prefix(all: &str, plugin: &str) -> String {
    format!("{all}kv:{}:{plugin}:", plugin.len())
}

/// Plugins of one configuration that have a kv, by name: each name has one.
#[derive(Debug, Default)]
pub struct Owners(Mutex<HashMap<String, PathBuf>>);

impl Owners {
    /// Returns the file that already has the kv of this name, if that is another file.
    pub fn claim(&self, name: &str, file: &Path) -> Option<PathBuf> {
        let file = file.canonicalize().unwrap_or_else(|_| file.to_path_buf());
        let mut owners = self.0.lock();
        let owner = owners
            .entry(name.to_owned())
            .or_insert_with(|| file.clone());
        (*owner != file).then(|| owner.clone())
    }
}

fn unavailable(error: impl std::fmt::Display) -> String {
    format!("kv: {error}")
}

impl Remote {
    fn key(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.prefix).into_bytes()
    }
}

impl Memory {
    pub fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            values: Mutex::default(),
        }
    }

    fn get(&self, key: &str) -> Option<String> {
        let mut values = self.values.lock();
        values.expire(key, &self.clock);
        values.all.get(key).map(|value| value.text.clone())
    }

    fn increment(&self, key: &str, by: i64, time: Option<Duration>) -> Result<i64, String> {
        let mut values = self.values.lock();
        values.expire(key, &self.clock);
        let Some(value) = values.all.get_mut(key) else {
            // Under the same lock: another call may create the same number.
            let put = values.put(key, by.to_string(), time, &self.clock);
            return put.map(|()| by);
        };
        let now = value.text.parse::<i64>().ok();
        let now = now.and_then(|now| now.checked_add(by));
        let now = now.ok_or(NO_NUMBER)?;
        let before = std::mem::replace(&mut value.text, now.to_string());
        let after = value.text.len();
        values.bytes = values.bytes + after - before.len();
        Ok(now)
    }
}

impl Values {
    /// Stores a value; a refused one leaves the old value as it was.
    fn put(
        &mut self,
        key: &str,
        text: String,
        time: Option<Duration>,
        clock: &Clock,
    ) -> Result<(), String> {
        let bytes = key.len() + text.len();
        if !self.has_room(key, bytes) {
            self.expire_all(clock);
        }
        if !self.has_room(key, bytes) {
            return Err(format!(
                "a plugin can have at most {MAX_ENTRIES} keys and {MAX_BYTES} bytes, and all are in use"
            ));
        }
        let until = time.and_then(|time| clock.now().checked_add(time));
        self.remove(key);
        self.bytes += bytes;
        self.all.insert(key.to_owned(), StoredValue { text, until });
        Ok(())
    }

    /// Returns true if there is room for this many bytes in place of the key's current value.
    fn has_room(&self, key: &str, bytes: usize) -> bool {
        let old = self.all.get(key).map(|value| key.len() + value.text.len());
        let others = self.all.len() - usize::from(old.is_some());
        others < MAX_ENTRIES && self.bytes - old.unwrap_or(0) + bytes <= MAX_BYTES
    }

    fn remove(&mut self, key: &str) {
        if let Some(removed) = self.all.remove(key) {
            self.bytes -= key.len() + removed.text.len();
        }
    }

    fn expire(&mut self, key: &str, clock: &Clock) {
        let until = self.all.get(key).and_then(|value| value.until);
        if until.is_some_and(|until| clock.now() >= until) {
            self.remove(key);
        }
    }

    fn expire_all(&mut self, clock: &Clock) {
        let now = clock.now();
        let is_over = |value: &StoredValue| value.until.is_some_and(|until| now >= until);
        let over = self.all.iter().filter(|(_, value)| is_over(value));
        let over: Vec<String> = over.map(|(key, _)| key.clone()).collect();
        for key in over {
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn values_exist_until_their_ttl() {
        let clock = Clock::test();
        let kv = Kv::memory(Arc::new(Memory::new(&clock)));
        let second = Some(Duration::from_secs(1));
        assert_eq!(kv.get("a").await, Ok(None));
        kv.put("a", "1".into(), second).await.unwrap();
        kv.put("b", "2".into(), None).await.unwrap();
        assert_eq!(kv.increment("a", 2, None).await, Ok(3));
        assert_eq!(kv.increment("n", 5, second).await, Ok(5));
        assert_eq!(kv.increment("n", -1, second).await, Ok(4));
        clock.advance(Duration::from_secs(1));
        assert_eq!(kv.get("a").await, Ok(None));
        assert_eq!(kv.get("n").await, Ok(None));
        assert_eq!(kv.get("b").await, Ok(Some("2".into())));
        kv.put("b", "x".into(), None).await.unwrap();
        assert!(kv.increment("b", 1, None).await.is_err());
        kv.delete("b").await.unwrap();
        assert_eq!(kv.get("b").await, Ok(None));
    }

    #[tokio::test]
    async fn keys_and_bytes_are_bounded() {
        let clock = Clock::test();
        let memory = Arc::new(Memory::new(&clock));
        let kv = Kv::memory(Arc::clone(&memory));
        let large = "x".repeat(MAX_VALUE_LEN - 10);
        let fits = MAX_BYTES / (MAX_VALUE_LEN - 1);
        for n in 0..fits {
            let time = (n == 0).then_some(Duration::from_secs(1));
            kv.put(&format!("{n:08}"), large.clone(), time)
                .await
                .unwrap();
        }
        assert!(kv.put("more", large.clone(), None).await.is_err());
        clock.advance(Duration::from_secs(1));
        kv.put("more", large.clone(), None).await.unwrap();
        assert!(kv.put("k", "x".repeat(MAX_VALUE_LEN), None).await.is_err());
        for n in 1..fits {
            kv.delete(&format!("{n:08}")).await.unwrap();
        }
        kv.delete("more").await.unwrap();
        assert_eq!(memory.values.lock().bytes, 0);
    }

    #[tokio::test]
    async fn a_refused_put_leaves_the_old_value() {
        let kv = Kv::memory(Arc::new(Memory::new(&Clock::test())));
        kv.put("00000000", "old".into(), None).await.unwrap();
        let large = "x".repeat(MAX_VALUE_LEN - 8);
        for n in 1..(MAX_BYTES / MAX_VALUE_LEN) {
            let put = kv.put(&format!("{n:08}"), large.clone(), None).await;
            put.unwrap();
        }
        kv.put("11111111", "x".repeat(MAX_VALUE_LEN - 100), None)
            .await
            .unwrap();
        assert!(kv.put("00000000", large.clone(), None).await.is_err());
        assert_eq!(kv.get("00000000").await, Ok(Some("old".into())));
        // The size of a key's own value counts as free.
        kv.put("00000001", large, None).await.unwrap();
    }

    #[tokio::test]
    async fn a_ttl_beyond_the_clock_means_for_ever() {
        let clock = Clock::test();
        let kv = Kv::memory(Arc::new(Memory::new(&clock)));
        let times = [Duration::MAX, Duration::from_secs(u64::MAX >> 1)];
        for time in times {
            kv.put("a", "1".into(), Some(time)).await.unwrap();
            assert_eq!(kv.increment("n", 1, Some(time)).await, Ok(1));
            clock.advance(Duration::from_hours(1));
            assert_eq!(kv.get("a").await, Ok(Some("1".into())));
            assert_eq!(kv.get("n").await, Ok(Some("1".into())));
            kv.delete("n").await.unwrap();
        }
    }

    /// Invariant: two plugins have no key in common, whatever their names and keys.
    #[test]
    fn no_plugin_uses_keys_of_another() {
        let mut random = fastrand::Rng::with_seed(edgeway_testkit::drawn());
        let mut text = |longest: usize| -> String {
            let letters = [":", "a", "1", "2", "kv", "{", "}", "é", "", "kv:1:a"];
            let len = random.usize(..longest);
            (0..len)
                .map(|_| letters[random.usize(..letters.len())])
                .collect()
        };
        let mut owners: HashMap<String, (String, String)> = HashMap::new();
        let mut without_length: HashMap<String, String> = HashMap::new();
        let (mut seen, mut would_meet) = (0, 0);
        for _ in 0..100_000 {
            let (plugin, key) = (text(4), text(4));
            let whole = format!("{}{key}", prefix("edgeway:", &plugin));
            let owner = owners
                .entry(whole)
                .or_insert_with(|| (plugin.clone(), key.clone()));
            assert_eq!(*owner, (plugin.clone(), key.clone()));
            seen += 1;
            // The control: without the length they do collide.
            let plain = format!("{plugin}:{key}");
            let owner = without_length
                .entry(plain)
                .or_insert_with(|| plugin.clone());
            would_meet += u32::from(*owner != plugin);
        }
        assert!(seen > 1000 && would_meet > 100, "{would_meet} of {seen}");
    }

    #[test]
    fn one_name_belongs_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one.js", "other.js"].map(|name| folder.path().join(name));
        std::fs::write(&one, "").unwrap();
        std::fs::write(&other, "").unwrap();
        let owners = Owners::default();
        assert_eq!(owners.claim("a", &one), None);
        assert_eq!(owners.claim("a", &folder.path().join("./one.js")), None);
        assert_eq!(owners.claim("b", &other), None);
        assert!(
            owners
                .claim("a", &other)
                .is_some_and(|first| first.ends_with("one.js"))
        );
    }

    #[test]
    fn concurrent_first_increments_lose_nothing() {
        const THREADS: usize = 4;
        const KEYS: usize = 2000;
        let memory = Memory::new(&Clock::test());
        let begin = std::sync::Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    begin.wait();
                    for key in 0..KEYS {
                        memory.increment(&key.to_string(), 1, None).unwrap();
                    }
                });
            }
        });
        for key in 0..KEYS {
            let counted = memory.get(&key.to_string());
            assert_eq!(counted, Some(THREADS.to_string()), "{key}");
        }
    }
}
