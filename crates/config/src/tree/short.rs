//! Values with a short form: a word, a number or a list instead of a mapping.
//!
//! A type derives the reading of its mapping with `#[serde(remote = "Self")]`, which leaves
//! `Deserialize` itself to [`reads_short`], and `Serialize` to [`writes_mapping`]; [`short_form`]
//! is both.
//!
//! ```text
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(remote = "Self", deny_unknown_fields, default)]
//! #[schemars(transform = short::or_flag)]
//! pub struct ThingConfig { … }
//!
//! impl Short for ThingConfig {
//!     const WHAT: &'static str = "`true`, `false` or a mapping";
//!     const FLAG: Option<&'static str> = Some("enabled");
//! }
//!
//! reads_short!(ThingConfig);
//! ```

use std::{fmt, marker::PhantomData};

use schemars::Schema;
use serde::{
    Deserializer,
    de::{self, Error as _, value::MapAccessDeserializer},
};
use serde_json::{Value, json};

use super::{Spanned, spanned::SHORT_FORMS};

/// Implements `Deserialize` for types with a short form, by [`Short`]; their mappings are read as
/// `#[serde(remote = "Self")]` says, or as their own [`FromMapping`] does after `by_hand:`. Those
/// after `scalar:` have no mapping.
#[macro_export]
macro_rules! reads_short {
    ($($type:ty),* $(,)?) => {
        $crate::reads_short!(by_hand: $($type),*);
        $(
            impl $crate::tree::short::FromMapping for $type {
                fn full<'de, D: ::serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                    Self::deserialize(d)
                }
            }
        )*
    };
    (scalar: $($type:ty),* $(,)?) => {
        $crate::reads_short!(by_hand: $($type),*);
        $(
            impl $crate::tree::short::FromMapping for $type {
                fn full<'de, D: ::serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
                    let what = <Self as $crate::tree::short::Short>::WHAT;
                    let map = ::serde::de::Unexpected::Map;
                    Err(::serde::de::Error::invalid_type(map, &what))
                }
            }
        )*
    };
    (by_hand: $($type:ty),* $(,)?) => {$(
        impl<'de> ::serde::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                $crate::tree::short::read_short(d)
            }
        }
    )*};
}

/// Implements `Serialize` for types with a short form: they are written as mappings.
#[macro_export]
macro_rules! writes_mapping {
    ($($type:ty),* $(,)?) => {$(
        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                // Calls the inherent method that `#[serde(remote = "Self")]` generated.
                Self::serialize(self, s)
            }
        }
    )*};
}

/// Implements `Deserialize` and `Serialize` for types with a short form, which are written as
/// mappings.
#[macro_export]
macro_rules! short_form {
    ($($type:ty),* $(,)?) => {
        $crate::reads_short!($($type),*);
        $crate::writes_mapping!($($type),*);
    };
}

pub use crate::{reads_short, short_form, writes_mapping};

/// A type that can be read from a mapping.
pub trait FromMapping: Sized {
    /// Reads the mapping.
    fn full<'de, D: Deserializer<'de>>(d: D) -> Result<Self, D::Error>;
}

/// A type that is written as a mapping, or in a short form.
///
/// A short form that is not overridden, and has no field, is refused as the wrong type. An `Err` is
/// the message for the user; the text after `\nhelp: ` in it is the help.
pub trait Short: FromMapping {
    /// Allowed forms, for the message: ``expected {WHAT}, found a list``.
    const WHAT: &'static str;

    /// Field of the mapping that a flag alone is the value of.
    const FLAG: Option<&'static str> = None;

    /// Field of the mapping that a number alone is the value of.
    const NUMBER: Option<&'static str> = None;

    /// Field of the mapping that a text alone is the value of.
    const TEXT: Option<&'static str> = None;

    fn flag(flag: bool) -> Option<Result<Self, String>> {
        Self::FLAG.map(|field| one_field(field, flag.into()))
    }

    fn number(number: u64) -> Option<Result<Self, String>> {
        Self::NUMBER.map(|field| one_field(field, number.into()))
    }

    fn text(text: &str) -> Option<Result<Self, String>> {
        Self::TEXT.map(|field| one_field(field, text.into()))
    }

    /// True if [`Self::list`] is overridden: otherwise any list is the wrong type.
    const TAKES_LIST: bool = false;

    /// Reads a list of texts, each with its place.
    fn list(_items: Vec<Spanned<String>>) -> Option<Result<Self, String>> {
        None
    }
}

/// Reads a mapping of one field, which has no place.
fn one_field<S: FromMapping>(field: &str, value: Value) -> Result<S, String> {
    S::full(Value::from_iter([(field, value)])).map_err(|error| error.to_string())
}

/// Reads the mapping or one of the short forms.
pub fn read_short<'de, S: Short, D: Deserializer<'de>>(d: D) -> Result<S, D::Error> {
    // Some take only one of them.
    let takes_flags = usize::from(S::flag(true).is_some() || S::flag(false).is_some());
    let takes_numbers = usize::from(S::number(0).is_some() || S::number(1).is_some());
    let name = SHORT_FORMS[takes_flags][takes_numbers];
    d.deserialize_newtype_struct(name, Shorthand(PhantomData))
}

/// Allows `true` and `false` in the schema as well.
pub fn or_flag(schema: &mut Schema) {
    or(schema, json!({ "type": "boolean" }));
}

/// Allows a text in the schema as well.
pub fn or_text(schema: &mut Schema) {
    or(schema, json!({ "type": "string" }));
}

/// Allows an integer in the schema as well.
pub fn or_number(schema: &mut Schema) {
    or(schema, json!({ "type": "integer", "minimum": 0 }));
}

/// Allows a list of texts in the schema as well.
pub fn or_list(schema: &mut Schema) {
    or(
        schema,
        json!({ "type": "array", "items": { "type": "string" } }),
    );
}

/// Allows the form that `shorthand` describes in the schema as well.
pub fn or(schema: &mut Schema, shorthand: Value) {
    if schema.get("properties").is_none()
        && let Some(Value::Array(forms)) = schema.get_mut("anyOf")
    {
        forms.push(shorthand);
        return;
    }
    let mut full = std::mem::take(schema);
    let description = full.remove("description");
    schema.insert("anyOf".to_owned(), json!([full, shorthand]));
    if let Some(description) = description {
        schema.insert("description".to_owned(), description);
    }
}

struct Shorthand<S>(PhantomData<S>);

impl<S: Short> Shorthand<S> {
    fn take<E: de::Error>(
        value: Option<Result<S, String>>,
        unexpected: de::Unexpected<'_>,
    ) -> Result<S, E> {
        match value {
            Some(value) => value.map_err(E::custom),
            None => Err(E::invalid_type(unexpected, &S::WHAT)),
        }
    }
}

impl<'de, S: Short> de::Visitor<'de> for Shorthand<S> {
    type Value = S;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(S::WHAT)
    }

    /// Called by other deserializers than our readers.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<S, D::Error> {
        d.deserialize_any(self)
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
        S::full(MapAccessDeserializer::new(map))
    }
}
