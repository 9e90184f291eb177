//! Owners of kv names.

use crate::{chain::CompileCx, config::diagnostic::Place, plugins::kv::Owners};

/// Returns true if no other file has a kv of this name; reports one that does.
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
