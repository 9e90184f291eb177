//! Responses of the log's scripts, before any signature is verified.

use std::time::Duration;

use edgeway_net::redis::{FromRedisValue, ParsingError, Value};

use super::log::{Generation, Id, Position};

/// Iterator over the values of a response.
struct Values(std::vec::IntoIter<Value>);

impl Values {
    fn from_value(value: Value) -> Result<Self, ParsingError> {
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

    fn leases(&mut self) -> Result<Vec<RawLease>, ParsingError> {
        let mut leases = Vec::new();
        for value in Self::from_value(self.value())?.0 {
            let mut values = Self::from_value(value)?;
            leases.push(RawLease {
                gateway: values.next()?,
                left: values.next()?,
                applied: values.id()?,
                done: values.next()?,
            });
        }
        Ok(leases)
    }
}

/// An entry before its signature is verified.
pub(super) struct RawEntry {
    pub(super) position: Position,
    pub(super) text: String,
}

/// A lease before its signature is verified.
#[derive(Debug)]
pub(super) struct RawLease {
    pub(super) gateway: String,
    pub(super) left: i64,
    pub(super) applied: Id,
    pub(super) done: String,
}

pub(super) struct RawResponse {
    pub(super) generation: Generation,
    pub(super) leased: Option<Duration>,
    pub(super) is_in_log: bool,
    pub(super) entries: Vec<RawEntry>,
    /// The last entry of the log, if the position is not in it.
    pub(super) end: Position,
    pub(super) leases: Vec<RawLease>,
    pub(super) is_there: Vec<bool>,
}

impl FromRedisValue for RawResponse {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut values = Values::from_value(value)?;
        let is_in_log = values.next::<i64>()? == 1;
        let generation = values.generation()?;
        let left = u64::try_from(values.next::<i64>()?).unwrap_or(0);
        let mut entries = Vec::new();
        for value in Values::from_value(values.value())?.0 {
            let mut values = Values::from_value(value)?;
            let (id, drawn) = (values.id()?, values.next()?);
            let position = Position { id, drawn };
            let text = values.next()?;
            entries.push(RawEntry { position, text });
        }
        let end = entries.last().map(|entry| entry.position.clone());
        if !is_in_log && end.is_none() {
            return Err(ParsingError::from("the log has no end".to_owned()));
        }
        let nowhere = Position {
            id: Id(0, 0),
            drawn: String::new(),
        };
        let leases = values.leases()?;
        let is_there = values.next::<Vec<i64>>()?;
        Ok(Self {
            generation,
            leased: (left > 0).then(|| Duration::from_millis(left)),
            is_in_log,
            entries,
            end: end.unwrap_or(nowhere),
            leases,
            is_there: is_there.into_iter().map(|there| there == 1).collect(),
        })
    }
}

pub(super) struct RawPublished {
    pub(super) id: Id,
    pub(super) generation: Generation,
    pub(super) leases: Vec<RawLease>,
}

impl FromRedisValue for RawPublished {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let mut values = Values::from_value(value)?;
        Ok(Self {
            id: values.id()?,
            generation: values.generation()?,
            leases: values.leases()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purge::log::LEASE;

    #[test]
    fn a_response_is_read_or_refused() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let entry = |body| Value::Array(vec![text("5-0"), text("ab"), text(body)]);
        let response = |is_in_log, entries| {
            RawResponse::from_redis_value(Value::Array(vec![
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
        };
        let read = response(1, vec![entry("text"), entry("")]).unwrap();
        assert!(read.is_in_log);
        let texts: Vec<&str> = read.entries.iter().map(|it| it.text.as_str()).collect();
        assert_eq!(texts, ["text", ""]);
        assert_eq!(read.leased, Some(LEASE));
        assert_eq!(read.is_there, [true, false]);
        assert_eq!(read.leases[0].left, -7);
        let read = response(0, vec![entry("")]).unwrap();
        assert!(!read.is_in_log);
        assert_eq!(read.end.id, Id(5, 0));
        assert!(response(0, vec![]).is_err());
        assert!(RawResponse::from_redis_value(Value::Array(vec![])).is_err());
        assert!(RawPublished::from_redis_value(Value::Nil).is_err());
    }
}
