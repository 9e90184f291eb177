//! Facts in the code of an app, found by a search for the usual ways to write them. They are
//! guesses: what is made from them names its source.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use edgeway_base::units::ByteSize;
use regex::Regex;

use super::{Framework, Generator, SERVERS, package::Package, port_of};

/// Source of the port of an app that has no default, where no file names one.
pub const GUESS: &str = "a guess, as no file names it";

/// A port and the place where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundPort {
    pub(super) port: u16,
    pub(super) source: String,
}

/// Size limit of a file that is searched.
const MAX_LEN: u64 = 512 * 1024;

/// Usual places of a program's first module.
const ENTRIES: &str = "server.js index.js app.js main.js server.mjs index.mjs app.mjs main.mjs \
    server.cjs app.cjs server.ts index.ts app.ts src/server.js src/index.js src/app.js \
    src/main.ts src/server.ts src/index.ts src/app.ts";

/// Returns the file that `node` would start in a folder, by its name.
pub(super) fn entry(folder: &Path) -> Option<&'static str> {
    let mut names = ENTRIES.split(' ').filter(|name| !name.contains(".ts"));
    names.find(|name| folder.join(name).is_file())
}

/// Ways to write a port, beside [`LISTENS`]: those before and after it.
static PORTS: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [
        // `process.env.PORT || 4000`, `parseInt(env['PORT'], 10) ?? '4000'`.
        r#"\bPORT\b['"]?\]?\s*(?:,\s*10\s*)?\)?\s*(?:\|\||\?\?)\s*(?:Number\()?['"]?(\d{2,5})\b"#,
        // `const port = 4000`, `serve({ fetch, port: 4000 })`.
        r"(?i)\bport\s*[:=]\s*(\d{2,5})\b",
    ]
    .map(|text| Regex::new(text).expect("it is valid"))
});

static LISTENS: LazyLock<Regex> = LazyLock::new(|| {
    // `app.listen(4000)`, `listen({ port: 4000 })`, `listen(port)`.
    let listens = r"\.listen\(\s*(?:\{[^}]*?\bport:\s*)?(\w+)\b";
    Regex::new(listens).expect("it is valid")
});

static CONSTANTS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b(\w+)\s*=\s*(\d{2,5})\b").expect("it is valid"));

static HTTPS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\bhttps\.createServer\(|\bcreateSecureServer\(").expect("it is valid")
});

static HTTP: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\bhttp2?\.createServer\(|\bapp\.listen\(").expect("it is valid"));

static IMPORTS: LazyLock<Regex> = LazyLock::new(|| {
    let import = r#"(?:\bfrom|\brequire\(|\bimport\(?)\s*['"`](next|@nestjs/core|fastify|hono|express|koa)(?:/[^'"`]*)?['"`]"#;
    Regex::new(import).expect("it is valid")
});

static VITE_PORT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?s)\bpreview\s*:\s*\{[^}]*?\bport\s*:\s*(\d{2,5})").expect("it is valid")
});

/// A key of a configuration with a text as its value.
static SETTINGS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"\b(\w+)['"]?\s*:\s*['"`]([^'"`\s{}*]*)['"`]"#).expect("it is valid")
});

/// Largest body of a server action: a number of bytes, or a text with a unit.
static BODY_SIZE: LazyLock<Regex> = LazyLock::new(|| {
    let limit = r#"\bbodySizeLimit['"]?\s*:\s*['"`]?\s*(\d+(?:\.\d+)?)\s*(kb|mb|gb|b)?\s*['"`]?\s*(?:[,}]|$)"#;
    Regex::new(&format!("(?i){limit}")).expect("it is valid")
});

static HEALTH: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"['"`](/(?:api/)?health(?:z|check)?)['"`]"#).expect("it is valid")
});

static COMMENTS: LazyLock<Regex> = LazyLock::new(|| {
    // A `//` after a colon is part of a URL.
    Regex::new(r"/\*[\s\S]*?\*/|(?m:(^|[^:\\])//[^\n]*)").expect("it is valid")
});

/// Returns true if the Next.js configuration of a folder has `output` with this value.
pub(super) fn has_output(folder: &Path, output: &str) -> bool {
    config(folder, "next").is_some_and(|text| settings(&text, "output").any(|set| set == output))
}

/// Returns the path that a Next.js app is below, such as `/docs`.
pub(super) fn base_path(folder: &Path) -> Option<String> {
    path_setting(&config(folder, "next")?, "basePath")
}

/// Returns the folder of the build that the Next.js configuration of a folder names.
pub(super) fn dist(folder: &Path) -> Option<String> {
    folder_setting(&config(folder, "next")?, "distDir")
}

/// Returns the size of the largest body that a Next.js app takes for a server action, if its
/// configuration says so. Its units are powers of 1024.
pub(super) fn body_limit(folder: &Path) -> Option<ByteSize> {
    let config = config(folder, "next")?;
    let limit = BODY_SIZE.captures(&config)?;
    let unit = match limit
        .get(2)
        .map(|unit| unit.as_str().to_lowercase())
        .as_deref()
    {
        Some("kb") => "KiB",
        Some("mb") => "MiB",
        Some("gb") => "GiB",
        _ => "B",
    };
    format!("{}{unit}", &limit[1]).parse().ok()
}

/// Returns the first module of the server that the adapter of `SvelteKit` or Astro makes.
pub(super) fn adapted(folder: &Path, framework: Framework) -> Option<String> {
    let set = |text: Option<String>, key| folder_setting(&text?, key);
    match framework {
        Framework::SvelteKit => {
            let out = set(svelte(folder), "out");
            Some(out.unwrap_or_else(|| "build".to_owned()))
        }
        Framework::Astro => {
            let out = set(config(folder, "astro"), "outDir");
            Some(format!(
                "{}/server/entry.mjs",
                out.as_deref().unwrap_or("dist")
            ))
        }
        Framework::Nuxt => Some(".output/server/index.mjs".to_owned()),
        _ => None,
    }
}

/// Returns the folder of a site's files and the path that it is below, where its configuration
/// names them.
pub(super) fn output(
    folder: &Path,
    generator: Generator,
    package: Option<&Package>,
) -> (Option<String>, Option<String>) {
    let (text, key, base) = match generator {
        Generator::Next => (config(folder, "next"), "distDir", "basePath"),
        Generator::SvelteKit => (svelte(folder), "pages", "base"),
        Generator::Astro => (config(folder, "astro"), "outDir", "base"),
        Generator::Vite => (config(folder, "vite"), "outDir", "base"),
        Generator::VitePress => {
            let text = module(folder, ".vitepress/config").map(|(_, text)| text);
            (text, "outDir", "base")
        }
        // The folder is an argument of the build.
        Generator::Docusaurus => (config(folder, "docusaurus"), "", "baseUrl"),
        Generator::ReactScripts => return (None, package.and_then(Package::homepage)),
    };
    let text = text.unwrap_or_default();
    (folder_setting(&text, key), path_setting(&text, base))
}

/// Returns the page that the static adapter of `SvelteKit` makes for paths without a file.
pub(super) fn svelte_fallback(folder: &Path) -> Option<String> {
    Some(format!(
        "/{}",
        folder_setting(&svelte(folder)?, "fallback")?
    ))
}

/// Returns the configuration of `SvelteKit`, which newer projects have in that of Vite.
fn svelte(folder: &Path) -> Option<String> {
    config(folder, "svelte").or_else(|| config(folder, "vite"))
}

/// Returns name and text of `NAME.config.js`, or of another kind of it.
fn config_file(folder: &Path, name: &str) -> Option<(String, String)> {
    module(folder, &format!("{name}.config"))
}

fn module(folder: &Path, name: &str) -> Option<(String, String)> {
    let kinds = ["js", "mjs", "ts", "cjs", "mts"];
    let mut names = kinds.iter().map(|kind| format!("{name}.{kind}"));
    names.find_map(|name| read(&folder.join(&name)).map(|text| (name, text)))
}

fn config(folder: &Path, name: &str) -> Option<String> {
    config_file(folder, name).map(|(_, text)| text)
}

/// Returns the texts that a configuration has under a key.
fn settings<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let all = SETTINGS.captures_iter(text);
    let named = all.filter(move |setting| &setting[1] == key);
    named.filter_map(|setting| Some(setting.get(2)?.as_str()))
}

/// Returns a folder within the project.
fn folder_setting(text: &str, key: &str) -> Option<String> {
    let folder = settings(text, key).next()?.trim_start_matches("./");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let is_within = !folder.starts_with(['.', '/', '-']) && !folder.contains("..");
    let is_folder = is_within && !folder.is_empty() && folder.chars().all(is_plain);
    is_folder.then(|| folder.to_owned())
}

/// Returns a path without a slash at its end; `None` for `/`.
fn path_setting(text: &str, key: &str) -> Option<String> {
    let mut paths = settings(text, key).filter(|path| path.starts_with('/'));
    let path = paths.next()?.trim_end_matches('/');
    (!path.is_empty()).then(|| path.to_owned())
}

/// Returns the port in the code or the `.env` files of an app.
pub(super) fn port(
    folder: &Path,
    package: Option<&Package>,
    module: Option<&str>,
    framework: Framework,
) -> Option<FoundPort> {
    let literal = |port: &str, name: &Path| {
        let port = port_of(port)?;
        let source = name.display().to_string();
        Some(FoundPort { port, source })
    };
    if framework == Framework::VitePreview {
        let (name, text) = config_file(folder, "vite")?;
        return literal(&VITE_PORT.captures(&text)?[1], Path::new(&name));
    }
    for name in [".env.production", ".env"] {
        let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
        let value = text.lines().find_map(|line| {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line.split_once('=')?;
            (name.trim() == "PORT").then_some(value)
        });
        let value = value.map(|value| {
            // A comment follows behind a space.
            let value = value.split(" #").next().unwrap_or_default();
            value.trim().trim_matches(['"', '\''])
        });
        if let Some(port) = value.and_then(|value| literal(value, Path::new(name))) {
            return Some(port);
        }
    }
    entries(folder, package, module)
        .into_iter()
        .find_map(|(name, text)| port_in(&name, &text))
}

/// Returns the port in a single module.
pub(super) fn port_of_module(folder: &Path, module: &str) -> Option<FoundPort> {
    let (name, text) = find(folder, module)?;
    port_in(&name, &text)
}

/// Returns true if a module listens on a number, whatever the variable `PORT` is.
pub(super) fn has_fixed_port(folder: &Path, module: &str) -> bool {
    let text = find(folder, module).map(|(_, text)| text);
    text.is_some_and(|text| !text.contains("PORT") && listens_on(&text).is_some())
}

fn port_in(name: &Path, text: &str) -> Option<FoundPort> {
    let first = |regex: &Regex| Some(regex.captures(text)?.get(1)?.as_str());
    let port = first(&PORTS[0]).or_else(|| listens_on(text));
    Some(FoundPort {
        port: port_of(port.or_else(|| first(&PORTS[1]))?)?,
        source: name.display().to_string(),
    })
}

/// Returns the number of the first `.listen(…)`, or of the constant in it.
fn listens_on(text: &str) -> Option<&str> {
    let mut listens = LISTENS.captures_iter(text);
    listens.find_map(|listen| {
        let port = listen.get(1)?.as_str();
        let mut constants = CONSTANTS.captures_iter(text);
        let constant = constants.find(|constant| constant[1] == *port);
        let number = constant.and_then(|constant| constant.get(2));
        let port = number.map_or(port, |number| number.as_str());
        port_of(port).map(|_| port)
    })
}

/// Returns true if the only server of an app speaks TLS.
pub(super) fn speaks_tls(folder: &Path, package: Option<&Package>, module: Option<&str>) -> bool {
    let entries = entries(folder, package, module);
    let first = entries.first();
    first.is_some_and(|(_, text)| HTTPS.is_match(text) && !HTTP.is_match(text))
}

/// Returns the path of a health check.
pub(super) fn health_path(
    folder: &Path,
    package: Option<&Package>,
    module: Option<&str>,
) -> Option<String> {
    let handlers: [(&str, &[&str]); 4] = [
        ("app/api/health/route", &["js", "ts", "mjs"]),
        ("src/app/api/health/route", &["js", "ts", "mjs"]),
        ("pages/api/health", &["js", "ts"]),
        ("src/pages/api/health", &["js", "ts"]),
    ];
    let is_there = |name: &str, kind: &&str| folder.join(format!("{name}.{kind}")).exists();
    if handlers
        .iter()
        .any(|(name, kinds)| kinds.iter().any(|kind| is_there(name, kind)))
    {
        return Some("/api/health".to_owned());
    }
    let entries = entries(folder, package, module);
    let path = entries.iter().find_map(|(_, text)| HEALTH.captures(text));
    path.map(|path| path[1].to_owned())
}

/// Returns the framework that a module imports.
pub(super) fn framework(folder: &Path, module: &str) -> Option<Framework> {
    let (_, text) = find(folder, module)?;
    let imported: Vec<&str> = IMPORTS
        .captures_iter(&text)
        .filter_map(|import| Some(import.get(1)?.as_str()))
        .collect();
    // Next.js and NestJS may be imported beside the server that they run in.
    let next = ("next", Framework::Next { standalone: false });
    let mut known = [next].into_iter().chain(SERVERS);
    let known = known.find(|(name, _)| imported.contains(name));
    known.map(|(_, framework)| framework)
}

/// Finds the file of a module as a script names it: `server`, `dist/main`, `.`; where the program
/// was not built yet, its source.
fn find(folder: &Path, module: &str) -> Option<(PathBuf, String)> {
    let is_ours = !module.starts_with('/') && !module.contains("..");
    let name = module.trim_start_matches("./").trim_end_matches('/');
    let below = |name: &str| -> Vec<String> {
        let kinds = ["js", "mjs", "cjs", "ts", "mts"];
        let named = kinds.map(|kind| format!("{name}.{kind}"));
        let inside = kinds.map(|kind| format!("{name}/index.{kind}"));
        [&[name.to_owned()][..], &named, &inside].concat()
    };
    let mut names = below(name);
    if let Some((built, rest)) = name.split_once('/')
        && ["dist", "build", "out", "lib"].contains(&built)
    {
        let rest = rest.rsplit_once('.').map_or(rest, |(stem, _)| stem);
        names.extend(below(&format!("src/{rest}")));
    }
    let mut files = names.into_iter().filter(|_| is_ours).filter_map(|name| {
        let text = read(&folder.join(&name))?;
        Some((PathBuf::from(name), text))
    });
    files.next()
}

/// Returns the first modules of an app, with their texts; `module` is what a script starts.
fn entries(
    folder: &Path,
    package: Option<&Package>,
    module: Option<&str>,
) -> Vec<(PathBuf, String)> {
    let first = module.and_then(|module| find(folder, module));
    let main = package.and_then(Package::main);
    let mut names: Vec<&str> = main.into_iter().chain(ENTRIES.split(' ')).collect();
    let mut known = Vec::new();
    names.retain(|name| {
        // A path of another folder is not this app's code.
        let is_new = !known.contains(name) && !name.starts_with('/') && !name.contains("..");
        known.push(*name);
        is_new
    });
    let texts = names.into_iter().filter_map(|name| {
        let text = read(&folder.join(name))?;
        Some((PathBuf::from(name), text))
    });
    first.into_iter().chain(texts).collect()
}

/// Reads a file of code without its comments.
fn read(path: &Path) -> Option<String> {
    let is_small = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= MAX_LEN);
    let text = is_small.then(|| fs::read_to_string(path).ok())??;
    Some(COMMENTS.replace_all(&text, "$1").into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_in_the_usual_ways_to_write_it() {
        for (code, expected) in [
            ("app.listen(process.env.PORT || 4000)", Some(4000)),
            (
                "const port = Number(process.env.PORT ?? '4001');",
                Some(4001),
            ),
            (
                "listen(parseInt(process.env['PORT'], 10) || 4006)",
                Some(4006),
            ),
            ("await app.listen({ host: '::', port: 4002 })", Some(4002)),
            ("server.listen(4003, () => {})", Some(4003)),
            ("serve({ fetch: app.fetch, port: 4004 })", Some(4004)),
            ("// app.listen(10)\nlisten(process.env.PORT)", None),
            (
                "// a comment\napp.listen(4005) // app.listen(10)",
                Some(4005),
            ),
            ("const url = 'http://localhost:5432'; /* port: 9 */", None),
            ("redis({ host: 'x' }); app.listen(0)", None),
            (
                "const PORT = 4007; http.listen(PORT); admin.listen(10)",
                Some(4007),
            ),
            ("let web = 4008, db = 10; app.listen(web)", Some(4008)),
            (
                "const db = 5432; app.listen(port); const port = 4009",
                Some(4009),
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("server.js"), code).unwrap();
            let found = port(folder.path(), None, None, Framework::Express);
            assert_eq!(found.map(|found| found.port), expected, "{code}");
        }
    }

    #[test]
    fn a_port_is_found_in_the_ways_that_dotenv_reads() {
        for (text, expected) in [
            ("PORT=4000", Some(4000)),
            ("A=1\nPORT = '4001' # of the app\n", Some(4001)),
            ("export PORT=4002", Some(4002)),
            ("# PORT=1\nDB_PORT=5432", None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(".env"), text).unwrap();
            let found = port(folder.path(), None, None, Framework::Express);
            assert_eq!(found.map(|found| found.port), expected, "{text}");
        }
    }

    #[test]
    fn a_server_speaks_tls_if_it_is_the_only_one() {
        for (code, expected) in [
            ("https.createServer({}, app).listen(8443)", true),
            ("http2.createSecureServer({}).listen(8443)", true),
            (
                "http.createServer(app).listen(80); https.createServer({}, app).listen(443)",
                false,
            ),
            ("app.listen(3000)", false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("server.js"), code).unwrap();
            assert_eq!(speaks_tls(folder.path(), None, None), expected, "{code}");
        }
    }

    #[test]
    fn a_build_folder_is_read_from_the_configuration_of_next() {
        for (code, expected) in [
            ("export default { distDir: 'out-build' }", Some("out-build")),
            ("module.exports = { \"distDir\": \"./a/b\" }", Some("a/b")),
            ("export default { distDir: '../x' }", None),
            ("export default { distDir: process.env.DIST }", None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("next.config.js"), code).unwrap();
            assert_eq!(dist(folder.path()).as_deref(), expected, "{code}");
        }
    }

    #[test]
    fn the_largest_body_is_read_from_the_configuration_of_next() {
        for (code, expected) in [
            ("{ serverActions: { bodySizeLimit: '2mb' } }", Some(2 << 20)),
            ("{ \"bodySizeLimit\": \"1.5MB\" }", Some(3 << 19)),
            ("{ bodySizeLimit: 3000000 }", Some(3_000_000)),
            ("{ bodySizeLimit: process.env.LIMIT }", None),
            ("{ bodySizeLimit: 5 * 1024 * 1024 }", None),
            ("{ // bodySizeLimit: '2mb'\n}", None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("next.config.mjs"), code).unwrap();
            let limit = body_limit(folder.path()).map(|limit| limit.0);
            assert_eq!(limit, expected, "{code}");
        }
    }

    #[test]
    fn a_base_path_is_read_from_the_configuration_of_next() {
        for (code, expected) in [
            ("export default { basePath: '/docs' }", Some("/docs")),
            ("module.exports = { \"basePath\": \"/a/b/\" }", Some("/a/b")),
            ("export default { // basePath: '/docs'\n}", None),
            ("export default { basePath: process.env.BASE }", None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("next.config.js"), code).unwrap();
            assert_eq!(base_path(folder.path()).as_deref(), expected, "{code}");
        }
    }

    #[test]
    fn an_output_in_a_comment_is_none() {
        for (code, expected) in [
            ("export default { output: 'standalone' };", true),
            ("module.exports = { \"output\": \"standalone\" };", true),
            ("export default { // output: 'standalone'\n};", false),
            (
                "export default { /* output: 'standalone' */ output: 'export' };",
                false,
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("next.config.mjs"), code).unwrap();
            let found = has_output(folder.path(), "standalone");
            assert_eq!(found, expected, "{code}");
        }
    }
}
