//! Scripts of package.json, followed to the program that they start: `npm start` may be
//! `npm run serve`, and that `cross-env PORT=3100 tsx src/server.ts`.

#[cfg(test)]
mod tests;

use super::{package::Package, port_of};

/// Scripts that start the app in production, in the order of preference, and then while developing.
const NAMES: [&str; 5] = ["start:prod", "start", "serve", "preview", "dev"];

/// Limit on scripts that start one another.
const MAX_DEPTH: usize = 8;

/// Programs in front of a command that leave its meaning as it is.
const WRAPPERS: &str = "cross-env cross-env-shell dotenv env exec npx bunx time";

/// Programs that run a module of JavaScript or TypeScript.
const RUNNERS: &str = "node tsx nodemon bun deno ts-node ts-node-dev tsnd node-dev vite-node \
    swc-node babel-node esno";

fn is_runner(program: &str) -> bool {
    RUNNERS.split(' ').any(|one| one == program)
}

/// Their options whose value is the next word.
const WITH_VALUE: &str = "-r --require --import --loader --experimental-loader --env-file -C --conditions --title \
    --watch-path -w --watch -e --ext -i --ignore -x --exec -d --delay --config --tsconfig -P \
    --project";

/// Program that a script starts in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    Next,
    VitePreview,
    Nest,
    /// `react-router-serve build/server/index.js`.
    ReactRouter,
    /// `remix-serve build/server/index.js`.
    Remix,
    /// `fastify start app.js`.
    FastifyCli,
    /// A module, run by Node or in its way; `None` if the command names no file.
    Module(Option<String>),
    /// Any other program, of which only the port is known.
    Other,
}

/// The end of a chain of scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Script at the beginning of the chain.
    pub name: String,
    pub program: Program,
    /// Port among the arguments.
    pub argument: ScriptPort,
    /// Port in the variable `PORT`.
    pub variable: ScriptPort,
    /// Arguments of `node` that start the module, if `node` can.
    pub node: Option<Vec<String>>,
}

/// Returns what the project's scripts start: the first script that starts a server.
pub(super) fn started(package: &Package) -> Option<Started> {
    // That of Angular, whose `start` is for development.
    let names = package.scripts().map(|(name, _)| name);
    let names = names.filter(|name| name.starts_with("serve:ssr:"));
    let names = names.chain(
        NAMES
            .into_iter()
            .filter(|name| package.script(name).is_some()),
    );
    let mut started = names.filter_map(|name| follow(package, name));
    started.next()
}

/// Follows a script. `None` if it starts no server that is known, and names no port.
fn follow(package: &Package, name: &str) -> Option<Started> {
    let chain = Chain {
        package,
        names: Vec::new(),
        environment: None,
        more: Vec::new(),
    };
    let mut started = chain.script(name)?;
    name.clone_into(&mut started.name);
    Some(started)
}

/// Port and the script in which it stands.
pub(super) type ScriptPort = Option<(u16, String)>;

/// The scripts on the way to a program.
#[derive(Clone)]
struct Chain<'a> {
    package: &'a Package,
    names: Vec<String>,
    /// The variable `PORT`, as the scripts so far set it.
    environment: ScriptPort,
    /// Arguments that the scripts so far pass on, each with its script.
    more: Vec<(String, String)>,
}

impl Chain<'_> {
    fn script(mut self, name: &str) -> Option<Started> {
        let line = self.package.script(name);
        let line = match (line, name) {
            (Some(line), _) => line,
            // What npm runs where no script has the name.
            (None, "start") => "node server.js",
            (None, _) => return None,
        };
        if self.names.len() >= MAX_DEPTH || self.names.iter().any(|known| known == name) {
            return None;
        }
        self.names.push(name.to_owned());
        // The server is the last command; what comes before it builds or migrates.
        let words = shlex::split(&spaced(line))?;
        let commands: Vec<&[String]> = words.split(|word| is_operator(word)).collect();
        let last = commands.len().checked_sub(1)?;
        let scripts = commands.iter().enumerate().rev();
        let mut scripts = scripts.filter_map(|(at, command)| {
            let mut chain = self.clone();
            // Arguments reach the last command alone.
            chain.more.retain(|_| at == last);
            chain.command(command)
        });
        scripts.next()
    }

    /// Follows one command of the current script.
    fn command(mut self, mut words: &[String]) -> Option<Started> {
        let program = loop {
            let (first, rest) = words.split_first()?;
            words = rest;
            if let Some((name, value)) = assignment(first) {
                if name == "PORT" {
                    self.environment = number(value).map(|port| (port, self.current()));
                }
                continue;
            }
            let program = base_name(first);
            if !WRAPPERS.split(' ').any(|one| one == program) {
                break program;
            }
            words = match words.iter().position(|word| word == "--") {
                Some(index) => &words[index + 1..],
                None => skip_options(words),
            };
        };
        if let Some((script, passed)) = self.other_script(program, words) {
            let name = self.current();
            let passed = passed.iter().map(|word| (word.clone(), name.clone()));
            self.more.splice(0..0, passed);
            return self.script(&script);
        }
        if ["npm", "pnpm", "yarn", "bun"].contains(&program)
            && let Some(index) = words.iter().position(|word| !word.starts_with('-'))
            && let executed = words[index..].strip_prefix(&["exec".to_owned()])
            && (executed.is_some() || program == "yarn" || program == "pnpm")
        {
            // `pnpm exec next start`, `yarn next start`.
            let executed = executed.unwrap_or(&words[index..]);
            return self.command(skip_options(executed));
        }
        let executed = |word: &String| ["-x", "--exec"].contains(&word.as_str());
        if program == "nodemon"
            && let Some(index) = words.iter().position(executed)
        {
            // It runs another program, with the words that are no options of its own.
            let mut command = shlex::split(words.get(index + 1)?)?;
            let plain: Vec<&str> = words.iter().map(String::as_str).collect();
            if let Some(module) = module(program, &plain) {
                let rest = words.iter().enumerate().skip(module);
                let rest = rest.filter(|(place, _)| *place != index && *place != index + 1);
                command.extend(rest.map(|(_, word)| word.clone()));
            }
            return self.command(&command);
        }
        self.end(program, words)
    }

    /// Returns the script of the same package that a package manager runs, and what it gets.
    fn other_script<'w>(
        &self,
        program: &str,
        words: &'w [String],
    ) -> Option<(String, &'w [String])> {
        if program == "node" {
            let index = words.iter().position(|word| word == "--run")?;
            return Some((words.get(index + 1)?.clone(), passed(&words[index + 2..])));
        }
        if !["npm", "pnpm", "yarn", "bun"].contains(&program) {
            return None;
        }
        // With an option in front, such as `--prefix`, it may be a script of another package.
        let quiet = |word: &&String| ["-s", "--silent"].contains(&word.as_str());
        let skipped = words.iter().take_while(quiet).count();
        let (first, rest) = words[skipped..].split_first()?;
        let (name, rest) = match first.as_str() {
            "run" | "run-script" => {
                let skipped = rest.iter().take_while(quiet).count();
                rest[skipped..].split_first()?
            }
            _ => (first, rest),
        };
        let is_run = first == "run" || first == "run-script" || program != "npm";
        let is_script = is_run && self.package.script(name).is_some();
        if !is_script && name != "start" {
            return None;
        }
        let rest = if program == "npm" { passed(rest) } else { rest };
        Some((name.clone(), rest))
    }

    fn end(self, program: &str, words: &[String]) -> Option<Started> {
        let current = self.current();
        let last = words.iter().map(|word| (word.clone(), current.clone()));
        let words: Vec<(String, String)> = last.chain(self.more).collect();
        let plain: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
        let at = module(program, &plain).filter(|_| is_runner(program));
        let started = at.map(|at| base_name(plain[at]).trim_end_matches(".js"));
        // `node node_modules/.bin/next start`.
        let (program, plain, words) = match (at, started) {
            (Some(at), Some(known @ ("next" | "vite"))) => {
                (known, plain[at + 1..].to_vec(), words[at + 1..].to_vec())
            }
            _ => (program, plain.clone(), words.clone()),
        };
        let mut arguments = words.as_slice();
        let mut node = None;
        // Both are programs for `node`, by these files.
        let mut served = |file: &str| {
            let words = [file].into_iter().chain(plain.first().copied());
            node = Some(words.map(str::to_owned).collect());
        };
        let program = match (program, plain.as_slice()) {
            ("react-router-serve", _) => {
                served("node_modules/@react-router/serve/bin.js");
                Program::ReactRouter
            }
            ("remix-serve", _) => {
                served("node_modules/@remix-run/serve/dist/cli.js");
                Program::Remix
            }
            ("next", ["start" | "dev", ..]) => Program::Next,
            ("vite", ["preview", ..]) => Program::VitePreview,
            ("nest", ["start", ..]) => Program::Nest,
            ("fastify", ["start", ..]) => Program::FastifyCli,
            ("next" | "vite" | "nest" | "fastify" | "react-router" | "remix", _) => return None,
            (runner, _) if is_runner(runner) => {
                // Options of `node` are no arguments of the app: `-p` prints.
                arguments = at.map_or(&[], |at| &words[at + 1..]);
                node = at.and_then(|at| node_arguments(runner, &plain, at));
                Program::Module(at.map(|at| plain[at].to_owned()))
            }
            _ => Program::Other,
        };
        let (argument, variable) = (port(arguments), self.environment);
        let has_port = argument.is_some() || variable.is_some();
        if !has_port && matches!(program, Program::Other | Program::Module(None)) {
            return None;
        }
        Some(Started {
            name: String::new(),
            program,
            argument,
            variable,
            node,
        })
    }

    fn current(&self) -> String {
        self.names.last().cloned().unwrap_or_default()
    }
}

/// Separates the operators of a shell from the words beside them, outside of quotes.
fn spaced(line: &str) -> String {
    let mut spaced = String::with_capacity(line.len() + 8);
    let mut quote = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, '&' | '|' | ';') => {
                spaced.push(' ');
                spaced.push(letter);
                spaced.extend(letters.next_if_eq(&letter).is_some().then_some(letter));
                spaced.push(' ');
                continue;
            }
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), close) if open == close => quote = None,
            _ => {}
        }
        spaced.push(letter);
    }
    spaced
}

fn is_operator(word: &str) -> bool {
    ["&&", "||", ";", "|", "&"].contains(&word)
}

/// Returns name and value of `NAME=value`.
fn assignment(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then_some((name, value))
}

fn skip_options(words: &[String]) -> &[String] {
    let options = words.iter().take_while(|word| word.starts_with('-'));
    &words[options.count()..]
}

/// Returns the arguments that npm passes on: those behind `--`.
fn passed(words: &[String]) -> &[String] {
    let dashes = words.iter().position(|word| word == "--");
    dashes.map_or(&[], |at| &words[at + 1..])
}

fn base_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// Returns the arguments with which `node` itself starts the module, if it can.
fn node_arguments(runner: &str, words: &[&str], index: usize) -> Option<Vec<String>> {
    let (options, module) = words.split_at(index);
    let before: Vec<&str> = match runner {
        // A unit restarts by itself.
        "node" => options
            .iter()
            .copied()
            .filter(|word| *word != "--watch")
            .collect(),
        "nodemon" | "node-dev" => Vec::new(),
        "tsx" => vec!["--import", "tsx"],
        _ => return None,
    };
    let words = before.iter().chain(module);
    Some(words.map(|word| (*word).to_owned()).collect())
}

/// Returns the place of the module among the arguments of a runner.
fn module(runner: &str, words: &[&str]) -> Option<usize> {
    let mut index = 0;
    while let Some(word) = words.get(index) {
        // The next word is code.
        if runner == "node" && ["-e", "-p", "--eval", "--print"].contains(word) {
            return None;
        }
        // `node --watch server.js` has no value, `nodemon --watch src server.js` has one.
        let is_flag = *word == "--watch" && ["node", "bun", "deno"].contains(&runner);
        if WITH_VALUE.split(' ').any(|known| known == *word) && !is_flag {
            index += 2;
        } else if word.starts_with('-') || ["watch", "run"].contains(word) {
            index += 1;
        } else {
            return Some(index);
        }
    }
    None
}

/// Reads a port, also `${PORT:-3000}`.
fn number(text: &str) -> Option<u16> {
    let inner = text
        .strip_prefix("${")
        .and_then(|text| text.strip_suffix('}'));
    let default = inner.and_then(|text| text.split_once(":-"));
    port_of(default.map_or(text, |(_, default)| default))
}

/// Returns the port in the arguments of a server: the last one counts.
fn port(arguments: &[(String, String)]) -> ScriptPort {
    let mut last = None;
    for (index, (word, script)) in arguments.iter().enumerate() {
        // `serve -l 127.0.0.1:5000`.
        let value = |text: &str| number(text).or_else(|| number(text.rsplit_once(':')?.1));
        let next = || arguments.get(index + 1).and_then(|(next, _)| value(next));
        let port = match word.as_str() {
            "-p" | "--port" | "-l" | "--listen" => next(),
            word => {
                let value = ["--port=", "-p=", "-p"].iter();
                let mut value = value.filter_map(|start| word.strip_prefix(start));
                value.next().and_then(number)
            }
        };
        last = port.map(|port| (port, script.clone())).or(last);
    }
    last
}
