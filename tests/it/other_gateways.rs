//! Words of other gateways in a configuration, and the forms that messages give for them.

use std::fmt::Write as _;

use edgeway_config::diagnostic::{
    Severity, Style,
    other_gateways::{Level, translations},
};

use crate::first_file::{lines, problems_of};

/// The form that a message gives for a word of another gateway is accepted where the word was.
#[test]
fn words_of_other_gateways_are_translated_to_what_is_accepted() {
    let mut asked = 0;
    for entry in translations().filter(|entry| !entry.write.starts_with('!')) {
        for word in entry.words.split(' ') {
            let wrong = with_entries(entry.level, &format!("{word}: 1"), "");
            let report = lines(&wrong).join("\n");
            let unknown = format!("unknown key `{word}`");
            let about = report.split('\n').find(|line| line.contains(&unknown));
            let help =
                about.unwrap_or_else(|| panic!("{word} {:?}:\n{report}\n{wrong}", entry.level));
            assert!(help.contains("help: write `"), "{word}: {help}");
            let advice = help
                .split_once("help: write `")
                .map_or("", |(_, rest)| rest);
            let advice = advice.trim_end().trim_end_matches('`');
            // The first translation for the level counts.
            let right = with_entries(entry.level, advice, advice);
            let (sources, found) = problems_of(&right);
            let refused = found.list().iter().filter(|problem| {
                // Files that the examples name do not exist.
                problem.severity == Severity::Error
                    && !["cannot read", "cannot be loaded"]
                        .iter()
                        .any(|it| problem.message.contains(it))
            });
            let report = found.render(&sources, Style::Lines);
            assert_eq!(
                refused.count(),
                0,
                "{word} at {:?}:\n{report}\n{right}",
                entry.level
            );
            asked += 1;
        }
    }
    assert!(asked > 150, "{asked}");
}

/// Writes entries at a level of an otherwise complete file, without the keys that they replace.
fn with_entries(level: Level, entries: &str, replaced: &str) -> String {
    let has = |key: &str| {
        replaced.starts_with(&format!("{key}:"))
            || replaced.contains(&format!(" {key}:")) && level == Level::Top
    };
    let at = |own: Level| {
        if level == own {
            format!(", {entries}")
        } else {
            String::new()
        }
    };
    let only = |own: Level| {
        if level == own {
            entries.to_owned()
        } else {
            String::new()
        }
    };
    let section_of = |key: &str, own: Level| match only(own).as_str() {
        "" => String::new(),
        entries => format!(", {key}: {{ {entries} }}"),
    };
    let mut yaml = String::new();
    let mut section = |key: &str, text: String| {
        if !has(key) {
            writeln!(yaml, "{key}: {text}").expect("a string takes text");
        }
    };
    let tls = match level {
        Level::Tls if replaced.starts_with("certificates") || replaced.starts_with("acme") => {
            format!(", tls: {{ {entries} }}")
        }
        Level::Tls => {
            format!(", tls: {{ certificates: [{{ cert: site.pem, key: site.key }}], {entries} }}")
        }
        _ => String::new(),
    };
    let limits = match only(Level::ListenerLimits).as_str() {
        "" => String::new(),
        entries => format!(", limits: {{ {entries} }}"),
    };
    let address = if level == Level::Listener && has("address") {
        "name: a"
    } else {
        "address: \"127.0.0.1:8080\""
    };
    section(
        "listeners",
        format!(
            "[{{ {address}{tls}{limits}{} }}, {{ address: \"127.0.0.1:8081\" }}]",
            at(Level::Listener)
        ),
    );
    let backends = if level == Level::Upstream && has("backends") {
        "app: node"
    } else {
        "backends: [\"127.0.0.1:3000\", \"127.0.0.1:3001\"]"
    };
    let health = match level {
        Level::Health if replaced.starts_with("path") => format!(", health: {{ {entries} }}"),
        Level::Health => format!(", health: {{ path: /h, {entries} }}"),
        _ => String::new(),
    };
    section(
        "upstreams",
        format!(
            "{{ web: {{ {backends}{}{}{}{health}{} }} }}",
            section_of("timeouts", Level::Timeouts),
            section_of("retry", Level::Retry),
            section_of("eject", Level::Eject),
            at(Level::Upstream)
        ),
    );
    let matching = if level == Level::Route && has("match") {
        String::new()
    } else {
        let path = if replaced.starts_with("path") {
            "method: GET"
        } else {
            "path: /*"
        };
        format!("match: {{ {path}{} }}, ", at(Level::Match))
    };
    let action = ["upstream", "redirect", "respond", "files"];
    let action = if level == Level::Route && action.iter().any(|key| has(key)) {
        "name: a"
    } else {
        "upstream: web"
    };
    let cache = if level == Level::RouteCache {
        format!(", cache: {{ {entries} }}")
    } else {
        String::new()
    };
    section(
        "routes",
        format!("[{{ {matching}{action}{cache}{} }}]", at(Level::Route)),
    );
    if entries.contains("acme: [") {
        writeln!(yaml, "acme: {{ email: ops@example.com, folder: acme }}").expect("it takes text");
    }
    if level == Level::Limit {
        let rate = if has("rate") { "" } else { "rate: 1/s, " };
        writeln!(yaml, "rate_limits: {{ api: {{ {rate}{entries} }} }}").expect("it takes text");
    }
    if level == Level::Top {
        writeln!(yaml, "{entries}").expect("a string takes text");
    }
    yaml
}

/// Mistakes of people, and a part of the advice that they get.
const MISTAKES: &str = include_str!("natural_mistakes.txt");

/// Invariant: advice is about what was written. A value that switches something off gets no advice to
/// switch it on.
#[test]
fn natural_mistakes_get_the_right_advice_or_none() {
    let lines_of_table = MISTAKES.lines().filter(|line| !line.starts_with('#'));
    let (mut asked, mut wrong) = (0, Vec::new());
    for line in lines_of_table {
        let mut parts = line.splitn(3, " | ");
        let mut part = || parts.next().expect("a line has three parts");
        let (name, entries, advice) = (part(), part(), part());
        let named = |level: &Level| level.row().0 == name;
        let level = Level::ALL.into_iter().find(named);
        let level = level.unwrap_or_else(|| panic!("no level: {line}"));
        let key = entries.split(':').next().unwrap_or_default();
        let reports = lines(&with_entries(level, entries, entries));
        let text = reports.join("\n");
        let is_right = match advice {
            "-" => !text.contains("error"),
            advice => text.contains(advice),
        };
        let switches_on = text.contains(": {}`") || text.contains(": true`");
        let is_off = ["off", "false"]
            .iter()
            .any(|off| entries.ends_with(&format!("{key}: {off}")));
        if !is_right || (is_off && switches_on) || text.contains("[redacted]") {
            wrong.push(format!("{line}\n{text}"));
        }
        asked += 1;
    }
    assert!(
        wrong.is_empty(),
        "{} of {asked}:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
    assert!(asked >= 200, "{asked}");
}
