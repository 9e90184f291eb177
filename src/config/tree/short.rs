//! Values that may be written short: a word, a number or a list instead of a mapping.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, Error as _, value::MapAccessDeserializer},
};

use super::Spanned;

/// A type that is written as a mapping, or shorter.
///
/// A shorthand that is not overridden is refused as the wrong type. An `Err` is the
/// message for the user; what follows `\nhelp: ` in it is the help. Use with
/// [`read_short`] in `Deserialize`:
///
/// ```text
/// impl<'de> Deserialize<'de> for WebsocketConfig {
///     fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
///         short::read_short(d)
///     }
/// }
/// ```
pub trait Short: Sized {
    /// What may be written, for the message: ``expected {WHAT}, found a list``.
    const WHAT: &'static str;

    /// The mapping.
    type Full: TryInto<Self, Error: fmt::Display>;

    fn flag(_flag: bool) -> Option<Result<Self, String>> {
        None
    }

    fn number(_number: u64) -> Option<Result<Self, String>> {
        None
    }

    fn text(_text: &str) -> Option<Result<Self, String>> {
        None
    }

    /// A list of texts, each with its place.
    fn list(_items: Vec<Spanned<String>>) -> Option<Result<Self, String>> {
        None
    }

    /// Whether [`Self::list`] is overridden: else a list is the wrong type whatever it holds.
    const TAKES_LIST: bool = false;
}

/// Reads the mapping or one of the shorthands.
pub fn read_short<'de, S, D>(d: D) -> Result<S, D::Error>
where
    S: Short<Full: Deserialize<'de>>,
    D: Deserializer<'de>,
{
    d.deserialize_any(Shorthand(PhantomData))
}

struct Shorthand<S>(PhantomData<S>);

impl<S: Short> Shorthand<S> {
    fn take<E: de::Error>(
        value: Option<Result<S, String>>,
        found: de::Unexpected<'_>,
    ) -> Result<S, E> {
        match value {
            Some(value) => value.map_err(E::custom),
            None => Err(E::invalid_type(found, &S::WHAT)),
        }
    }
}

impl<'de, S: Short<Full: Deserialize<'de>>> de::Visitor<'de> for Shorthand<S> {
    type Value = S;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(S::WHAT)
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<S, E> {
        Self::take(S::flag(flag), de::Unexpected::Bool(flag))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<S, E> {
        Self::take(S::number(number), de::Unexpected::Unsigned(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<S, E> {
        Self::take(S::text(text), de::Unexpected::Str(text))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<S, A::Error> {
        if !S::TAKES_LIST {
            return Err(A::Error::invalid_type(de::Unexpected::Seq, &S::WHAT));
        }
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Self::take(S::list(items), de::Unexpected::Seq)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<S, A::Error> {
        S::Full::deserialize(MapAccessDeserializer::new(map))?
            .try_into()
            .map_err(A::Error::custom)
    }
}
