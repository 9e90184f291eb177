//! What differs between two configurations as written, by name.

use serde::{Deserialize, Serialize};

/// The names of what one configuration has and another has not, or has otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Changes {
    pub listeners: Delta,
    pub routes: Delta,
    pub upstreams: Delta,
    /// The other sections that differ, by their key.
    pub sections: Vec<String>,
}

/// The changes of one section of names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delta {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
}

impl Changes {
    /// Both configurations say the same.
    pub fn is_empty(&self) -> bool {
        let Self {
            listeners,
            routes,
            upstreams,
            sections,
        } = self;
        [listeners, routes, upstreams].iter().all(|d| d.is_empty()) && sections.is_empty()
    }
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_or_section_is_a_change() {
        assert!(Changes::default().is_empty());
        let mut changes = Changes::default();
        changes.upstreams.changed.push("web".to_owned());
        assert!(!changes.is_empty());
        let mut changes = Changes::default();
        changes.sections.push("acme".to_owned());
        assert!(!changes.is_empty());
    }
}
