//! Owners of kv names.

use edgeway_config::diagnostic::Place;
use edgeway_core::chain::CompileContext;
use edgeway_script::kv::Owners;

/// Claims the name of a plugin's kv; reports another file that has it.
pub(super) fn claim(plugin: &str, file: &str, place: Place, cx: &mut CompileContext<'_>) {
    let owners = cx.shared.get::<Owners>();
    let Some(first) = owners.and_then(|owners| owners.claim(plugin, &cx.folder.join(file))) else {
        return;
    };
    let what = format!(
        "another plugin is named `{plugin}`, of the file `{}`: they would share their kv values",
        first.display()
    );
    let help = "write a different `name` for one of the two";
    cx.at(place, "edgeway::plugins::kv").error(what, help);
}
