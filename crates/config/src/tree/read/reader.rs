//! The Deserializer over one node, and its access to lists and mappings.

use serde::{
    Deserializer,
    de::{self, IntoDeserializer, value::StrDeserializer},
    forward_to_deserialize_any,
};

use super::{Rounds, error::ReadError};
use crate::{
    base::secret,
    diagnostic::Place,
    tree::{
        Key, Node, Value,
        spanned::{ONE_OR_MANY, PLACED, SHORT_FORMS},
    },
};

/// Deserializer of one node.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) node: &'a Node,
    pub(super) rounds: &'a Rounds,
}

impl<'a> Reader<'a> {
    fn entries(
        self,
        entries: &'a [(Key, Node)],
        known: Option<&'static [&'static str]>,
    ) -> Entries<'a> {
        Entries {
            map: self.node,
            rest: entries.iter(),
            value: None,
            known,
            rounds: self.rounds,
        }
    }

    /// Reads a value of a type that may take flags or numbers.
    fn short_form<'de, V: de::Visitor<'de>>(
        self,
        takes_flags: bool,
        takes_numbers: bool,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.node.of_variable() {
            Some(Value::Bool(_)) if takes_flags => self.deserialize_bool(visitor),
            Some(Value::Integer(_)) if takes_numbers => self.deserialize_u64(visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn wrong_type<T>(expected: impl Into<String>) -> Result<T, ReadError> {
        Err(ReadError::WrongType {
            expected: expected.into(),
        })
    }
}

/// Reads types that a variable in quotes may have.
macro_rules! number_or_flag {
    ($($name:ident)*) => {$(
        fn $name<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            match self.node.of_variable() {
                Some(Value::Integer(number)) => match u64::try_from(number) {
                    Ok(number) => visitor.visit_u64(number),
                    Err(_) => visitor.visit_i64(number),
                },
                Some(Value::Float(number)) => visitor.visit_f64(number),
                Some(Value::Bool(flag)) => visitor.visit_bool(flag),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ReadError;

    fn deserialize_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Integer(number) => match u64::try_from(*number) {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_i64(*number),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items {
                rest: items.iter(),
                rounds: self.rounds,
            }),
            Value::Map(entries) => visitor.visit_map(self.entries(entries, None)),
        }
    }

    fn deserialize_option<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: de::Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            _ if name == PLACED => visitor.visit_seq(SpannedAccess {
                value: self,
                place: self.node.place,
                next: 0,
            }),
            Value::List(_) if name == ONE_OR_MANY => self.deserialize_any(visitor),
            _ if name == secret::FILE => match self.node.file.as_deref() {
                Some(file) => visitor.visit_newtype_struct(file.into_deserializer()),
                None => visitor.visit_newtype_struct(self),
            },
            _ => match SHORT_FORMS.iter().flatten().position(|form| *form == name) {
                Some(form) => self.short_form(form / 2 == 1, form % 2 == 1, visitor),
                None => visitor.visit_newtype_struct(self),
            },
        }
    }

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Map(entries) => visitor.visit_map(self.entries(entries, Some(fields))),
            // Structs cannot be written as lists of positional values.
            _ => Self::wrong_type("a mapping"),
        }
    }

    /// Reads a word, or a mapping with one key for a variant that has a value.
    fn deserialize_enum<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let word = match &self.node.value {
            Value::Text(text) => text.clone(),
            // `on: [502]` and `health: false` need no quotes if these are allowed words.
            Value::Integer(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Map(entries) => {
                let [(key, node)] = &entries[..] else {
                    return Self::wrong_type("a mapping with a single key");
                };
                if !variants.contains(&key.name.as_str()) {
                    self.rounds.unknown_key(self.node, key, node, variants);
                    return Err(ReadError::Reported);
                }
                return visitor.visit_enum(Variant {
                    name: &key.name,
                    value: Some(Self { node, ..self }),
                });
            }
            Value::Null | Value::Float(_) | Value::List(_) => String::new(),
        };
        if variants.contains(&word.as_str()) {
            return visitor.visit_enum(Variant {
                name: &word,
                value: None,
            });
        }
        if !word.is_empty() {
            return Err(de::Error::unknown_variant(&word, variants));
        }
        let words: Vec<_> = variants.iter().map(|v| format!("`{v}`")).collect();
        Self::wrong_type(match &words[..] {
            [one] => one.clone(),
            _ => format!("one of {}", words.join(", ")),
        })
    }

    number_or_flag! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// The items of a list that are not poisoned.
struct Items<'a> {
    rest: std::slice::Iter<'a, Node>,
    rounds: &'a Rounds,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = ReadError;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        let rounds = self.rounds;
        let Some(node) = self.rest.find(|node| !rounds.poisoned(node)) else {
            return Ok(None);
        };
        seed.deserialize(Reader { node, rounds })
            .map(Some)
            .map_err(|error| rounds.settle(node, None, error))
    }
}

/// The entries of a mapping that are not poisoned.
struct Entries<'a> {
    map: &'a Node,
    rest: std::slice::Iter<'a, (Key, Node)>,
    value: Option<(&'a Key, &'a Node)>,
    /// Fields of the struct that is read; `None` allows any key.
    known: Option<&'static [&'static str]>,
    rounds: &'a Rounds,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = ReadError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        for (key, node) in self.rest.by_ref() {
            if self.rounds.poisoned(node) {
                continue;
            }
            if let Some(known) = self.known
                && !known.contains(&key.name.as_str())
            {
                self.rounds.unknown_key(self.map, key, node, known);
                continue;
            }
            self.value = Some((key, node));
            return match seed.deserialize(KeyDeserializer { key }) {
                Ok(name) => Ok(Some(name)),
                Err(ReadError::UnknownKey { known, .. }) => {
                    self.rounds.unknown_key(self.map, key, node, known);
                    Err(ReadError::Reported)
                }
                Err(error) => {
                    let text = Node::new(key.place, Value::Text(key.name.clone()));
                    let error = self.rounds.settle(&text, None, error);
                    self.rounds.poison(node);
                    Err(error)
                }
            };
        }
        Ok(None)
    }

    fn next_value_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<T::Value, ReadError> {
        let rounds = self.rounds;
        let Some((key, node)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Reader { node, rounds }).map_err(|error| {
            let known = self.known.map(|known| (key.name.as_str(), Some(known)));
            rounds.settle(node, known, error)
        })
    }
}

/// Deserializer of a key.
#[derive(Clone, Copy)]
struct KeyDeserializer<'a> {
    key: &'a Key,
}

impl<'de> Deserializer<'de> for KeyDeserializer<'_> {
    type Error = ReadError;

    fn deserialize_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_str(&self.key.name)
    }

    fn deserialize_option<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: de::Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        if name == PLACED {
            visitor.visit_seq(SpannedAccess {
                place: self.key.place,
                value: self,
                next: 0,
            })
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_enum<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_enum(Variant::<Reader<'_>> {
            name: &self.key.name,
            value: None,
        })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A place and its value, in the form that `Spanned` expects.
struct SpannedAccess<D> {
    value: D,
    place: Place,
    next: u8,
}

impl<'de, D: Deserializer<'de, Error = ReadError> + Copy> de::SeqAccess<'de> for SpannedAccess<D> {
    type Error = ReadError;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        self.next += 1;
        match self.next {
            1 => seed.deserialize(self.place.file.into_deserializer()),
            2 => seed.deserialize(self.place.start.into_deserializer()),
            3 => seed.deserialize(self.place.end.into_deserializer()),
            _ => seed.deserialize(self.value),
        }
        .map(Some)
    }
}

/// A variant's name and its value.
struct Variant<'n, D> {
    name: &'n str,
    value: Option<D>,
}

impl<'de, 'a> de::EnumAccess<'de> for Variant<'_, Reader<'a>> {
    type Error = ReadError;
    type Variant = VariantValue<'a>;

    fn variant_seed<T: de::DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, VariantValue<'a>), ReadError> {
        let name = seed.deserialize(StrDeserializer::new(self.name))?;
        Ok((name, VariantValue { value: self.value }))
    }
}

/// The value of a variant.
struct VariantValue<'a> {
    value: Option<Reader<'a>>,
}

impl<'a> VariantValue<'a> {
    fn read<T>(
        self,
        read: impl FnOnce(Reader<'a>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let Some(reader) = self.value else {
            return Err(ReadError::Message("this word needs a value".to_owned()));
        };
        read(reader).map_err(|error| reader.rounds.settle(reader.node, None, error))
    }
}

impl<'de> de::VariantAccess<'de> for VariantValue<'_> {
    type Error = ReadError;

    fn unit_variant(self) -> Result<(), ReadError> {
        match self.value {
            None => Ok(()),
            Some(_) => Err(ReadError::Message(
                "this word takes no value: write it alone".to_owned(),
            )),
        }
    }

    fn newtype_variant_seed<T: de::DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, ReadError> {
        self.read(|reader| seed.deserialize(reader))
    }

    fn tuple_variant<V: de::Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.read(|reader| reader.deserialize_any(visitor))
    }

    fn struct_variant<V: de::Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.read(|reader| reader.deserialize_struct("", fields, visitor))
    }
}
