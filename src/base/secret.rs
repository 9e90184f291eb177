//! A text that must not be seen: redacted in `Debug`, in dumps and in `edgeway check --print`.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What stands in place of a secret wherever one is printed.
pub const REDACTED: &str = "[redacted]";

/// A password, key or token; written in YAML as `file:PATH` or `${NAME}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Whoever calls this answers for where it goes.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Reads the file of a `file:PATH`, trailing line ends removed.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let Some(path) = text.strip_prefix("file:") else {
            return Ok(Self(text));
        };
        match std::fs::read_to_string(path) {
            Ok(content) => Ok(Self(content.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(de::Error::custom(format_args!(
                "cannot read the secret in `{path}`: {error}"
            ))),
        }
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(REDACTED)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A secret: `file:PATH` or `${NAME}` from the environment."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), REDACTED);
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"[redacted]\"");
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn a_secret_file_loses_its_last_line_end_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a b\nc\r\n").unwrap();
        let yaml = serde_json::Value::String(format!("file:{}", file.path().display()));
        assert_eq!(Secret::deserialize(yaml).unwrap().reveal(), "a b\nc");
    }
}
