//! Keys for verifying tokens, each only for algorithms of its own kind: a public key is never used
//! as a secret, whatever a token's header names.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use edgeway_base::error::InvalidValue;
use ring::{
    agreement::{self, ECDH_P256, ECDH_P384, EphemeralPrivateKey, agree_ephemeral},
    error::Unspecified,
    hmac,
    rand::SystemRandom,
    signature::{self as signatures, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x509_parser::{
    pem::Pem,
    prelude::FromDer,
    public_key::{PublicKey, RSAPublicKey},
    x509::SubjectPublicKeyInfo,
};

/// RFC 7518, 3.2: a key for HS256 has at least as many bits as its hash.
const MIN_SECRET_LEN: usize = 32;
/// RFC 7518, 3.3, and a bound on the time that one verification takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// Maximum number of keys in one document.
pub(super) const MAX_KEYS: usize = 64;

const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";

edgeway_base::enum_table! {
    /// Signature algorithm of a token. There is no `none`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
    pub(super) enum Algorithm => name {
        HS256 = "HS256",
        HS384 = "HS384",
        HS512 = "HS512",
        RS256 = "RS256",
        RS384 = "RS384",
        RS512 = "RS512",
        PS256 = "PS256",
        PS384 = "PS384",
        PS512 = "PS512",
        ES256 = "ES256",
        ES384 = "ES384",
        EdDSA = "EdDSA",
    }
}

edgeway_base::enum_table! {
    /// Kind of a key.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum KeyKind => name {
        Secret = "a secret",
        Rsa = "an RSA key",
        P256 = "a P-256 key",
        P384 = "a P-384 key",
        Ed25519 = "an Ed25519 key",
    }
}

impl Algorithm {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|alg| alg.name() == text)
    }

    /// Returns the only kind of key that verifies this algorithm.
    pub(super) fn kind(self) -> KeyKind {
        match self {
            Self::HS256 | Self::HS384 | Self::HS512 => KeyKind::Secret,
            Self::RS256 | Self::RS384 | Self::RS512 | Self::PS256 | Self::PS384 | Self::PS512 => {
                KeyKind::Rsa
            }
            Self::ES256 => KeyKind::P256,
            Self::ES384 => KeyKind::P384,
            Self::EdDSA => KeyKind::Ed25519,
        }
    }

    fn scheme(self) -> Scheme {
        match self {
            Self::HS256 => Scheme::Hmac(hmac::HMAC_SHA256),
            Self::HS384 => Scheme::Hmac(hmac::HMAC_SHA384),
            Self::HS512 => Scheme::Hmac(hmac::HMAC_SHA512),
            Self::RS256 => Scheme::Rsa(&signatures::RSA_PKCS1_2048_8192_SHA256),
            Self::RS384 => Scheme::Rsa(&signatures::RSA_PKCS1_2048_8192_SHA384),
            Self::RS512 => Scheme::Rsa(&signatures::RSA_PKCS1_2048_8192_SHA512),
            Self::PS256 => Scheme::Rsa(&signatures::RSA_PSS_2048_8192_SHA256),
            Self::PS384 => Scheme::Rsa(&signatures::RSA_PSS_2048_8192_SHA384),
            Self::PS512 => Scheme::Rsa(&signatures::RSA_PSS_2048_8192_SHA512),
            Self::ES256 => Scheme::Curve(&signatures::ECDSA_P256_SHA256_FIXED),
            Self::ES384 => Scheme::Curve(&signatures::ECDSA_P384_SHA384_FIXED),
            Self::EdDSA => Scheme::Curve(&signatures::ED25519),
        }
    }
}

/// Computation that verifies signatures of an algorithm.
enum Scheme {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters),
    Curve(&'static dyn VerificationAlgorithm),
}

impl KeyKind {
    /// Returns the default algorithm of keys of this kind.
    pub(super) fn usual(self) -> Algorithm {
        match self {
            Self::Secret => Algorithm::HS256,
            Self::Rsa => Algorithm::RS256,
            Self::P256 => Algorithm::ES256,
            Self::P384 => Algorithm::ES384,
            Self::Ed25519 => Algorithm::EdDSA,
        }
    }
}

/// A key for verifying tokens.
#[derive(Clone)]
pub(super) struct Key {
    /// Name of the key in tokens.
    pub(super) kid: Option<Box<str>>,
    pub(super) kind: KeyKind,
    /// The only algorithm of the key, if its owner specifies one.
    only: Option<Algorithm>,
    material: Material,
}

/// Numbers of a key.
#[derive(Clone)]
enum Material {
    Secret(Vec<u8>),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Point(Vec<u8>),
}

/// Help for keys that fit no algorithm.
const KINDS: &str = "write an RSA key of 2048 to 4096 bits, or one on P-256, P-384 or Ed25519";
const WRITE_PUBLIC: &str =
    "write the public key: `openssl pkey -in private.pem -pubout -out public.pem`";

impl Key {
    /// Returns true if `signature` (encoded, as in the token) is a signature of `message` by this
    /// key.
    pub(super) fn verifies(&self, alg: Algorithm, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else {
            return false;
        };
        self.fits(alg) && self.verify(alg, message, &signature).is_ok()
    }

    fn verify(&self, alg: Algorithm, message: &[u8], signature: &[u8]) -> Result<(), Unspecified> {
        match (alg.scheme(), &self.material) {
            (Scheme::Hmac(hash), Material::Secret(secret)) => {
                hmac::verify(&hmac::Key::new(hash, secret), message, signature)
            }
            (Scheme::Rsa(parameters), Material::Rsa(key)) => {
                key.verify(parameters, message, signature)
            }
            (Scheme::Curve(curve), Material::Point(point)) => {
                signatures::UnparsedPublicKey::new(curve, point).verify(message, signature)
            }
            _ => Err(Unspecified),
        }
    }

    /// Returns true if the key is for this algorithm.
    pub(super) fn fits(&self, alg: Algorithm) -> bool {
        self.kind == alg.kind() && self.only.is_none_or(|only| only == alg)
    }

    /// Returns the default algorithm of this key.
    pub(super) fn usual(&self) -> Algorithm {
        self.only.unwrap_or(self.kind.usual())
    }

    fn new(kind: KeyKind, material: Material) -> Self {
        Self {
            kid: None,
            kind,
            only: None,
            material,
        }
    }

    fn secret(bytes: &[u8]) -> Result<Self, InvalidValue> {
        if bytes.len() < MIN_SECRET_LEN {
            return Err(InvalidValue::new(
                format!(
                    "the secret has {} bytes: one shorter than {MIN_SECRET_LEN} can be guessed",
                    bytes.len()
                ),
                "create one with `openssl rand -hex 32`, and share it with the token issuer",
            ));
        }
        Ok(Self::new(KeyKind::Secret, Material::Secret(bytes.to_vec())))
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, InvalidValue> {
        let trim = |bytes: &[u8]| -> Vec<u8> {
            let start = bytes.iter().position(|byte| *byte != 0);
            bytes[start.unwrap_or(bytes.len())..].to_vec()
        };
        let (modulus, exponent) = (trim(modulus), trim(exponent));
        let bits = modulus.first().map_or(0, |first| {
            modulus.len() * 8 - first.leading_zeros() as usize
        });
        if !RSA_BITS.contains(&bits) {
            let message = format!("the RSA key has {bits} bits");
            return Err(InvalidValue::new(message, KINDS));
        }
        // RFC 8017, 3.1; the library accepts no longer exponents.
        let is_odd = exponent.last().is_some_and(|last| last % 2 == 1);
        if !is_odd || exponent == [1] || exponent.len() > 4 {
            let message = "the RSA key has an invalid exponent";
            return Err(InvalidValue::new(message, KINDS));
        }
        let (n, e) = (modulus, exponent);
        let key = RsaPublicKeyComponents { n, e };
        Ok(Self::new(KeyKind::Rsa, Material::Rsa(key)))
    }

    /// Makes a key from an uncompressed point on a curve, or a point of Ed25519.
    fn point(kind: KeyKind, bytes: &[u8]) -> Result<Self, InvalidValue> {
        let is_point = match kind {
            KeyKind::P256 => is_on(&ECDH_P256, bytes),
            KeyKind::P384 => is_on(&ECDH_P384, bytes),
            KeyKind::Ed25519 => bytes.len() == 32,
            KeyKind::Rsa | KeyKind::Secret => false,
        };
        if !is_point {
            let message = "the key is not an uncompressed point on its curve";
            return Err(InvalidValue::new(message, KINDS));
        }
        Ok(Self::new(kind, Material::Point(bytes.to_vec())))
    }
}

/// Returns true if `bytes` is a point on the curve, which an agreement on a secret checks.
fn is_on(curve: &'static agreement::Algorithm, bytes: &[u8]) -> bool {
    let peer = agreement::UnparsedPublicKey::new(curve, bytes);
    EphemeralPrivateKey::generate(curve, &SystemRandom::new())
        .and_then(|own| agree_ephemeral(own, &peer, |_| ()))
        .is_ok()
}

edgeway_base::opaque_debug!(Key, kid, kind);

/// Reads the keys in a text of the configuration or a file: a public key or a certificate in PEM, a
/// JWK or a set of them, or a secret.
pub(super) fn read(text: &str) -> Result<Vec<Key>, InvalidValue> {
    let trimmed = text.trim();
    if trimmed.contains("-----BEGIN") {
        // Environment files often store line breaks as `\n`.
        return pem(&trimmed.replace("\\n", "\n"));
    }
    if trimmed.starts_with('{') {
        let keys = set(trimmed.as_bytes(), SecretKeys::Allowed, |_, _| {})?;
        if keys.is_empty() {
            return Err(InvalidValue::new(
                "no key in the JWK set can be used",
                KINDS,
            ));
        }
        return Ok(keys);
    }
    let is_ssh = ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|start| trimmed.starts_with(start));
    if is_ssh {
        return Err(InvalidValue::new(
            "this is a public key in OpenSSH format",
            "write it as PEM: `ssh-keygen -e -m PKCS8 -f key.pub`",
        ));
    }
    // A public key used as a secret would be a published secret.
    if trimmed.starts_with("MII") || trimmed.starts_with("MFkw") || trimmed.starts_with("MCow") {
        return Err(InvalidValue::new(
            "this looks like a Base64 key without its first and last line",
            "write the whole PEM, with `-----BEGIN PUBLIC KEY-----` before it",
        ));
    }
    Key::secret(trimmed.as_bytes()).map(|key| vec![key])
}

fn pem(text: &str) -> Result<Vec<Key>, InvalidValue> {
    let mut keys = Vec::new();
    for block in Pem::iter_from_buffer(text.as_bytes()) {
        let block = block
            .map_err(|error| InvalidValue::new(format!("invalid PEM: {error}"), WRITE_PUBLIC))?;
        let der = &block.contents[..];
        let broken = |part: &str| InvalidValue::new(format!("invalid {part}"), WRITE_PUBLIC);
        let key = match block.label.as_str() {
            "PUBLIC KEY" => {
                let (_, info) =
                    SubjectPublicKeyInfo::from_der(der).map_err(|_| broken("public key"))?;
                public(&info)?
            }
            "RSA PUBLIC KEY" => {
                let (_, key) = RSAPublicKey::from_der(der).map_err(|_| broken("RSA key"))?;
                Key::rsa(key.modulus, key.exponent)?
            }
            "CERTIFICATE" => {
                let (_, certificate) =
                    x509_parser::parse_x509_certificate(der).map_err(|_| broken("certificate"))?;
                public(certificate.public_key())?
            }
            label if label.contains("PRIVATE KEY") => {
                let message = "this is a private key, which only the token issuer may have";
                return Err(InvalidValue::new(message, WRITE_PUBLIC));
            }
            label => {
                let message = format!("`{label}` is not a public key");
                return Err(InvalidValue::new(message, WRITE_PUBLIC));
            }
        };
        keys.push(key);
        if block.label == "CERTIFICATE" {
            // The certificates that follow signed this one, and sign no tokens.
            break;
        }
    }
    if keys.is_empty() {
        return Err(InvalidValue::new("the PEM has no key", WRITE_PUBLIC));
    }
    Ok(keys)
}

fn public(info: &SubjectPublicKeyInfo<'_>) -> Result<Key, InvalidValue> {
    let algorithm = info.algorithm.algorithm.to_id_string();
    let bytes: &[u8] = &info.subject_public_key.data;
    match algorithm.as_str() {
        RSA => match info.parsed() {
            Ok(PublicKey::RSA(key)) => Key::rsa(key.modulus, key.exponent),
            _ => Err(InvalidValue::new("invalid RSA key", WRITE_PUBLIC)),
        },
        EC => {
            let curve = info
                .algorithm
                .parameters
                .as_ref()
                .and_then(|p| p.as_oid().ok());
            match curve.map(|oid| oid.to_id_string()).as_deref() {
                Some(P256) => Key::point(KeyKind::P256, bytes),
                Some(P384) => Key::point(KeyKind::P384, bytes),
                _ => Err(InvalidValue::new(
                    "the key is on a curve that is not supported",
                    KINDS,
                )),
            }
        }
        ED25519 => Key::point(KeyKind::Ed25519, bytes),
        _ => Err(InvalidValue::new("the key type is not supported", KINDS)),
    }
}

/// Permission for a set to hold secrets: never for a set fetched over the network, where its
/// secrets would be public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecretKeys {
    Allowed,
    Refused,
}

/// A JWK as in RFC 7517; other members are ignored.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// Returns the keys of a JWK set, or a single JWK, that can verify tokens. Other keys (for
/// encryption, of unsupported kinds, broken ones) are left out, as RFC 7517, 5 requires, and
/// `left_out` gets their `kid` and the reason.
pub(super) fn set(
    text: &[u8],
    secrets: SecretKeys,
    left_out: impl Fn(&str, &str),
) -> Result<Vec<Key>, InvalidValue> {
    const HELP: &str = "write a JWK set: `{\"keys\": […]}`";
    let value: serde_json::Value = serde_json::from_slice(text)
        .map_err(|error| InvalidValue::new(format!("invalid JSON: {error}"), HELP))?;
    let list = if value.get("kty").is_some() {
        vec![value]
    } else {
        let set: JwkSet = serde_json::from_value(value)
            .map_err(|error| InvalidValue::new(format!("invalid JWK set: {error}"), HELP))?;
        set.keys
    };
    if list.len() > MAX_KEYS {
        let message = format!("the JWK set has more than {MAX_KEYS} keys");
        return Err(InvalidValue::new(
            message,
            "remove keys that no longer sign",
        ));
    }
    let known = list.iter().filter_map(|value| {
        let jwk = Jwk::deserialize(value).map_err(|error| error.to_string());
        let key = jwk.and_then(|jwk| jwk.key(secrets));
        let kid = value.get("kid").and_then(serde_json::Value::as_str);
        key.map_err(|why| left_out(kid.unwrap_or_default(), &why))
            .ok()
    });
    Ok(known.collect())
}

impl Jwk {
    fn key(&self, secrets: SecretKeys) -> Result<Key, String> {
        let signs = self
            .purpose
            .as_deref()
            .is_none_or(|purpose| purpose == "sig")
            && self
                .key_ops
                .as_ref()
                .is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !signs {
            return Err("it is not for signatures".to_owned());
        }
        // Without its numbers, no key is valid.
        let bytes = |text: &Option<String>| -> Vec<u8> {
            let text = text.as_deref().unwrap_or_default();
            URL_SAFE_NO_PAD.decode(text).unwrap_or_default()
        };
        let on_curve = |kind: KeyKind, length: usize| {
            let (x, y) = (bytes(&self.x), bytes(&self.y));
            let has_full_length = x.len() == length && y.len() == length;
            let point = [&[4][..], &x, &y].concat();
            Key::point(kind, if has_full_length { &point } else { &[] })
        };
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Key::rsa(&bytes(&self.n), &bytes(&self.e)),
            ("EC", Some("P-256")) => on_curve(KeyKind::P256, 32),
            ("EC", Some("P-384")) => on_curve(KeyKind::P384, 48),
            ("OKP", Some("Ed25519")) => Key::point(KeyKind::Ed25519, &bytes(&self.x)),
            ("oct", _) if secrets == SecretKeys::Allowed => Key::secret(&bytes(&self.k)),
            _ => return Err("its type or curve is not supported".to_owned()),
        };
        let mut key = key.map_err(|invalid| invalid.to_string())?;
        if let Some(alg) = &self.alg {
            let alg = Algorithm::parse(alg).filter(|alg| alg.kind() == key.kind);
            let alg = alg.ok_or("its `alg` is not supported, or for other types of keys")?;
            key.only = Some(alg);
        }
        key.kid = self.kid.clone().map(Into::into);
        Ok(key)
    }
}
