//! Hashes of passwords: argon2 in the PHC string format, and bcrypt as `htpasswd -B` writes it.

use std::{fmt, str::FromStr};

use argon2::{
    Argon2, Params,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc},
};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::InvalidHash;

const HELP: &str = "make one with `edgeway hash password`, or with `htpasswd -nB USER`";

/// Bounds beyond which one login would occupy a core for seconds, or exhaust the machine's memory.
const MAX_MEMORY_KIB: u32 = 256 * 1024;
const MAX_PASSES: u32 = 20;
const MAX_COST: u32 = 14;

/// A password hash to verify against.
#[derive(Clone)]
pub enum PasswordHash {
    /// `$argon2id$…`, `$argon2i$…` or `$argon2d$…`.
    Argon2(Box<phc::PasswordHash>),
    /// `$2a$…`, `$2b$…`, `$2x$…` or `$2y$…`.
    Bcrypt(Box<str>),
}

impl PasswordHash {
    /// The hash in its text form.
    pub fn text(&self) -> String {
        match self {
            Self::Argon2(hash) => hash.to_string(),
            Self::Bcrypt(hash) => hash.to_string(),
        }
    }

    /// Returns true if this is the password. Takes as long as the hash was designed to take, some
    /// 10 to 500 ms of one core: never call it where other work waits.
    pub fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2(hash) => Argon2::default().verify_password(password, &**hash).is_ok(),
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
        }
    }
}

impl FromStr for PasswordHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let bad = |why: String| InvalidHash { why, help: HELP };
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
            Some("apr1" | "1" | "5" | "6" | "y") => Err(bad(
                "unsupported hash type: too fast to resist guessing, or one of crypt(3)".to_owned(),
            )),
            // The text is not repeated: it may be the password itself.
            _ if text.starts_with("{SHA}") || text.starts_with("{SSHA}") => Err(bad(
                "SHA-1 is not supported: it is too fast to resist guessing".to_owned(),
            )),
            _ => Err(bad("invalid password hash".to_owned())),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Argon2(_) => "argon2",
            Self::Bcrypt(_) => "bcrypt",
        })
    }
}

/// Hashes a password with argon2id and the crate's parameters: 19 MiB, two passes (the OWASP
/// recommendation).
///
/// # Errors
/// Fails when the system has no random bits, or when the password is longer than argon2 accepts.
pub fn hash_password(password: &[u8]) -> Result<String, String> {
    let mut salt = [0; 16];
    SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| "the system has no random bits".to_owned())?;
    let hash: phc::PasswordHash = Argon2::default()
        .hash_password_with_salt(password, &salt)
        .map_err(|error| error.to_string())?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PasswordHash, InvalidHash> {
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
    fn what_is_weak_or_broken_or_too_dear_is_refused_without_being_repeated() {
        let dear = bcrypt::hash("x", 4).unwrap().replacen("$04$", "$18$", 1);
        for (text, why) in [
            ("hunter2", "invalid password hash"),
            ("$apr1$hunter2$x", "unsupported"),
            ("{SHA}hunter2", "SHA-1"),
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
