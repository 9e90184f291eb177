//! Lists of names, some of which end in `*`.

/// Cookies that analytics and advertising scripts set: no app renders by them, and most visitors
/// send some.
pub const ANALYTICS: &[&str] = &[
    "_ga", "_ga_*", "_gid", "_gat*", "_gcl_*", "__utm*", "_fbp", "_fbc", "_pk_*", "_hj*", "_clck",
    "_clsk", "_uet*", "_ttp",
];

/// Set of names: whole names and prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameSet {
    exact: Box<[Box<[u8]>]>,
    beginnings: Box<[Box<[u8]>]>,
}

impl NameSet {
    /// Builds the set. `utm_*` matches every name with that prefix, `*` matches every name. A star
    /// elsewhere is part of the name.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let (mut exact, mut beginnings) = (Vec::new(), Vec::new());
        for name in names {
            match name.strip_suffix('*') {
                Some(beginning) => beginnings.push(beginning.as_bytes().into()),
                None => exact.push(name.as_bytes().into()),
            }
        }
        Self {
            exact: exact.into(),
            beginnings: beginnings.into(),
        }
    }

    pub fn contains(&self, name: &[u8]) -> bool {
        self.exact.iter().any(|exact| **exact == *name)
            || self.beginnings.iter().any(|begin| name.starts_with(begin))
    }

    pub fn is_all(&self) -> bool {
        self.beginnings.iter().any(|begin| begin.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.beginnings.is_empty()
    }
}
