//! Whose the kv of a name is.

use crate::{chain::CompileCx, config::diagnostic::Place, plugins::kv::Owners};

/// Whether no other file has a kv of this name; if one has, that is reported.
pub(super) fn owns(plugin: &str, file: &str, at: Place, cx: &mut CompileCx<'_>) -> bool {
    let Some(owners) = cx.shared.get::<Owners>() else {
        return true;
    };
    let Some(first) = owners.claim(plugin, &cx.folder.join(file)) else {
        return true;
    };
    let what = format!(
        "another plugin is called `{plugin}`, of the file `{}`: each would find the values of the other",
        first.display()
    );
    let help = "write another `name` at one of the two";
    cx.report_at(at, "edgeway::plugins::kv", what, help);
    false
}
