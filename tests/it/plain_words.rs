//! The words of the project, as a test: those that RFC 9110, RFC 9111, nginx and Envoy use,
//! sentences that need one reading, and doc comments whose first words say something.
//!
//! `plain_words.txt` holds how many others are left, by kind of text. The counts only go down:
//! a change that lowers one writes the new number there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

/// Words that the field does not use, and what it says instead.
const WORDS: [(&str, &str); 8] = [
    ("answer(s|ed|ing)?", "response, respond"),
    ("anew", "again"),
    ("under way", "in flight, running"),
    ("nought", "zero"),
    ("authorities", "CA certificates"),
    ("pictures?", "image"),
    ("coded", "encoded, compressed"),
    ("whoever", "the client, the user, the process"),
];

/// Words of names in code, the same; the capital letter is for types and variants.
const NAMES: [(&str, &str); 9] = [
    ("[Aa]nswer(?:s|ed)?", "response, reply, result"),
    ("[Tt]old", "reported, notified, message"),
    ("[Ss]aid", "directives, text, message"),
    ("[Aa]new", "again"),
    ("(?:under_way|UnderWay)", "in_flight, running"),
    ("[Nn]ought", "zero"),
    ("[Hh]eir", "successor"),
    ("[Pp]ictures?", "image"),
    ("(?:coded|Coded)", "encoded, compressed"),
];

/// Names that no search finds and that say nothing, by kind; these are for product code.
const VAGUE: [(&str, &str); 3] = [
    ("functions called of", r"\bfn (of)\b"),
    (
        "types called Found",
        r"\b(?:struct|enum|type) (Named|Found|Made|Chosen|Then)\b",
    ),
    (
        "locals called found",
        r"\blet (?:mut )?(found|at|own|begun|most)\b",
    ),
];

/// Words that a doc comment does not begin with: they announce the thing without naming it.
const FIRST: &str = "^(What|Whether|How|Who|Whose|Whom|Where|It|One|Of|Those)\\b";

/// Turns of phrase that make a sentence hard to read, and what it says instead.
const PHRASES: [(&str, &str); 9] = [
    ("in vain", "what fails, or what is missing"),
    ("the full service", "degraded"),
    ("of those", "the thing's name"),
    ("those alone", "only, and the thing's name"),
    ("what has been", "the thing's name"),
    ("as far as", "if, or the limit"),
    ("that that", "one thought for each sentence"),
    ("takes? the place of", "replaces"),
    ("all the same", "still, anyway"),
];

/// Texts of one kind, each with its file and line.
#[derive(Default)]
struct Texts(BTreeMap<&'static str, Vec<(PathBuf, usize, String)>>);

impl Texts {
    fn push(&mut self, kind: &'static str, file: &Path, line: usize, text: &str) {
        let entry = (file.to_owned(), line, text.to_owned());
        self.0.entry(kind).or_default().push(entry);
    }

    /// Sorts the lines of a Rust file into comments, beginnings of doc comments, and strings.
    fn rust(&mut self, file: &Path, text: &str) {
        let mut is_test = file.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            part.starts_with("tests")
        });
        let string = Regex::new(r#""((?:[^"\\]|\\.)*)""#).expect("it is valid");
        let mut is_doc = false;
        for (at, line) in text.lines().enumerate() {
            let code = line.trim_start();
            is_test |= code.starts_with("mod tests {");
            let Some(comment) = code.strip_prefix("//") else {
                is_doc = false;
                let (names, _comment) = code.split_once(" // ").unwrap_or((code, ""));
                let names = string.replace_all(names, "\"\"");
                self.push("names", file, at + 1, &names);
                if is_test {
                    continue;
                }
                for (kind, _) in VAGUE {
                    self.push(kind, file, at + 1, &names);
                }
                for found in string.captures_iter(code) {
                    // A text for people has several words.
                    if found[1].contains(' ') {
                        self.push("strings", file, at + 1, &found[1]);
                        self.push("phrases", file, at + 1, &found[1]);
                    }
                }
                continue;
            };
            let doc = comment.strip_prefix(['/', '!']);
            let kind = if is_test {
                "comments of tests"
            } else {
                "comments"
            };
            let text = doc.unwrap_or(comment).trim_start();
            self.push(kind, file, at + 1, text);
            if !is_test {
                self.push("phrases of comments", file, at + 1, text);
            }
            if doc.is_some() && !is_doc {
                let kind = if is_test {
                    "first words of tests"
                } else {
                    "first words"
                };
                self.push(kind, file, at + 1, text);
            }
            is_doc = doc.is_some();
        }
    }

    /// The prose of a page: no block of code.
    fn page(&mut self, file: &Path, text: &str) {
        let mut is_code = false;
        for (at, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            } else if !is_code {
                self.push("docs", file, at + 1, line);
                self.push("phrases", file, at + 1, line);
            }
        }
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_name().expect("it has one").to_string_lossy();
        if path.is_dir() {
            if !matches!(&*name, "node_modules" | "target" | ".venv") && !name.starts_with('.') {
                files(&path, found);
            }
        } else if path
            .extension()
            .is_some_and(|kind| kind == "rs" || kind == "md")
        {
            found.push(path);
        }
    }
}

fn texts() -> Texts {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in [
        "src",
        "crates",
        "tests",
        "docs",
        "examples",
        "load-tests",
        "systemd",
        "plugins",
    ] {
        files(&root.join(folder), &mut found);
    }
    for page in [
        "README.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
    ] {
        found.push(root.join(page));
    }
    let mut texts = Texts::default();
    for path in found {
        let text = fs::read_to_string(&path).expect("it is UTF-8");
        let name = path.strip_prefix(root).expect("below the root");
        // The list of these words.
        if name.ends_with("plain_words.rs") {
            continue;
        }
        if name.extension().is_some_and(|kind| kind == "rs") {
            texts.rust(name, &text);
        } else {
            texts.page(name, &text);
        }
    }
    texts
}

/// Places where a text has a word that is not ours, by kind, with what to write instead.
fn found(texts: &Texts) -> BTreeMap<&'static str, Vec<String>> {
    let quoted = Regex::new("`[^`]*`").expect("it is valid");
    let compiled = |list: &[(&str, &'static str)]| -> Vec<_> {
        let list = list.iter().map(|(word, better)| {
            let word = Regex::new(&format!("(?i)\\b{word}")).expect("it is valid");
            (word, *better)
        });
        list.collect()
    };
    let vague: BTreeMap<_, _> = VAGUE
        .map(|(kind, name)| (kind, Regex::new(name).expect("it is valid")))
        .into();
    let words = compiled(&WORDS);
    let phrases = compiled(&PHRASES);
    // A word ends where the next one of a name begins.
    let names: Vec<_> = NAMES
        .iter()
        .map(|(word, better)| {
            let word = Regex::new(&format!("(?:\\b|_|[a-z])({word})(?:\\b|_|[A-Z])"));
            (word.expect("it is valid"), *better)
        })
        .collect();
    let first = Regex::new(FIRST).expect("it is valid");
    let mut places = BTreeMap::<_, Vec<_>>::new();
    for (kind, lines) in &texts.0 {
        let places = places.entry(*kind).or_default();
        for (file, line, text) in lines {
            let place = format!("{}:{line}", file.display());
            if kind.starts_with("first") {
                if let Some(word) = first.find(text) {
                    let word = word.as_str();
                    places.push(format!(
                        "{place}: `{word}`: name the thing, or what it does"
                    ));
                }
                continue;
            }
            if let Some(name) = vague.get(kind) {
                for found in name.captures_iter(text) {
                    places.push(format!("{place}: `{}`: name the thing", &found[1]));
                }
                continue;
            }
            if *kind == "names" {
                for (word, better) in &names {
                    for found in word.captures_iter(text) {
                        let begins_word = found[1].starts_with(char::is_uppercase)
                            || !found[0].starts_with(char::is_lowercase)
                            || found[0].starts_with(&found[1]);
                        if begins_word {
                            places.push(format!("{place}: `{}`: write {better}", &found[1]));
                        }
                    }
                }
                continue;
            }
            let text = quoted.replace_all(text, "``");
            let list = if kind.starts_with("phrases") {
                &phrases
            } else {
                &words
            };
            for (word, better) in list {
                for found in word.find_iter(&text) {
                    places.push(format!("{place}: `{}`: write {better}", found.as_str()));
                }
            }
        }
    }
    places
}

#[test]
fn words_are_those_of_the_field() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/plain_words.txt");
    let text = fs::read_to_string(&list).expect("the counts are there");
    let allowed: BTreeMap<&str, usize> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (kind, count) = line.rsplit_once(' ')?;
            Some((kind, count.parse().expect("a count is a number")))
        })
        .collect();
    let mut wrong = Vec::new();
    for (kind, places) in found(&texts()) {
        let allowed = allowed.get(kind).copied().unwrap_or_default();
        if places.len() > allowed {
            wrong.push(format!(
                "{kind}: {}, and {allowed} are allowed; among these:\n  {}",
                places.len(),
                places.join("\n  ")
            ));
        } else if places.len() < allowed {
            let now = places.len();
            wrong.push(format!(
                "{kind}: {now} are left: write that into plain_words.txt"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn forbidden_words_are_found_with_their_line() {
    let mut texts = Texts::default();
    let code = "//! What it answers.\n\n/// A response.\n// anew\nlet x = \"`anew` and anew\";\n\
        let encoded = is_answered(Some::Answer, \"answer\"); // told\nfn a_heirloom_is_decoded() {}\n\
        fn of(at: u8) { let at = is_found(\"let found\"); }\n";
    texts.rust(Path::new("src/a.rs"), code);
    texts.page(
        Path::new("docs/a.md"),
        "An answer.\n```\nanswer\n```\n`answer`\nOf those alone.\n",
    );
    let found = found(&texts);
    let lines = |kind: &str| {
        let places = found[kind].iter();
        places.map(|place| place.split(": ").next().unwrap().to_owned())
    };
    assert_eq!(
        lines("comments").collect::<Vec<_>>(),
        ["src/a.rs:1", "src/a.rs:4"]
    );
    assert_eq!(lines("first words").collect::<Vec<_>>(), ["src/a.rs:1"]);
    assert_eq!(lines("strings").collect::<Vec<_>>(), ["src/a.rs:5"]);
    let names = ["src/a.rs:6", "src/a.rs:6"];
    assert_eq!(lines("names").collect::<Vec<_>>(), names);
    assert_eq!(lines("docs").collect::<Vec<_>>(), ["docs/a.md:1"]);
    assert_eq!(
        lines("functions called of").collect::<Vec<_>>(),
        ["src/a.rs:8"]
    );
    assert_eq!(
        lines("locals called found").collect::<Vec<_>>(),
        ["src/a.rs:8"]
    );
    let phrases = ["docs/a.md:6", "docs/a.md:6"];
    assert_eq!(lines("phrases").collect::<Vec<_>>(), phrases);
}
