//! `edgeway dev`: runs the `dev` script of a project behind the gateway, with the project's own
//! configuration if it has one.

mod child;
mod overlay;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use edgeway_config::source::Overlay;
use edgeway_gateway as gateway;
use edgeway_process::{
    boot::{self, BootOptions},
    handover::LaunchState,
    log,
};

use self::child::DevServer;
use super::{
    Failure, ca, check, foreground, out,
    project::Project,
    proxy::{address::ListenAddress, secured, yaml::ProxyYaml},
};

const PORT: u16 = 8080;
/// The configuration of a project.
const FILE: &str = "edgeway.yaml";
/// Name of the parts of the configuration that this command adds.
const NAME: &str = "edgeway dev";

/// Deadline of a stop: a page that is open in a browser has a WebSocket that never ends by itself.
const DRAIN: &str = "drain: { announce: 0s, idle: 100ms, deadline: 1s }\n";
/// The script compiles each page at its first request.
const SLOW_PAGES: &str = "timeouts: { first_byte: 5min }";
/// The script writes a line for each request already.
const QUIET: &str = "access_log: false\n";

#[derive(Debug, clap::Args)]
pub struct DevOptions {
    /// The configuration; its listeners and the app's backends are replaced
    /// [default: edgeway.yaml, if it is there]
    #[arg(short, long, value_name = "FILE", env = "EDGEWAY_CONFIG")]
    config: Option<PathBuf>,
    /// The upstream that the app replaces [default: the first with `app: nextjs`]
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// The script of package.json to run
    #[arg(long, value_name = "NAME", default_value = "dev")]
    script: String,
    /// Address to listen on: a port of this machine, `IP:PORT`, or `:PORT` for all its addresses
    /// [default: 8080]
    #[arg(long, alias = "port", value_name = "ADDRESS")]
    listen: Option<ListenAddress>,
    /// Serve HTTPS, with a certificate from a CA of this machine (`edgeway ca`)
    #[arg(long)]
    https: bool,
}

pub fn run(options: &DevOptions) -> Result<(), Failure> {
    log::init();
    let birth = foreground::launched()?;
    match prepare(options) {
        Ok(prepared) => serve(birth, prepared),
        Err(Refused { message, failure }) => {
            birth.inherited.report().refuses(&message);
            out::note(&message);
            Err(failure)
        }
    }
}

/// Why nothing is started.
struct Refused {
    message: String,
    failure: Failure,
}

impl From<String> for Refused {
    fn from(message: String) -> Self {
        Self {
            message: format!("edgeway: {message}"),
            failure: Failure::FAILED,
        }
    }
}

struct PreparedRun {
    loaded: gateway::Loaded,
    /// The file, and what is laid over it.
    file: Option<(PathBuf, Arc<Overlay>)>,
    command: child::Command,
    url: String,
    /// Host of the site, whose routes take the names of this machine as well.
    site: Option<String>,
    /// Use of the file, in words for the reader.
    use_of_file: String,
    /// Folder of an app, if the project is a workspace of apps.
    workspace: Option<PathBuf>,
}

fn prepare(options: &DevOptions) -> Result<PreparedRun, Refused> {
    let listen = options.listen.unwrap_or(ListenAddress::local(PORT));
    let project = Project::read(Path::new("."));
    if let Some(problem) = project.problems.first() {
        return Err(problem.clone().into());
    }
    let Some(script) = project.script(&options.script) else {
        let why = if project.has_package() {
            format!("package.json has no script `{}`", options.script)
        } else {
            "there is no package.json in this folder".to_owned()
        };
        return Err(format!(
            "{why}\n\
             help: run it in the folder of the app, name another script with `--script`, or start \
             the app yourself and run `edgeway proxy --to PORT`"
        )
        .into());
    };
    let port = free_port(listen.port(), fastrand::u16(..PORTS))?;
    let command = child::Command::new(project.manager(), &options.script, script, port);
    let https = if options.https {
        let (https, authority, names) = secured(listen, &[], None)?;
        ca::keep_fresh(authority, names);
        Some(https)
    } else {
        None
    };
    let url = format!(
        "{}://{}:{}",
        if options.https { "https" } else { "http" },
        listen.host(),
        listen.port()
    );
    let base = ProxyYaml {
        comment: String::new(),
        listen,
        https,
        admin: foreground::admin_section(listen.port()),
        app: project.app(),
        build: None,
        backends: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()],
        tls: false,
        hosts: Vec::new(),
        cache: false,
        more: DRAIN.to_owned(),
        settings: SLOW_PAGES,
    };
    let path = options.config.clone().or_else(|| {
        let path = PathBuf::from(FILE);
        path.exists().then_some(path)
    });
    let mut site = None;
    let written = path.map(|path| (gateway::load(&path), path));
    let has_upstream = |written: &gateway::Loaded| {
        let file = written.file.as_ref();
        file.is_none_or(|file| options.upstream.is_some() || !file.upstreams.is_empty())
    };
    let use_of_file = match &written {
        None => "no edgeway.yaml here: WebSockets pass, everything else is a default".to_owned(),
        Some((written, path)) if has_upstream(written) => {
            format!("{} is watched: save it, and it serves", path.display())
        }
        Some((_, path)) => format!(
            "{} has no upstream that the script could replace, and is not used",
            path.display()
        ),
    };
    let written = written.filter(|(written, _)| has_upstream(written));
    let (loaded, file) = match written {
        None => {
            let text = format!("{base}{QUIET}");
            (gateway::load_text(NAME, &text), None)
        }
        Some((written, path)) => {
            let hmr = project.hmr_paths();
            let (overlay, host) =
                overlay_of(&written, &path, &base, options.upstream.as_deref(), &hmr)?;
            let overlay = Arc::new(overlay);
            site = host;
            (
                gateway::load_with(&path, Some(&overlay)),
                Some((path, overlay)),
            )
        }
    };
    Ok(PreparedRun {
        loaded,
        file,
        command,
        url,
        site,
        use_of_file,
        workspace: project.app_of_workspace(),
    })
}

/// Returns what is laid over the file at `path`, which must be valid by itself, and the host of the
/// app's site if its routes name one.
fn overlay_of(
    written: &gateway::Loaded,
    path: &Path,
    base: &ProxyYaml,
    upstream: Option<&str>,
    hmr: &[String],
) -> Result<(Overlay, Option<String>), Refused> {
    let Some(file) = &written.file else {
        return Err(Refused {
            message: check::report(written),
            failure: Failure::CONFIG,
        });
    };
    let upstream =
        overlay::upstream(file, upstream).map_err(|why| format!("{}: {why}", path.display()))?;
    let site = overlay::local_site(&upstream, base.listen);
    let host = site.host(&file.tree);
    let overlay = Overlay {
        name: NAME.into(),
        text: overlay::text(file, base, &site, hmr),
        local_site: Some(site),
    };
    Ok((overlay, host))
}

/// Says once if the script does not listen on the port that it got: an app may have one of its own.
/// A script that ends also ends this process.
fn look_for(port: u16, script: &str, workspace: Option<&Path>) {
    for _ in 0..100 {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let help = match workspace {
        None => "an app with a port of its own needs `process.env.PORT ?? 3000`, or start it \
                 yourself and run `edgeway proxy --to 3000`"
            .to_owned(),
        Some(app) => format!(
            "this folder is a workspace, whose apps need a port each: run it in the folder of one \
             app, such as `{}`, or start them yourself, `edgeway init`, and `edgeway run`",
            app.display()
        ),
    };
    out::note(&format!(
        "edgeway: nothing listens on port {port} yet, the `PORT` of `{script}`\nhelp: {help}"
    ));
}

fn serve(birth: LaunchState, prepared: PreparedRun) -> Result<(), Failure> {
    let (loaded, command, url) = (prepared.loaded, prepared.command, prepared.url);
    if !loaded.diagnostics.list().is_empty() {
        out::note(&check::report(&loaded));
    }
    let Some(file) = loaded.file else {
        return Err(Failure::CONFIG);
    };
    let shown = command.to_string();
    let port = command.port;
    let dev_server = DevServer::start(command, &url)?;
    std::thread::spawn({
        let shown = shown.clone();
        move || look_for(port, &shown, prepared.workspace.as_deref())
    });
    let mut hello = vec![
        format!("edgeway: {url} → `{shown}` on port {port}"),
        format!("  {}", prepared.use_of_file),
    ];
    let site = prepared.site.iter();
    hello.extend(site.map(|host| format!("  the routes of {host} take localhost as well")));
    let (path, overlay) = prepared.file.unzip();
    let outcome = boot::serve(BootOptions {
        birth,
        file,
        path,
        threads: None,
        hello,
        // A configuration for development is nothing to start a gateway from later.
        sources: None,
        is_outdated: false,
        overlay,
        warn: check::note_of(&loaded.sources),
        hangup: foreground::hangup(),
        is_foreground: true,
    });
    if dev_server.end() && outcome.is_ok() {
        return Err(Failure::FAILED);
    }
    foreground::ended(outcome, &loaded.sources, out::note)
}

/// First port that an app may get, and number of them.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;

/// Returns a port that no program listens on, from the one of number `start` on, and that is not
/// `gateway_port`. It is below those that the kernel gives to outgoing connections: none of
/// these may take it before the app does.
fn free_port(gateway_port: u16, start: u16) -> Result<u16, String> {
    let ports = (0..PORTS).map(|more| FIRST_PORT + (start + more) % PORTS);
    let is_free = |port: &u16| {
        *port != gateway_port
            && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
            && TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()
    };
    let free = ports.into_iter().find(is_free);
    free.ok_or_else(|| "no free port for the app between 20000 and 30000".to_owned())
}

/// Interval of checks whether the app listens.
const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_app_gets_a_port_that_neither_the_gateway_nor_another_program_has() {
        let start = fastrand::u16(..PORTS - 100);
        let free = free_port(0, start).unwrap();
        // The gateway listens only later.
        let next = free_port(free, start).unwrap();
        assert!(next > free, "{next}, {free}");
        let _other = TcpListener::bind((Ipv4Addr::LOCALHOST, next)).unwrap();
        assert!(free_port(free, start).unwrap() > next);
    }
}
