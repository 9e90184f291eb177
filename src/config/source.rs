//! The files of a configuration: the main one, what it includes, and the environment.

use std::path::{Path, PathBuf};

use super::{diagnostic::Diagnostics, tree::Node};

/// The texts that places point into.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub files: Vec<(PathBuf, String)>,
}

/// Reads `path`, its includes and the environment's values into one tree.
///
/// # Errors
/// Never as such: problems are in the diagnostics, and the tree is `None` if there is
/// nothing to go on with.
pub fn load(_path: &Path) -> (Sources, Option<Node>, Diagnostics) {
    unimplemented!()
}
