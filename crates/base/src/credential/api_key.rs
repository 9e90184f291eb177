//! Hashes of API keys. A key is 256 random bits and cannot be guessed, so one round of SHA-256 is
//! as good as a slow hash.

use std::str::FromStr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use derive_more::{Debug, Display};
use ring::{
    digest::{SHA256, digest},
    rand::{SystemRandom, generate},
};
use subtle::ConstantTimeEq as _;

use crate::error::InvalidValue;

const SCHEME: &str = "sha256:";
const HELP: &str = "write `sha256:` and 64 hexadecimal digits, as `edgeway hash api-key` prints it";

/// The SHA-256 of an API key, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Display)]
#[debug("{self}")]
#[display("{SCHEME}{}", hex::encode(_0))]
pub struct ApiKeyHash([u8; 32]);

impl ApiKeyHash {
    /// Hashes a key as the client presents it.
    pub fn from_key(key: &[u8]) -> Self {
        let digest = digest(&SHA256, key);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Part of the hash that serves as a lookup key. It reveals nothing about the rest of the hash,
    /// and the hash reveals nothing about the key.
    pub fn bucket(&self) -> u64 {
        let (head, _) = self.0.split_first_chunk().expect("it has 32 bytes");
        u64::from_le_bytes(*head)
    }

    /// Compares in constant time.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl FromStr for ApiKeyHash {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = |why: &str| InvalidValue::new(why, HELP);
        // The text is not repeated: if a user wrote the key itself, it must not end up in a log.
        let Some(digits) = text.trim().strip_prefix(SCHEME) else {
            return Err(bad("invalid API key hash"));
        };
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes)
            .map_err(|_| bad("invalid API key hash: expected 64 hexadecimal digits"))?;
        Ok(Self(bytes))
    }
}

/// Generates a key of 256 random bits, in characters that never need quoting.
///
/// # Errors
/// Fails when the system has no random bits.
pub fn new_api_key() -> Result<String, ring::error::Unspecified> {
    let bits: [u8; 32] = generate(&SystemRandom::new())?.expose();
    Ok(format!("ek_{}", URL_SAFE_NO_PAD.encode(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_as_printed_and_is_that_of_its_key_only() {
        // FIPS 180-2, appendix B.1.
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hash: ApiKeyHash = text.parse().unwrap();
        assert_eq!(hash.to_string(), text);
        assert!(hash.is(&ApiKeyHash::from_key(b"abc")));
        assert!(!hash.is(&ApiKeyHash::from_key(b"abd")));
        assert_eq!(hash.bucket(), ApiKeyHash::from_key(b"abc").bucket());
    }

    #[test]
    fn an_invalid_hash_is_refused_without_being_repeated() {
        for text in [
            "ek_secret",
            "sha256:12",
            "sha256:zz",
            "",
            &format!("sha256:{}", "é".repeat(32)),
        ] {
            let error = text.parse::<ApiKeyHash>().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
            assert!(error.help.contains("edgeway hash api-key"));
        }
    }

    #[test]
    fn new_keys_are_long_plain_and_different() {
        let (one, two) = (new_api_key().unwrap(), new_api_key().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 46);
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        assert!(one.bytes().all(is_plain), "{one}");
    }
}
