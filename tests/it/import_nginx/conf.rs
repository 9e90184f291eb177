//! Own reader of nginx's grammar, as far as the shapes need it: the requests are drawn from its
//! tree, and a difference has to be named at a line of it. It shares nothing with the importer.

use std::collections::BTreeMap;

/// Directive with its place; `block` is there if it has braces.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) words: Vec<String>,
    pub(super) block: Option<Vec<Self>>,
    /// Offset in the file just after the opening brace.
    opened: usize,
}

impl Directive {
    pub(super) fn name(&self) -> &str {
        &self.words[0]
    }

    pub(super) fn arguments(&self) -> &[String] {
        &self.words[1..]
    }

    pub(super) fn first(&self) -> &str {
        self.words.get(1).map_or("", String::as_str)
    }

    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    pub(super) fn children(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    /// Returns the directives of this name directly inside.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children()
            .iter()
            .filter(move |child| child.name() == name)
    }

    /// Calls `visit` for this directive and all inside, each with those around it.
    pub(super) fn walk<'a>(
        &'a self,
        around: &mut Vec<&'a Self>,
        visit: &mut impl FnMut(&'a Self, &[&'a Self]),
    ) {
        visit(self, around);
        around.push(self);
        for child in self.children() {
            child.walk(around, visit);
        }
        around.pop();
    }
}

/// Reads the main file of `files`, with what it includes.
pub(super) fn read(files: &BTreeMap<String, String>) -> Directive {
    Directive {
        file: String::new(),
        line: 0,
        words: vec!["main".to_owned()],
        block: Some(read_file("nginx.conf", files)),
        opened: 0,
    }
}

fn read_file(name: &str, files: &BTreeMap<String, String>) -> Vec<Directive> {
    let mut reader = Reader {
        file: name,
        text: &files[name],
        at: 0,
        line: 1,
        files,
    };
    reader.block()
}

/// Returns the files that a name stands for, in their order; `*` is any part of a name.
fn included<'f>(
    pattern: &str,
    files: &'f BTreeMap<String, String>,
) -> impl Iterator<Item = &'f String> {
    let parts = pattern.split_once('*');
    let pattern = pattern.to_owned();
    let parts = parts.map(|(before, after)| (before.to_owned(), after.to_owned()));
    files.keys().filter(move |name| match &parts {
        Some((before, after)) => {
            let rest = name.strip_prefix(&**before);
            let middle = rest.and_then(|rest| rest.strip_suffix(&**after));
            middle.is_some_and(|middle| !middle.contains('/'))
        }
        None => **name == pattern,
    })
}

/// Returns true for the name of files of a shape; others, such as lists of media types, are left out.
fn is_included(pattern: &str, files: &BTreeMap<String, String>) -> bool {
    included(pattern, files).next().is_some()
}

enum Token {
    Word(String),
    Open,
    Close,
    End,
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    at: usize,
    line: usize,
    files: &'a BTreeMap<String, String>,
}

impl Reader<'_> {
    fn block(&mut self) -> Vec<Directive> {
        let mut found = Vec::new();
        let mut words: Vec<String> = Vec::new();
        let mut line = 0;
        while let Some(token) = self.token() {
            match token {
                Token::Word(word) => {
                    if words.is_empty() {
                        line = self.line;
                    }
                    words.push(word);
                }
                Token::Close => break,
                Token::End if words[0] == "include" && is_included(&words[1], self.files) => {
                    for name in included(&words[1], self.files) {
                        found.extend(read_file(name, self.files));
                    }
                    words.clear();
                }
                Token::End | Token::Open => {
                    let opened = self.at;
                    let is_block = matches!(token, Token::Open);
                    let block = is_block.then(|| self.block());
                    found.push(Directive {
                        file: self.file.to_owned(),
                        line,
                        words: std::mem::take(&mut words),
                        block,
                        opened,
                    });
                }
            }
        }
        found
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        if next == '\n' {
            self.line += 1;
        }
        Some(next)
    }

    fn token(&mut self) -> Option<Token> {
        loop {
            match self.peek()? {
                '#' => while !matches!(self.next(), None | Some('\n')) {},
                space if space.is_whitespace() => {
                    self.next();
                }
                _ => break,
            }
        }
        match self.peek()? {
            '{' => self.next().map(|_| Token::Open),
            '}' => self.next().map(|_| Token::Close),
            ';' => self.next().map(|_| Token::End),
            quote @ ('"' | '\'') => {
                self.next();
                let mut word = String::new();
                while let Some(next) = self.next().filter(|next| *next != quote) {
                    match (next, self.peek()) {
                        ('\\', Some(escaped)) if escaped == quote || escaped == '\\' => {
                            word.extend(self.next());
                        }
                        _ => word.push(next),
                    }
                }
                Some(Token::Word(word))
            }
            _ => {
                let mut word = String::new();
                while let Some(next) = self.peek() {
                    let is_variable = next == '{' && word.ends_with('$');
                    if next.is_whitespace() || matches!(next, ';' | '{') && !is_variable {
                        break;
                    }
                    word.extend(self.next());
                    if next == '\\' || is_variable {
                        word.extend(self.next());
                    }
                }
                Some(Token::Word(word))
            }
        }
    }
}

/// Blocks that choose how a request is handled.
pub(super) const CHOOSING: [&str; 3] = ["server", "location", "if"];

/// Changes the files so that the variable `$place` lists the blocks that handled a request, and
/// the access log `places` records it. Lines stay where they are.
pub(super) fn with_places(
    files: &BTreeMap<String, String>,
    log: &str,
    temp: &str,
) -> BTreeMap<String, String> {
    let mut marks: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    let main = read(files);
    main.walk(&mut Vec::new(), &mut |directive, around| {
        let is_upstream = around.iter().any(|block| block.name() == "upstream");
        let text = match directive.name() {
            "http" => format!("{temp} {log}"),
            name if CHOOSING.contains(&name) && !is_upstream && !log.is_empty() => {
                format!(" set $place \"${{place}}|{}\";", directive.place())
            }
            _ => return,
        };
        let mark = (directive.opened, text);
        marks.entry(directive.file.clone()).or_default().push(mark);
    });
    let mut files = files.clone();
    for (name, mut marks) in marks {
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.0));
        marks.dedup();
        let text = files.get_mut(&name).expect("it was read");
        for (at, mark) in marks {
            text.insert_str(at, &mark);
        }
    }
    files
}

#[test]
fn directives_have_their_lines_and_words() {
    let text = "user www; # who; {\nhttp {\n  include a.conf;\n  map $a \"$b c\" { ~^/x\\;y 'it''s'; }\n\
        location ~ \"^/a{2}\" { return 200 ${x}; }\n}\n";
    let files = BTreeMap::from([
        ("nginx.conf".to_owned(), text.to_owned()),
        ("a.conf".to_owned(), "\ngzip on;\n".to_owned()),
    ]);
    let mut seen = Vec::new();
    read(&files).walk(&mut Vec::new(), &mut |directive, around| {
        let words = directive.words.join(",");
        seen.push(format!("{} {} {words}", around.len(), directive.place()));
    });
    let expected = [
        "0 :0 main",
        "1 nginx.conf:1 user,www",
        "1 nginx.conf:2 http",
        "2 a.conf:2 gzip,on",
        "2 nginx.conf:4 map,$a,$b c",
        "3 nginx.conf:4 ~^/x\\;y,it,s",
        "2 nginx.conf:5 location,~,^/a{2}",
        "3 nginx.conf:5 return,200,${x}",
    ];
    assert_eq!(seen, expected);
    let marked = with_places(&files, "L;", "T;");
    let main = &marked["nginx.conf"];
    assert!(main.contains("http {T; L;\n"), "{main}");
    let mark = "{ set $place \"${place}|nginx.conf:5\"; return";
    assert!(main.contains(mark), "{main}");
}
