//! Server actions of a build, and the pages that have them.
//!
//! Next.js runs an action at any path: `Next-Action` names it, and a page that lacks it passes the
//! request on to one that has it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, de::IgnoredAny};

/// Manifest of server actions. It also has the key that encrypts their arguments: only the ids and
/// the pages are kept.
pub(super) const MANIFEST: &str = "server/server-reference-manifest.json";

/// Server actions by their ids.
#[derive(Debug, Default)]
pub(super) struct Actions(HashMap<Box<[u8]>, Pages>);

/// Paths of pages.
type Pages = Box<[Box<[u8]>]>;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ActionManifest {
    node: HashMap<String, Action>,
    edge: HashMap<String, Action>,
}

#[derive(Deserialize)]
struct Action {
    /// Pages that have the action, such as `app/(shop)/cart/[id]/page`, in one order everywhere.
    #[serde(default)]
    workers: BTreeMap<String, Option<IgnoredAny>>,
}

impl Actions {
    pub(super) fn new(manifest: ActionManifest, base_path: &str) -> Self {
        let all = manifest.node.into_iter().chain(manifest.edge);
        let actions = all.map(|(id, action)| {
            let pages = action.workers.keys().map(|page| path(base_path, page));
            (id.into_bytes().into(), pages.collect())
        });
        Self(actions.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn pages(&self, id: &[u8]) -> Option<&[Box<[u8]>]> {
        self.0.get(id).map(|pages| &**pages)
    }
}

/// Returns a path of a page, where each parameter has its name as its value.
fn path(base_path: &str, page: &str) -> Box<[u8]> {
    let folders = page.strip_prefix("app").unwrap_or(page);
    let (folders, _) = folders.rsplit_once('/').unwrap_or_default();
    // Groups and slots are no part of the path, and of an intercepted one what follows the mark is.
    let names = folders.split('/').map(|folder| {
        let name = folder.rsplit(')').next().unwrap_or_default();
        name.trim_matches(['[', ']', '.'])
    });
    let names = names.filter(|name| !name.is_empty() && !name.starts_with('@'));
    let path = names.fold(base_path.to_owned(), |path, name| path + "/" + name);
    let path = if path.is_empty() { "/" } else { &path };
    path.as_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_has_the_paths_of_its_pages() {
        let manifest = r#"{
            "node": {
                "40aa": { "workers": { "app/(shop)/cart/[id]/page": { "moduleId": 1 } } },
                "40bb": { "workers": { "app/page": {}, "app/@side/(.)photo/[...all]/page": {} } }
            },
            "edge": { "40cc": {} },
            "encryptionKey": "secret"
        }"#;
        let read = |base_path| {
            let manifest = serde_json::from_str(manifest).unwrap();
            let actions = Actions::new(manifest, base_path);
            ["40aa", "40bb", "40cc", "40dd"].map(|id| {
                let pages = actions.pages(id.as_bytes())?;
                let texts = pages.iter().map(|page| String::from_utf8_lossy(page));
                let mut texts: Vec<_> = texts.map(std::borrow::Cow::into_owned).collect();
                texts.sort();
                Some(texts.join(" "))
            })
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            read(""),
            [some("/cart/id"), some("/ /photo/all"), some(""), None]
        );
        assert_eq!(
            read("/base")[..2],
            [some("/base/cart/id"), some("/base /base/photo/all")]
        );
    }
}
