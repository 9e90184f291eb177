//! Settings that a plugin has on a route, for running it by hand.

use std::path::Path;

use edgeway_base::units::Span;
use edgeway_config::{
    diagnostic::Diagnostics,
    tree::{Node, read},
};
use edgeway_script::capabilities::FetchOrigins;

use super::{
    config::{self, PluginsConfig},
    failure::OnErrorConfig,
};

/// Settings of one plugin.
pub struct ManualSettings {
    /// `ctx.config`, in JSON.
    pub config: String,
    pub env: Vec<String>,
    pub fetch: Option<FetchOrigins>,
    pub cpu: Span,
    pub wall: Span,
    /// True if a request goes on when the plugin fails.
    pub continues: bool,
    /// True if bodies are read for the plugin.
    pub reads_body: bool,
}

/// Returns the settings of the plugin `file` in the node of a route's `plugins`, whose paths start
/// at `folder`; `None` if it is not there.
pub fn settings(node: &Node, folder: &Path, file: &Path) -> Option<Result<ManualSettings, String>> {
    let same = |written: &str| {
        let path = folder.join(written).canonicalize().ok();
        path.is_some() && path == file.canonicalize().ok()
    };
    let all: PluginsConfig = read(node, &mut Diagnostics::default())?;
    let plugin = all.0.into_iter().find(|plugin| same(&plugin.file.value))?;
    let fetch = plugin.fetch.as_ref();
    let fetch = fetch.map(|fetch| config::reach(&fetch.value)).transpose();
    Some(fetch.map(|fetch| {
        ManualSettings {
            config: serde_json::Value::Object(plugin.config.json.clone()).to_string(),
            env: plugin.env.iter().map(|name| name.value.clone()).collect(),
            fetch,
            cpu: plugin.limits.cpu,
            wall: plugin.limits.wall,
            continues: plugin
                .on_error
                .as_ref()
                .is_some_and(|on_error| on_error.value == OnErrorConfig::Continue),
            reads_body: plugin.body.is_some(),
        }
    }))
}
