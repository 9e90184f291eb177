//! Values that know their place, and nodes that stay raw.
//!
//! Our readers recognize the names below and pass the place in front of the value; any other
//! deserializer (JSON, a buffered value) passes the value alone.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use smart_default::SmartDefault;

use super::{Key, Node, Spanned, Value};
use crate::diagnostic::Place;

/// Newtype name that requests `file, start, end, value` from a reader.
pub(super) const PLACED: &str = "$edgeway::placed";

/// Newtype name that requests a list's items from a reader, or the value itself if it is not a
/// list.
pub(super) const ONE_OR_MANY: &str = "$edgeway::one_or_many";

/// Newtype names that request a value in a short form from a reader, by whether the type takes
/// flags, and numbers: a variable in quotes is one there.
pub(super) const SHORT_FORMS: [[&str; 2]; 2] = [
    ["$edgeway::short", "$edgeway::short_number"],
    ["$edgeway::short_flag", "$edgeway::short_flag_number"],
];

/// A single value, or a list of values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, SmartDefault)]
#[serde(transparent)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> OneOrMany<T> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let many = or_none(d)?;
        if many.0.is_empty() {
            // "None of these" and "any" would both be plausible meanings.
            return Err(de::Error::custom(
                "this list is empty\nhelp: write at least one value, or remove the key",
            ));
        }
        Ok(many)
    }
}

/// Reads one value, or a list of values that may be empty: for keys whose empty list is documented.
///
/// # Errors
/// Fails if a value is invalid.
pub fn or_none<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    d: D,
) -> Result<OneOrMany<T>, D::Error> {
    struct Either<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Either<T> {
        type Value = OneOrMany<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value or a list of values")
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(
            self,
            d: D,
        ) -> Result<OneOrMany<T>, D::Error> {
            T::deserialize(d).map(|one| OneOrMany(vec![one]))
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany<T>, A::Error> {
            let mut many = Vec::new();
            while let Some(item) = seq.next_element()? {
                many.push(item);
            }
            Ok(OneOrMany(many))
        }
    }
    d.deserialize_newtype_struct(ONE_OR_MANY, Either(PhantomData))
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct SpannedVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for SpannedVisitor<T> {
            type Value = Spanned<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                d: D,
            ) -> Result<Spanned<T>, D::Error> {
                T::deserialize(d).map(|value| Spanned {
                    value,
                    place: Place::default(),
                })
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Spanned<T>, A::Error> {
                let short = || de::Error::invalid_length(0, &"a place and a value");
                let place = Place {
                    file: seq.next_element()?.ok_or_else(short)?,
                    start: seq.next_element()?.ok_or_else(short)?,
                    end: seq.next_element()?.ok_or_else(short)?,
                };
                let value = seq.next_element()?.ok_or_else(short)?;
                Ok(Spanned { value, place })
            }
        }
        d.deserialize_newtype_struct(PLACED, SpannedVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: Default> Default for Spanned<T> {
    /// Returns the default of a value that was not written, without a place.
    fn default() -> Self {
        Self::nowhere(T::default())
    }
}

impl<T> Spanned<T> {
    /// Wraps a value that is in no file.
    pub fn nowhere(value: T) -> Self {
        Self {
            value,
            place: Place::default(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let Spanned { value, place } = Spanned::<Value>::deserialize(d)?;
        Ok(Self::new(place, value))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> de::Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
                Ok(Value::Bool(flag))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
                Ok(Value::Integer(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
                i64::try_from(number).map(Value::Integer).map_err(|_| {
                    E::invalid_value(de::Unexpected::Unsigned(number), &"a smaller number")
                })
            }

            fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
                Ok(Value::Float(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, node)) = map.next_entry::<Spanned<String>, Node>()? {
                    let Spanned { value: name, place } = key;
                    entries.push((Key { name, place }, node));
                }
                Ok(Value::Map(entries))
            }
        }
        d.deserialize_any(Any)
    }
}
