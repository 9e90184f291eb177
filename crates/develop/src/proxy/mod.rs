//! `edgeway proxy`: serves an app with no configuration file, and prints the file that would do the
//! same.

pub mod address;
pub mod yaml;

use std::{net::SocketAddr, path::Path};

use edgeway_config::{diagnostic::Severity, scalar::quoted};
use edgeway_gateway::{self as gateway, World};
use edgeway_process::log;

use self::{
    address::{AppAddress, ListenAddress},
    yaml::{Https, ProxyYaml},
};
use super::{
    Failure,
    ca::{self, LocalCa},
    foreground::{self, Foreground},
    out,
    project::{App, Project},
};

/// Port of the listener if no option sets it, and of the one with TLS beside it.
const PORT: u16 = 8080;
const HTTPS_PORT: u16 = 8443;

/// A client of Socket.IO begins with several requests to one instance.
const STICKY: &str = "sticky: { cookie: instance }";

/// Name of the configuration in messages: it is no file.
const NAME: &str = "edgeway proxy";

#[derive(Debug, clap::Args)]
pub struct ProxyOptions {
    /// Address of the app: a port, `HOST:PORT`, a URL or `unix:PATH`; requests are spread over
    /// several
    #[arg(long, value_name = "PORT", required = true, value_delimiter = ',')]
    to: Vec<AppAddress>,
    /// A host to serve, such as `shop.localhost`; others get 421 [default: every host]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    host: Vec<String>,
    /// The kind of app [default: nextjs if the package.json of this folder has it, else node]
    #[arg(long, value_enum)]
    app: Option<App>,
    /// Store responses that the app marks as cacheable
    #[arg(long)]
    cache: bool,
    /// Serve HTTPS, with a certificate from a CA of this machine (`edgeway ca`)
    #[arg(long)]
    https: bool,
    /// Address to listen on: a port of this machine, `IP:PORT`, or `:PORT` for all its addresses
    /// [default: 8080; with --https also 8443]
    #[arg(long, alias = "port", value_name = "ADDRESS")]
    listen: Option<ListenAddress>,
    /// Print the configuration that says the same, and serve nothing
    #[arg(long)]
    print: bool,
}

pub fn run(options: &ProxyOptions) -> Result<(), Failure> {
    if !options.print {
        log::init();
    }
    // Before any file is opened.
    let birth = foreground::launched()?;
    let planned = plan(options).and_then(|planned| {
        let yaml = planned.yaml.to_string();
        check(&yaml)?;
        Ok((planned, yaml))
    });
    let (planned, yaml) = match planned {
        Ok(planned) => planned,
        Err(message) => {
            birth.inherited.report().refuses(&message);
            return Err(message.into());
        }
    };
    if options.print {
        out::data(&yaml);
        if let Some(note) = beside(planned.yaml.listen) {
            out::note(&note);
        }
        return Ok(());
    }
    if let Some((authority, names)) = planned.authority {
        ca::keep_fresh(authority, names);
    }
    foreground::serve(
        birth,
        Foreground {
            name: NAME,
            yaml: &yaml,
            hello: planned.hello,
        },
    )
}

/// Refuses the option that makes an error in the configuration, which is no file yet.
fn check(yaml: &str) -> Result<(), String> {
    let mut loaded = gateway::load_text(NAME, yaml);
    if let Some(file) = &loaded.file {
        let (_, diagnostics) = gateway::compile(file, Path::new(""), &World::default());
        loaded.diagnostics.extend(diagnostics);
    }
    let mut all = loaded.diagnostics.list().iter();
    let Some(error) = all.find(|one| one.severity == Severity::Error) else {
        return Ok(());
    };
    let number = loaded.sources.locate(error.place).line;
    let line = yaml.lines().nth(number.saturating_sub(1)).unwrap_or(yaml);
    let option = match line {
        _ if line.contains("backends:") => "--to",
        _ if line.contains("host:") => "--host",
        _ => "--listen",
    };
    let help = error.help.as_ref();
    let help = help.map_or_else(String::new, |help| format!("\nhelp: {help}"));
    Err(format!("`{option}`: {}{help}", error.message))
}

/// Returns what the printed file lacks as long as another gateway runs here.
fn beside(listen: ListenAddress) -> Option<String> {
    let socket = foreground::admin_socket(listen.port());
    (!foreground::is_usual(&socket)).then(|| {
        format!(
            "edgeway: another gateway runs here and has the usual admin socket\n\
             help: to serve this file beside it, add `admin: {{ address: off, socket: {} }}`",
            quoted(&socket.display().to_string())
        )
    })
}

/// The configuration, and what to print about it.
struct Plan {
    yaml: ProxyYaml,
    hello: Vec<String>,
    /// The CA and the names of its certificate, which must be renewed.
    authority: Option<(LocalCa, Vec<String>)>,
}

fn plan(options: &ProxyOptions) -> Result<Plan, String> {
    let listen = options.listen.unwrap_or(ListenAddress::local(PORT));
    let tls = tls_to_backends(&options.to)?;
    let sockets: Vec<Option<SocketAddr>> = options
        .to
        .iter()
        .map(|to| to.socket(foreground::listens))
        .collect();
    let second = options.https && options.listen.is_none();
    let secure = second.then_some(ListenAddress::local(HTTPS_PORT));
    for address in sockets.iter().flatten() {
        if [Some(listen), secure]
            .into_iter()
            .flatten()
            .any(|own| own.takes(*address))
        {
            return Err(format!(
                "`--to` and the gateway are both {address}: requests would go round in a circle\n\
                 help: let the app listen on another port, or the gateway: `--listen {}`",
                listen.port().saturating_add(1)
            ));
        }
    }
    let project = Project::read(Path::new("."));
    let app = options.app.unwrap_or_else(|| project.app());
    let build = (app == App::Nextjs && options.app.is_none())
        .then(|| project.build())
        .flatten();
    let (https, authority) = if options.https {
        let (https, authority, names) = secured(listen, &options.host, secure)?;
        (Some(https), Some((authority, names)))
    } else {
        (None, None)
    };
    let backends = options.to.iter().map(|to| to.backend(foreground::listens));
    let is_sticky = options.to.len() > 1 && project.websocket().is_some_and(|it| it.is_socket_io());
    let yaml = ProxyYaml {
        comment: "Made by `edgeway proxy`; serve it with `edgeway run --config FILE`.".to_owned(),
        listen,
        https,
        // A file is for any moment, not for what runs here just now.
        admin: if options.print {
            String::new()
        } else {
            foreground::admin_section(listen.port())
        },
        app,
        build,
        backends: backends.collect(),
        tls,
        hosts: options.host.clone(),
        cache: options.cache,
        more: String::new(),
        settings: if is_sticky { STICKY } else { "" },
    };
    let hello = hello(
        options,
        &yaml,
        secure,
        &sockets,
        authority.as_ref().map(|(a, _)| a),
    );
    Ok(Plan {
        yaml,
        hello,
        authority,
    })
}

/// Returns true if the backends speak TLS. One upstream has one protocol.
fn tls_to_backends(to: &[AppAddress]) -> Result<bool, String> {
    let is_tls = |to: &AppAddress| matches!(to, AppAddress::Name { tls: true, .. });
    let tls = to.iter().any(is_tls);
    if tls && !to.iter().all(is_tls) {
        return Err("`--to` mixes `https://` with addresses without TLS\n\
             help: use one protocol for all, or a file with two upstreams (docs/upstreams.md)"
            .to_owned());
    }
    Ok(tls)
}

/// Returns the listener with TLS, `second` if there is another without, and the CA and the names of
/// its certificate, which must be renewed.
pub(crate) fn secured(
    listen: ListenAddress,
    hosts: &[String],
    second: Option<ListenAddress>,
) -> Result<(Https, LocalCa, Vec<String>), String> {
    let authority = LocalCa::open_or_make()?;
    let names = certificate_names(listen, hosts);
    let https = Https {
        listen: second,
        leaf: authority.leaf(&names)?,
    };
    Ok((https, authority, names))
}

/// Returns the names of the certificate: those of this machine and those that are served.
fn certificate_names(listen: ListenAddress, hosts: &[String]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if let ListenAddress::At(address) = listen
        && !address.ip().is_unspecified()
    {
        names.push(address.ip().to_string());
    }
    names.extend(hosts.iter().cloned());
    let mut known = Vec::new();
    for name in names {
        known.extend((!known.contains(&name)).then_some(name));
    }
    known
}

fn hello(
    options: &ProxyOptions,
    yaml: &ProxyYaml,
    secure: Option<ListenAddress>,
    sockets: &[Option<SocketAddr>],
    authority: Option<&LocalCa>,
) -> Vec<String> {
    let apps: Vec<String> = options.to.iter().map(ToString::to_string).collect();
    let (scheme, address) = match secure {
        Some(secure) => ("https", secure),
        None if options.https => ("https", yaml.listen),
        None => ("http", yaml.listen),
    };
    let host = options.host.iter().find(|host| !host.contains('*'));
    let host = host.cloned().unwrap_or_else(|| address.host());
    let kind = match yaml.app {
        App::Nextjs if options.app.is_none() => "a Next.js app, as package.json says",
        App::Nextjs => "a Next.js app",
        App::Node => "a Node app",
        App::None => "an app",
    };
    let (port, apps) = (address.port(), apps.join(", "));
    let cache = match (options.cache, yaml.stores_pages()) {
        (true, true) => "cache: responses that the app marks as cacheable, in memory",
        (true, false) => {
            "cache: files and images; pages too in the folder of the app, after `next build`"
        }
        (false, _) => "no cache (`--cache` stores responses that the app marks as cacheable)",
    };
    let mut lines = vec![
        format!("edgeway: serving {scheme}://{host}:{port} from {apps}: {kind}"),
        "  compressed responses, security headers and forwarding headers; WebSockets pass"
            .to_owned(),
        "  bodies of at most 1 MiB: `body_limit` in a file of your own raises it".to_owned(),
        format!("  {cache}"),
    ];
    if !options.host.is_empty() {
        let hosts = options.host.join(", ");
        lines.push(format!("  hosts: {hosts}; others get 421"));
    }
    if let Some(authority) = authority {
        let folder = authority.folder.display();
        lines.push(format!("  certificate from the CA in {folder}"));
        lines.push(
            "  browsers accept it after `edgeway ca trust`, once for this machine".to_owned(),
        );
    }
    let socket = yaml.admin.split_once("socket: ");
    if let Some((path, _)) = socket.and_then(|(_, rest)| rest.split_once(" }")) {
        lines.push(format!(
            "  another gateway runs here; ask this one by `edgeway status --socket {path}`"
        ));
    }
    for (to, socket) in options.to.iter().zip(sockets) {
        if socket.is_some_and(|socket| !foreground::listens(socket)) {
            lines.push(format!(
                "edgeway: nothing listens on {to} yet: requests get an error until the app does"
            ));
        }
    }
    lines.push("The same as a file: add `--print > edgeway.yaml`. Ctrl-C ends it.".to_owned());
    lines
}

#[cfg(test)]
mod tests;
