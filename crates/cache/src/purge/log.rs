//! The log of purges in Redis: a stream that every gateway reads, with the positions of all
//! gateways.
//!
//! Three scripts access it, each in one step: `sync`, `publish`, `leave`. Both keys have the same
//! hash tag, so that they lie on one machine of a cluster. Leases are fields of one hash, each with
//! its end, instead of keys with a TTL: a full Redis drops those first under `volatile-ttl`, and a
//! purge could miss a gateway whose lease vanished too early.
//!
//! Purges, and the positions reported by gateways, are signed with the secret of the fleet: the
//! scripts only transport both.

use std::{collections::VecDeque, future::Future, str::FromStr, sync::Arc, time::Duration};

use derive_more::Display;
use edgeway_net::redis::{FromRedisValue, Redis, Script, Signer, TAG, Unavailable};
use serde::{Deserialize, Serialize};

use super::{
    Purge,
    raw_response::{RawEntry, RawLease, RawPublished, RawResponse},
};

/// Duration of a lease, by the clock of Redis.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// Approximate number of entries that the log keeps.
const LOG_LEN: u64 = 10_000;
/// Maximum number of entries in one response.
const BATCH: usize = 64;

/// Id of an entry: milliseconds since 1970 by the clock of Redis, and a sequence number within the
/// millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Display)]
#[display("{_0}-{_1}")]
pub struct Id(pub u64, pub u64);

/// A position in the log: everything up to this entry is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub id: Id,
    /// Nonce of the entry. A log that was recreated, or has lost its end, may use an id again, but
    /// never a nonce.
    pub drawn: String,
}

/// An entry after the position of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) position: Position,
    pub(super) content: EntryContent,
}

/// Content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryContent {
    Purges(Vec<Purge>),
    /// Written by a version whose purges this one cannot read.
    Unknown,
    /// Not signed with the secret of the fleet.
    Unsigned,
    /// Written by Redis itself when it had been restarted or failed over: entries before this one
    /// may be lost.
    Restarted,
}

/// A gateway's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) gateway: String,
    /// Milliseconds until the lease runs out; negative since it did.
    pub(super) left: i64,
    pub(super) applied: Id,
    /// Number of responses dropped for the last entries.
    pub(super) done: Vec<(Id, u64)>,
}

/// Query of a gateway.
#[derive(Clone, Debug, Default)]
pub(super) struct LogQuery {
    pub(super) gateway: String,
    pub(super) position: Option<Position>,
    pub(super) done: VecDeque<(Id, u64)>,
    pub(super) wants_leases: bool,
    /// Entries that should still be in the log.
    pub(super) expected: Vec<Position>,
}

/// Response of the log to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogResponse {
    pub(super) generation: Generation,
    /// Remaining time of the gateway's own lease when the query arrived. A gateway that had none
    /// has one only if the entries are all that follow.
    pub(super) leased: Option<Duration>,
    pub(super) follows: LogContinuity,
    /// All leases, if the query asks for them.
    pub(super) leases: Option<Vec<Lease>>,
    /// True for each expected entry that is in the log.
    pub(super) is_there: Vec<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogContinuity {
    /// The entries after the position; not all of them if there are many.
    Entries { entries: Vec<Entry>, are_all: bool },
    /// The position is not in the log; this is the last entry.
    Gap(Position),
}

/// Name of the log, and the time since it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    pub(super) name: String,
    pub(super) age: Duration,
}

impl Generation {
    fn new(name: String, age: i64) -> Self {
        let age = positive_millis(age);
        Self { name, age }
    }
}

/// Returns a number of milliseconds as a duration, zero if it is negative.
fn positive_millis(number: i64) -> Duration {
    Duration::from_millis(u64::try_from(number).unwrap_or(0))
}

/// Response to a published purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublishResponse {
    pub(super) position: Position,
    pub(super) generation: Generation,
    pub(super) leases: Vec<Lease>,
}

/// Access to the log: in Redis, or in the memory of a test.
pub(super) trait PurgeLogStore: Sync {
    fn sync(
        &self,
        question: &LogQuery,
    ) -> impl Future<Output = Result<LogResponse, Unavailable>> + Send;

    /// Appends `purges` as one entry.
    fn publish(
        &self,
        drawn: &str,
        purges: &[Purge],
    ) -> impl Future<Output = Result<PublishResponse, Unavailable>> + Send;
}

pub(super) struct RedisPurgeLog {
    redis: Arc<Redis>,
    signer: Signer,
    keys: [Vec<u8>; 2],
    sync: Script,
    publish: Script,
    leave: Script,
}

impl RedisPurgeLog {
    pub(super) fn new(redis: Arc<Redis>) -> Self {
        let key = |name| format!("{}{{purge}}:{name}", redis.prefix()).into_bytes();
        Self {
            keys: [key("log"), key("gateways")],
            signer: redis.settings.signer.clone().unwrap_or_else(Signer::alone),
            redis,
            sync: Script::new(concat!(
                include_str!("ensure.lua"),
                include_str!("sync.lua")
            )),
            publish: Script::new(concat!(
                include_str!("ensure.lua"),
                include_str!("publish.lua")
            )),
            leave: Script::new(concat!(
                include_str!("ensure.lua"),
                include_str!("leave.lua")
            )),
        }
    }

    /// Gives up the lease of a gateway that ends.
    pub(super) async fn leave(&self, gateway: &str) -> Result<(), Unavailable> {
        let mut args = Self::common();
        args.push(gateway.to_owned());
        self.eval::<i64>(&self.leave, &args).await.map(drop)
    }

    fn common() -> Vec<String> {
        vec![draw(), LEASE.as_millis().to_string()]
    }

    async fn eval<T: FromRedisValue>(
        &self,
        script: &Script,
        args: &[String],
    ) -> Result<T, Unavailable> {
        let keys: [&[u8]; 2] = [&self.keys[0], &self.keys[1]];
        self.redis.eval(script, &keys, args).await
    }
}

impl PurgeLogStore for RedisPurgeLog {
    async fn sync(&self, question: &LogQuery) -> Result<LogResponse, Unavailable> {
        let mut args = Self::common();
        args.push(question.gateway.clone());
        match &question.position {
            Some(Position { id, drawn }) => args.extend([id.to_string(), drawn.clone()]),
            None => args.extend([String::new(), String::new()]),
        }
        args.push(self.claim(question));
        args.push(BATCH.to_string());
        args.push(u8::from(question.wants_leases).to_string());
        for Position { id, drawn } in &question.expected {
            args.extend([id.to_string(), drawn.clone()]);
        }
        let response: RawResponse = self.eval(&self.sync, &args).await?;
        let (is_in_log, generation, age, left, entries, leases, is_there) = response;
        let left = positive_millis(left);
        let entries = entries.into_iter();
        let mut entries: Vec<Entry> = entries
            .map(|entry| self.entry(entry, &generation))
            .collect();
        let leases = || leases.into_iter().map(|lease| self.lease(lease));
        Ok(LogResponse {
            leased: (!left.is_zero()).then_some(left),
            leases: question.wants_leases.then(|| leases().collect()),
            follows: if is_in_log {
                LogContinuity::Entries {
                    are_all: entries.len() < BATCH,
                    entries,
                }
            } else {
                // The scripts see to it that the log has an entry.
                let last = entries.pop().ok_or(Unavailable::Response)?;
                LogContinuity::Gap(last.position)
            },
            is_there,
            generation: Generation::new(generation, age),
        })
    }

    async fn publish(&self, drawn: &str, purges: &[Purge]) -> Result<PublishResponse, Unavailable> {
        let text = self.text(drawn, purges);
        let mut args = Self::common();
        args.extend([drawn.to_owned(), text, LOG_LEN.to_string()]);
        let response: RawPublished = self.eval(&self.publish, &args).await?;
        let (id, generation, age, leases) = response;
        let leases = leases.into_iter().map(|lease| self.lease(lease));
        let drawn = drawn.to_owned();
        Ok(PublishResponse {
            position: Position { id, drawn },
            generation: Generation::new(generation, age),
            leases: leases.collect(),
        })
    }
}

/// Signing of outgoing data, and verification of data from others.
impl RedisPurgeLog {
    /// Returns the text of purges in the log: a signature, and their JSON.
    fn text(&self, drawn: &str, purges: &[Purge]) -> String {
        let json = serde_json::to_string(purges).expect("purges are plain JSON");
        let parts = self.parts(drawn, &json);
        format!("{}{json}", self.signer.sign_text(PURGE, &parts))
    }

    fn parts<'a>(&'a self, name: &'a str, text: &'a str) -> [&'a [u8]; 3] {
        let prefix = self.redis.prefix();
        [prefix.as_bytes(), name.as_bytes(), text.as_bytes()]
    }

    fn entry(&self, (id, drawn, text): RawEntry, generation: &str) -> Entry {
        let position = Position { id, drawn };
        // An entry without a purge began the generation, or its purge was taken out.
        if text.is_empty() && generation.split(':').next() == Some(&position.drawn) {
            let content = EntryContent::Restarted;
            return Entry { position, content };
        }
        let signed = text.split_at_checked(2 * TAG);
        let signed = signed.filter(|(tag, json)| {
            let parts = self.parts(&position.drawn, json);
            self.signer.verifies_text(PURGE, &parts, tag)
        });
        let content = match signed {
            None => EntryContent::Unsigned,
            Some((_, json)) => {
                serde_json::from_str(json).map_or(EntryContent::Unknown, EntryContent::Purges)
            }
        };
        Entry { position, content }
    }

    /// Returns the report of a gateway: the numbers of responses dropped for the last entries,
    /// signed together with its position.
    fn claim(&self, question: &LogQuery) -> String {
        let done = written(&question.done);
        let place = question.position.as_ref();
        let place = place.map(|place| place.id.to_string()).unwrap_or_default();
        let claim = format!("{place} {done}");
        let parts = self.parts(&question.gateway, &claim);
        format!("{done}~{}", self.signer.sign_text(LEASE_OF, &parts))
    }

    /// Verifies a lease. A gateway without a valid signature counts as one that has applied
    /// nothing.
    fn lease(&self, (gateway, left, applied, report): RawLease) -> Lease {
        let (done, tag) = report.split_once('~').unwrap_or((&report, ""));
        let claim = format!("{applied} {done}");
        let parts = self.parts(&gateway, &claim);
        let is_signed = self.signer.verifies_text(LEASE_OF, &parts, tag);
        Lease {
            left,
            applied: if is_signed { applied } else { Id(0, 0) },
            done: if is_signed { read(done) } else { Vec::new() },
            gateway,
        }
    }
}

const PURGE: &str = "purge";
const LEASE_OF: &str = "lease of purges";

/// Returns 128 random bits, a nonce.
pub(super) fn draw() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn written(done: &VecDeque<(Id, u64)>) -> String {
    let parts: Vec<String> = done.iter().map(|(id, n)| format!("{id}={n}")).collect();
    parts.join(",")
}

/// Parses numbers of dropped responses. Invalid ones are skipped: they are informational.
fn read(done: &str) -> Vec<(Id, u64)> {
    let pairs = done.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .filter_map(|(id, n)| Some((id.parse().ok()?, n.parse().ok()?)))
        .collect()
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('-');
        let id = parts.and_then(|(time, n)| Some(Self(time.parse().ok()?, n.parse().ok()?)));
        id.ok_or_else(|| format!("invalid stream id `{}`", text.escape_debug()))
    }
}

edgeway_base::text_form!(Id);
edgeway_base::opaque_debug!(RedisPurgeLog);

#[cfg(test)]
mod tests {
    use edgeway_net::redis::{Identity, Mode, RedisSettings};

    use super::*;
    use crate::base::{clock::Clock, metrics::Metrics, secret::Secret};

    #[test]
    fn ids_are_in_the_order_of_the_log() {
        let id = |text: &str| text.parse::<Id>().unwrap();
        assert!(id("9-1") < id("10-0") && id("10-2") < id("10-10"));
        assert_eq!(id("1700000000000-3").to_string(), "1700000000000-3");
        for wrong in [
            "",
            "7",
            "7-",
            "-7",
            "a-1",
            "1-1-1",
            "18446744073709551616-0",
        ] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong}");
        }
        let json = serde_json::to_string(&id("1-2")).unwrap();
        assert_eq!(serde_json::from_str::<Id>(&json).unwrap(), id("1-2"));
    }

    #[test]
    fn counts_of_dropped_responses_are_read_as_written() {
        let done = VecDeque::from([(Id(1, 0), 7), (Id(2, 3), 0)]);
        assert_eq!(written(&done), "1-0=7,2-3=0");
        assert_eq!(read("1-0=7,2-3=0"), Vec::from(done));
        assert_eq!(read(""), []);
        assert_eq!(read("x,1-0,2-0=y,3-0=1"), [(Id(3, 0), 1)]);
    }

    fn log(secrets: &[&str], prefix: &str) -> RedisPurgeLog {
        let secrets: Vec<_> = secrets.iter().map(|text| Secret::new(*text)).collect();
        let settings = RedisSettings {
            mode: Mode::Single,
            nodes: Vec::new(),
            identity: Identity::default(),
            database: 0,
            tls: None,
            timeout: Duration::from_millis(20),
            connections: 1,
            prefix: prefix.to_owned(),
            signer: Signer::new(&secrets),
        };
        let redis = Redis::new(settings, Clock::test(), &Metrics::default(), None);
        RedisPurgeLog::new(Arc::new(redis))
    }

    #[test]
    fn only_entries_signed_by_the_fleet_are_read() {
        let (ours, new) = (log(&["a"], "p:"), log(&["b", "a"], "p:"));
        let entry = |log: &RedisPurgeLog, drawn: &str, text: &str| {
            let raw = (Id(5, 0), drawn.to_owned(), text.to_owned());
            log.entry(raw, "g:1").content
        };
        let purges = vec![Purge::ALL];
        let text = ours.text("d", &purges);
        assert_eq!(
            entry(&ours, "d", &text),
            EntryContent::Purges(purges.clone())
        );
        assert_eq!(entry(&new, "d", &text), EntryContent::Purges(purges));
        let unsigned = [
            entry(&ours, "d", r#"[{"all":true}]"#),
            entry(&ours, "d", &text[..2 * TAG]),
            entry(&ours, "e", &text),
            entry(&ours, "d", &text.replace("all", "alt")),
            entry(&ours, "d", &format!("é{text}")),
            entry(&ours, "d", &new.text("d", &[Purge::ALL])),
            entry(&log(&["a"], "q:"), "d", &text),
            entry(&log(&[], "p:"), "d", &text),
        ];
        for content in unsigned {
            assert_eq!(content, EntryContent::Unsigned);
        }
        assert_eq!(entry(&ours, "d", ""), EntryContent::Unsigned);
        assert_eq!(entry(&ours, "g", ""), EntryContent::Restarted);
        let parts = ours.parts("d", "[{}]");
        let later = format!("{}[{{}}]", ours.signer.sign_text(PURGE, &parts));
        assert_eq!(entry(&ours, "d", &later), EntryContent::Unknown);
    }

    #[test]
    fn a_gateway_without_a_signature_has_applied_nothing() {
        let (ours, other) = (log(&["a"], "p:"), log(&["b"], "p:"));
        let question = LogQuery {
            gateway: "g".to_owned(),
            position: Some(Position {
                id: Id(7, 1),
                drawn: "d".to_owned(),
            }),
            done: VecDeque::from([(Id(7, 1), 3)]),
            ..LogQuery::default()
        };
        let done = ours.claim(&question);
        let raw =
            |gateway: &str, applied, done: &str| (gateway.to_owned(), 9, applied, done.to_owned());
        let lease = ours.lease(raw("g", Id(7, 1), &done));
        assert_eq!((lease.applied, lease.done), (Id(7, 1), vec![(Id(7, 1), 3)]));
        for forged in [
            ours.lease(raw("g", Id(8, 0), &done)),
            ours.lease(raw("h", Id(7, 1), &done)),
            ours.lease(raw("g", Id(7, 1), "7-1=3")),
            ours.lease(raw("g", Id(7, 1), &done.replace("=3", "=4"))),
            other.lease(raw("g", Id(7, 1), &done)),
        ] {
            assert_eq!(
                (forged.applied, forged.done, forged.left),
                (Id(0, 0), vec![], 9)
            );
        }
    }
}
