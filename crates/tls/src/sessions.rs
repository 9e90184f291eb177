//! TLS sessions of a listener's clients, which survive reloads and continue in a successor: the
//! ticket keys, and the session cache for clients without tickets.
//!
//! Sessions belong to a listener, and only to one that asks for no client certificate: a resumed
//! session has the certificate of its first handshake, which may have expired or been revoked since.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tickets::{NoRandomness, ROTATION_INTERVAL, TicketKeys, TicketSecret};
use crate::zones::{Zone, Zones};

/// Size of the session cache for TLS 1.2 clients without tickets. The oldest session is evicted
/// first.
const MEMORY: usize = 1024;

/// The zone of a listener's sessions.
pub(super) struct Sessions {
    tickets: Arc<TicketKeys>,
    memory: Arc<ServerSessionMemoryCache>,
    /// Start of use of the first key, in seconds since 1970. Locked during a rotation, because two
    /// tasks may rotate for a moment when one configuration follows another.
    turned: Mutex<i64>,
}

/// State handed to the successor.
#[derive(Serialize, Deserialize)]
struct ExportedKeys {
    /// Keys in hexadecimal digits, the current one first.
    keys: Vec<String>,
    turned: i64,
}

impl Sessions {
    /// The sessions of `listener`, at `now` in seconds since 1970.
    pub(super) fn open(zones: &Zones, listener: &str, now: i64) -> Result<Arc<Self>, NoRandomness> {
        let name = format!("tls sessions of {listener}");
        let make = || Self::new(TicketKeys::new().unwrap_or_default(), now);
        let sessions = zones.get_or_create(&name, make);
        if sessions.tickets.is_empty() {
            sessions.tickets.turn()?;
        }
        Ok(sessions)
    }

    fn new(tickets: TicketKeys, now: i64) -> Self {
        Self {
            tickets: Arc::new(tickets),
            memory: ServerSessionMemoryCache::new(MEMORY),
            turned: Mutex::new(now),
        }
    }

    pub(super) fn tickets(&self) -> Arc<dyn ProducesTickets> {
        Arc::clone(&self.tickets) as _
    }

    pub(super) fn memory(&self) -> Arc<dyn StoresServerSessions + Send + Sync> {
        Arc::clone(&self.memory) as _
    }

    /// Rotates the keys if that is due. Any number of tasks may call it.
    pub(super) fn turn(&self, now: i64) -> Result<(), NoRandomness> {
        let mut turned = self.turned.lock();
        // If the clock was set back, the period counts from now on.
        *turned = now.min(*turned);
        if Duration::from_secs(now.abs_diff(*turned)) >= ROTATION_INTERVAL {
            self.tickets.turn()?;
            *turned = now;
        }
        Ok(())
    }
}

impl Zone for Sessions {
    fn export(&self) -> Option<Value> {
        let turned = *self.turned.lock();
        let secrets = self.tickets.export();
        let keys = secrets.iter().map(|s| hex::encode(s.as_bytes())).collect();
        serde_json::to_value(ExportedKeys { keys, turned }).ok()
    }

    fn import(&self, exported: &Value) {
        let Ok(ExportedKeys { keys, turned }) = ExportedKeys::deserialize(exported) else {
            return;
        };
        let secret = |key: &String| TicketSecret::from_bytes(&hex::decode(key).ok()?);
        let secrets: Option<Vec<_>> = keys.iter().map(secret).collect();
        if let Some(secrets) = secrets.filter(|secrets| !secrets.is_empty()) {
            self.tickets.import(&secrets);
            *self.turned.lock() = turned;
        }
    }
}

edgeway_base::opaque_debug!(Sessions);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOUR: i64 = 3600;

    fn sessions(zones: &Zones) -> Arc<Sessions> {
        Sessions::open(zones, "web", 1000 * HOUR).unwrap()
    }

    #[test]
    fn a_reload_keeps_the_sessions_of_each_listener() {
        let zones = Zones::default();
        let ticket = sessions(&zones).tickets().encrypt(b"x").unwrap();
        let again = sessions(&zones).tickets().decrypt(&ticket);
        assert_eq!(again.as_deref(), Some(&b"x"[..]));
        let other = Sessions::open(&zones, "api", 0).unwrap();
        assert_eq!(other.tickets().decrypt(&ticket), None);
        let memory = sessions(&zones).memory();
        memory.put(b"id".to_vec(), b"session".to_vec());
        assert!(sessions(&zones).memory().get(b"id").is_some());
        assert!(other.memory().get(b"id").is_none());
    }

    #[test]
    fn keys_turn_once_when_it_is_time_however_many_reloads_there_are() {
        let zones = Zones::default();
        let keys = || {
            let exported = sessions(&zones).export().unwrap();
            exported["keys"].as_array().unwrap().len()
        };
        let first = sessions(&zones);
        let ticket = first.tickets().encrypt(b"x").unwrap();
        for minutes in 0..(6 * 60) {
            // Each time from the task of another configuration.
            let now = 1000 * HOUR + minutes * 60;
            sessions(&zones).turn(now).unwrap();
        }
        assert_eq!(keys(), 1);
        // Two tasks, and the second does not rotate again.
        let now = 1006 * HOUR;
        first.turn(now).unwrap();
        sessions(&zones).turn(now).unwrap();
        assert_eq!(keys(), 2);
        assert!(first.tickets().decrypt(&ticket).is_some());
        // The clock goes back a day, and six hours later the keys are rotated all the same.
        first.turn(now - 24 * HOUR).unwrap();
        first.turn(now - 19 * HOUR).unwrap();
        assert!(first.tickets().decrypt(&ticket).is_some());
        first.turn(now - 18 * HOUR).unwrap();
        assert!(first.tickets().decrypt(&ticket).is_none());
    }

    #[test]
    fn a_process_that_takes_over_opens_tickets_and_turns_keys_when_it_is_time() {
        let old = Zones::default();
        let ticket = sessions(&old).tickets().encrypt(b"x").unwrap();
        let new = Zones::default();
        new.inherit(old.export());
        let taken = Sessions::open(&new, "web", 1005 * HOUR).unwrap();
        assert_eq!(taken.tickets().decrypt(&ticket).as_deref(), Some(&b"x"[..]));
        taken.turn(1006 * HOUR).unwrap();
        let next = taken.tickets().encrypt(b"y").unwrap();
        assert!(sessions(&old).tickets().decrypt(&next).is_none());
    }

    #[test]
    fn unreadable_entries_are_left_out() {
        let sessions = sessions(&Zones::default());
        let before = sessions.export();
        for strange in [
            json!(null),
            json!({ "keys": [], "turned": 0 }),
            json!({ "keys": ["00"], "turned": 0 }),
            json!({ "keys": ["zz".repeat(48)], "turned": 0 }),
            json!({ "keys": ["é".repeat(48)], "turned": 0 }),
        ] {
            sessions.import(&strange);
            assert_eq!(sessions.export(), before, "{strange}");
        }
    }
}
