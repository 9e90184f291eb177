//! Plan of one app: its command, environment, ports and limits, and what is not carried over.

mod command;
mod keys;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use edgeway_base::node_app;
use edgeway_project::{WebSocket, pm2};
use serde_json::{Map, Value};

use self::keys::{Keys, text};

/// Facts of the machine that a plan depends on.
pub(super) struct Machine<'a> {
    pub(super) cpus: usize,
    /// Folder of the ecosystem file.
    pub(super) folder: &'a Path,
    /// Folder of the user, which `~` stands for.
    pub(super) home: Option<&'a Path>,
    pub(super) is_file: &'a dyn Fn(&Path) -> bool,
    /// True for a compiled program, which needs no interpreter.
    pub(super) is_binary: &'a dyn Fn(&Path) -> bool,
    /// Returns the script of this name in the package.json of a folder.
    pub(super) script: &'a dyn Fn(&Path, &str) -> Option<String>,
    /// Returns the dependency with which the app in a folder serves WebSockets.
    pub(super) websocket: &'a dyn Fn(&Path) -> Option<WebSocket>,
    /// User id of a path's owner.
    pub(super) owner: &'a dyn Fn(&Path) -> Option<u32>,
}

/// Ports and names of the apps before.
#[derive(Debug, Default)]
pub(super) struct TakenNames {
    /// Ports, each with the name of its app.
    pub(super) ports: Vec<(u16, String)>,
    pub(super) names: Vec<String>,
    /// Number that is added to each port.
    pub(super) shift: u16,
}

/// An app as units and an upstream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct App {
    /// Name of the unit and of the upstream.
    pub(super) name: String,
    pub(super) folder: PathBuf,
    /// Program and arguments; [`PORT`] stands for the port of the instance.
    pub(super) command: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    /// Port of each instance; empty for an app that listens nowhere.
    pub(super) ports: Vec<u16>,
    /// Port that it has with PM2, which its instances share there.
    pub(super) first: Option<u16>,
    /// Message about the port that it has here instead, if another app has that one.
    pub(super) moved: Option<String>,
    /// Variables that count the instances, with their value in the first one.
    pub(super) counters: BTreeMap<String, u64>,
    pub(super) is_next: bool,
    /// Dependency with which it serves WebSockets.
    pub(super) websocket: Option<WebSocket>,
    /// MiB of memory at which it is restarted before it is killed.
    pub(super) restart_at: Option<u64>,
    pub(super) user: String,
    /// Lines of `[Service]`, without those that every unit has.
    pub(super) settings: Vec<String>,
    pub(super) carried: Vec<String>,
    pub(super) left: Vec<String>,
}

/// Stands for the port in a command; systemd replaces it.
pub(super) const PORT: &str = "${PORT}";
/// Programs that run the scripts of a package.json.
const MANAGERS: [&str; 3] = ["npm", "pnpm", "yarn"];
/// User of the units in `systemd/`, if the app's folder has no other owner.
const USER: &str = "node-app";
/// Port of Next.js and of most examples.
const USUAL_PORT: u16 = 3000;
/// Share of the memory at which an app is killed: it grows while its requests in flight finish.
const RESTART_AT_PERCENT: u64 = 80;
/// Largest limit that the configuration takes, 256 TiB.
const MAX_MEBIBYTES: u64 = 1 << 28;
/// Units that `app-NAME` keeps clear of: Edgeway's own, and templates of systemd, which every
/// login needs.
const UNITS: &str = "edgeway node-app autovt console-getty container-getty getty modprobe \
    serial-getty user user-runtime-dir";
/// Folders with the units of packages.
const UNIT_FOLDERS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// Folder of the administrator's units, into which the imported ones are installed.
const OWN_UNITS: &str = "/etc/systemd/system";

impl App {
    /// Plans an app. `taken` has the ports and names of the apps before it.
    pub(super) fn plan(
        written: &Map<String, Value>,
        env: &str,
        machine: &Machine<'_>,
        taken: &mut TakenNames,
    ) -> Result<Self, String> {
        let mut keys = Keys {
            written,
            read: Vec::new(),
        };
        let script = keys
            .text(&["script", "exec", "cmd", "command"])
            .filter(|script| !script.trim().is_empty())
            .ok_or("an app has no `script`")?;
        let mut left = Vec::new();
        let wanted = keys.text(&["name"]).filter(|name| !name.is_empty());
        let wanted = wanted.unwrap_or_else(|| stem(&script));
        let name = unit_name(&wanted, machine, taken, &mut left);
        let shown = name.clone();
        let of_app = |why: String| format!("`{shown}`: {why}");
        let cwd = keys.path(&["cwd"]).unwrap_or_default();
        let folder = clean(&machine.folder.join(at_home(&cwd, machine)));
        check_line("cwd", &folder.to_string_lossy()).map_err(of_app)?;
        let command = command::command(&mut keys, &script, &folder, machine, &mut left);
        if command.iter().any(|word| word.contains('\0')) {
            return Err(of_app(
                "a command cannot contain the character NUL".to_owned(),
            ));
        }
        let mut plan = Self {
            command,
            environment: environment(&mut keys, env, &mut left),
            folder,
            left,
            name,
            ..Self::default()
        };
        let words = plan.command.iter().flat_map(|word| word.split(' '));
        let mut scripts = words.clone().skip_while(|word| !MANAGERS.contains(word));
        let script = scripts.nth(1).map(|word| match word {
            "run" => scripts.next().unwrap_or_default(),
            word => word,
        });
        let script = script.and_then(|name| (machine.script)(&plan.folder, name));
        let script = script.as_deref().unwrap_or_default().split(' ');
        let mut words = words.chain(script);
        plan.is_next = words.any(|word| word == "next" || word.ends_with("/bin/next"));
        if let Some(options) = plan.environment.get_mut("NODE_OPTIONS") {
            *options = node_app::options(Some(options));
        }
        plan.websocket = (machine.websocket)(&plan.folder);
        plan.ports(&mut keys, machine, taken).map_err(of_app)?;
        plan.counters(&mut keys).map_err(of_app)?;
        plan.user(&mut keys, machine).map_err(of_app)?;
        plan.limits(&mut keys).map_err(of_app)?;
        plan.logs(&mut keys, machine).map_err(of_app)?;
        plan.left.extend(keys.rest(env));
        plan.replaced(machine);
        Ok(plan)
    }

    /// Returns the file of the unit: a template with the port as instance, if the app has one.
    pub(super) fn unit_file(&self) -> String {
        let at = if self.ports.is_empty() { "" } else { "@" };
        format!("{}{at}.service", self.name)
    }

    /// Warns of a unit that the administrator wrote, or that an earlier import made.
    fn replaced(&mut self, machine: &Machine<'_>) {
        let file = self.unit_file();
        let installed = Path::new(OWN_UNITS).join(&file);
        if (machine.is_file)(&installed) {
            self.left.push(format!(
                "{} exists: `install` replaces it",
                installed.display()
            ));
        }
    }

    fn ports(
        &mut self,
        keys: &mut Keys<'_>,
        machine: &Machine<'_>,
        TakenNames {
            ports: taken,
            shift,
            ..
        }: &mut TakenNames,
    ) -> Result<(), String> {
        let count = instances(keys, machine.cpus)?;
        let by_key = keys.number(&["port"]);
        let by_environment = self.environment.get("PORT");
        let by_environment = by_environment.and_then(|port| port.trim().parse().ok());
        let by_argument = command::take_port(&mut self.command);
        let listening = by_argument.or(by_key).or(by_environment);
        let shared = match listening {
            Some(port) => u16::try_from(port)
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| format!("invalid port {port}"))?,
            None if self.is_next => {
                self.carried.push(format!(
                    "no port is written: Next.js listens on {USUAL_PORT}"
                ));
                USUAL_PORT
            }
            None => {
                let mut words = self.command.iter().flat_map(|word| word.split(' '));
                if words.any(|word| word == "--port" || word.starts_with("--port=")) {
                    self.left
                        .push("`--port` has no number from 1 to 65535".to_owned());
                }
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
        let first = crate::shifted(shared, *shift)?;
        // The unit sets it, and a file of variables would replace that.
        self.environment.remove("PORT");
        let owner = |port: u16| taken.iter().find(|(known, _)| *known == port);
        let from = |start: u16| (start..=u16::MAX).take(count);
        // `scale` has all ports from the first to the last one, so none between is another app's.
        let is_free = |start: &u16| {
            from(*start).count() == count && from(*start).all(|port| owner(port).is_none())
        };
        let Some(start) = (first..=u16::MAX).find(is_free) else {
            return Err(format!(
                "no {count} ports in a row are free from {first} to 65535"
            ));
        };
        self.first = Some(first);
        self.ports = from(start).collect();
        let last = self.ports.last().copied().unwrap_or(start);
        if let Some((port, other)) = from(first).find_map(owner) {
            let moved = format!("moves from port {first} to {start}, since `{other}` has {port}");
            self.left
                .push(format!("{moved}: change whatever else connects to {first}"));
            self.moved = Some(moved);
        }
        taken.extend(self.ports.iter().map(|port| (*port, self.name.clone())));
        if count > 1 {
            self.carried.push(format!(
                "{count} instances: one process each on {start} to {last}",
            ));
        } else {
            self.carried.push(format!("port {last}"));
        }
        if start < 1024 {
            let note = "ports below 1024 are those of root: import again with `--ports +3000`";
            self.left.push(note.to_owned());
        }
        let is_passed = self.command.iter().any(|word| word.contains(PORT));
        if !is_passed && by_environment.is_none() && !self.is_next {
            self.left
                .push("check that the app listens on the port in the variable PORT".to_owned());
        }
        Ok(())
    }

    /// Plans the variables that differ between instances.
    fn counters(&mut self, keys: &mut Keys<'_>) -> Result<(), String> {
        let number = keys.text(&["instance_var"]);
        let number = number.unwrap_or_else(|| "NODE_APP_INSTANCE".to_owned());
        let counted = keys.text(&["increment_var"]).filter(|name| name != "PORT");
        for name in [Some(&number), counted.as_ref()].into_iter().flatten() {
            if !is_variable(name) {
                return Err(format!("invalid name of a variable {name:?}"));
            }
        }
        self.counters.insert(number, 0);
        if let Some(name) = counted {
            let first = self.environment.get(&name);
            match first.and_then(|first| first.trim().parse().ok()) {
                Some(first) => {
                    self.counters.insert(name, first);
                }
                None => self
                    .left
                    .push(format!("`increment_var: {name}`: `env` has no such number")),
            }
        }
        Ok(())
    }

    fn user(&mut self, keys: &mut Keys<'_>, machine: &Machine<'_>) -> Result<(), String> {
        let written = keys.text(&["user", "uid"]);
        let group = keys.text(&["gid"]);
        for name in written.iter().chain(&group) {
            let is_name = |c: char| c.is_ascii_alphanumeric() || "_.@$-".contains(c);
            if name.is_empty() || name.starts_with('-') || !name.chars().all(is_name) {
                return Err(format!("{name:?} is not the name of a user or a group"));
            }
        }
        if let Some(group) = group {
            self.settings.push(format!("Group={group}"));
        }
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
        Ok(())
    }

    /// Plans a restart before the kill, as PM2 restarts: requests in flight are finished.
    fn restart_at(&mut self, killed_at: u64) {
        let mebibytes = (killed_at >> 20).saturating_mul(RESTART_AT_PERCENT) / 100;
        // A worker has no upstream.
        if self.ports.is_empty() || mebibytes == 0 || mebibytes > MAX_MEBIBYTES {
            return;
        }
        self.restart_at = Some(mebibytes);
        let name = &self.name;
        self.carried.push(format!(
            "and as `restart_at: {{ rss: {mebibytes}MiB }}`, {RESTART_AT_PERCENT} % of it: with the \
             module edgeway-node in the app, `edgeway rollout {name} --watch -- systemctl restart \
             {name}@{{port}}` restarts it before it is killed"
        ));
    }

    fn limits(&mut self, keys: &mut Keys<'_>) -> Result<(), String> {
        // 0 is off.
        let memory = keys.text(&["max_memory_restart"]);
        if let Some(memory) = memory.filter(|memory| memory != "0") {
            let bytes = bytes(&memory).ok_or_else(|| {
                format!("invalid `max_memory_restart: {memory}`; write one such as `500M`")
            })?;
            self.settings.push(format!("MemoryMax={bytes}"));
            self.carried
                .push(format!("max_memory_restart {memory} as MemoryMax="));
            self.restart_at(bytes);
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

    fn logs(&mut self, keys: &mut Keys<'_>, machine: &Machine<'_>) -> Result<(), String> {
        let both = keys.path(&["log_file", "log"]);
        let output = keys.path(&["out_file", "output", "out", "out_log"]);
        let error = keys.path(&["error_file", "error", "err", "err_file", "err_log"]);
        let files = [("StandardOutput", output), ("StandardError", error)];
        for (setting, file) in files {
            match file.or_else(|| both.clone()) {
                Some(file) if file != "NULL" && file != "/dev/null" => {
                    let path = clean(&self.folder.join(at_home(&file, machine)));
                    let text = path.to_string_lossy();
                    check_line(setting, &text)?;
                    self.settings
                        .push(format!("{setting}=append:{}", specifiers(&text)));
                    self.carried
                        .push(format!("{setting} in {}", path.display()));
                }
                Some(_) => self.settings.push(format!("{setting}=null")),
                None => (),
            }
        }
        Ok(())
    }
}

/// The variables of `env`, and over them those of `env_NAME`, as PM2 merges them.
fn environment(keys: &mut Keys<'_>, env: &str, left: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    // PM2 warns too: it may be a misspelling, which loses all of these variables.
    if env != "production" && keys.value(&[&format!("env_{env}")]).is_none() {
        left.push(format!("`--env {env}`: there is no `env_{env}`"));
    }
    for name in ["env".to_owned(), format!("env_{env}")] {
        let Some(Value::Object(variables)) = keys.value(&[&name]) else {
            continue;
        };
        for (variable, value) in variables {
            let value = text(value).unwrap_or_else(|| value.to_string());
            all.insert(variable.clone(), value);
        }
    }
    // systemd would leave them out, with a line in its log only.
    let is_control = |c: char| c.is_control() && c != '\t' && c != '\n';
    all.retain(|name, value| {
        let is_kept = is_variable(name) && !value.contains(is_control);
        if !is_kept {
            left.push(format!(
                "the variable {name:?}: systemd takes no such name, or no control characters in its value"
            ));
        }
        is_kept
    });
    all
}

/// Returns true for a name of a variable that systemd takes.
fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Refuses a text that a setting cannot hold: systemd.syntax(7) has no escapes for paths.
fn check_line(what: &str, text: &str) -> Result<(), String> {
    if text.contains(char::is_control) || text.ends_with('\\') || text.trim() != text {
        return Err(format!(
            "{what} is {text:?}: a unit takes no control characters, and neither a space nor a \
             backslash at the end; rename the folder"
        ));
    }
    Ok(())
}

/// Replaces a `~` in front, as PM2 does.
fn at_home(path: &str, machine: &Machine<'_>) -> PathBuf {
    match (path.strip_prefix('~'), machine.home) {
        (Some(below), Some(home)) => home.join(below.trim_start_matches('/')),
        _ => PathBuf::from(path),
    }
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

/// Returns a name for units and upstreams that no other app and no other program has.
fn unit_name(
    wanted: &str,
    machine: &Machine<'_>,
    taken: &mut TakenNames,
    left: &mut Vec<String>,
) -> String {
    let mut name = pm2::name_of(wanted);
    let is_of_package = |name: &str| {
        let units = [format!("{name}.service"), format!("{name}@.service")];
        UNIT_FOLDERS.iter().any(|folder| {
            units
                .iter()
                .any(|unit| (machine.is_file)(&Path::new(folder).join(unit)))
        })
    };
    let is_kept = UNITS.split(' ').any(|one| one == name) || name.starts_with("systemd-");
    if is_kept || is_of_package(&name) {
        left.push(format!("the name `{name}`: another program's unit has it"));
        name = format!("app-{name}");
    }
    let unique = pm2::unique(&name, &taken.names);
    left.extend((unique != name).then(|| format!("the name `{name}`: another app has it")));
    taken.names.push(unique.clone());
    unique
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
