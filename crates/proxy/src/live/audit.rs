//! Audit log of operator actions, refused requests and bans: the actor, the action and the outcome.
//!
//! It goes to the file of `audit_log`, or else to the process's own log. Recording never waits, and
//! a failure never affects the recorded action. Entries caused by clients are limited, so that a
//! flood cannot fill the disk.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use derive_more::Display;
use edgeway_base::units::Span;
use edgeway_cache::purge::{Purge, Receipt};
use edgeway_core::{
    chain::{AuditNote, RequestFacts},
    limits::Ban,
};
use edgeway_core_filters::access_log::Redactor;
use serde::Serialize;
use serde_with_macros::skip_serializing_none;

use super::Live;

/// Target of audit lines in the process's own log.
pub const TARGET: &str = "edgeway::audit";

/// Actor of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "ActorFields")]
pub enum Actor {
    /// A user who may send signals to the process.
    Signal,
    /// The configuration's files changed.
    Watch,
    /// A client of the admin listener's TCP address.
    Peer(SocketAddr),
    /// A session of the status page, by the beginning of its id.
    Page { peer: SocketAddr, session: String },
    /// A client of the admin socket, as identified by the kernel.
    Unix { uid: Option<u32>, pid: Option<i32> },
    /// A client of a listener, by its address according to `trusted_proxies`.
    Client(IpAddr),
    /// The gateway itself, by a rule of its configuration.
    Gateway,
}

/// Outcome of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Display)]
#[serde(rename_all = "lowercase")]
#[display(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// The action was not begun.
    Refused,
    /// The action was begun, and changed nothing.
    Failed,
}

/// A recorded action, in the order of the fields of its line.
#[skip_serializing_none]
#[derive(Clone, Debug, Serialize)]
pub struct AuditEntry {
    /// Name of the action, such as `reload`.
    pub action: &'static str,
    #[serde(flatten)]
    pub who: Actor,
    /// Target of the action, such as `web/127.0.0.1:3000`.
    pub target: Option<String>,
    pub outcome: Outcome,
    /// The fixed reason of a failure.
    pub reason: Option<Cow<'static, str>>,
    /// Message of one sentence.
    pub message: Option<String>,
    /// Time that the action took.
    pub duration_ms: Option<f64>,
    /// The configuration that serves afterwards.
    pub generation: Option<u64>,
    /// The request of the entry.
    #[serde(flatten)]
    pub request: Option<RequestReference>,
}

/// Request of an entry, and its user.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestReference {
    /// Name of a user or of a key, never a secret.
    pub subject: Option<String>,
    pub route: Option<String>,
    pub request_id: String,
}

impl RequestReference {
    fn new(facts: &RequestFacts, subject: Option<String>) -> Self {
        Self {
            subject,
            route: facts.route.as_deref().map(str::to_owned),
            request_id: facts.request_id.as_str().to_owned(),
        }
    }
}

/// Limit of lines per second about clients. The rest are only counted. Each kind of line has its
/// own limit, so that no kind hides another.
const LINES_A_SECOND: u64 = 100;

/// Counts of the lines about clients in this second, and of those left out.
#[derive(Debug, Default)]
pub(super) struct LineBound {
    /// The second, above the lowest 32 bits, and the lines in it.
    lines: AtomicU64,
    left_out: AtomicU64,
}

impl LineBound {
    /// Returns how many were left out before this line, or `None` if this line is left out as well.
    fn one_more(&self, second: u64) -> Option<u64> {
        let next = |lines: u64| match lines >> 32 == second {
            true if lines & 0xffff_ffff >= LINES_A_SECOND => None,
            true => Some(lines + 1),
            false => Some(second << 32 | 1),
        };
        let order = Ordering::Relaxed;
        if self.lines.fetch_update(order, order, next).is_err() {
            self.left_out.fetch_add(1, order);
            return None;
        }
        Some(self.left_out.swap(0, order))
    }
}

impl Live {
    /// Records a filter's note on a completed request.
    pub fn note(&self, noted: &AuditNote, facts: &RequestFacts) {
        let Some(left_out) = self.noted.one_more(self.second()) else {
            return;
        };
        self.audit(&AuditEntry {
            outcome: match facts.reason {
                Some(_) => Outcome::Refused,
                None => Outcome::Ok,
            },
            reason: Some(Cow::Borrowed(noted.reason)),
            message: left_out_text(left_out),
            request: Some(RequestReference::new(facts, noted.subject.clone())),
            ..AuditEntry::new(noted.action, Actor::Client(facts.client.ip))
        });
    }

    /// Records a ban by a rule, with the request that triggered it.
    pub fn banned(&self, ban: &Ban, facts: &RequestFacts) {
        let Some(left_out) = self.banned.one_more(self.second()) else {
            return;
        };
        let lasts = Duration::from_millis(ban.until.saturating_sub(ban.since));
        let mut message = format!("{} refusals, banned for {}", ban.strikes, Span(lasts));
        if let Some(left_out) = left_out_text(left_out) {
            message = format!("{message}; {left_out}");
        }
        self.audit(&AuditEntry {
            target: Some(ban.address.to_string()),
            reason: Some(Cow::Owned(ban.reason.clone())),
            message: Some(message),
            request: Some(RequestReference::new(facts, None)),
            ..AuditEntry::new("ban", Actor::Gateway)
        });
    }

    /// Records a purge by the method `PURGE`.
    pub fn purged(&self, receipt: &Receipt, facts: &RequestFacts, redact: &Redactor) {
        let Some(left_out) = self.purged.one_more(self.second()) else {
            return;
        };
        self.audit(&AuditEntry {
            target: Some(purges_line(&receipt.purges, redact)),
            reason: receipt.shortfall().map(|it| Cow::Borrowed(it.word())),
            message: left_out_text(left_out),
            request: Some(RequestReference::new(facts, None)),
            ..AuditEntry::new("purge", Actor::Client(facts.client.ip))
        });
    }

    /// Whole seconds since the start, independent of changes of the wall clock.
    fn second(&self) -> u64 {
        (self.world.clock.now() - self.started_at).as_secs()
    }

    /// Records an action of an operator.
    pub fn audit(&self, entry: &AuditEntry) {
        let time: DateTime<Utc> = self.world.clock.wall().into();
        let mut line = serde_json::to_vec(&AuditLine::new(&time, entry)).expect("plain data");
        line.push(b'\n');
        if !self.gateway().audit.push(&line) {
            entry.log();
        }
    }
}

impl AuditEntry {
    /// Creates an entry for a successful action, without details.
    pub fn new(action: &'static str, who: Actor) -> Self {
        Self {
            action,
            who,
            target: None,
            outcome: Outcome::Ok,
            reason: None,
            message: None,
            duration_ms: None,
            generation: None,
            request: None,
        }
    }

    /// Writes the entry to the process's own log, if there is no audit file.
    fn log(&self) {
        let text = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let request = self.request.as_ref();
        let note = match self.who {
            Actor::Client(_) => "client recorded",
            Actor::Gateway => "gateway acted by a rule",
            Actor::Signal
            | Actor::Watch
            | Actor::Peer(_)
            | Actor::Page { .. }
            | Actor::Unix { .. } => "operator acted",
        };
        log::info!(
            target: TARGET,
            action = self.action,
            who:% = self.who,
            target = text(self.target.as_deref()),
            outcome:% = self.outcome,
            reason = text(self.reason.as_deref()),
            message:? = text(self.message.as_deref()),
            duration_ms = self.duration_ms.unwrap_or(0.0),
            generation = self.generation.unwrap_or(0),
            subject = text(request.and_then(|request| request.subject.as_deref())),
            route = text(request.and_then(|request| request.route.as_deref())),
            request_id = text(request.map(|request| request.request_id.as_str()));
            "{note}"
        );
    }
}

/// An entry in its serialized form.
#[derive(Serialize)]
struct AuditLine<'a> {
    time: String,
    #[serde(flatten)]
    entry: &'a AuditEntry,
}

/// Returns purges as one line, without the secrets in queries.
pub fn purges_line(purges: &[Purge], redact: &Redactor) -> String {
    let shown = |purge: &Purge| redact.of_urls(purge.to_string().as_bytes());
    Purge::line(purges, |purge| {
        String::from_utf8_lossy(&shown(purge)).into_owned()
    })
}

/// Text for the number of lines left out.
fn left_out_text(left_out: u64) -> Option<String> {
    (left_out > 0).then(|| format!("{left_out} more since the last line"))
}

impl<'a> AuditLine<'a> {
    fn new(time: &DateTime<Utc>, entry: &'a AuditEntry) -> Self {
        let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
        Self { time, entry }
    }
}

/// Fields of a line about its actor.
#[skip_serializing_none]
#[derive(Default, Serialize)]
struct ActorFields {
    who: String,
    uid: Option<u32>,
    pid: Option<i32>,
    session: Option<String>,
}

impl From<Actor> for ActorFields {
    fn from(actor: Actor) -> Self {
        let mut fields = Self::default();
        fields.who = match actor {
            Actor::Unix { uid, pid } => {
                (fields.uid, fields.pid) = (uid, pid);
                "unix".to_owned()
            }
            Actor::Page { peer, session } => {
                fields.session = Some(session);
                peer.to_string()
            }
            actor => actor.to_string(),
        };
        fields
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal => f.write_str("signal"),
            Self::Watch => f.write_str("watch"),
            Self::Peer(address) => write!(f, "{address}"),
            Self::Page { peer, session } => write!(f, "{peer} session {session}"),
            Self::Unix { uid: None, .. } => f.write_str("unix"),
            Self::Unix { uid: Some(uid), .. } => write!(f, "unix uid {uid}"),
            Self::Client(address) => write!(f, "{address}"),
            Self::Gateway => f.write_str("gateway"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::UNIX_EPOCH};

    use super::*;
    use edgeway_gateway::{World, compile, load_text};

    fn line(entry: &AuditEntry) -> String {
        let time = (UNIX_EPOCH + Duration::from_millis(1_800_000_000_007)).into();
        serde_json::to_string(&AuditLine::new(&time, entry)).unwrap()
    }

    #[test]
    fn a_line_has_the_actor_the_action_and_the_outcome() {
        let who = Actor::Unix {
            uid: Some(1000),
            pid: Some(42),
        };
        let entry = AuditEntry {
            target: Some("web/127.0.0.1:3000".to_owned()),
            outcome: Outcome::Refused,
            reason: Some("last_backend".into()),
            message: Some("no other is \"left\"\n".to_owned()),
            duration_ms: Some(1.5),
            generation: Some(3),
            ..AuditEntry::new("drain", who)
        };
        assert_eq!(
            line(&entry),
            r#"{"time":"2027-01-15T08:00:00.007Z","action":"drain","who":"unix","uid":1000,"pid":42,"target":"web/127.0.0.1:3000","outcome":"refused","reason":"last_backend","message":"no other is \"left\"\n","duration_ms":1.5,"generation":3}"#
        );
        let peer = Actor::Peer("192.0.2.1:4000".parse().unwrap());
        assert_eq!(
            line(&AuditEntry::new("reload", peer)),
            r#"{"time":"2027-01-15T08:00:00.007Z","action":"reload","who":"192.0.2.1:4000","outcome":"ok"}"#
        );
        let page = Actor::Page {
            peer: "192.0.2.1:4000".parse().unwrap(),
            session: "1f2e3d4c".to_owned(),
        };
        assert_eq!(page.to_string(), "192.0.2.1:4000 session 1f2e3d4c");
        assert_eq!(
            line(&AuditEntry::new("login", page)),
            r#"{"time":"2027-01-15T08:00:00.007Z","action":"login","who":"192.0.2.1:4000","session":"1f2e3d4c","outcome":"ok"}"#
        );
    }

    #[test]
    fn a_line_about_a_client_names_its_request() {
        let entry = AuditEntry {
            outcome: Outcome::Refused,
            reason: Some("jwt_expired".into()),
            message: left_out_text(3),
            request: Some(RequestReference {
                subject: Some("u1".to_owned()),
                route: Some("/api/*".to_owned()),
                request_id: "r1".to_owned(),
            }),
            ..AuditEntry::new("auth", Actor::Client("192.0.2.1".parse().unwrap()))
        };
        assert_eq!(
            line(&entry),
            r#"{"time":"2027-01-15T08:00:00.007Z","action":"auth","who":"192.0.2.1","outcome":"refused","reason":"jwt_expired","message":"3 more since the last line","subject":"u1","route":"/api/*","request_id":"r1"}"#
        );
    }

    #[test]
    fn a_flood_is_a_hundred_lines_a_second_and_a_number() {
        let bound = LineBound::default();
        let flood = |second, requests| {
            let counts: Vec<_> = (0..requests)
                .filter_map(|_| bound.one_more(second))
                .collect();
            (counts.len(), counts.iter().sum::<u64>())
        };
        assert_eq!(flood(0, 99), (99, 0));
        assert_eq!(flood(0, 42), (1, 0));
        assert_eq!(flood(1, 150), (100, 41));
        assert_eq!(flood(1, 1), (0, 0));
        assert_eq!(flood(9, 1), (1, 51));
    }

    #[test]
    fn entries_go_to_the_file_of_the_live_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let yaml = "listeners: [{ address: 127.0.0.1:8080 }]\n\
                    routes: [{ match: {}, respond: ok }]\naudit_log: { file: audit.log }\n";
        edgeway_core::chain::testkit::without_filters();
        let file = load_text("t.yaml", yaml).file.unwrap();
        let world = World::default();
        let (gateway, _) = compile(&file, Path::new(folder.path()), &world);
        let live = Live::new(gateway.unwrap(), world);
        live.audit(&AuditEntry::new("reload", Actor::Signal));
        live.audit(&AuditEntry::new("reload", Actor::Watch));
        // The configuration's writer ends once everything is written.
        drop(live);
        let path = folder.path().join("audit.log");
        let end = Duration::from_secs(20);
        let clock = edgeway_base::clock::Clock::machine();
        let began = clock.now();
        let text = loop {
            assert!(clock.now() - began < end, "the lines are not there");
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.lines().count() == 2 && text.ends_with('\n') {
                break text;
            }
            std::thread::yield_now();
        };
        let who: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["who"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(who, ["signal", "watch"]);
    }
}
