//! Finds the running gateway for commands, and prints its refusals.

use std::{
    ffi::OsString,
    fmt::Write as _,
    future::Future,
    io,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use edgeway_base::secret::Secret;
use edgeway_config::{
    diagnostic::{Diagnostic, Diagnostics, Severity},
    model::AdminConfig,
    source,
    tree::{self, Node, Value},
};
use edgeway_gateway as gateway;
use edgeway_proxy::edge::worker;
use edgeway_status::{
    actions::ActionError,
    admin_socket,
    client::{Client, ClientError, Target},
};
use serde::Serialize;
use serde_json::json;

use super::{ConfigOption, Failure, check, foreground::ADMIN, out};

/// The configuration of a gateway that was installed, where no other one is named.
pub const INSTALLED: &str = "/etc/edgeway/edgeway.yaml";
/// Name of the configuration in the current folder, the default of `--config`.
const HERE: &str = "edgeway.yaml";

/// Location of the running gateway.
#[derive(Debug, clap::Args)]
pub struct AdminOption {
    #[command(flatten)]
    config: ConfigOption,
    /// The admin listener's address, instead of its socket; the token is sent there
    #[arg(long, value_name = "IP:PORT", env = "EDGEWAY_ADMIN")]
    admin: Option<SocketAddr>,
    /// The admin listener's unix socket [default: that of the configuration, or the usual path]
    #[arg(long, value_name = "PATH", env = "EDGEWAY_ADMIN_SOCKET")]
    socket: Option<PathBuf>,
    /// The file with the token for the address [default: that of the configuration]
    #[arg(long, value_name = "FILE", env = "EDGEWAY_ADMIN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl AdminOption {
    /// Returns these options as arguments for another command.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            vec!["--config".into(), self.config.config.clone().into()];
        if let Some(admin) = self.admin {
            arguments.extend(["--admin".into(), admin.to_string().into()]);
        }
        for (name, path) in [
            ("--socket", &self.socket),
            ("--token-file", &self.token_file),
        ] {
            if let Some(path) = path {
                arguments.extend([name.into(), path.clone().into()]);
            }
        }
        arguments
    }

    /// Path of the gateway's configuration, if it is named or in this folder.
    pub fn configuration(&self) -> &Path {
        &self.config.config
    }

    /// Returns the configuration that the gateway at a socket must serve, if one is named.
    fn named(&self) -> Option<PathBuf> {
        let path = Some(&self.config.config).filter(|path| *path != Path::new(HERE))?;
        std::path::absolute(path).ok()
    }

    /// Returns the place of the configuration, which is looked for like the running gateway itself.
    pub fn place(&self) -> ConfigPlace {
        ConfigPlace::find(&self.config.config, Path::new(INSTALLED), || {
            self.admin.is_some() || self.listening_socket()
        })
    }

    /// Returns true if a program listens on a socket where the gateway's may be.
    fn listening_socket(&self) -> bool {
        let sockets = self.socket.clone().map(|socket| vec![socket]);
        let mut sockets = sockets.unwrap_or_else(admin_socket::likely).into_iter();
        sockets.any(|path| UnixStream::connect(path).is_ok())
    }

    /// Sends a request to the gateway. On failure prints the reason, and returns the exit status.
    pub fn ask<T, F>(
        &self,
        form: OutputFormat,
        question: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let client = self.client_or_report(form)?;
        let targets = client.targets.clone();
        let runtime =
            worker::single().map_err(|error| format!("cannot start the runtime: {error}"))?;
        runtime
            .block_on(question(client))
            .map_err(|error| match error {
                ClientError::Refused { refused, .. } => report_refusal(&refused, form),
                ClientError::Connect(..) => not_found(&targets).into(),
                other => other.into(),
            })
    }

    /// Sends a request to the gateway and prints its response, as JSON or by `text`.
    pub fn print<T, F>(
        &self,
        is_json: bool,
        question: impl FnOnce(Client) -> F,
        text: impl FnOnce(&T),
    ) -> Result<(), Failure>
    where
        T: Serialize,
        F: Future<Output = Result<T, ClientError>>,
    {
        let form = OutputFormat::from_flag(is_json);
        form.print(&self.ask(form, question)?, text);
        Ok(())
    }

    /// Returns a client. On failure prints the reason, and returns the exit status.
    pub fn client_or_report(&self, form: OutputFormat) -> Result<Client, Failure> {
        let client = self.client();
        client.map_err(|error| report_refusal(&error, form))
    }

    /// Returns a client of the gateway that is named, and of no other one.
    ///
    /// # Errors
    ///
    /// If the configuration is to say where that gateway is, and cannot.
    pub fn client(&self) -> Result<Client, Box<ActionError>> {
        let written = ConfiguredAdmin::find(&self.config.config, Path::new(INSTALLED));
        let token = match &self.token_file {
            Some(path) => Some(read_token(path)?),
            None => written.token,
        };
        let (targets, configuration) = match (&self.socket, self.admin) {
            (Some(path), _) => (vec![Target::Socket(path.clone())], self.named()),
            (None, Some(address)) => (vec![Target::Address(address)], None),
            (None, None) => (written.targets?, written.named),
        };
        Ok(Client {
            targets,
            token,
            configuration,
        })
    }
}

/// Place of the configuration that a command is about.
#[derive(Debug, PartialEq, Eq)]
pub enum ConfigPlace {
    /// The file that is named, or that of the current folder.
    File(PathBuf),
    /// A gateway that runs, whatever its configuration is.
    Running,
    /// The file of an installed gateway, which does not run.
    Installed(PathBuf),
    /// None of them, with what to pass.
    Nowhere(String),
}

impl ConfigPlace {
    fn find(path: &Path, installed: &Path, is_running: impl Fn() -> bool) -> Self {
        if path != Path::new(HERE) || path.exists() {
            return Self::File(path.to_owned());
        }
        if is_running() {
            return Self::Running;
        }
        if installed.exists() {
            return Self::Installed(installed.to_owned());
        }
        Self::Nowhere(format!(
            "edgeway: there is no {HERE} here, no gateway runs, and there is no {}\n\
             help: name the file: `--config FILE`, or make one: `edgeway init`",
            installed.display()
        ))
    }
}

/// Output format of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

impl OutputFormat {
    pub fn from_flag(is_json: bool) -> Self {
        if is_json { Self::Json } else { Self::Text }
    }

    /// Prints data as JSON, or by `text`.
    pub fn print<T: Serialize>(self, data: &T, text: impl FnOnce(&T)) {
        match self {
            Self::Json => out::json(data),
            Self::Text => text(data),
        }
    }
}

/// Describes where no gateway was found, and what to pass where one runs.
pub fn not_found(targets: &[Target]) -> String {
    let mut text = "cannot reach a gateway; tried:".to_owned();
    let mut needs_group = false;
    let mut others = Vec::new();
    for target in targets {
        let why = match target {
            Target::Socket(path) => {
                others.extend(path.parent().map(live_sockets).unwrap_or_default());
                match UnixStream::connect(path) {
                    Ok(_) => "it listens now".to_owned(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        "no such socket".to_owned()
                    }
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        needs_group = true;
                        "not open to this user".to_owned()
                    }
                    Err(_) => "no program listens there".to_owned(),
                }
            }
            Target::Address(_) => "no program listens there".to_owned(),
        };
        let _infallible = write!(text, "\n  {target}: {why}");
    }
    others.sort();
    others.dedup();
    if needs_group {
        let group = admin_socket::GROUP;
        let _infallible = write!(
            text,
            "\nhelp: users of the group `{group}` may open it: `sudo usermod -aG {group} $USER`, \
             and log in again; or use sudo"
        );
    } else if others.is_empty() {
        text.push_str(
            "\nhelp: start one with `edgeway run`, or say where it is: `--socket PATH` with its \
             admin socket, `--admin IP:PORT` with its admin address, or `--config FILE` with its \
             configuration",
        );
    }
    for other in others {
        let _infallible = write!(
            text,
            "\nhelp: a gateway listens here: `--socket {}`",
            other.display()
        );
    }
    text
}

/// Returns the sockets in a folder of a gateway that a program listens on.
fn live_sockets(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sockets = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Other programs may have sockets in the folder of a configured one.
        let is_ours = name.starts_with("gateway-") || name == "admin.sock";
        is_ours && name.ends_with(".sock") && UnixStream::connect(path).is_ok()
    });
    sockets.collect()
}

/// Admin settings in the configuration, as far as they can be read: a mistake elsewhere in the file
/// must not keep commands from reaching the gateway that it names.
struct ConfiguredAdmin {
    targets: Result<Vec<Target>, Box<ActionError>>,
    token: Option<Secret>,
    /// The file, if another gateway than its own may be at these places.
    named: Option<PathBuf>,
}

impl ConfiguredAdmin {
    /// Reads the settings of the configuration at `path`. Where that is the default and not there,
    /// the usual sockets come first, and then the settings of an installed gateway.
    fn find(path: &Path, installed: &Path) -> Self {
        if path != Path::new(HERE) || path.exists() {
            return Self::read(path);
        }
        let sockets = admin_socket::likely().into_iter();
        let mut all: Vec<Target> = sockets.map(Target::Socket).collect();
        let Self { targets, token, .. } = Self::read(installed);
        for target in targets.unwrap_or_else(|_| vec![Target::Address(ADMIN)]) {
            all.extend((!all.contains(&target)).then_some(target));
        }
        Self {
            targets: Ok(all),
            token,
            named: None,
        }
    }

    fn read(path: &Path) -> Self {
        let (sources, tree, _) = source::load(path);
        let admin = tree.as_ref().and_then(|tree| tree.get("admin"));
        let config = admin.and_then(admin_config).unwrap_or_default();
        let socket = config.socket.map(|socket| socket.value);
        let address = config.address.map(|address| address.value);
        let mut targets = Vec::new();
        if let Some(path) = socket.as_ref().filter(|path| path.as_os_str() != "off") {
            targets.push(Target::Socket(sources.folder().join(path)));
        }
        let parsed = address.as_ref().and_then(|text| text.parse().ok());
        let is_wrong = parsed.is_none() && address.as_ref().is_some_and(|text| text != "off");
        targets.extend(parsed.map(Target::Address));
        let token = config.token.map(|token| token.value);
        // Keys that are not there may be misspelt: another gateway may be at the usual places.
        let mistakes = mistakes(path, is_wrong);
        let is_usual = mistakes.is_none() && socket.is_none();
        if is_usual {
            // A gateway beside others has its socket in the same folder.
            let usual = admin_socket::likely();
            let beside = usual
                .iter()
                .filter_map(|path| path.parent())
                .flat_map(live_sockets);
            let mut all = usual.clone();
            all.extend(beside.filter(|path| !usual.contains(path)));
            targets.splice(0..0, all.into_iter().map(Target::Socket));
        }
        let has_own = socket.is_some() && !targets.is_empty();
        if mistakes.is_none() && address.is_none() && !has_own {
            targets.push(Target::Address(ADMIN));
        }
        let none = || {
            let path = path.display();
            let why = format!("the gateway of `{path}` has no admin listener: `admin` is `off`");
            Box::new(ActionError::new(404, "no_address", why))
        };
        Self {
            targets: if targets.is_empty() {
                Err(mistakes.unwrap_or_else(none))
            } else {
                Ok(targets)
            },
            token,
            named: is_usual.then(|| std::path::absolute(path).ok()).flatten(),
        }
    }
}

/// Returns the problems of a configuration as `edgeway check` reports them. A variable or a secret
/// that this user lacks is none: the gateway may have it. `is_wrong`: there is one for certain.
fn mistakes(path: &Path, is_wrong: bool) -> Option<Box<ActionError>> {
    let is_of_user = |problem: &Diagnostic| {
        problem.code == "edgeway::config::environment"
            || problem.message.starts_with("cannot read the secret in")
    };
    let loaded = gateway::load(path);
    let mut problems = loaded.diagnostics.list().iter();
    if !is_wrong && !problems.any(|it| it.severity == Severity::Error && !is_of_user(it)) {
        return None;
    }
    let checked = check::load(path);
    let why = checked.first_problem().unwrap_or_default();
    let mut error = ActionError::new(422, "config", why);
    error.report = checked.report();
    Some(Box::new(error))
}

/// Reads the admin settings, without the token if that cannot be read: users other than the
/// gateway's own may run commands too.
fn admin_config(node: &Node) -> Option<AdminConfig> {
    let read = |node: &Node| tree::read(node, &mut Diagnostics::default());
    read(node).or_else(|| {
        let mut node = node.clone();
        if let Value::Map(entries) = &mut node.value {
            entries.retain(|(key, _)| key.name != "token");
        }
        read(&node)
    })
}

fn read_token(path: &Path) -> Result<Secret, Box<ActionError>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let why = format!("cannot read the token in `{}`: {error}", path.display());
        ActionError::new(404, "token_missing", why)
    })?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// Prints a refusal. Problems of a configuration appear as in `edgeway check`.
fn report_refusal(refused: &ActionError, form: OutputFormat) -> Failure {
    match form {
        OutputFormat::Json => out::json(&json!({ "error": refused })),
        OutputFormat::Text if refused.report.is_empty() => {
            out::note(&format!("edgeway: {}", refused.message));
        }
        OutputFormat::Text => out::note(&refused.report),
    }
    match &*refused.reason {
        "config" => Failure::CONFIG,
        // The gateway rejects what is in the arguments.
        reason if reason.starts_with("bad_") => Failure::USAGE,
        _ => Failure::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "listeners: [{ address: '127.0.0.1:0' }]\nroutes: [{ match: { path: /* }, respond: { status: 200 } }]\n";

    fn targets(yaml: &str) -> (Vec<String>, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgeway.yaml");
        std::fs::write(folder.path().join("token"), "0123456789abcdef\n").unwrap();
        std::fs::write(&path, yaml).unwrap();
        edgeway_core::chain::testkit::without_filters();
        let written = ConfiguredAdmin::read(&path);
        let folder = folder.path().display().to_string();
        let targets = written.targets.unwrap_or_default();
        let targets = targets.iter().map(ToString::to_string);
        (
            targets
                .filter(|target| !is_of_another(target))
                .map(|target| target.replace(&folder, "."))
                .collect(),
            written.token.map(|token| token.reveal().to_owned()),
        )
    }

    fn usual() -> impl Iterator<Item = String> {
        let paths = admin_socket::likely().into_iter();
        let paths = paths.map(|path| path.display().to_string());
        paths.filter(|path| !is_of_another(path))
    }

    /// Returns true for the sockets of gateways that start and end beside this test.
    fn is_of_another(path: &str) -> bool {
        path.contains("/gateway-")
    }

    #[test]
    fn the_configuration_names_the_address_of_its_gateway() {
        for (yaml, expected) in [
            ("", vec!["127.0.0.1:9900"]),
            ("admin: { address: 127.0.0.1:9901 }", vec!["127.0.0.1:9901"]),
            ("admin: { socket: admin.sock }", vec!["./admin.sock"]),
            (
                "admin: { socket: admin.sock, address: 127.0.0.1:9901 }",
                vec!["./admin.sock", "127.0.0.1:9901"],
            ),
            ("admin: { socket: off }", vec!["127.0.0.1:9900"]),
        ] {
            let is_usual = !yaml.contains("socket");
            let usual = is_usual.then(usual).into_iter().flatten();
            let expected = usual.chain(expected.into_iter().map(str::to_owned));
            let whole = format!("{yaml}\n{REST}");
            assert_eq!(targets(&whole), (expected.collect(), None), "{yaml}");
        }
        // A file with mistakes leads to no place that it does not name.
        for (yaml, expected) in [
            ("admin: { address: [ }", None),
            ("admin: { socket: off, address: off }", None),
            ("admin: { sockets: a.sock }", None),
            (
                "admin: { address: 127.0.0.1:9901 }\nlist: 1",
                Some("127.0.0.1:9901"),
            ),
        ] {
            let expected = expected.map(str::to_owned).into_iter().collect();
            let whole = format!("{yaml}\n{REST}");
            assert_eq!(targets(&whole), (expected, None), "{yaml}");
        }
    }

    #[test]
    fn a_mistake_elsewhere_or_a_lost_token_hides_no_gateway() {
        let (found, token) =
            targets("admin: { socket: a.sock, token: file:token }\nlisteners: 3\nnonsense: 1\n");
        assert_eq!(found[0], "./a.sock");
        assert_eq!(token.as_deref(), Some("0123456789abcdef"));
        let (found, token) = targets("admin: { socket: a.sock, token: file:nowhere }");
        assert_eq!(found[0], "./a.sock");
        assert_eq!(token, None);
    }

    #[test]
    fn an_installed_gateway_is_found_from_any_folder() {
        edgeway_core::chain::testkit::without_filters();
        let folder = tempfile::tempdir().unwrap();
        let installed = folder.path().join("edgeway.yaml");
        std::fs::write(
            &installed,
            "admin: { socket: a.sock, address: 127.0.0.1:9901 }",
        )
        .unwrap();
        let found = |path: &str| {
            let written = ConfiguredAdmin::find(Path::new(path), &installed);
            let targets = written.targets.unwrap_or_default();
            targets.iter().map(Target::to_string).collect::<Vec<_>>()
        };
        // The tests run where no such file is.
        let own = [
            folder.path().join("a.sock").display().to_string(),
            "127.0.0.1:9901".to_owned(),
        ];
        assert_eq!(found(HERE), usual().chain(own).collect::<Vec<_>>());
        // A file that is named is the one that counts.
        assert!(found("/nowhere/edgeway.yaml").is_empty());
    }

    #[test]
    fn a_configuration_is_looked_for_like_its_gateway() {
        let folder = tempfile::tempdir().unwrap();
        let installed = folder.path().join("edgeway.yaml");
        let find =
            |path: &str, is_running| ConfigPlace::find(Path::new(path), &installed, || is_running);
        // The tests run where no such file is.
        assert_eq!(find(HERE, true), ConfigPlace::Running);
        let ConfigPlace::Nowhere(why) = find(HERE, false) else {
            panic!("there is no file");
        };
        assert!(why.contains("--config FILE"), "{why}");
        std::fs::write(&installed, "").unwrap();
        assert_eq!(find(HERE, true), ConfigPlace::Running);
        assert_eq!(find(HERE, false), ConfigPlace::Installed(installed.clone()));
        // A file that is named is the one that counts.
        assert_eq!(
            find("/nowhere.yaml", true),
            ConfigPlace::File("/nowhere.yaml".into())
        );
    }

    #[test]
    fn other_sockets_of_the_folder_are_proposed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let dead = std::os::unix::net::UnixListener::bind(path("dead.sock")).unwrap();
        drop(dead);
        let _alive = std::os::unix::net::UnixListener::bind(path("gateway-8081.sock")).unwrap();
        let targets = [Target::Socket(path("admin.sock")), Target::Address(ADMIN)];
        let text = not_found(&targets);
        assert!(text.contains("admin.sock: no such socket"), "{text}");
        assert!(
            text.contains("gateway-8081.sock`") && !text.contains("dead.sock"),
            "{text}"
        );
        let text = not_found(&targets[1..]);
        assert!(
            text.contains("--socket PATH") && text.contains("--config FILE"),
            "{text}"
        );
    }

    #[test]
    fn no_file_leaves_the_usual_places() {
        edgeway_core::chain::testkit::without_filters();
        let written = ConfiguredAdmin::find(Path::new(HERE), Path::new("/nowhere/edgeway.yaml"));
        let found = written.targets.unwrap_or_default();
        let found = found.iter().map(Target::to_string);
        let usual = usual().chain([ADMIN.to_string()]);
        assert_eq!(found.collect::<Vec<_>>(), usual.collect::<Vec<_>>());
    }
}
