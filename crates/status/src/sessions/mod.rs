//! Sessions of the status page: what begins them, what ends them, and the results of their forms.
//!
//! Everything is bounded and in memory. A successor gets the sessions, as hashes: nothing that is
//! stored or handed over opens one. The value of forms on the socket proves no right either: a
//! client that can open the socket can read it.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_base::{clock::Clock, net::subscriber, secret::Secret};
use parking_lot::Mutex;
use ring::{
    digest::{SHA256, digest},
    rand::{SystemRandom, generate},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use smart_default::SmartDefault;
use subtle::ConstantTimeEq as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Lifetime of a session from its login.
pub const SESSION: Duration = Duration::from_hours(8);
/// Lifetime of a link.
pub const LINK: Duration = Duration::from_mins(1);

/// Maximum numbers. The oldest one makes room.
const MAX_SESSIONS: usize = 64;
const MAX_LINKS: usize = 16;
const MAX_RESULTS: usize = 64;

/// Maximum number of pages that are kept up to date at the same time.
const MAX_READERS: usize = 16;

/// Failed logins that an address may have within [`LOGIN_WINDOW`].
const MAX_FAILED_LOGINS: u32 = 10;
const LOGIN_WINDOW: Duration = Duration::from_mins(1);
/// Addresses whose failed logins are counted apart. The others share one count.
const MAX_ADDRESSES: usize = 1024;

type Digest = [u8; 32];

/// Identity of a session: a hash of the secret in its cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(Digest);

impl SessionId {
    /// Returns the beginning of the hash, for logs.
    pub fn short(self) -> String {
        hex::encode(&self.0[..4])
    }
}

/// Notice that a session has ended by a logout, for the processes that have it too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedSession {
    /// The session's [`SessionId`], in hexadecimal digits.
    ended_session: String,
}

/// A session that a request has shown the secret of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownSession {
    pub id: SessionId,
    /// Value that the forms of this session repeat. Pages of other sites cannot know it.
    pub csrf: String,
}

/// Why a login failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// The token is another one.
    Wrong,
    /// The link was used before, is too old, or never existed.
    UnknownLink,
    /// There were too many failed logins from this address.
    TooMany,
}

/// All sessions of a process.
pub struct Sessions {
    clock: Clock,
    inner: Mutex<SessionsState>,
    /// Permits of the pages that are kept up to date.
    readers: Arc<Semaphore>,
    /// Notified of each session in [`SessionsState::ended`].
    has_ended: Notify,
}

#[derive(SmartDefault)]
struct SessionsState {
    /// Value that forms on the admin socket repeat, where no session is needed.
    #[default(secret())]
    socket_csrf: String,
    /// The oldest first.
    sessions: VecDeque<Session>,
    /// Sessions that ended by a logout since the export, which the successor does not know yet.
    ended: VecDeque<SessionId>,
    links: VecDeque<Link>,
    results: VecDeque<FormResult>,
    failed: FailedLogins,
}

struct Session {
    id: SessionId,
    /// Hash of the token that was required at the login. The session ends with it.
    token: Option<Digest>,
    ends: Instant,
}

struct Link {
    digest: Digest,
    ends: Instant,
}

/// Result of a form, which is shown after the redirect.
struct FormResult {
    key: String,
    owner: Option<SessionId>,
    html: Arc<str>,
}

#[derive(Default)]
struct FailedLogins {
    began: Option<Instant>,
    by_address: HashMap<IpAddr, u32>,
    of_others: u32,
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new(Clock::machine())
    }
}

impl Sessions {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            inner: Mutex::default(),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            has_ended: Notify::new(),
        }
    }

    /// Begins a session by the token, and returns the secret of its cookie.
    pub fn enter_by_token(
        &self,
        from: IpAddr,
        shown: &str,
        token: Option<&Secret>,
    ) -> Result<String, LoginError> {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        if inner.failed.are_too_many(from, now) {
            return Err(LoginError::TooMany);
        }
        let is_right = token.is_some_and(|token| {
            let token = token.reveal().as_bytes();
            bool::from(shown.as_bytes().ct_eq(token))
        });
        if !is_right {
            inner.failed.count(from);
            return Err(LoginError::Wrong);
        }
        Ok(inner.begin(token, now))
    }

    /// Creates a link for one use, and returns its key.
    pub fn link(&self) -> String {
        let key = secret();
        let ends = self.clock.now() + LINK;
        let mut inner = self.inner.lock();
        push_bounded(
            &mut inner.links,
            MAX_LINKS,
            Link {
                digest: hash(&key),
                ends,
            },
        );
        key
    }

    /// Begins a session by a link, which is used up, and returns the secret of its cookie.
    pub fn enter_by_link(&self, key: &str, token: Option<&Secret>) -> Result<String, LoginError> {
        let now = self.clock.now();
        let shown = hash(key);
        let mut inner = self.inner.lock();
        inner.links.retain(|link| link.ends > now);
        let is_it = |link: &Link| bool::from(link.digest.ct_eq(&shown));
        let index = inner.links.iter().position(is_it);
        let index = index.ok_or(LoginError::UnknownLink)?;
        inner.links.remove(index);
        Ok(inner.begin(token, now))
    }

    /// Returns the session of a cookie, if it has not ended. `token` is the present one.
    pub fn find(&self, secret: &str, token: Option<&Secret>) -> Option<ShownSession> {
        let id = SessionId(hash(secret));
        self.is_current(id, token).then(|| ShownSession {
            id,
            csrf: hex::encode(hash(&format!("csrf {secret}"))),
        })
    }

    /// Returns true until the session ends.
    pub fn is_current(&self, id: SessionId, token: Option<&Secret>) -> bool {
        let now = self.clock.now();
        let token = token.map(|token| hash(token.reveal()));
        let inner = self.inner.lock();
        inner.sessions.iter().any(|session| {
            let is_it = bool::from(session.id.0.ct_eq(&id.0));
            is_it && session.ends > now && session.token == token
        })
    }

    /// Ends a session, and forgets its results.
    pub fn end(&self, id: SessionId) {
        let mut inner = self.inner.lock();
        inner.sessions.retain(|session| session.id != id);
        inner.results.retain(|result| result.owner != Some(id));
        push_bounded(&mut inner.ended, MAX_SESSIONS, id);
        self.has_ended.notify_one();
    }

    /// Waits for the next session that ended since the export, for the successor. Without an export
    /// nobody needs to ask.
    pub async fn next_ended(&self) -> EndedSession {
        loop {
            if let Some(id) = self.inner.lock().ended.pop_front() {
                let ended_session = hex::encode(id.0);
                return EndedSession { ended_session };
            }
            self.has_ended.notified().await;
        }
    }

    /// Ends a session that ended in a predecessor after its export.
    pub fn end_inherited(&self, ended: &EndedSession) {
        if let Some(id) = digest_of(&json!(ended.ended_session)) {
            self.end(SessionId(id));
        }
    }

    /// Ends all sessions.
    pub fn end_all(&self) {
        let ids = |inner: &SessionsState| inner.sessions.iter().map(|session| session.id).collect();
        let all: Vec<_> = ids(&self.inner.lock());
        for id in all {
            self.end(id);
        }
    }

    pub fn socket_csrf(&self) -> String {
        self.inner.lock().socket_csrf.clone()
    }

    /// Stores the result of a form, and returns the key to it.
    pub fn put_result(&self, owner: Option<SessionId>, html: String) -> String {
        let key = secret();
        let result = FormResult {
            key: key.clone(),
            owner,
            html: html.into(),
        };
        push_bounded(&mut self.inner.lock().results, MAX_RESULTS, result);
        key
    }

    /// Returns a result of the same owner.
    pub fn result(&self, owner: Option<SessionId>, key: &str) -> Option<Arc<str>> {
        let inner = self.inner.lock();
        let mut results = inner.results.iter();
        let result = results.find(|result| result.owner == owner && result.key == key);
        result.map(|result| Arc::clone(&result.html))
    }

    /// Returns the permit of a page that is kept up to date, if there are not too many.
    pub fn reader(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.readers).try_acquire_owned().ok()
    }

    /// Exports the sessions for a successor, and the value of forms on the socket, which pages that
    /// are open have.
    pub fn export(&self) -> Value {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        // These are not exported.
        inner.ended.clear();
        let sessions = inner.sessions.iter().map(|session| {
            json!({
                "id": hex::encode(session.id.0),
                "token": session.token.map(hex::encode),
                "seconds": session.ends.saturating_duration_since(now).as_secs(),
            })
        });
        json!({
            "sessions": sessions.collect::<Vec<_>>(),
            "socket_csrf": inner.socket_csrf,
        })
    }

    /// Imports the sessions of a predecessor. Those that cannot be read are left out.
    pub fn import(&self, exported: &Value) {
        let now = self.clock.now();
        // An earlier version exported the list alone.
        let sessions = exported.as_array().or(exported["sessions"].as_array());
        let sessions = sessions.into_iter().flatten();
        let sessions = sessions.filter_map(|session| {
            let seconds = session["seconds"].as_u64()?.min(SESSION.as_secs());
            Some(Session {
                id: SessionId(digest_of(&session["id"])?),
                token: match &session["token"] {
                    Value::Null => None,
                    token => Some(digest_of(token)?),
                },
                ends: now + Duration::from_secs(seconds),
            })
        });
        let mut inner = self.inner.lock();
        for session in sessions {
            push_bounded(&mut inner.sessions, MAX_SESSIONS, session);
        }
        if digest_of(&exported["socket_csrf"]).is_some() {
            let value = exported["socket_csrf"].as_str().unwrap_or_default();
            value.clone_into(&mut inner.socket_csrf);
        }
    }
}

impl SessionsState {
    fn begin(&mut self, token: Option<&Secret>, now: Instant) -> String {
        let secret = secret();
        self.sessions.retain(|session| session.ends > now);
        let session = Session {
            id: SessionId(hash(&secret)),
            token: token.map(|token| hash(token.reveal())),
            ends: now + SESSION,
        };
        push_bounded(&mut self.sessions, MAX_SESSIONS, session);
        secret
    }
}

impl FailedLogins {
    fn are_too_many(&mut self, from: IpAddr, now: Instant) -> bool {
        let is_over = |began| now.saturating_duration_since(began) >= LOGIN_WINDOW;
        if self.began.is_none_or(is_over) {
            *self = Self {
                began: Some(now),
                ..Self::default()
            };
        }
        let count = self.by_address.get(&subscriber(from));
        *count.unwrap_or(&self.of_others) >= MAX_FAILED_LOGINS
    }

    fn count(&mut self, from: IpAddr) {
        let has_room = self.by_address.len() < MAX_ADDRESSES;
        match self.by_address.get_mut(&subscriber(from)) {
            Some(count) => *count += 1,
            None if has_room => {
                self.by_address.insert(subscriber(from), 1);
            }
            None => self.of_others += 1,
        }
    }
}

fn push_bounded<T>(list: &mut VecDeque<T>, max: usize, item: T) {
    if list.len() >= max {
        list.pop_front();
    }
    list.push_back(item);
}

/// Returns 256 random bits as text.
pub fn secret() -> String {
    let bits = generate::<[u8; 32]>(&SystemRandom::new());
    let bits = bits.expect("the kernel has randomness once the machine has started");
    hex::encode(bits.expose())
}

fn hash(text: &str) -> Digest {
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn digest_of(text: &Value) -> Option<Digest> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text.as_str()?, &mut bytes).ok()?;
    Some(bytes)
}
