//! Owners of kv names.

use edgeway_config::diagnostic::Place;
use edgeway_core::chain::CompileContext;
use edgeway_script::kv::Owners;

/// Returns true if no other file has a kv of this name; reports one that does.
pub(super) fn owns(plugin: &str, file: &str, at: Place, cx: &mut CompileContext<'_>) -> bool {
    let Some(owners) = cx.shared.get::<Owners>() else {
        return true;
    };
    let Some(first) = owners.claim(plugin, &cx.folder.join(file)) else {
        return true;
    };
    let what = format!(
        "another plugin is named `{plugin}`, of the file `{}`: they would share their kv values",
        first.display()
    );
    let help = "write a different `name` for one of the two";
    cx.report_at(at, "edgeway::plugins::kv", what, help);
    false
}
