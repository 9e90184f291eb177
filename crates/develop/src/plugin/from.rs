//! Settings of a plugin from the configuration of a gateway: those of the route that takes the
//! request.

use std::path::Path;

use edgeway_gateway::{
    self as gateway, ManualSettings,
    explain::{ExplainRequest, ExplainScope, explain},
};

use super::run::PluginRunOptions;
use crate::check;

/// Returns the name of the route that takes the request, and the plugin's settings there.
pub(super) fn settings(
    path: &Path,
    options: &PluginRunOptions,
) -> Result<(String, ManualSettings), String> {
    let checked = check::load(path);
    let (Some(gateway), Some(file)) = (&checked.gateway, checked.file()) else {
        return Err(format!(
            "`{}` is refused\n{}",
            path.display(),
            checked.report()
        ));
    };
    let request = ExplainRequest {
        method: options.method.clone(),
        url: options.url.clone(),
        headers: options.headers.clone(),
        client: options.client,
        listener: None,
    };
    let explained = explain(gateway, &request, ExplainScope::AtTheRules);
    let explained = explained.map_err(|error| error.to_string())?;
    let route = explained
        .route
        .ok_or_else(|| format!("no route of `{}` takes this request", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let settings = gateway::plugin_settings(file, &route, folder, &options.file);
    let settings = settings.ok_or_else(|| {
        format!(
            "the route `{route}`, which takes this request, has no plugin `{}`",
            options.file.display()
        )
    })??;
    Ok((route, settings))
}
