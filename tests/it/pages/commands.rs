//! Commands that the pages show: each exists, with each option.

use std::collections::BTreeMap;

use regex::Regex;

use super::{files, read};
use crate::cli::edgeway;

/// Command as a page shows it, without `edgeway`.
type Shown = Vec<String>;

/// Help of each command, by its words.
#[derive(Default)]
struct Helps(BTreeMap<String, Option<String>>);

impl Helps {
    fn of(&mut self, command: &str) -> Option<&str> {
        let help = self.0.entry(command.to_owned()).or_insert_with(|| {
            let mut words: Vec<&str> = command.split(' ').collect();
            words.push("--help");
            let ran = edgeway(&words);
            (ran.status == 0).then_some(ran.stdout)
        });
        help.as_deref()
    }

    /// Returns the problem of a command.
    fn problem(&mut self, shown: &[String]) -> Option<String> {
        let (first, rest) = shown.split_first()?;
        let is_command = first.starts_with(|c: char| c.is_ascii_lowercase());
        if !is_command || first == "help" {
            return None;
        }
        let mut command = first.clone();
        let Some(help) = self.of(&command) else {
            return Some(format!("no command `edgeway {command}`"));
        };
        if let (true, Some(second)) = (help.contains("\nCommands:\n"), rest.first())
            && second.starts_with(|c: char| c.is_ascii_lowercase())
        {
            command = format!("{first} {second}");
        }
        let Some(help) = self.of(&command) else {
            return Some(format!("no command `edgeway {command}`"));
        };
        // What follows belongs to another program.
        let own = rest.iter().take_while(|word| *word != "--");
        let mut options = own
            .filter_map(|word| word.split('=').next())
            .filter(|word| word.starts_with("--") && word.len() > 2);
        let unknown = options.find(|option| {
            let known = Regex::new(&format!(r"{option}\b")).expect("it is valid");
            !known.is_match(help)
        })?;
        Some(format!("`edgeway {command}` has no `{unknown}`"))
    }
}

/// Returns the commands in a line of code.
fn commands(code: &str) -> Vec<Shown> {
    // A comment explains the command.
    let code = code.split(" #").next().unwrap_or_default();
    let parts = code.split(['|', ';', '&', '(', ')', '\'', '"']);
    let commands = parts.filter_map(|part| {
        let part = part.trim().trim_start_matches("$ ");
        let words = part.strip_prefix("edgeway ")?;
        let words = words.split_whitespace().map(|word| {
            let is_mark = |c: char| matches!(c, ',' | '.' | '[' | ']' | '…');
            word.trim_matches(is_mark).to_owned()
        });
        Some(
            words
                .filter(|word| !word.is_empty() && word != "\\")
                .collect(),
        )
    });
    commands.collect()
}

/// Returns the commands of a page, with their lines.
fn shown(text: &str) -> Vec<(usize, Shown)> {
    let inline = Regex::new("`([^`]+)`").expect("it is valid");
    let mut language = None;
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if let Some(begins) = line.trim_start().strip_prefix("```") {
            language = match language {
                Some(_) => None,
                None => Some(begins.to_owned()),
            };
            continue;
        }
        let codes: Vec<&str> = match language.as_deref() {
            Some("sh" | "console" | "") => vec![line],
            Some(_) => Vec::new(),
            None => inline
                .captures_iter(line)
                .map(|it| it.get(1).expect("it has one").as_str())
                .collect(),
        };
        for code in codes {
            found.extend(commands(code).into_iter().map(|it| (at + 1, it)));
        }
    }
    found
}

#[test]
fn every_command_that_a_page_shows_exists() {
    let mut helps = Helps::default();
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut pages = files("docs", ".md");
    pages.extend(["README.md", "systemd/README.md", "SECURITY.md"].map(str::to_owned));
    for page in pages {
        for (line, shown) in shown(&read(&page)) {
            count += 1;
            if let Some(problem) = helps.problem(&shown) {
                wrong.push(format!("{page}:{line}: {problem}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 150, "only {count} commands were found");
}

#[test]
fn commands_are_found_and_compared_with_their_help() {
    let page = "`edgeway check`, see `edgeway bans` and edgeway gone.\n\n```sh\n\
        edgeway check && edgeway run     # edgeway gone\n$ edgeway rollout web --dry-run -- x --gone\n\
        ```\n```yaml\nedgeway gone\n```\n";
    let found: Vec<String> = shown(page)
        .into_iter()
        .map(|(_, it)| it.join(" "))
        .collect();
    let expected = [
        "check",
        "bans",
        "check",
        "run",
        "rollout web --dry-run -- x --gone",
    ];
    assert_eq!(found, expected);
    let mut helps = Helps::default();
    let mut problem = |text: &str| helps.problem(&commands(text)[0]);
    assert_eq!(problem("edgeway check --print"), None);
    assert_eq!(problem("edgeway rollout web --dry-run -- x --gone"), None);
    assert!(problem("edgeway gone").is_some());
    assert!(problem("edgeway check --gone").is_some());
    assert!(problem("edgeway plugin gone").is_some());
    assert!(problem("edgeway plugin run --gone").is_some());
}
