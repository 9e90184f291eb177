//! Session tickets, which save us a signature when a client returns.
//!
//! Each listener has keys of its own. A ticket of one listener resumes no session on another, which
//! may require client certificates that the first did not.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use ring::{
    aead::{self, Aad, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use rustls::server::ProducesTickets;

/// Period between rotations of the ticket key (see [`super::sessions`]). The previous key still
/// opens tickets, so a ticket is valid for at least this long and at most twice as long.
pub(super) const ROTATION_INTERVAL: Duration = Duration::from_hours(6);

const NAME: usize = 16;
const SECRET: usize = 32;
/// The longest ticket accepted. A client's certificate chain is its largest part; a longer ticket
/// was not issued here.
const MAX_LEN: usize = 1 << 16;

/// Keys that encrypt tickets: the current one, then the previous one.
#[derive(Default)]
pub(super) struct TicketKeys(ArcSwap<Vec<Arc<TicketKey>>>);

/// Secret of a key, as handed to the successor.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct TicketSecret(Box<[u8; NAME + SECRET]>);

struct TicketKey {
    secret: TicketSecret,
    aead: LessSafeKey,
}

/// The system provided no randomness for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no randomness")]
pub(super) struct NoRandomness;

impl TicketKeys {
    pub(super) fn new() -> Result<Self, NoRandomness> {
        let keys = Self::default();
        keys.turn()?;
        Ok(keys)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    /// Rotates the keys: a new key becomes the current one, and the one before the previous is
    /// dropped.
    pub(super) fn turn(&self) -> Result<(), NoRandomness> {
        let next = Arc::new(TicketKey::random()?);
        self.0.rcu(|keys| {
            let before = keys.first().map(Arc::clone);
            std::iter::once(Arc::clone(&next))
                .chain(before)
                .collect::<Vec<_>>()
        });
        Ok(())
    }

    /// The keys for the successor, the current one first.
    pub(super) fn export(&self) -> Vec<TicketSecret> {
        let keys = self.0.load();
        keys.iter().map(|key| key.secret.clone()).collect()
    }

    /// Imports the keys of another process.
    pub(super) fn import(&self, secrets: &[TicketSecret]) {
        let keys: Vec<_> = secrets
            .iter()
            .take(2)
            .map(|secret| Arc::new(TicketKey::new(secret.clone())))
            .collect();
        if !keys.is_empty() {
            self.0.store(Arc::new(keys));
        }
    }
}

impl TicketSecret {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0[..]
    }

    /// Returns `None` unless the length is that of [`Self::as_bytes`].
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(Box::new(bytes.try_into().ok()?)))
    }

    fn name(&self) -> &[u8] {
        &self.0[..NAME]
    }
}

impl TicketKey {
    fn new(secret: TicketSecret) -> Self {
        let key = UnboundKey::new(&aead::AES_256_GCM, &secret.0[NAME..])
            .expect("the secret is as long as the key");
        Self {
            aead: LessSafeKey::new(key),
            secret,
        }
    }

    fn random() -> Result<Self, NoRandomness> {
        let mut secret = Box::new([0; NAME + SECRET]);
        SystemRandom::new()
            .fill(&mut secret[..])
            .map_err(|_| NoRandomness)?;
        Ok(Self::new(TicketSecret(secret)))
    }
}

/// A ticket is the key's name, a nonce, the encrypted state, and a tag.
impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(ROTATION_INTERVAL.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.0.load();
        let key = keys.first()?;
        // Random: a counter would reveal how many handshakes happened between two of a client's.
        let mut nonce = [0; aead::NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let name = key.secret.name();
        let tag_length = key.aead.algorithm().tag_len();
        let length = NAME + nonce.len() + plain.len() + tag_length;
        if length > MAX_LEN {
            return None;
        }
        let mut ticket = Vec::with_capacity(length);
        ticket.extend_from_slice(name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let body = &mut ticket[NAME + aead::NONCE_LEN..];
        let sealed = key
            .aead
            .seal_in_place_separate_tag(nonce, Aad::from(name), body);
        let tag = sealed.ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > MAX_LEN {
            return None;
        }
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (nonce, body) = rest.split_at_checked(aead::NONCE_LEN)?;
        let keys = self.0.load();
        // The name is no secret: every ticket contains it.
        let key = keys.iter().find(|key| key.secret.name() == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = body.to_vec();
        let length = key
            .aead
            .open_in_place(nonce, Aad::from(name), &mut plain)
            .ok()?
            .len();
        plain.truncate(length);
        Some(plain)
    }
}

edgeway_base::opaque_debug!(TicketKeys);

edgeway_base::opaque_debug!(TicketSecret);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_ticket_outlives_one_turn_of_the_keys_and_not_two() {
        let keys = TicketKeys::new().unwrap();
        let ticket = keys.encrypt(b"a session").unwrap();
        assert_eq!(keys.decrypt(&ticket).unwrap(), b"a session");
        keys.turn().unwrap();
        assert_eq!(keys.decrypt(&ticket).unwrap(), b"a session");
        assert_ne!(keys.encrypt(b"a session").unwrap()[..NAME], ticket[..NAME]);
        keys.turn().unwrap();
        assert_eq!(keys.decrypt(&ticket), None);
    }

    #[test]
    fn a_successor_opens_what_its_predecessor_made() {
        let before = TicketKeys::new().unwrap();
        let old = before.encrypt(b"old").unwrap();
        before.turn().unwrap();
        let new = before.encrypt(b"new").unwrap();
        let after = TicketKeys::new().unwrap();
        assert_eq!(after.decrypt(&new), None);
        let secrets: Vec<_> = before
            .export()
            .iter()
            .map(|secret| TicketSecret::from_bytes(secret.as_bytes()).unwrap())
            .collect();
        after.import(&secrets);
        assert_eq!(after.decrypt(&new).unwrap(), b"new");
        assert_eq!(after.decrypt(&old).unwrap(), b"old");
        assert_eq!(before.decrypt(&after.encrypt(b"x").unwrap()).unwrap(), b"x");
        assert_eq!(TicketSecret::from_bytes(&[0; 47]), None);
        assert!(!format!("{secrets:?}").contains(|c: char| c.is_ascii_digit()));
    }

    proptest! {
        #[test]
        fn what_was_made_elsewhere_or_changed_opens_nothing(
            plain in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
            noise in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let keys = TicketKeys::new().unwrap();
            let mut ticket = keys.encrypt(&plain).unwrap();
            prop_assert_eq!(keys.decrypt(&ticket).unwrap(), plain);
            let at = at.index(ticket.len());
            ticket[at] ^= 1 << bit;
            prop_assert_eq!(keys.decrypt(&ticket), None);
            prop_assert_eq!(keys.decrypt(&ticket[..at]), None);
            prop_assert_eq!(keys.decrypt(&noise), None);
        }
    }
}
