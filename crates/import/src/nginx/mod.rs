//! `edgeway import nginx`: reads a configuration of nginx, and writes one of the gateway with a
//! report of what became of each directive.

mod actions;
mod cache;
mod collect;
mod compare;
mod conditions;
mod directives;
mod entries;
mod files;
mod filters;
mod gates;
mod headers;
mod locations;
mod media;
mod output;
mod pages;
mod parse;
mod repeated;
mod report;
mod rewrites;
mod rules;
mod scope;
mod sent_as;
mod servers;
mod tables;
mod upstreams;
mod variables;
mod words;

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use edgeway_base::{
    out::{self, Failure},
    private_file,
    shell::shown,
};
use edgeway_config::diagnostic::{Severity, Style};
use edgeway_gateway as gateway;
use serde_json::json;

use super::{
    added,
    pm2::{self, Processes},
    unusable,
};

use self::{
    locations::Routes,
    output::Output,
    parse::{Directive, Source},
    report::Report,
    scope::Scope,
    servers::Servers,
    upstreams::Upstreams,
};

#[derive(Debug, clap::Args)]
pub(super) struct NginxOptions {
    /// The configuration of nginx, which may include others
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file to write; standard output if absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace a file that has another text
    #[arg(long, requires = "out")]
    force: bool,
    /// Adds a number to the port of each listener, such as `+1000`, to try the result beside nginx
    #[arg(long, value_name = "+N", default_value = "0", value_parser = added, hide_default_value = true)]
    ports: u16,
    /// Ecosystem file of PM2, whose apps are the upstreams at their ports
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    pm2: Option<PathBuf>,
    /// The environment of PM2, as in `pm2 start --env NAME`
    #[arg(
        long,
        value_name = "NAME",
        default_value = "production",
        requires = "pm2"
    )]
    env: String,
    /// Form of the report
    #[arg(long, value_enum, default_value = "text")]
    report: Form,
    /// Lists everything: what was carried over, and the differences of all sites
    #[arg(long)]
    verbose: bool,
    /// Ends with exit status 1 if a directive was not carried over
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    comparison: compare::Comparison,
}

/// Form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Text,
    Json,
}

pub(super) fn run(options: &NginxOptions) -> Result<(), Failure> {
    if options.comparison.is_wanted() {
        return compare(options);
    }
    let mut wishes = Wishes {
        ports: options.ports,
        ..Wishes::default()
    };
    if let Some(file) = &options.pm2 {
        let apps = pm2::processes(file, &options.env);
        wishes.apps = apps.map_err(|why| unusable(&why))?;
    }
    let (yaml, report) = import(&options.file, &wishes).map_err(|why| unusable(&why))?;
    let text = match options.report {
        Form::Text => out::printable_lines(&report.text(options.verbose)),
        Form::Json => report.json(),
    };
    // The report goes where the configuration does not.
    if let Some(path) = &options.out {
        write(path, &yaml, options.force)?;
        out::data(&out::hints(&text));
    } else {
        out::data(&yaml);
        out::note(&text);
    }
    out::note(&out::printable_lines(&report.summary()));
    if let Some(file) = &options.pm2 {
        let file = shown(&[file.display().to_string()]);
        out::note(&format!(
            "The apps need their units: {} import pm2 {file}",
            out::program()
        ));
    }
    let problems = problems(&yaml, options.out.as_deref());
    if let Some(problems) = &problems {
        out::note(&out::printable_lines(problems));
    }
    if problems.is_some() || (options.strict && !report.is_whole()) {
        return Err(Failure::FAILED);
    }
    Ok(())
}

/// Writes the configuration, unless that replaces another one, which somebody may have edited.
fn write(path: &Path, yaml: &str, force: bool) -> Result<(), String> {
    if !force && fs::read(path).is_ok_and(|old| old != yaml.as_bytes()) {
        return Err(format!(
            "`{}` exists with another text, and is left as it is\n\
             help: write to another file with `--out`, and compare the two; `--force` replaces it",
            path.display()
        ));
    }
    private_file::write_with_mode(path, yaml.as_bytes(), 0o644)
        .map_err(|error| format!("cannot write to `{}`: {error}", path.display()))
}

/// Compares nginx with a gateway that has the imported configuration.
fn compare(options: &NginxOptions) -> Result<(), Failure> {
    let compared = parse::read(&options.file).and_then(|source| {
        let http = http_of(&source);
        let servers = servers_of(&http, &options.file)?;
        options.comparison.run(&http, &servers)
    });
    let compared = compared.map_err(|why| unusable(&why))?;
    out::data(&out::printable_lines(&compared.text));
    if compared.is_equal {
        Ok(())
    } else {
        Err(Failure::FAILED)
    }
}

/// Returns the scope of the block `http`.
fn http_of(source: &Source) -> Scope<'_> {
    let top = Scope::top(&source.directives);
    match top.own("http").first() {
        Some(http) => {
            http.carried("");
            Scope::top(http.children())
        }
        // A file with servers alone, as in `sites-enabled`.
        None => top,
    }
}

/// Reads the servers, of which there must be one.
fn servers_of<'a>(http: &Scope<'a>, path: &Path) -> Result<Servers<'a>, String> {
    let servers = Servers::read(http);
    if servers.list.is_empty() {
        return Err(format!(
            "{}: there is no `server` block; name the file that includes them, such as \
             /etc/nginx/nginx.conf",
            path.display()
        ));
    }
    Ok(servers)
}

/// Returns the errors that `edgeway check` would report.
fn problems(yaml: &str, path: Option<&Path>) -> Option<String> {
    let mut loaded = match path {
        Some(path) => gateway::load(path),
        None => gateway::load_text("edgeway.yaml", yaml),
    };
    let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
    loaded.find_rest(folder);
    let has_errors = |loaded: &gateway::Loaded| {
        let mut all = loaded.diagnostics.list().iter();
        all.any(|one| one.severity == Severity::Error)
    };
    if let Some(file) = &loaded.file {
        let (_, diagnostics) = gateway::compile(file, folder, &gateway::World::default());
        loaded.diagnostics.extend(diagnostics);
    }
    has_errors(&loaded).then(|| {
        let lines = loaded.diagnostics.render(&loaded.sources, Style::Lines);
        let errors = lines.lines().filter(|line| line.contains(": error: "));
        let list: Vec<&str> = errors.collect();
        format!("`edgeway check` finds problems:\n{}\n", list.join("\n"))
    })
}

/// Changes that the result has beside what nginx does.
#[derive(Default)]
struct Wishes {
    /// Number that is added to the ports of listeners.
    ports: u16,
    apps: Vec<Processes>,
}

/// Translates a configuration.
fn import(path: &Path, wishes: &Wishes) -> Result<(String, Report), String> {
    let source = parse::read(path)?;
    directives::mark_templates(&source.directives, &source.directives);
    let http = http_of(&source);
    let mut servers = servers_of(&http, path)?;
    servers.shift(wishes.ports)?;
    let mut output = Output {
        merge_slashes: true,
        ..Output::default()
    };
    of_http(&http, &servers, &mut output);
    output.listeners = servers.parts(&http);
    let mut routes = Routes {
        http: &http,
        servers: &servers,
        upstreams: Upstreams::read(&http),
        limits: Vec::new(),
        parts: Vec::new(),
        matches: HashSet::new(),
        sites: Vec::new(),
        names: Vec::new(),
    };
    for server in &servers.list {
        routes.server(server);
    }
    output.routes = routes.parts;
    output.rate_limits = routes.limits;
    output.sites = routes.sites;
    let sites = output.sites.iter().map(|(_, part)| part);
    let mut parts = output.routes.iter().chain(sites);
    let with_types = ["\"files\":{", "\"content_type\":\"*\""];
    let has_types = |text: String| with_types.iter().any(|key| text.contains(key));
    if parts.any(|part| has_types(part.value.to_string())) {
        output.media_types = Some(media::section(&http));
    }
    if let Some(common) = headers::common(&servers, &http) {
        for route in &mut output.routes {
            // A location with `add_header` of its own has no other ones.
            if let Some(keys) = route.value.as_object_mut() {
                keys.entry("headers").or_insert(json!(false));
            }
        }
        output.defaults.insert("headers".to_owned(), common);
    }
    output.share();
    upstreams::name_senders(&mut output.routes, &routes.upstreams.senders());
    output.upstreams = routes.upstreams.parts(&wishes.apps);
    output.maps = tables::parts(&http, output.values());
    directives::mark_rest(&source.directives, &source.directives);
    includes(&source);
    let mut top = source.directives.iter();
    let whole = top.find(|directive| directive.name == "http");
    if let Some(at) = whole.or(servers.list.first().map(|server| server.directive)) {
        for note in directives::general() {
            at.general(note);
        }
    }
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let folder = path.parent().unwrap_or(Path::new(""));
    let folder = match folder.to_string_lossy() {
        path if path.is_empty() => String::new(),
        path => format!("{}/", path.trim_end_matches('/')),
    };
    Ok((output.yaml(&name, &folder), source.report()))
}

/// Translates what holds for all servers.
fn of_http(http: &Scope<'_>, servers: &Servers<'_>, output: &mut Output) {
    let scopes = std::iter::once(http).chain(servers.list.iter().map(|server| &server.scope));
    for scope in scopes {
        for from in scope.own("set_real_ip_from") {
            if from.arg(0) == "unix:" {
                from.carried("");
                continue;
            }
            from.carried("for all servers");
            let network = from.arg(0).to_owned();
            if !output.trusted_proxies.contains(&network) {
                output.trusted_proxies.push(network);
            }
        }
        for header in scope.own("real_ip_header") {
            match header.arg(0).to_ascii_lowercase().as_str() {
                "x-forwarded-for" => header.carried(""),
                "proxy_protocol" => {
                    header.changed("`proxy_protocol` of the listener says who may send it");
                }
                _ => header.changed(
                    "the client's address comes from `X-Forwarded-For`, which CDNs write as well: \
                     where your proxy does not, clients choose theirs, for limits too",
                ),
            }
        }
        for recursive in scope.own("real_ip_recursive") {
            recursive.carried("always so");
        }
        for merge in scope.own("merge_slashes") {
            merge.carried("for all servers");
            output.merge_slashes &= merge.arg(0) != "off";
        }
    }
    let defaults = &mut output.defaults;
    defaults.insert("compression".to_owned(), json!(false));
    // No header that nginx does not send.
    defaults.insert("security_headers".to_owned(), "none".into());
    defaults.insert("request_id".to_owned(), json!({ "response": false }));
}

fn includes(source: &Source) {
    fn walk(all: &[Directive], missing: &[(usize, String)]) {
        for directive in all {
            if directive.name == "include" {
                let mut reasons = missing
                    .iter()
                    .filter(|(id, _)| *id == directive.id)
                    .peekable();
                if reasons.peek().is_none() {
                    directive.carried("");
                }
                for (_, why) in reasons {
                    directive.lost(why.clone());
                }
            }
            walk(directive.children(), missing);
        }
    }
    walk(&source.directives, &source.missing);
}

#[cfg(test)]
mod tests;
