//! Configuration of a key as written, and the keys it yields.

use edgeway_base::{
    named_file,
    secret::{self, TextOrFile},
};
use edgeway_config::tree::{
    Spanned,
    short::{self, Short, reads_short},
};
use edgeway_core::chain::CompileContext;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::jwt::keys::{self, Key};

/// Maximum size of a key file, which usually has a few KiB.
const MAX_FILE_SIZE: u64 = 256 * 1024;

/// A key: a text, or a mapping with its name.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = short::or_text)]
pub(super) struct KeyConfig {
    /// `file:PATH`, or the key itself from the environment.
    key: KeyText,
    /// Name of the key in tokens (`kid`).
    kid: Option<String>,
}

impl Short for KeyConfig {
    const WHAT: &'static str = "`file:PATH`, or a mapping such as `{ key: file:PATH, kid: NAME }`";

    fn text(text: &str) -> Option<Result<Self, String>> {
        Some(Ok(Self {
            key: KeyText(text.to_owned()),
            kid: None,
        }))
    }
}

reads_short!(KeyConfig);

impl Serialize for KeyConfig {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.kid {
            None => self.key.serialize(s),
            Some(_) => Self::serialize(self, s),
        }
    }
}

/// A path, which may be shown, or a key, which may not.
#[derive(JsonSchema)]
#[schemars(transparent)]
pub(super) struct KeyText(String);

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        TextOrFile::deserialize(d).map(|TextOrFile(text)| Self(text))
    }
}

impl KeyText {
    fn path(&self) -> Option<&str> {
        self.0.strip_prefix("file:")
    }
}

impl std::fmt::Debug for KeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.path().map_or(secret::REDACTED, |_| &self.0))
    }
}

impl Serialize for KeyText {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.path().map_or(secret::REDACTED, |_| &self.0))
    }
}

/// Reads the keys in one text or file; a reload reads them again.
pub(super) fn read(key: &Spanned<KeyConfig>, cx: &mut CompileContext<'_>) -> Option<Vec<Key>> {
    const CODE: &str = "edgeway::jwt::key";
    let text = match key.value.key.path() {
        None => Ok(key.value.key.0.clone()),
        Some(path) => {
            let path = cx.folder.join(path);
            cx.referenced.missed(path.clone());
            named_file::read_text(&path, MAX_FILE_SIZE)
        }
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            let path = key.value.key.path().unwrap_or_default();
            let message = format!("cannot read the key in `{path}`: {error}");
            let help = "name a file with a public key or a certificate in PEM, a JWK set, or \
                        a secret";
            return cx.at(key.place, CODE).refuse(message, help);
        }
    };
    let mut keys = match keys::read(&text) {
        Ok(keys) => keys,
        Err(error) => {
            let message = match key.value.key.path() {
                Some(path) => format!("`{path}`: {error}"),
                None => error.to_string(),
            };
            return cx.at(key.place, CODE).refuse(message, error.help);
        }
    };
    if let Some(kid) = &key.value.kid {
        let [only] = &mut keys[..] else {
            let message = format!("several keys have the name `{kid}`");
            return cx
                .at(key.place, CODE)
                .refuse(message, "remove `kid`: the set names its keys itself");
        };
        only.kid = Some(kid.as_str().into());
    }
    Some(keys)
}
