//! The log of purges in Redis: a stream that every gateway reads, and beside it how far each
//! of them is.
//!
//! Three scripts touch it, each in one step: `sync`, `publish`, `leave`. Both keys have one
//! hash tag, so they lie on one machine of a cluster. Leases are fields of one hash with an
//! end each, and no keys with a time to live: those are the first that a full Redis drops
//! under `volatile-ttl`, and a lease that is gone too early would let a purge pass its
//! gateway by.

use std::{collections::VecDeque, fmt, future::Future, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Purge;
use crate::base::redis::{FromRedisValue, ParsingError, Redis, Script, Unavailable, Value};

/// How long a lease lasts, by the clock of Redis.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// Entries that the log keeps, about.
const KEPT: u64 = 10_000;
/// Entries that one answer brings.
const AT_ONCE: u64 = 64;

/// The id of an entry: milliseconds since 1970 by the clock of Redis, and a number among
/// those of one millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64, pub u64);

/// A place in the log: everything up to this entry is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub id: Id,
    /// What was drawn for the entry. A log that was begun anew, or has lost its end, may use
    /// an id again, but never this.
    pub drawn: String,
}

/// One entry behind a gateway's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) position: Position,
    /// `None`: of a version that writes what this one cannot read.
    pub(super) purges: Option<Vec<Purge>>,
}

/// A gateway's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) gateway: String,
    /// Milliseconds until it runs out; negative since it has.
    pub(super) left: i64,
    pub(super) applied: Id,
    /// What it dropped for the last entries.
    pub(super) done: Vec<(Id, u64)>,
}

/// What a gateway asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Question {
    pub(super) gateway: String,
    pub(super) position: Option<Position>,
    pub(super) done: VecDeque<(Id, u64)>,
    pub(super) wants_leases: bool,
    /// Entries that are to be there still.
    pub(super) expected: Vec<Position>,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) generation: Generation,
    /// How long its own lease lasts from when the question came.
    pub(super) leased: Option<Duration>,
    pub(super) follows: Follows,
    /// Where it asked for them.
    pub(super) leases: Option<Vec<Lease>>,
    /// Whether each of the expected entries is there.
    pub(super) is_there: Vec<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// The entries behind its place, the first of them if there are many.
    Entries(Vec<Entry>),
    /// Its place is not in the log; this is the last entry.
    Gap(Position),
}

/// The log's own name, and how long ago it was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    pub(super) name: String,
    pub(super) age: Duration,
}

/// A purge is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) position: Position,
    pub(super) generation: Generation,
    pub(super) leases: Vec<Lease>,
}

/// Where the log is: in Redis, or in the memory of a test.
pub(super) trait Remote: Sync {
    fn sync(&self, question: &Question)
    -> impl Future<Output = Result<Answer, Unavailable>> + Send;

    /// Appends `purges` as one entry.
    fn publish(
        &self,
        drawn: &str,
        purges: &[Purge],
    ) -> impl Future<Output = Result<Published, Unavailable>> + Send;
}

pub(super) struct Log {
    redis: Arc<Redis>,
    keys: [Vec<u8>; 2],
    sync: Script,
    publish: Script,
    leave: Script,
}

impl Log {
    pub(super) fn new(redis: Arc<Redis>) -> Self {
        let key = |name| format!("{}{{purge}}:{name}", redis.prefix()).into_bytes();
        Self {
            keys: [key("log"), key("gateways")],
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

    /// Gives the lease of a gateway up that ends.
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

impl Remote for Log {
    async fn sync(&self, question: &Question) -> Result<Answer, Unavailable> {
        let mut args = Self::common();
        args.push(question.gateway.clone());
        match &question.position {
            Some(Position { id, drawn }) => args.extend([id.to_string(), drawn.clone()]),
            None => args.extend([String::new(), String::new()]),
        }
        args.push(written(&question.done));
        args.push(AT_ONCE.to_string());
        args.push(u8::from(question.wants_leases).to_string());
        for Position { id, drawn } in &question.expected {
            args.extend([id.to_string(), drawn.clone()]);
        }
        let RawAnswer(answer) = self.eval(&self.sync, &args).await?;
        Ok(Answer {
            leases: answer.leases.filter(|_| question.wants_leases),
            ..answer
        })
    }

    async fn publish(&self, drawn: &str, purges: &[Purge]) -> Result<Published, Unavailable> {
        let text = serde_json::to_string(purges).expect("purges are plain JSON");
        let mut args = Self::common();
        args.extend([drawn.to_owned(), text, KEPT.to_string()]);
        let RawPublished {
            id,
            generation,
            leases,
        } = self.eval(&self.publish, &args).await?;
        let drawn = drawn.to_owned();
        Ok(Published {
            position: Position { id, drawn },
            generation,
            leases,
        })
    }
}

/// 128 bits that nobody else draws.
pub(super) fn draw() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn written(done: &VecDeque<(Id, u64)>) -> String {
    let parts: Vec<String> = done.iter().map(|(id, n)| format!("{id}={n}")).collect();
    parts.join(",")
}

/// What cannot be read is left out: it says how much was dropped, and no more.
fn read(done: &str) -> Vec<(Id, u64)> {
    let pairs = done.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .filter_map(|(id, n)| Some((id.parse().ok()?, n.parse().ok()?)))
        .collect()
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('-');
        let id = parts.and_then(|(time, n)| Some(Self(time.parse().ok()?, n.parse().ok()?)));
        id.ok_or_else(|| format!("`{}` is no id of a stream", text.escape_debug()))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Values of an answer one after the other.
struct Values(std::vec::IntoIter<Value>);

impl Values {
    fn of(value: Value) -> Result<Self, ParsingError> {
        Ok(Self(Vec::<Value>::from_redis_value(value)?.into_iter()))
    }

    fn value(&mut self) -> Value {
        self.0.next().unwrap_or(Value::Nil)
    }

    fn next<T: FromRedisValue>(&mut self) -> Result<T, ParsingError> {
        T::from_redis_value(self.value())
    }

    fn id(&mut self) -> Result<Id, ParsingError> {
        self.next::<String>()?.parse().map_err(ParsingError::from)
    }

    fn generation(&mut self) -> Result<Generation, ParsingError> {
        let (name, age) = (self.next()?, self.next::<i64>()?);
        let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
        Ok(Generation { name, age })
    }

    fn leases(&mut self) -> Result<Vec<Lease>, ParsingError> {
        let mut leases = Vec::new();
        for value in Self::of(self.value())?.0 {
            let mut values = Self::of(value)?;
            leases.push(Lease {
                gateway: values.next()?,
                left: values.next()?,
                applied: values.id()?,
                done: read(&values.next::<String>()?),
            });
        }
        Ok(leases)
    }
}

struct RawAnswer(Answer);

impl FromRedisValue for RawAnswer {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut values = Values::of(value)?;
        let is_in_log = values.next::<i64>()? == 1;
        let generation = values.generation()?;
        let left = u64::try_from(values.next::<i64>()?).unwrap_or(0);
        let mut entries = Vec::new();
        for value in Values::of(values.value())?.0 {
            let mut values = Values::of(value)?;
            let (id, drawn) = (values.id()?, values.next()?);
            let text: String = values.next()?;
            // The first entry of a log is no purge.
            let purges = match text.as_str() {
                "" => Some(Vec::new()),
                text => serde_json::from_str(text).ok(),
            };
            let position = Position { id, drawn };
            entries.push(Entry { position, purges });
        }
        let follows = if is_in_log {
            Follows::Entries(entries)
        } else {
            let last = entries.pop();
            let last = last.ok_or_else(|| ParsingError::from("the log has no end".to_owned()))?;
            Follows::Gap(last.position)
        };
        let leases = Some(values.leases()?);
        let is_there = values.next::<Vec<i64>>()?;
        Ok(Self(Answer {
            generation,
            leased: (left > 0).then(|| Duration::from_millis(left)),
            follows,
            leases,
            is_there: is_there.into_iter().map(|there| there == 1).collect(),
        }))
    }
}

struct RawPublished {
    id: Id,
    generation: Generation,
    leases: Vec<Lease>,
}

impl FromRedisValue for RawPublished {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut values = Values::of(value)?;
        Ok(Self {
            id: values.id()?,
            generation: values.generation()?,
            leases: values.leases()?,
        })
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_was_dropped_is_read_as_it_was_written() {
        let done = VecDeque::from([(Id(1, 0), 7), (Id(2, 3), 0)]);
        assert_eq!(written(&done), "1-0=7,2-3=0");
        assert_eq!(read("1-0=7,2-3=0"), Vec::from(done));
        assert_eq!(read(""), []);
        assert_eq!(read("x,1-0,2-0=y,3-0=1"), [(Id(3, 0), 1)]);
    }

    #[test]
    fn an_answer_is_read_or_refused() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let entry = |body| Value::Array(vec![text("5-0"), text("ab"), text(body)]);
        let answer = |is_in_log, entries| {
            RawAnswer::from_redis_value(Value::Array(vec![
                Value::Int(is_in_log),
                text("g 1"),
                Value::Int(100),
                Value::Int(3000),
                Value::Array(entries),
                Value::Array(vec![Value::Array(vec![
                    text("a"),
                    Value::Int(-7),
                    text("4-0"),
                    text("4-0=1"),
                ])]),
                Value::Array(vec![Value::Int(1), Value::Int(0)]),
            ]))
            .map(|raw| raw.0)
        };
        let position = Position {
            id: Id(5, 0),
            drawn: "ab".to_owned(),
        };
        let read = answer(
            1,
            vec![entry(r#"[{"tag":"x"}]"#), entry(""), entry("later")],
        )
        .unwrap();
        let Follows::Entries(entries) = read.follows else {
            panic!("{read:?}");
        };
        let purges: Vec<Option<usize>> = entries
            .iter()
            .map(|entry| entry.purges.as_ref().map(Vec::len))
            .collect();
        assert_eq!(purges, [Some(1), Some(0), None]);
        assert_eq!(read.leased, Some(LEASE));
        assert_eq!(read.is_there, [true, false]);
        assert_eq!(read.leases.unwrap()[0].left, -7);
        let read = answer(0, vec![entry("")]).unwrap();
        assert_eq!(read.follows, Follows::Gap(position));
        assert!(answer(0, vec![]).is_err());
        assert!(RawAnswer::from_redis_value(Value::Array(vec![])).is_err());
        assert!(RawPublished::from_redis_value(Value::Nil).is_err());
    }
}
