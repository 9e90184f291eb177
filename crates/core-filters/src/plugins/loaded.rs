//! Loaded plugins, shared by routes and configurations.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use edgeway_config::source::ReferencedFiles;
use edgeway_core::zones::Zone;
use edgeway_script::{Failure, HookLimits, Plugin, capabilities::Capabilities, source::Source};
use parking_lot::Mutex;

use super::config::{FetchConfig, KvConfig};

/// Loaded plugins, each kept for as long as some configuration uses it.
#[derive(Debug, Default)]
pub(super) struct LoadedPlugins(Mutex<HashMap<PluginIdentity, Weak<Plugin>>>);

impl Zone for LoadedPlugins {}

/// Identity of a plugin: plugins that differ here are loaded separately.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PluginIdentity {
    pub(super) name: String,
    /// Path as the configuration writes it, and the resolved path.
    pub(super) shown: String,
    pub(super) path: std::path::PathBuf,
    pub(super) config: String,
    pub(super) limits: HookLimits,
    pub(super) env: Vec<String>,
    pub(super) secret_names: Vec<String>,
    pub(super) kv: Option<KvConfig>,
    /// Address in memory of the Redis of `kv`. The plugin holds a reference to it for its whole
    /// life, so another Redis has another address.
    pub(super) redis: Option<usize>,
    pub(super) fetch: Option<FetchConfig>,
}

impl LoadedPlugins {
    /// Returns the loaded plugin if its files are unchanged; otherwise loads it again. Holders of
    /// the old plugin keep it.
    pub(super) fn get(
        &self,
        what: PluginIdentity,
        capabilities: Capabilities,
        referenced: &mut ReferencedFiles,
    ) -> Result<Arc<Plugin>, Failure> {
        let known = self.0.lock().get(&what).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.source.is_current()) {
            known.source.note(referenced);
            return Ok(known);
        }
        let source = Source::read(&what.shown, &what.path)
            .inspect_err(|_| referenced.missed(what.path.clone()))?;
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let config = what.config.clone();
        let files = Arc::clone(&source);
        let plugin = Plugin::load(
            &what.name,
            source,
            config,
            what.limits,
            capabilities,
            workers,
        );
        files.note(referenced);
        let plugin = Arc::new(plugin?);
        let mut all = self.0.lock();
        all.retain(|_, plugin| plugin.strong_count() > 0);
        all.insert(what, Arc::downgrade(&plugin));
        Ok(plugin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_redis_makes_another_plugin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin.js");
        std::fs::write(&path, "export function onRequest() {}").unwrap();
        let loaded = LoadedPlugins::default();
        let get = |redis: Option<usize>| {
            let what = PluginIdentity {
                name: "x".to_owned(),
                shown: String::new(),
                path: path.clone(),
                config: "{}".to_owned(),
                limits: HookLimits::default(),
                env: Vec::new(),
                secret_names: Vec::new(),
                kv: Some(KvConfig::Redis),
                redis,
                fetch: None,
            };
            let referenced = &mut ReferencedFiles::default();
            loaded
                .get(what, Capabilities::default(), referenced)
                .unwrap()
        };
        let first = get(Some(1));
        assert!(Arc::ptr_eq(&first, &get(Some(1))));
        assert!(!Arc::ptr_eq(&first, &get(Some(2))));
    }
}
