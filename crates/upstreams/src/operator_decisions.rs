//! Operators' decisions on an upstream's backends: backends added at run time, and drained ones.
//! They outlive reloads in the zone, and the process in a small file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize as _, Serialize, Serializer};
use serde_json::{Value, json};
use serde_with_macros::skip_serializing_none;
use tokio::{sync::Notify, time::sleep};

use super::{
    canary::{CanaryDecision, CanaryVerdict},
    target::{Target, parse_target},
};
use crate::base::{private_file, units::Percent};

/// Decisions on one upstream.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct OperatorDecisions {
    /// Added backends, in the order in which they were added.
    pub(super) added: Vec<AddedBackend>,
    /// Addresses that get no new requests, even while they are unknown: DNS may remove one for a
    /// moment.
    pub(super) drained: BTreeSet<String>,
    /// Release that gets the requests that belong to no other.
    pub(super) current: Option<Arc<str>>,
    /// Release that was the current one before: it stands in for it, unless it was taken back.
    pub(super) before: Option<Arc<str>>,
    /// Release on trial.
    pub(super) canary: Option<CanaryDecision>,
    /// Verdict on the last trial.
    pub(super) verdict: Option<CanaryVerdict>,
}

/// Backend that was added at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct AddedBackend {
    #[serde(rename = "address", serialize_with = "as_text")]
    pub(super) target: Target,
    /// Weight, at least 1.
    pub(super) weight: u16,
    /// Release of the app that runs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) release: Option<Arc<str>>,
}

fn as_text<S: Serializer>(target: &Target, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(target)
}

impl OperatorDecisions {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads as much as possible; another version may have written more, or in another form.
    pub(super) fn from_json(value: &Value) -> Self {
        let list = |key: &str| {
            value
                .get(key)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        };
        let mut decisions = Self::default();
        for target in list("added").filter_map(read_added) {
            if !decisions
                .added
                .iter()
                .any(|known| known.target == target.target)
            {
                decisions.added.push(target);
            }
        }
        decisions.drained = list("drained")
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let release = |key: &str| value.get(key).and_then(Value::as_str).map(Arc::from);
        decisions.current = release("current");
        decisions.before = release("before");
        decisions.canary = value.get("canary").and_then(read_canary);
        let verdict = value.get("verdict");
        decisions.verdict = verdict.and_then(|verdict| CanaryVerdict::deserialize(verdict).ok());
        decisions
    }
}

fn read_canary(value: &Value) -> Option<CanaryDecision> {
    let share = Percent::deserialize(value.get("share")?).ok()?;
    Some(CanaryDecision {
        release: value.get("release")?.as_str()?.into(),
        share: Some(share).filter(|share| share.0 > 0.0 && share.0 < 100.0)?,
    })
}

fn read_added(value: &Value) -> Option<AddedBackend> {
    let target = parse_target(value.get("address")?.as_str()?).ok()?;
    let weight = value.get("weight").map_or(Some(1), Value::as_u64)?;
    let weight = u16::try_from(weight).ok().filter(|weight| *weight > 0)?;
    let release = value.get("release").and_then(Value::as_str).map(Arc::from);
    Some(AddedBackend {
        target,
        weight,
        release,
    })
}

/// Store for the decisions on all upstreams of a process, so that they survive a crash.
#[derive(Debug, Default)]
pub struct DecisionStore {
    /// Path of the file; `None` if the decisions end with the process.
    path: Option<PathBuf>,
    stored: Mutex<BTreeMap<String, OperatorDecisions>>,
    /// Why the file lacks the last ones.
    unsaved: Mutex<Option<String>>,
    /// Wakes the supervisor when they could not be saved.
    failed: Notify,
}

/// Time until decisions are saved again that could not be.
pub const SAVED_AGAIN: Duration = Duration::from_secs(5);

impl DecisionStore {
    /// Reads the decisions that an earlier process left at `path`, and stores them there from now
    /// on. The file is created with the first decision.
    pub fn open(path: PathBuf) -> Self {
        let stored = match read(&path) {
            Ok(stored) => stored,
            Err(error) => {
                log::error!(
                    path:? = path, error:%;
                    "added and drained backends not read, starting without them: `edgeway resume \
                     UPSTREAM` adds those of releases again"
                );
                BTreeMap::new()
            }
        };
        for (upstream, decisions) in &stored {
            let added: Vec<String> = decisions
                .added
                .iter()
                .map(|a| a.target.to_string())
                .collect();
            let drained = &decisions.drained;
            log::info!(upstream, added:?, drained:?; "added and drained backends restored");
        }
        Self {
            path: Some(path),
            stored: Mutex::new(stored),
            ..Self::default()
        }
    }

    /// Returns why the last decisions are not saved, if so: a crash would lose them.
    pub fn unsaved(&self) -> Option<String> {
        self.unsaved.lock().clone()
    }

    /// Saves again what could not be saved, for as long as it is polled.
    pub async fn supervise(self: Arc<Self>) {
        loop {
            while self.unsaved.lock().is_some() {
                sleep(SAVED_AGAIN).await;
                self.save(&self.stored.lock());
            }
            self.failed.notified().await;
        }
    }

    pub(super) fn decisions(&self, upstream: &str) -> OperatorDecisions {
        self.stored
            .lock()
            .get(upstream)
            .cloned()
            .unwrap_or_default()
    }

    /// Stores the decisions. They hold in this process even if they cannot be saved.
    pub(super) fn keep(&self, upstream: &str, decisions: &OperatorDecisions) {
        let mut stored = self.stored.lock();
        if decisions.is_empty() {
            stored.remove(upstream);
        } else {
            stored.insert(upstream.to_owned(), decisions.clone());
        }
        self.save(&stored);
    }

    fn save(&self, stored: &BTreeMap<String, OperatorDecisions>) {
        let Some(path) = &self.path else { return };
        let failed = write(path, stored).err().map(|error| error.to_string());
        let before = std::mem::replace(&mut *self.unsaved.lock(), failed.clone());
        match (failed, before) {
            (Some(error), None) => {
                self.failed.notify_one();
                log::error!(
                    path:? = path, error;
                    "added and drained backends not saved, a crash would lose them"
                );
            }
            (None, Some(_)) => log::info!(path:? = path; "added and drained backends saved"),
            _ => {}
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<String, OperatorDecisions>> {
    let Some(text) = private_file::if_there(fs::read(path))? else {
        return Ok(BTreeMap::new());
    };
    let value: Value = serde_json::from_slice(&text)?;
    let upstreams = value.get("upstreams").and_then(Value::as_object);
    let upstreams = upstreams.ok_or_else(|| io::Error::other("it has no `upstreams`"))?;
    Ok(upstreams
        .iter()
        .map(|(name, value)| (name.clone(), OperatorDecisions::from_json(value)))
        .filter(|(_, decisions)| !decisions.is_empty())
        .collect())
}

fn write(path: &Path, stored: &BTreeMap<String, OperatorDecisions>) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(&json!({ "upstreams": stored }))?;
    text.push(b'\n');
    if let Some(folder) = path.parent() {
        private_file::make_folder(folder)?;
    }
    private_file::write(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions(added: &[&str], drained: &[&str]) -> OperatorDecisions {
        OperatorDecisions {
            added: added
                .iter()
                .map(|text| AddedBackend {
                    target: parse_target(text).unwrap(),
                    weight: 2,
                    release: None,
                })
                .collect(),
            drained: drained.iter().map(|text| (*text).to_owned()).collect(),
            ..OperatorDecisions::default()
        }
    }

    #[test]
    fn the_next_process_finds_what_was_decided() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/backends.json");
        let keeper = DecisionStore::open(path.clone());
        assert_eq!(keeper.decisions("web"), OperatorDecisions::default());
        let web = decisions(
            &["127.0.0.1:3004", "unix:/run/a b.sock"],
            &["127.0.0.1:3001"],
        );
        keeper.keep("web", &web);
        keeper.keep("api", &decisions(&[], &["127.0.0.1:5000"]));
        keeper.keep("api", &OperatorDecisions::default());
        let next = DecisionStore::open(path.clone());
        assert_eq!(next.decisions("web"), web);
        assert_eq!(next.decisions("api"), OperatorDecisions::default());
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "nothing is left beside it");
    }

    #[test]
    fn unreadable_entries_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backends.json");
        for garbage in ["", "{", "[]", r#"{ "upstreams": 3 }"#] {
            fs::write(&path, garbage).unwrap();
            assert_eq!(
                DecisionStore::open(path.clone()).decisions("web"),
                OperatorDecisions::default()
            );
        }
        let text = r#"{ "upstreams": { "web": {
            "added": [{ "address": "nowhere" }, { "address": "127.0.0.1:1", "weight": 0 }, 7,
                      { "address": "127.0.0.1:2", "since": "later versions" },
                      { "address": "127.0.0.1:2", "weight": 9 }],
            "drained": [3, "127.0.0.1:3"], "more": {} }, "api": [] } }"#;
        fs::write(&path, text).unwrap();
        let keeper = DecisionStore::open(path);
        let mut expected = decisions(&["127.0.0.1:2"], &["127.0.0.1:3"]);
        expected.added[0].weight = 1;
        assert_eq!(keeper.decisions("web"), expected);
        assert_eq!(keeper.decisions("api"), OperatorDecisions::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_cannot_be_written_stops_no_decision_and_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let keeper = Arc::new(DecisionStore::open(file.join("backends.json")));
        let web = decisions(&[], &["127.0.0.1:3001"]);
        keeper.keep("web", &web);
        assert_eq!(keeper.decisions("web"), web);
        assert!(keeper.unsaved().is_some());
        let mut again = std::pin::pin!(Arc::clone(&keeper).supervise());
        let time = SAVED_AGAIN * 2;
        assert!(tokio::time::timeout(time, &mut again).await.is_err());
        assert!(keeper.unsaved().is_some());
        fs::remove_file(&file).unwrap();
        assert!(tokio::time::timeout(time, &mut again).await.is_err());
        assert_eq!(keeper.unsaved(), None);
        let next = DecisionStore::open(file.join("backends.json"));
        assert_eq!(next.decisions("web"), web);
    }
}
