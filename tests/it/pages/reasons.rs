//! Checks that `docs/reasons.md` has the words of the code, and no others.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::{
    read,
    rust_code::{Function, Source, Token, sources},
};

const PAGE: &str = "docs/reasons.md";

/// Headings of the page; the words below each come from another part of the code.
const REASONS: &str = "## Reasons";
const CACHE: &str = "## The cache";

/// Calls that take a reason, and the position of that argument; in one file where the name is a
/// common one. A function with a parameter `reason: &'static str` must be in this list.
const TAKE_A_REASON: [(&str, usize, &str); 17] = [
    ("Reply::refuse", 1, ""),
    ("ActionError::new", 1, ""),
    ("Self::new", 1, "crates/status/src/actions.rs"),
    ("live.refuse", 0, ""),
    ("self.turn_away", 1, "crates/proxy/src/edge/serve.rs"),
    ("refuse::ended", 2, ""),
    ("refuse::stream_refused", 2, ""),
    ("refuse::turned_away", 3, ""),
    ("LoopEnd::Failed", 0, "crates/proxy/src/edge/http2/mod.rs"),
    ("retry::record", 1, ""),
    ("record", 1, "crates/proxy/src/retry.rs"),
    ("degrade", 0, "crates/proxy/src/reply/error_page/mod.rs"),
    ("refused", 0, "crates/cache/src/budget/counts.rs"),
    ("Err", 0, "crates/proxy/src/edge/serve.rs"),
    ("refuse", 0, "crates/proxy/src/edge/serve.rs"),
    ("refuse", 0, "crates/filters/src/in_flight/mod.rs"),
    ("self.refuse", 2, "crates/filters/src/basic_auth/mod.rs"),
];

/// Functions that return reasons, by name. Those called `row` are of tables of a status, a reason and
/// a sentence.
const RETURN_A_REASON: [(&str, &str); 7] = [
    ("reason", ""),
    ("word", ""),
    (ROW, "crates/proxy/src/edge/head/problem.rs"),
    (ROW, "crates/proxy/src/error.rs"),
    (ROW, "crates/upstreams/src/operate.rs"),
    ("name", "crates/cache/src/store/metrics.rs"),
    (WORDS, "crates/filters/src/jwt/token.rs"),
];

/// Function of a table whose values have several parts, of which the second is the reason.
const ROW: &str = "row";
/// The same, of which the first is the reason.
const WORDS: &str = "words";

/// Functions of these names that return something else.
const NO_REASONS: [&str; 2] = [
    "crates/config/src/diagnostic/mod.rs",
    "crates/cache/src/tier/disk/health.rs",
];

/// Sources of the words of the cache.
const CACHE_RULES: [&str; 3] = [
    "crates/cache/src/policy/",
    "crates/cache/src/nextjs/",
    "crates/cache/src/route/",
];
/// Crates whose assignments to `reason` and `degraded` end up in the log.
const OF_REQUESTS: [&str; 7] = [
    "crates/core-filters/src/",
    "crates/filters/src/",
    "crates/gateway/src/",
    "crates/process/src/",
    "crates/proxy/src/",
    "crates/routes/src/",
    "crates/status/src/",
];
const CACHE_HOOKS: [&str; 2] = ["crates/proxy/src/cache/", "crates/gateway/src/recognise.rs"];

fn is_in(file: &str, places: &[&str]) -> bool {
    places.iter().any(|place| file.starts_with(place))
}

/// Words of the code, and the places that were not understood.
#[derive(Default)]
struct Words {
    reasons: BTreeSet<String>,
    cache: BTreeSet<String>,
    /// Places where it is not clear which words they use.
    unclear: Vec<String>,
}

/// Value of an expression.
enum Value {
    Words(Vec<String>),
    /// Value of a parameter, a field or a function whose own words are found elsewhere.
    Elsewhere,
    Unclear,
}

struct Reader {
    sources: Vec<Source>,
    constants: BTreeMap<String, BTreeMap<String, String>>,
    word: Regex,
}

impl Reader {
    fn new(sources: Vec<Source>) -> Self {
        let constants = sources
            .iter()
            .map(|source| (source.file.clone(), source.constants()))
            .collect();
        Self {
            sources,
            constants,
            word: Regex::new("^[a-zA-Z][a-z0-9_-]*$").expect("it is valid"),
        }
    }

    /// Returns the words in an expression: its texts, and those of its constants.
    fn words(&self, source: &Source, expression: &[Token]) -> Vec<String> {
        let constant = |name: &String| {
            let own = self.constants[&source.file].get(name);
            let mut all = self.constants.values().filter_map(|all| all.get(name));
            own.or_else(|| all.next()).cloned()
        };
        let found = expression.iter().filter_map(|token| match token {
            Token::Text(text) => Some(text.clone()),
            Token::Word(name) if name.len() > 1 && name.chars().all(|c| !c.is_lowercase()) => {
                constant(name)
            }
            _ => None,
        });
        found.collect()
    }

    /// Returns the words that a variable of a function may have.
    fn variable(&self, source: &Source, function: &Function, name: &str) -> Value {
        let parameters = &source.tokens[function.parameters.clone()];
        if parameters.iter().any(|token| token.is_word(name)) {
            return Value::Elsewhere;
        }
        let body = &source.tokens[function.body.clone()];
        let mut found = Vec::new();
        for (at, _) in body.iter().enumerate().filter(|(_, t)| t.is_word("let")) {
            let end = statement_end(body, at);
            let statement = &body[at..end];
            let is = statement.iter().position(|token| token.is_mark('='));
            if let Some(is) = is
                && statement[..is].iter().any(|token| token.is_word(name))
            {
                let words = self.words(source, &statement[is..]);
                // A sentence beside the reason is for the reader of the page.
                found.extend(words.into_iter().filter(|word| !word.contains(' ')));
            }
        }
        // A pattern such as `Err(reason) =>`: the words are those of the result.
        let between = |open, close| {
            let places = body.windows(3).enumerate().filter(move |(_, window)| {
                window[0].is_mark(open) && window[1].is_word(name) && window[2].is_mark(close)
            });
            places.map(|(at, _)| at + 2)
        };
        let is_closures = between('|', '|').next().is_some();
        let binds = between('(', ')').any(|close| {
            let behind = body[close..].iter().find(|token| !token.is_mark(')'));
            behind.is_some_and(|token| token.is_mark('='))
        });
        if !found.is_empty() {
            Value::Words(found)
        } else if binds || is_closures {
            Value::Elsewhere
        } else {
            Value::Unclear
        }
    }

    fn value(&self, source: &Source, functions: &[Function], at: std::ops::Range<usize>) -> Value {
        let expression = &source.tokens[at.clone()];
        let words = self.words(source, expression);
        if !words.is_empty() {
            return Value::Words(words);
        }
        let is_function = |name: &str| expression.iter().any(|token| token.is_word(name));
        if is_function("reason") && expression.len() > 1 || is_function("word") {
            return Value::Elsewhere;
        }
        let [Token::Word(name)] = expression else {
            return Value::Unclear;
        };
        let inside = |function: &&Function| function.body.contains(&at.start);
        match functions.iter().rfind(inside) {
            Some(function) => self.variable(source, function, name),
            None => Value::Unclear,
        }
    }

    /// Returns the positions of `Some(…)` assigned to one of these names.
    fn assigned(source: &Source, names: &[&str]) -> Vec<std::ops::Range<usize>> {
        let tokens = &source.tokens;
        let mut found = Vec::new();
        for at in 0..tokens.len().saturating_sub(4) {
            let is_name = names.iter().any(|name| tokens[at].is_word(name));
            let is_set = matches!(tokens[at + 1], Token::Mark('=' | ':'));
            if !is_name || !is_set {
                continue;
            }
            if tokens[at + 2].is_word("Some") && tokens[at + 3].is_mark('(') {
                found.push(at + 4..source.end(at + 3) - 1);
            } else if matches!(tokens[at + 2], Token::Text(_)) && tokens[at + 1].is_mark(':') {
                found.push(at + 2..at + 3);
            }
        }
        found
    }

    fn all(&self) -> Words {
        let mut words = Words::default();
        for source in &self.sources {
            let functions = source.functions();
            if is_in(&source.file, &CACHE_RULES) || is_in(&source.file, &CACHE_HOOKS) {
                self.cache_words(source, &functions, &mut words);
            }
            if !is_in(&source.file, &CACHE_RULES) {
                self.reasons(source, &functions, &mut words);
            }
            if source.file == "crates/core/src/chain/cached.rs" {
                for table in tables(source, "name") {
                    words.cache.extend(self.words(source, &table));
                }
            }
        }
        words
    }

    fn reasons(&self, source: &Source, functions: &[Function], words: &mut Words) {
        let is_here = |file: &str| file.is_empty() || file == source.file;
        for (name, file) in RETURN_A_REASON {
            let are = functions.iter().filter(|it| it.name == name);
            for function in are.filter(|it| is_static(source, it)) {
                if is_here(file) && !is_in(&source.file, &NO_REASONS) {
                    let body = &source.tokens[function.body.clone()];
                    words.reasons.extend(self.words(source, body));
                }
            }
            for table in tables(source, name) {
                if is_here(file) && !is_in(&source.file, &NO_REASONS) {
                    words.reasons.extend(self.words(source, &table));
                }
            }
        }
        let mut values = Vec::new();
        for (path, index, file) in TAKE_A_REASON {
            if is_here(file) {
                for arguments in source.calls(path) {
                    values.extend(arguments.get(index).cloned());
                }
            }
        }
        // Labels of a metric that `metric_handles!` declares.
        for label in source.tokens.windows(5) {
            let [open, name, colon, value, close] = label else {
                continue;
            };
            if open.is_mark('{')
                && name.is_word("reason")
                && colon.is_mark(':')
                && close.is_mark('}')
            {
                words
                    .reasons
                    .extend(self.words(source, std::slice::from_ref(value)));
            }
        }
        if is_in(&source.file, &OF_REQUESTS) {
            values.extend(Self::assigned(source, &["reason", "degraded"]));
        }
        for at in values {
            match self.value(source, functions, at.clone()) {
                Value::Words(found) => words.reasons.extend(found),
                Value::Elsewhere => {}
                Value::Unclear => words.unclear.push(place(source, at)),
            }
        }
        for function in functions {
            let parameters = source.tokens[function.parameters.clone()].windows(5);
            let takes = parameters.into_iter().any(|window| {
                window[0].is_word("reason")
                    && window[1].is_mark(':')
                    && window[2].is_mark('&')
                    && window[4].is_word("str")
            });
            let is_known = TAKE_A_REASON.iter().any(|(path, _, file)| {
                let last = path.rsplit([':', '.']).next();
                is_here(file) && last == Some(&function.name)
            });
            if takes && !is_known {
                let message = "takes a reason: add it to TAKE_A_REASON";
                let unclear = format!("{}: `{}` {message}", source.file, function.name);
                words.unclear.push(unclear);
            }
        }
    }

    fn cache_words(&self, source: &Source, functions: &[Function], words: &mut Words) {
        let mut values = Vec::new();
        let is_hook = is_in(&source.file, &CACHE_HOOKS);
        if is_hook {
            values.extend(Self::assigned(source, &["why"]));
            for path in [".why", "bypass"] {
                values.extend(source.calls(path).into_iter().flatten());
            }
        }
        for function in functions.iter().filter(|it| is_static(source, it)) {
            if matches!(&*function.name, "reason" | "word") {
                let body = &source.tokens[function.body.clone()];
                words.cache.extend(self.words(source, body));
                continue;
            }
            let returns = &source.tokens[function.returns.clone()];
            if returns.iter().any(|token| token.is_word("Result")) {
                let errors = ["Err", ".ok_or"]
                    .into_iter()
                    .flat_map(|it| source.calls(it));
                let inside = errors.flatten();
                values.extend(inside.filter(|at| function.body.contains(&at.start)));
            }
        }
        for table in ["reason", "word"].map(|name| tables(source, name)).concat() {
            words.cache.extend(self.words(source, &table));
        }
        for function in functions.iter().filter(|it| it.name == "shape") {
            let some = ["Some", ".then_some"].into_iter();
            let inside = some.flat_map(|it| source.calls(it)).flatten();
            let texts = inside.filter(|at| {
                let is_text = matches!(source.tokens[at.clone()], [Token::Text(_)]);
                is_text && function.body.contains(&at.start)
            });
            values.extend(texts);
        }
        for at in values {
            match self.value(source, functions, at.clone()) {
                Value::Words(found) => words.cache.extend(found),
                Value::Elsewhere => {}
                Value::Unclear => words.unclear.push(place(source, at)),
            }
        }
    }

    /// Returns the words that are no tokens of a structured field (RFC 9651, 3.3.4).
    fn invalid<'w>(&self, words: &'w BTreeSet<String>) -> Vec<&'w String> {
        let is_valid = |word: &&String| self.word.is_match(word) || is_capital(word);
        words.iter().filter(|word| !is_valid(word)).collect()
    }
}

fn is_capital(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_uppercase())
}

/// Returns true if a function returns texts that are part of the program.
fn is_static(source: &Source, function: &Function) -> bool {
    let returns = &source.tokens[function.returns.clone()];
    returns.iter().any(|token| token.is_word("'static"))
}

/// Returns the position behind the semicolon that ends a statement.
fn statement_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(')' | ']' | '}') => depth -= 1,
            Token::Mark(';') if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Returns the values of each `enum_table!` whose function has this name: of rows the reasons.
fn tables(source: &Source, function: &str) -> Vec<Vec<Token>> {
    let tokens = &source.tokens;
    let is_table = |at: &usize| {
        tokens[*at].is_word("enum")
            && tokens[*at + 2].is_mark('=')
            && tokens[*at + 3].is_mark('>')
            && tokens[*at + 4].is_word(function)
    };
    let starts = (0..tokens.len().saturating_sub(5)).filter(is_table);
    let bodies = starts.filter_map(|at| {
        let open = (at..tokens.len()).find(|at| tokens[*at].is_mark('{'))?;
        Some(&tokens[open..source.end(open)])
    });
    // A row has a status, then the reason; words are a reason and a text.
    let offset = match function {
        ROW => 4,
        WORDS => 2,
        _ => 1,
    };
    let reasons = bodies.map(|body| {
        let values = (0..body.len()).filter(|at| body[*at].is_mark('='));
        values
            .filter_map(|at| body.get(at + offset).cloned())
            .collect()
    });
    reasons.collect()
}

fn place(source: &Source, at: std::ops::Range<usize>) -> String {
    let start = at.start.saturating_sub(6);
    format!("{}: {:?}", source.file, &source.tokens[start..at.end])
}

/// Returns the words in the first column of the tables below a heading of the page.
fn listed(page: &str, heading: &str) -> BTreeSet<String> {
    let below = page.split(&format!("\n{heading}\n")).nth(1);
    let part = below.unwrap_or_else(|| panic!("{PAGE} has no `{heading}`"));
    let part = part.split("\n## ").next().unwrap_or(part);
    let rows = part.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// Returns the differences between the words of the code and those of a part of the page.
fn differences(code: &BTreeSet<String>, page: &BTreeSet<String>) -> Vec<String> {
    let missing = code
        .difference(page)
        .map(|it| format!("not on the page: {it}"));
    let gone = page
        .difference(code)
        .map(|it| format!("not in the code: {it}"));
    missing.chain(gone).collect()
}

#[test]
fn every_reason_of_the_code_is_on_the_page_and_no_other() {
    let words = Reader::new(sources()).all();
    assert!(words.unclear.is_empty(), "{:#?}", words.unclear);
    let page = read(PAGE);
    let mut wrong = differences(&words.reasons, &listed(&page, REASONS));
    wrong.extend(differences(&words.cache, &listed(&page, CACHE)));
    assert!(wrong.is_empty(), "{PAGE}: {wrong:#?}");
    assert!(words.reasons.len() > 120, "{}", words.reasons.len());
    assert!(words.cache.len() > 40, "{}", words.cache.len());
}

/// A word with a space would make `Cache-Status` unreadable for other programs.
#[test]
fn words_are_tokens_of_structured_fields() {
    let reader = Reader::new(sources());
    let words = reader.all();
    assert_eq!(reader.invalid(&words.reasons), [""; 0]);
    assert_eq!(reader.invalid(&words.cache), [""; 0]);
}

#[test]
fn a_word_that_the_page_lacks_is_found_wherever_it_is_written() {
    let check = |file: &str, code: &str| {
        let source = Source::new(file.to_owned(), code);
        let words = Reader::new(vec![source]).all();
        let cache = words.cache.into_iter().map(|it| format!("cache {it}"));
        let unclear = words.unclear.into_iter().map(|_| "unclear".to_owned());
        let all: Vec<String> = words
            .reasons
            .into_iter()
            .chain(cache)
            .chain(unclear)
            .collect();
        all.join(" ")
    };
    let of_filter = |code: &str| check("crates/filters/src/new/mod.rs", code);
    let calls = "const OLD: &str = \"old\";\nfn a() { Reply::refuse(b(1, 2), \"new\"); \
        ActionError::new(x, OLD); }";
    assert_eq!(of_filter(calls), "new old");
    let chosen = "fn a() { let (b, reason) = if c { (1, \"one\") } else { (2, \"two\") };\n\
        Reply::refuse(b, reason).detail(\"A text.\") }";
    assert_eq!(of_filter(chosen), "one two");
    let set = "fn a() { reply.reason = Some(\"set\"); ex.facts.degraded = Some(b); }";
    assert_eq!(of_filter(set), "set unclear");
    let word = "impl A { fn reason(self) -> &'static str { match self { A::B => \"b\" } } }";
    assert_eq!(of_filter(word), "b");
    let table = "enum_table! { enum A => word { B = \"b\", /// C.\n C = \"c\", } }";
    assert_eq!(of_filter(table), "b c");
    let rows =
        "enum_table! { enum A => row: (u16, &'static str) { B = (400, \"b\", \"A text.\"), } }";
    assert_eq!(check("crates/proxy/src/error.rs", rows), "b");
    assert_eq!(of_filter("fn a() { Reply::refuse(b, c) }"), "unclear");
    let passes = "fn late(reason: &'static str) { Reply::refuse(b, reason); }";
    assert_eq!(of_filter(passes), "unclear");
    let in_tests = "#[cfg(test)]\nmod tests { fn a() { Reply::refuse(b, \"c\") } }";
    assert_eq!(of_filter(in_tests), "");
    assert_eq!(of_filter("// Reply::refuse(b, \"c\")\n"), "");

    let hook = "fn a() -> Result<u8, &'static str> { if b { return Err(\"c\"); }\n\
        d.ok_or(\"e\")?; f(X.why(\"g\")) }";
    assert_eq!(
        check("crates/proxy/src/cache/new.rs", hook),
        "cache c cache e cache g"
    );
    let rules = "fn by(x: &X) -> Result<(), &'static str> { match x { Y => Err(\"z\") } }";
    assert_eq!(check("crates/cache/src/nextjs/new.rs", rules), "cache z");
}

#[test]
fn words_of_the_page_are_those_of_the_first_column_below_a_heading() {
    let page = "\n## Reasons\n\n| a | b |\n| `one`, `two` | `three` |\n\n### more\n| `four` |\n\n\
        ## The cache\n\n| `five` |\n";
    let reasons: Vec<_> = listed(page, REASONS).into_iter().collect();
    assert_eq!(reasons, ["four", "one", "two"]);
    assert_eq!(listed(page, CACHE).len(), 1);
    let code = BTreeSet::from(["one".to_owned(), "new".to_owned()]);
    let page = BTreeSet::from(["one".to_owned(), "old".to_owned()]);
    assert_eq!(
        differences(&code, &page),
        ["not on the page: new", "not in the code: old"]
    );
}
