//! A plugin by itself, outside a gateway: for its author on the command line.

use std::{sync::Arc, time::Duration};

use http::header;
use log::Level;
use parking_lot::Mutex;

use super::{
    budget::{HookLimits, thread_time},
    call::{Hook, HookResult, Input, Output, rewritten},
    capabilities::{Capabilities, FetchOrigins},
    conditions::ClientRequest,
    error::Failure,
    host::Log,
    kv::{Kv, Memory},
    matcher::host_name,
    plugin::Plugin,
    schema::ConfigSchema,
    source::Source,
    wait_until::WaitUntil,
};
use crate::base::{clock::Clock, known_secrets::KnownSecrets, target::Slashes};

/// Plugin that is called by hand, one hook at a time.
#[derive(Debug)]
pub struct ManualPlugin {
    plugin: Arc<Plugin>,
    wait_until: WaitUntil,
    lines: Arc<ConsoleLines>,
    clock: Clock,
}

/// Line of `console`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleLine {
    pub level: Level,
    pub text: String,
}

/// Result of a hook.
#[derive(Debug)]
pub struct ManualResult {
    pub outcome: Result<Output, Failure>,
    pub lines: Vec<ConsoleLine>,
    /// CPU time of the thread that ran it.
    pub cpu: Duration,
    pub wall: Duration,
}

#[derive(Debug, Default)]
struct ConsoleLines(Mutex<Vec<ConsoleLine>>);

impl Log for ConsoleLines {
    fn line(&self, level: Level, text: &str) {
        let text = text.to_owned();
        self.0.lock().push(ConsoleLine { level, text });
    }

    fn background_failed(&self, _plugin: &str, _request_id: &str, failure: &Failure) {
        self.line(Level::Warn, &format!("waitUntil failed: {failure}"));
    }
}

impl ManualPlugin {
    /// Loads a plugin once, with a kv of its own. Lines that it writes meanwhile belong to its
    /// first hook. `config` and `env` are JSON objects.
    pub fn load(source: Arc<Source>, config: String, env: String) -> Result<Self, Failure> {
        Self::load_within(source, config, env, None, HookLimits::default())
    }

    /// Loads like [`ManualPlugin::load`], with origins to fetch from, and with limits of its own.
    pub fn load_within(
        source: Arc<Source>,
        config: String,
        env: String,
        fetch: Option<FetchOrigins>,
        limits: HookLimits,
    ) -> Result<Self, Failure> {
        if let Some(schema) = ConfigSchema::beside(&source.folder)? {
            schema.demand(&config)?;
        }
        let clock = Clock::machine();
        let wait_until = WaitUntil::default();
        let capabilities = Capabilities {
            env,
            secret_names: Vec::new(),
            secrets: KnownSecrets::default(),
            wait_until: wait_until.clone(),
            kv: Some(Kv::memory(Arc::new(Memory::new(&clock)))),
            fetch,
            metrics: Arc::default(),
        };
        let lines = Arc::new(ConsoleLines::default());
        let log: Arc<dyn Log> = lines.clone();
        let plugin = Plugin::load_logging("trial", source, config, limits, capabilities, 1, log)?;
        Ok(Self {
            plugin: Arc::new(plugin),
            wait_until,
            lines,
            clock,
        })
    }

    /// Returns true if the plugin's own `config.matcher` matches this request.
    pub fn is_for(&self, input: &Input) -> bool {
        // The URL as received, not in the normal form of the URL standard.
        let (_, rest) = input.url.split_once("://").unwrap_or_default();
        let target = rest.find('/').map_or("/", |begin| &rest[begin..]);
        let path = target.split('?').next().unwrap_or_default();
        let host = input.headers.get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        self.plugin.is_for(path, || ClientRequest {
            headers: &input.headers,
            target: target.as_bytes(),
            host: host_name(host),
        })
    }

    pub fn has(&self, hook: Hook) -> bool {
        self.plugin.has(hook)
    }

    /// Runs a hook. Other work of this thread meanwhile counts as the hook's time.
    pub async fn run(&self, hook: Hook, input: Input) -> ManualResult {
        let url = input.url.clone();
        let (start, cpu) = (self.clock.now(), thread_time());
        let outcome = self.plugin.call(hook, input).await;
        let cpu = Duration::from_nanos(thread_time().saturating_sub(cpu));
        let wall = self.clock.now().duration_since(start);
        // The author wants to see the work that it left behind too.
        self.wait_until.join().await;
        // As the gateway does.
        let outcome = outcome.and_then(|output| {
            if let HookResult::Rewrite(to) = &output.result {
                rewritten(&url, to, Slashes::default())?;
            }
            Ok(output)
        });
        ManualResult {
            outcome,
            lines: std::mem::take(&mut self.lines.0.lock()),
            cpu,
            wall,
        }
    }
}
