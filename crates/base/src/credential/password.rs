//! Hashes of passwords: argon2 in the PHC string format, bcrypt as `htpasswd -B` writes it, and the
//! weak ones of older files.

use std::str::FromStr;

use argon2::{
    Argon2, Params,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use derive_more::Debug;
use ring::{
    digest::SHA1_FOR_LEGACY_USE_ONLY,
    rand::{SystemRandom, generate},
};
use subtle::ConstantTimeEq as _;

use super::apr1;
use crate::error::InvalidValue;

const HELP: &str = "make one with `edgeway hash password`, or with `htpasswd -nB USER`";

/// Bounds beyond which one login would occupy a core for seconds, or exhaust the machine's memory.
const MAX_MEMORY_KIB: u32 = 256 * 1024;
const MAX_PASSES: u32 = 20;
const MAX_COST: u32 = 14;

/// A password hash to verify against.
#[derive(Clone, Debug)]
pub enum PasswordHash {
    /// `$argon2id$…`, `$argon2i$…` or `$argon2d$…`.
    #[debug("argon2")]
    Argon2(Box<phc::PasswordHash>),
    /// `$2a$…`, `$2b$…`, `$2x$…` or `$2y$…`.
    #[debug("bcrypt")]
    Bcrypt(Box<str>),
    /// `$apr1$…`, as `htpasswd -m` writes it.
    #[debug("apr1")]
    Apr1(Box<str>),
    /// `{SHA}…`, as `htpasswd -s` writes it: a digest without salt.
    #[debug("SHA-1")]
    Sha1(Box<str>, [u8; 20]),
}

impl PasswordHash {
    /// The hash in its text form.
    pub fn text(&self) -> String {
        match self {
            Self::Argon2(hash) => hash.to_string(),
            Self::Bcrypt(hash) | Self::Apr1(hash) | Self::Sha1(hash, _) => hash.to_string(),
        }
    }

    /// Returns true if the hash is so fast to compute that a thief of the file can guess the password.
    pub fn is_weak(&self) -> bool {
        match self {
            Self::Argon2(_) | Self::Bcrypt(_) => false,
            Self::Apr1(_) | Self::Sha1(..) => true,
        }
    }

    /// Returns true if this is the password. Takes as long as the hash was designed to take, some
    /// 10 to 500 ms of one core: never call it where other work waits.
    pub fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2(hash) => Argon2::default().verify_password(password, &**hash).is_ok(),
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Apr1(hash) => apr1::parts(hash).is_some_and(|(salt, digest)| {
                let shown = apr1::digest(password, salt.as_bytes());
                bool::from(shown.as_bytes().ct_eq(digest.as_bytes()))
            }),
            Self::Sha1(_, digest) => {
                let shown = ring::digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, password);
                bool::from(shown.as_ref().ct_eq(digest))
            }
        }
    }
}

impl FromStr for PasswordHash {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = |why: String| InvalidValue::new(why, HELP);
        let kind = text
            .strip_prefix('$')
            .and_then(|rest| rest.split('$').next());
        match kind {
            Some("argon2id" | "argon2i" | "argon2d") => {
                let hash = phc::PasswordHash::new(text)
                    .map_err(|error| bad(format!("invalid argon2 hash: {error}")))?;
                if hash.hash.is_none() || hash.salt.is_none() {
                    return Err(bad("truncated argon2 hash".to_owned()));
                }
                let params = Params::try_from(&hash)
                    .map_err(|error| bad(format!("invalid argon2 hash: {error}")))?;
                if params.m_cost() > MAX_MEMORY_KIB || params.t_cost() > MAX_PASSES {
                    return Err(bad(format!(
                        "this argon2 hash needs {} KiB and {} passes for each login; at most \
                         {MAX_MEMORY_KIB} KiB and {MAX_PASSES} passes are allowed",
                        params.m_cost(),
                        params.t_cost()
                    )));
                }
                Ok(Self::Argon2(Box::new(hash)))
            }
            Some("2a" | "2b" | "2x" | "2y") => {
                let parts: bcrypt::HashParts = text
                    .parse()
                    .map_err(|error| bad(format!("invalid bcrypt hash: {error}")))?;
                if parts.get_cost() > MAX_COST {
                    return Err(bad(format!(
                        "this bcrypt hash has cost {}; at most {MAX_COST} is allowed",
                        parts.get_cost()
                    )));
                }
                Ok(Self::Bcrypt(text.into()))
            }
            Some("apr1") if apr1::parts(text).is_some() => Ok(Self::Apr1(text.into())),
            Some("apr1") => Err(bad("invalid apr1 hash".to_owned())),
            Some("1" | "5" | "6" | "y") => {
                Err(bad("unsupported hash type: one of crypt(3)".to_owned()))
            }
            // The text is not repeated: it may be the password itself.
            _ if text.starts_with("{SHA}") => {
                let digest = STANDARD.decode(&text["{SHA}".len()..]);
                let digest = digest.ok().and_then(|digest| digest.try_into().ok());
                let digest = digest.ok_or_else(|| bad("invalid SHA-1 hash".to_owned()))?;
                Ok(Self::Sha1(text.into(), digest))
            }
            _ if text.starts_with("{SSHA}") => {
                Err(bad("unsupported hash type: SHA-1 with a salt".to_owned()))
            }
            _ => Err(bad("invalid password hash".to_owned())),
        }
    }
}

/// Hashes a password with argon2id and the crate's parameters: 19 MiB, two passes (the OWASP
/// recommendation).
///
/// # Errors
/// Fails when the system has no random bits, or when the password is longer than argon2 accepts.
pub fn hash_password(password: &[u8]) -> Result<String, String> {
    let salt = generate::<[u8; 16]>(&SystemRandom::new());
    let salt = salt.map_err(|_| "the system has no random bits".to_owned())?;
    let hash: phc::PasswordHash = Argon2::default()
        .hash_password_with_salt(password, &salt.expose())
        .map_err(|error| error.to_string())?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PasswordHash, InvalidValue> {
        text.parse()
    }

    #[test]
    fn a_password_is_known_by_the_hash_that_was_made_of_it() {
        let text = hash_password(b"correct horse").unwrap();
        assert!(
            text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{text}"
        );
        let hash = parse(&text).unwrap();
        assert!(hash.verify(b"correct horse"));
        assert!(!hash.verify(b"correct horsf"));
        assert!(!hash.verify(b""));
        assert_eq!(format!("{hash:?}"), "argon2");
    }

    #[test]
    fn what_htpasswd_writes_is_taken() {
        // `htpasswd -nbB -C 5 alice wonderland`
        let text = bcrypt::hash("wonderland", 5)
            .unwrap()
            .replacen("$2b$", "$2y$", 1);
        let hash = parse(&text).unwrap();
        assert!(hash.verify(b"wonderland"));
        assert!(!hash.verify(b"wonderlanD"));
    }

    #[test]
    fn weak_hashes_of_older_files_are_taken_and_known_as_weak() {
        for (text, password) in [
            // `htpasswd -nbm alice wonderland`, with a fixed salt
            ("$apr1$abcdefgh$VS3vSM84y6riPqgPCrpTW.", "wonderland"),
            // `htpasswd -nbs alice wonderland`
            ("{SHA}tiY7sUhYKUwI5L3866kDY+ENcrQ=", "wonderland"),
        ] {
            let hash = parse(text).unwrap();
            assert!(hash.is_weak() && hash.verify(password.as_bytes()), "{text}");
            assert!(!hash.verify(b"wonderlanD") && !hash.verify(b""), "{text}");
            assert_eq!(hash.text(), text);
        }
        assert!(!parse(&hash_password(b"x").unwrap()).unwrap().is_weak());
    }

    #[test]
    fn what_is_broken_or_too_dear_is_refused_without_being_repeated() {
        let dear = bcrypt::hash("x", 4).unwrap().replacen("$04$", "$18$", 1);
        for (text, why) in [
            ("hunter2", "invalid password hash"),
            ("$apr1$hunter2$x", "invalid apr1"),
            ("$6$hunter2$x", "unsupported"),
            ("{SHA}hunter2", "invalid SHA-1"),
            ("{SSHA}hunter2", "unsupported"),
            ("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ", "truncated"),
            ("$argon2id$hunter2", "argon2"),
            (
                "$argon2id$v=19$m=4000000,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$\
                 c29tZXNhbHRzb21lc2FsdA",
                "4000000 KiB",
            ),
            ("$2y$05$short", "bcrypt"),
            (&dear, "cost 18"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
