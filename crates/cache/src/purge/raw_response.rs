//! Responses of the log's scripts, before any signature is verified.

use edgeway_net::redis::{FromRedisValue, ParsingError, Value};

use super::log::Id;

/// The id, the nonce and the text of an entry.
pub(super) type RawEntry = (Id, String, String);

/// Name of a gateway, milliseconds until its lease runs out, the last entry that it has applied,
/// and its signed report.
pub(super) type RawLease = (String, i64, Id, String);

/// True if the position is in the log; the generation and its age in milliseconds; milliseconds
/// until the own lease runs out; the entries; the leases; and for each expected entry, true if it
/// is in the log.
pub(super) type RawResponse = (
    bool,
    String,
    i64,
    i64,
    Vec<RawEntry>,
    Vec<RawLease>,
    Vec<bool>,
);

/// The id of a published entry, the generation and its age in milliseconds, and the leases.
pub(super) type RawPublished = (Id, String, i64, Vec<RawLease>);

impl FromRedisValue for Id {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let text = String::from_redis_value(value)?;
        text.parse().map_err(ParsingError::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_or_refused() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let entry = |body| Value::Array(vec![text("5-0"), text("ab"), text(body)]);
        let lease = vec![text("a"), Value::Int(-7), text("4-0"), text("4-0=1")];
        let response = RawResponse::from_redis_value(Value::Array(vec![
            Value::Int(1),
            text("g 1"),
            Value::Int(100),
            Value::Int(3000),
            Value::Array(vec![entry("text"), entry("")]),
            Value::Array(vec![Value::Array(lease)]),
            Value::Array(vec![Value::Int(1), Value::Int(0)]),
        ]));
        let entry = |text: &str| (Id(5, 0), "ab".to_owned(), text.to_owned());
        let lease = ("a".to_owned(), -7, Id(4, 0), "4-0=1".to_owned());
        let expected = (
            true,
            "g 1".to_owned(),
            100,
            3000,
            vec![entry("text"), entry("")],
            vec![lease],
            vec![true, false],
        );
        assert_eq!(response.unwrap(), expected);
        assert!(RawResponse::from_redis_value(Value::Array(vec![])).is_err());
        assert!(RawPublished::from_redis_value(Value::Nil).is_err());
    }
}
