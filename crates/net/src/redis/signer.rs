//! Signatures on data that gateways exchange through Redis and trust. They use the secret of the
//! fleet: data written to Redis without it is not trusted.

use std::sync::Arc;

use edgeway_base::secret::Secret;
use ring::{digest, hmac, rand::SystemRandom};
use subtle::ConstantTimeEq;

/// Size of a signature in bytes: HMAC-SHA256.
pub const TAG: usize = 32;

/// Minimum length of a secret in characters; a shorter one could be guessed.
pub const MIN_SECRET_LEN: usize = 32;

/// Signs with the first secret and accepts signatures of all of them, so that secrets can be
/// rotated.
#[derive(Clone)]
pub struct Signer(Arc<[(hmac::Key, [u8; TAG])]>);

impl Signer {
    /// Creates a signer; `None` without a secret.
    pub fn new(secrets: &[Secret]) -> Option<Self> {
        let key = |secret: &Secret| {
            let bytes = secret.reveal().as_bytes();
            let digest = digest::digest(&digest::SHA256, bytes);
            let mut print = [0; TAG];
            print.copy_from_slice(digest.as_ref());
            (hmac::Key::new(hmac::HMAC_SHA256, bytes), print)
        };
        let keys: Arc<[_]> = secrets.iter().map(key).collect();
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// Creates a signer with a random key: its signatures are valid here alone, and it accepts no
    /// others.
    ///
    /// # Panics
    /// Panics if the system has no randomness.
    pub fn alone() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self([(key.expect("the system has randomness"), [0; TAG])].into())
    }

    /// Signs `parts`, which are framed. `kind` names the type of the data, so that one type cannot
    /// pass for another.
    pub fn sign(&self, kind: &str, parts: &[&[u8]]) -> [u8; TAG] {
        signed(&self.0[0].0, kind, parts)
    }

    pub fn verifies(&self, kind: &str, parts: &[&[u8]], tag: &[u8]) -> bool {
        let mut keys = self.0.iter();
        keys.any(|(key, _)| signed(key, kind, parts).ct_eq(tag).into())
    }

    /// Signs in hexadecimal digits.
    pub fn sign_text(&self, kind: &str, parts: &[&[u8]]) -> String {
        hex::encode(self.sign(kind, parts))
    }

    pub fn verifies_text(&self, kind: &str, parts: &[&[u8]], text: &str) -> bool {
        let mut keys = self.0.iter();
        keys.any(|(key, _)| {
            let expected = hex::encode(signed(key, kind, parts));
            expected.as_bytes().ct_eq(text.as_bytes()).into()
        })
    }
}

fn signed(key: &hmac::Key, kind: &str, parts: &[&[u8]]) -> [u8; TAG] {
    let mut context = hmac::Context::with_key(key);
    let mut add = |part: &[u8]| {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    };
    add(kind.as_bytes());
    for part in parts {
        add(part);
    }
    let mut tag = [0; TAG];
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

impl PartialEq for Signer {
    fn eq(&self, other: &Self) -> bool {
        let prints = |it: &Self| it.0.iter().map(|(_, print)| *print).collect::<Vec<_>>();
        prints(self) == prints(other)
    }
}

impl Eq for Signer {}

edgeway_base::opaque_debug!(Signer);

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(secrets: &[&str]) -> Signer {
        let secrets: Vec<_> = secrets.iter().map(|text| Secret::new(*text)).collect();
        Signer::new(&secrets).unwrap()
    }

    #[test]
    fn an_entry_passes_only_with_its_own_signature() {
        let (one, other) = (signer(&["a"]), signer(&["b"]));
        let tag = one.sign("entry", &[b"key", b"body"]);
        assert!(one.verifies("entry", &[b"key", b"body"], &tag));
        for (signer, kind, parts) in [
            (&one, "purge", [&b"key"[..], b"body"]),
            (&one, "entry", [b"key2", b"body"]),
            (&one, "entry", [b"keyb", b"ody"]),
            (&one, "entry", [b"key", b"bodz"]),
            (&other, "entry", [b"key", b"body"]),
        ] {
            assert!(!signer.verifies(kind, &parts, &tag), "{kind} {parts:?}");
        }
        assert!(!one.verifies("entry", &[b"key", b"body"], &tag[..31]));
        assert!(!one.verifies("entry", &[b"key", b"body"], b""));
        let text = one.sign_text("entry", &[b"key"]);
        assert!(one.verifies_text("entry", &[b"key"], &text));
        assert!(!other.verifies_text("entry", &[b"key"], &text));
        assert!(!one.verifies_text("entry", &[b"key"], ""));
        let alone = Signer::alone();
        assert!(alone.verifies("x", &[], &alone.sign("x", &[])));
        assert!(!Signer::alone().verifies("x", &[], &alone.sign("x", &[])));
        assert_eq!(Signer::new(&[]), None);
    }

    #[test]
    fn a_secret_takes_the_place_of_another_step_by_step() {
        let (old, new) = ("the old one", "the new one");
        // Each gateway switches in turn, so that two adjacent steps run side by side.
        let steps = [&[old][..], &[old, new], &[new, old], &[new]];
        for two in steps.windows(2) {
            let [before, after] = [signer(two[0]), signer(two[1])];
            assert_ne!(before, after);
            for (from, to) in [(&before, &after), (&after, &before)] {
                assert!(
                    to.verifies("x", &[b"y"], &from.sign("x", &[b"y"])),
                    "{two:?}"
                );
            }
        }
        assert!(!signer(&[new]).verifies("x", &[], &signer(&[old, new]).sign("x", &[])));
    }
}
