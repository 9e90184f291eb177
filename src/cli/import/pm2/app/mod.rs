//! Plan of one app: its command, environment, ports and limits, and what is not carried over.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

/// Facts of the machine that a plan depends on.
pub(super) struct Machine<'a> {
    pub(super) cpus: usize,
    /// Folder of the ecosystem file.
    pub(super) folder: &'a Path,
    pub(super) is_file: &'a dyn Fn(&Path) -> bool,
    /// User id of a path's owner.
    pub(super) owner: &'a dyn Fn(&Path) -> Option<u32>,
}

/// An app as units and an upstream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct App {
    /// Name of the unit and of the upstream.
    pub(super) name: String,
    pub(super) folder: PathBuf,
    /// Program and arguments; [`PORT`] stands for the port of the instance.
    pub(super) command: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    /// Port of each instance; empty for an app that listens nowhere.
    pub(super) ports: Vec<u16>,
    pub(super) is_next: bool,
    pub(super) user: String,
    /// Lines of `[Service]`, without those that every unit has.
    pub(super) settings: Vec<String>,
    pub(super) carried: Vec<String>,
    pub(super) left: Vec<String>,
}

/// Stands for the port in a command; systemd replaces it.
pub(super) const PORT: &str = "${PORT}";
/// User of the units in `systemd/`, if the app's folder has no other owner.
const USER: &str = "node-app";
/// Port of Next.js and of most examples.
const USUAL_PORT: u16 = 3000;
/// Programs that PM2 runs by themselves, without node.
const PROGRAMS: [&str; 8] = ["npm", "npx", "yarn", "pnpm", "bun", "deno", "node", "bash"];

/// Keys that change nothing under systemd, or that have a better place.
const IGNORED: &[(&str, &str)] = &[
    (
        "watch",
        "systemd does not watch files; restart with `edgeway rollout` after a deploy",
    ),
    ("ignore_watch", "as `watch`"),
    ("watch_options", "as `watch`"),
    (
        "cron_restart",
        "make a systemd timer that runs `systemctl restart`",
    ),
    (
        "max_restarts",
        "systemd restarts for ever; the health check keeps a broken instance out",
    ),
    ("min_uptime", "as `max_restarts`"),
    (
        "exp_backoff_restart_delay",
        "systemd waits for the same time each time, see `RestartSec=`",
    ),
    (
        "wait_ready",
        "the health check decides when an instance gets requests",
    ),
    ("listen_timeout", "as `wait_ready`"),
    ("log_date_format", "the journal has the time of each line"),
    ("time", "as `log_date_format`"),
    ("log_type", "the app writes its lines as it likes"),
    ("pmx", "metrics are the gateway's, at /metrics"),
    ("trace", "as `pmx`"),
    ("instance_var", "NODE_APP_INSTANCE is set under that name"),
    ("namespace", "units have no namespaces"),
];

/// Keys without an effect outside PM2.
const SILENT: [&str; 14] = [
    "name",
    "script",
    "exec",
    "exec_mode",
    "instances",
    "merge_logs",
    "combine_logs",
    "vizion",
    "autorestart",
    "automation",
    "treekill",
    "windowsHide",
    "pid_file",
    "source_map_support",
];

impl App {
    /// Plans an app. `taken` has the ports of the apps before it.
    pub(super) fn plan(
        written: &Map<String, Value>,
        env: &str,
        machine: &Machine<'_>,
        taken: &mut Vec<u16>,
    ) -> Result<Self, String> {
        let mut keys = Keys {
            written,
            read: Vec::new(),
        };
        let script = keys
            .text(&["script", "exec"])
            .ok_or("an app has no `script`")?;
        let name = unit_name(&keys.text(&["name"]).unwrap_or_else(|| stem(&script)));
        let cwd = keys.text(&["cwd"]).unwrap_or_default();
        let folder = clean(&machine.folder.join(cwd));
        let mut plan = Self {
            name,
            command: command(&mut keys, &script, &folder, machine),
            environment: environment(&mut keys, env),
            folder,
            ports: Vec::new(),
            is_next: false,
            user: String::new(),
            settings: Vec::new(),
            carried: Vec::new(),
            left: Vec::new(),
        };
        let words = plan.command.iter();
        plan.is_next = words
            .clone()
            .any(|word| word == "next" || word.ends_with("/bin/next"));
        plan.ports(&mut keys, machine, taken)?;
        plan.user(&mut keys, machine);
        plan.limits(&mut keys)?;
        plan.logs(&mut keys);
        plan.rest(&keys, env);
        Ok(plan)
    }

    fn ports(
        &mut self,
        keys: &mut Keys<'_>,
        machine: &Machine<'_>,
        taken: &mut Vec<u16>,
    ) -> Result<(), String> {
        let count = instances(keys, machine.cpus)?;
        let by_key = keys.number(&["port"]);
        let by_environment = self.environment.remove("PORT");
        let by_environment = by_environment.and_then(|port| port.parse().ok());
        let by_argument = port_argument(&mut self.command);
        let found = by_argument.or(by_key).or(by_environment);
        let first = match found {
            Some(port) => {
                u16::try_from(port).map_err(|_| format!("`{}`: invalid port {port}", self.name))?
            }
            None if self.is_next => {
                self.carried.push(format!(
                    "no port is written: Next.js listens on {USUAL_PORT}"
                ));
                USUAL_PORT
            }
            None => {
                self.left.push(
                    "no port is written, so it is no upstream; if it serves HTTP, write `PORT` into its \
                     `env` and import again".to_owned(),
                );
                if count > 1 {
                    self.left
                        .push(format!("`instances: {count}`: one unit runs one process"));
                }
                return Ok(());
            }
        };
        let mut port = first;
        while self.ports.len() < count {
            if !taken.contains(&port) {
                taken.push(port);
                self.ports.push(port);
            }
            port = port.checked_add(1).ok_or("no ports are left below 65536")?;
        }
        let last = self.ports.last().copied().unwrap_or(first);
        if count > 1 {
            self.carried.push(format!(
                "{count} instances, which shared port {first}: one process each on {first} to {last}",
            ));
        } else {
            self.carried.push(format!("port {last}"));
        }
        let is_passed = self.command.iter().any(|word| word.contains(PORT));
        if !is_passed && by_environment.is_none() && !self.is_next {
            self.left
                .push("check that the app listens on the port in the variable PORT".to_owned());
        }
        Ok(())
    }

    fn user(&mut self, keys: &mut Keys<'_>, machine: &Machine<'_>) {
        let written = keys.text(&["user", "uid"]);
        let _group = keys.text(&["gid"]);
        let owner = (machine.owner)(&self.folder).filter(|owner| *owner != 0);
        self.user = match (written, owner) {
            (Some(user), _) => user,
            (None, Some(owner)) => {
                self.carried
                    .push(format!("user {owner}, who owns {}", self.folder.display()));
                owner.to_string()
            }
            (None, None) => {
                self.left.push(format!(
                    "no user but root is known for it: it runs as `{USER}`, who must be able to read {}",
                    self.folder.display()
                ));
                USER.to_owned()
            }
        };
    }

    fn limits(&mut self, keys: &mut Keys<'_>) -> Result<(), String> {
        if let Some(memory) = keys.text(&["max_memory_restart"]) {
            let bytes = bytes(&memory).ok_or_else(|| {
                format!(
                    "`{}`: invalid `max_memory_restart: {memory}`; write one such as `500M`",
                    self.name
                )
            })?;
            self.settings.push(format!("MemoryMax={bytes}"));
            self.carried
                .push(format!("max_memory_restart {memory} as MemoryMax="));
        }
        let stop = keys
            .number(&["kill_timeout"])
            .map(|millis| millis.div_ceil(1000).max(1));
        self.settings
            .push(format!("TimeoutStopSec={}s", stop.unwrap_or(30)));
        let pause = keys.number(&["restart_delay"]).unwrap_or(500);
        self.settings.push(format!("RestartSec={pause}ms"));
        let is_restarted = keys.written.get("autorestart") != Some(&Value::Bool(false));
        let restart = if is_restarted { "always" } else { "no" };
        self.settings.push(format!("Restart={restart}"));
        Ok(())
    }

    fn logs(&mut self, keys: &mut Keys<'_>) {
        let both = keys.text(&["log_file", "log"]);
        let output = keys.text(&["out_file", "output", "out", "out_log"]);
        let error = keys.text(&["error_file", "error", "err", "err_file", "err_log"]);
        let files = [("StandardOutput", output), ("StandardError", error)];
        for (setting, file) in files {
            match file.or_else(|| both.clone()) {
                Some(file) if file != "NULL" && file != "/dev/null" => {
                    let path = clean(&self.folder.join(file));
                    self.settings.push(format!(
                        "{setting}=append:{}",
                        specifiers(&path.to_string_lossy())
                    ));
                    self.carried
                        .push(format!("{setting} in {}", path.display()));
                }
                Some(_) => self.settings.push(format!("{setting}=null")),
                None => (),
            }
        }
    }

    /// Notes the keys that were not read.
    fn rest(&mut self, keys: &Keys<'_>, env: &str) {
        for (key, value) in keys.written {
            if keys.read.contains(&key.as_str()) || SILENT.contains(&key.as_str()) {
                continue;
            }
            if key.starts_with("env_") {
                self.left
                    .push(format!("`{key}`: this is the import for `--env {env}`"));
                continue;
            }
            let ignored = IGNORED.iter().find(|(ignored, _)| ignored == key);
            match ignored {
                // Off is how systemd is.
                Some(_) if matches!(value, Value::Bool(false) | Value::Null) => (),
                Some((_, why)) => self.left.push(format!("`{key}`: {why}")),
                None => self.left.push(format!("`{key}`: unknown to this import")),
            }
        }
    }
}

/// Keys of an app, with those that were read.
struct Keys<'a> {
    written: &'a Map<String, Value>,
    read: Vec<&'a str>,
}

impl<'a> Keys<'a> {
    fn value(&mut self, names: &[&str]) -> Option<&'a Value> {
        let written = self.written;
        let found = names.iter().find_map(|name| written.get_key_value(*name));
        let (key, value) = found?;
        self.read.push(key);
        (!value.is_null()).then_some(value)
    }

    fn text(&mut self, names: &[&str]) -> Option<String> {
        self.value(names).and_then(text)
    }

    fn number(&mut self, names: &[&str]) -> Option<u64> {
        self.text(names)?.trim().parse().ok()
    }

    /// A list, or a text that is split at spaces, as PM2 does.
    fn words(&mut self, names: &[&str]) -> Vec<String> {
        match self.value(names) {
            Some(Value::Array(list)) => list.iter().filter_map(text).collect(),
            Some(other) => {
                let all = text(other).unwrap_or_default();
                all.split_whitespace().map(str::to_owned).collect()
            }
            None => Vec::new(),
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn command(keys: &mut Keys<'_>, script: &str, folder: &Path, machine: &Machine<'_>) -> Vec<String> {
    let interpreter = keys.text(&["interpreter", "exec_interpreter"]);
    let options = keys.words(&[
        "node_args",
        "nodeArgs",
        "interpreter_args",
        "interpreterArgs",
    ]);
    let arguments = keys.words(&["args"]);
    let is_program = PROGRAMS.contains(&script) && !(machine.is_file)(&folder.join(script));
    let by_ending = match Path::new(script)
        .extension()
        .and_then(|ending| ending.to_str())
    {
        Some("py") => "python3",
        Some("sh") => "bash",
        Some("rb") => "ruby",
        Some("ts" | "tsx") => "bun",
        _ => "node",
    };
    let interpreter = match interpreter.as_deref() {
        Some("none" | "") => None,
        Some(written) => Some(written.to_owned()),
        None if is_program => None,
        None => Some(by_ending.to_owned()),
    };
    let mut command: Vec<String> = interpreter.into_iter().collect();
    command.extend(options);
    command.push(script.to_owned());
    command.extend(arguments);
    command
}

/// The variables of `env`, and over them those of `env_NAME`, as PM2 merges them.
fn environment(keys: &mut Keys<'_>, env: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for name in ["env".to_owned(), format!("env_{env}")] {
        let Some(Value::Object(variables)) = keys.value(&[&name]) else {
            continue;
        };
        for (variable, value) in variables {
            let value = text(value).unwrap_or_else(|| value.to_string());
            all.insert(variable.clone(), value);
        }
    }
    all
}

fn instances(keys: &mut Keys<'_>, cpus: usize) -> Result<usize, String> {
    let written = keys.text(&["instances"]).unwrap_or_else(|| "1".to_owned());
    let cpus_signed = i64::try_from(cpus).unwrap_or(1);
    let count = match written.trim() {
        "max" => cpus_signed,
        number => match number.parse::<i64>() {
            Ok(0) => cpus_signed,
            Ok(less) if less < 0 => cpus_signed + less,
            Ok(count) => count,
            Err(_) => {
                return Err(format!(
                    "invalid `instances: {written}`; write a number or `max`"
                ));
            }
        },
    };
    Ok(usize::try_from(count.max(1)).unwrap_or(1))
}

/// Takes the port out of arguments such as `-p 3000` and `--port=3000`, for [`PORT`].
fn port_argument(command: &mut [String]) -> Option<u64> {
    let mut found = None;
    for at in 0..command.len() {
        let word = command[at].clone();
        if let Some(port) = word
            .strip_prefix("--port=")
            .and_then(|port| port.parse().ok())
        {
            command[at] = format!("--port={PORT}");
            found = Some(port);
        } else if matches!(word.as_str(), "-p" | "--port")
            && let Some(next) = command.get_mut(at + 1)
            && let Ok(port) = next.parse()
        {
            PORT.clone_into(next);
            found = Some(port);
        }
    }
    found
}

/// Reads `500M`, `1G`, `300K` or a number of bytes.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().trim_end_matches(['B', 'b', 'i']);
    let (number, shift) = match text.chars().last()? {
        'K' | 'k' => (&text[..text.len() - 1], 10),
        'M' | 'm' => (&text[..text.len() - 1], 20),
        'G' | 'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn stem(script: &str) -> String {
    let stem = Path::new(script).file_stem();
    stem.map_or_else(
        || "app".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

/// Returns a name for units and upstreams.
fn unit_name(name: &str) -> String {
    let is_kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = name
        .chars()
        .map(|c| if is_kept(c) { c } else { '-' })
        .collect();
    let name = name.trim_matches('-').to_ascii_lowercase();
    if name.is_empty() {
        "app".to_owned()
    } else {
        name
    }
}

/// Escapes `%`, which begins a specifier in units.
pub(super) fn specifiers(text: &str) -> String {
    text.replace('%', "%%")
}

/// Removes `.` and `..` from a path, without a look at the disk.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => (),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}
