//! The grammar of nginx: directives with their arguments and blocks, each with its file and line.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{directives::is_listed, report::Fates};

/// Directives that name a file relative to the folder of the configuration, not to nginx' prefix.
const BESIDE: &str = "files beside the configuration";

/// Depth of files that include each other, as a guard against circles.
const MAX_DEPTH: usize = 16;
/// Blocks within each other: each takes some of the stack.
const MAX_BLOCKS: usize = 64;

/// Maximum number of files, as a guard against patterns that match a whole disk.
const MAX_FILES: usize = 2_000;

/// A directive as written.
#[derive(Debug)]
pub(super) struct Directive {
    /// Number in the order of reading; no other directive has it.
    pub(super) id: usize,
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) file: Rc<str>,
    pub(super) line: usize,
    /// Directives of its block, if it has one.
    pub(super) block: Option<Vec<Directive>>,
    pub(super) fates: Rc<RefCell<Fates>>,
}

impl Directive {
    /// Returns an argument, or an empty text.
    pub(super) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    pub(super) fn children(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    /// Returns true for a directive with a single argument `on`.
    pub(super) fn is_on(&self) -> bool {
        self.args == ["on"]
    }

    /// Returns file and line.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// A configuration with everything that it includes.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) directives: Vec<Directive>,
    /// Includes that could not be read, with the reason.
    pub(super) missing: Vec<(usize, String)>,
    pub(super) fates: Rc<RefCell<Fates>>,
}

/// Reads a file and what it includes.
///
/// # Errors
/// Returns a message with file and line.
pub(super) fn read(path: &Path) -> Result<Source, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let root = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut reader = Reader {
        root,
        ..Reader::default()
    };
    let directives = reader.text(&text, &path.display().to_string(), 0)?;
    Ok(Source {
        directives,
        missing: reader.missing,
        fates: reader.fates,
    })
}

#[derive(Default)]
struct Reader {
    /// Folder of the first file: relative names of includes begin there.
    root: PathBuf,
    next_id: usize,
    /// Number of files that were included.
    files: usize,
    missing: Vec<(usize, String)>,
    fates: Rc<RefCell<Fates>>,
}

impl Reader {
    fn text(&mut self, text: &str, file: &str, depth: usize) -> Result<Vec<Directive>, String> {
        let mut tokens = Tokens::new(text, file);
        let list = self.block(&mut tokens, depth, 0)?;
        Ok(list)
    }

    /// Reads directives up to the end of the file, or of the block within `outer` others.
    fn block(
        &mut self,
        tokens: &mut Tokens<'_>,
        depth: usize,
        outer: usize,
    ) -> Result<Vec<Directive>, String> {
        let is_inner = outer > 0;
        let mut list = Vec::new();
        loop {
            let mut words = Vec::new();
            let (line, end) = loop {
                let (line, token) = tokens.next()?;
                match token {
                    Token::Word(word) => {
                        if words.is_empty() {
                            tokens.begin = line;
                        }
                        words.push(word);
                    }
                    end => break (if words.is_empty() { line } else { tokens.begin }, end),
                }
            };
            match (words.is_empty(), &end) {
                (true, Token::Close) if is_inner => return Ok(list),
                (true, Token::End) if !is_inner => return Ok(list),
                (true, Token::End) => return Err(tokens.error(line, "a block has no `}`")),
                (false, Token::Semicolon | Token::Open) => {}
                (true, _) => return Err(tokens.error(line, "a directive has no name")),
                (false, _) => {
                    let message = format!("`{}` does not end in `;`", words[0]);
                    return Err(tokens.error(line, &message));
                }
            }
            let name = words.remove(0);
            if let Some(file) = words.first_mut().filter(|_| is_listed(BESIDE, &name)) {
                *file = self.beside(file);
            }
            let id = self.next_id;
            self.next_id += 1;
            let block = match end {
                Token::Open if name.ends_with("_by_lua_block") => {
                    tokens.skip_code()?;
                    Some(Vec::new())
                }
                Token::Open if outer == MAX_BLOCKS => {
                    return Err(tokens.error(line, "blocks are nested more than 64 deep"));
                }
                Token::Open => Some(self.block(tokens, depth, outer + 1)?),
                _ => None,
            };
            let directive = Directive {
                id,
                name,
                args: words,
                file: Rc::clone(&tokens.file),
                line,
                block,
                fates: Rc::clone(&self.fates),
            };
            let included = if directive.name == "include" {
                self.include(&directive, depth)?
            } else {
                Vec::new()
            };
            list.push(directive);
            list.extend(included);
        }
    }

    /// Returns the path of a file that is named relative to the first file.
    fn beside(&self, file: &str) -> String {
        let is_path = !file.contains('$') && !file.contains(':');
        let path = std::path::absolute(self.root.join(file)).ok();
        let path = path.filter(|_| is_path);
        path.map_or_else(|| file.to_owned(), |path| path.display().to_string())
    }

    /// Reads the files of an `include`.
    fn include(&mut self, directive: &Directive, depth: usize) -> Result<Vec<Directive>, String> {
        if depth >= MAX_DEPTH {
            return Err(format!("{}: files include each other", directive.place()));
        }
        let pattern = self.root.join(directive.arg(0));
        let mut pattern = pattern.to_string_lossy().into_owned();
        // As in C, where two stars match no more than one.
        while pattern.contains("**") {
            pattern = pattern.replace("**", "*");
        }
        let included: Vec<PathBuf> = match glob::glob(&pattern) {
            Ok(paths) => paths.filter_map(Result::ok).take(MAX_FILES + 1).collect(),
            Err(error) => return Err(format!("{}: {error}", directive.place())),
        };
        self.files += included.len();
        if self.files > MAX_FILES {
            let place = directive.place();
            return Err(format!(
                "{place}: more than {MAX_FILES} files are included; name the folder that has them"
            ));
        }
        if included.is_empty() && !pattern.contains(['*', '?', '[']) {
            let why = format!("`{}` is not there", directive.arg(0));
            self.missing.push((directive.id, why));
        }
        let mut all = Vec::new();
        for path in included {
            match fs::read_to_string(&path) {
                Ok(text) => all.extend(self.text(&text, &path.display().to_string(), depth + 1)?),
                Err(error) => {
                    let why = format!("`{}` cannot be read: {error}", path.display());
                    self.missing.push((directive.id, why));
                }
            }
        }
        Ok(all)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Semicolon,
    Open,
    Close,
    End,
}

struct Tokens<'t> {
    file: Rc<str>,
    text: &'t [u8],
    at: usize,
    line: usize,
    /// Line of the first word of the directive that is being read.
    begin: usize,
}

impl<'t> Tokens<'t> {
    fn new(text: &'t str, file: &str) -> Self {
        Self {
            file: file.into(),
            text: text.as_bytes(),
            at: 0,
            line: 1,
            begin: 1,
        }
    }

    fn error(&self, line: usize, message: &str) -> String {
        format!("{}:{line}: {message}", self.file)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    fn next(&mut self) -> Result<(usize, Token), String> {
        loop {
            let Some(byte) = self.peek() else {
                return Ok((self.line, Token::End));
            };
            let line = self.line;
            let single = match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {
                    self.take();
                    continue;
                }
                b'#' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.take();
                    }
                    continue;
                }
                b';' => Token::Semicolon,
                b'{' => Token::Open,
                b'}' => Token::Close,
                b'"' | b'\'' => return Ok((line, Token::Word(self.quoted(byte)?))),
                _ => return Ok((line, Token::Word(self.word()))),
            };
            self.take();
            return Ok((line, single));
        }
    }

    fn quoted(&mut self, quote: u8) -> Result<String, String> {
        let line = self.line;
        self.take();
        let mut word = Vec::new();
        loop {
            match self.take() {
                None => return Err(self.error(line, "a quoted text has no end")),
                Some(b'\\') => self.escape(&mut word),
                Some(byte) if byte == quote => break,
                Some(byte) => word.push(byte),
            }
        }
        match self.peek() {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b')') => {}
            Some(_) => return Err(self.error(self.line, "a space is missing behind a quote")),
        }
        Ok(String::from_utf8_lossy(&word).into_owned())
    }

    fn word(&mut self) -> String {
        let mut word = Vec::new();
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' => break,
                b'{' if word.last() != Some(&b'$') => break,
                b'\\' => {
                    self.take();
                    self.escape(&mut word);
                }
                _ => {
                    self.take();
                    word.push(byte);
                }
            }
        }
        String::from_utf8_lossy(&word).into_owned()
    }

    /// Reads the byte after a backslash, as nginx does: most escapes stay for regular expressions.
    fn escape(&mut self, word: &mut Vec<u8>) {
        match self.take() {
            Some(byte @ (b'"' | b'\'' | b'\\')) => word.push(byte),
            Some(b't') => word.push(b'\t'),
            Some(b'r') => word.push(b'\r'),
            Some(b'n') => word.push(b'\n'),
            Some(byte) => word.extend([b'\\', byte]),
            None => word.push(b'\\'),
        }
    }

    /// Skips a block of another language, up to its closing brace.
    fn skip_code(&mut self) -> Result<(), String> {
        let line = self.line;
        let mut depth = 1;
        while depth > 0 {
            match self.take() {
                None => return Err(self.error(line, "a block of code has no end")),
                Some(b'{') => depth += 1,
                Some(b'}') => depth -= 1,
                Some(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Directive>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, text).unwrap();
        let prefix = format!("{}/", folder.path().display());
        read(&path)
            .map(|source| source.directives)
            .map_err(|error| error.replace(&prefix, ""))
    }

    #[test]
    fn words_are_those_of_nginx() {
        for (text, words) in [
            ("a b c;", &["b", "c"][..]),
            ("a \"b c\" 'd\"e';", &["b c", "d\"e"]),
            ("a ~ \\.php$;", &["~", "\\.php$"]),
            ("a \"\\.php$\" \"x\\\"y\";", &["\\.php$", "x\"y"]),
            ("a ${b}c d#e;", &["${b}c", "d#e"]),
            ("a # comment ; {\n  b;", &["b"]),
            ("a b\\ c;", &["b\\ c"]),
        ] {
            let list = parsed(text).unwrap();
            assert_eq!(list.len(), 1, "{text}");
            assert_eq!(list[0].args, words, "{text}");
        }
    }

    #[test]
    fn blocks_and_lines() {
        let list = parsed("http {\n  server {\n    listen\n 80;\n  }\n}\nuser x;").unwrap();
        let server = &list[0].children()[0];
        assert_eq!((server.line, server.children()[0].line), (2, 3));
        assert_eq!((list[1].name.as_str(), list[1].line), ("user", 7));
        let lua = parsed("a { content_by_lua_block { if x then { y } end } }").unwrap();
        assert_eq!(lua[0].children().len(), 1);
    }

    #[test]
    fn a_pattern_matches_as_in_c_and_not_a_whole_disk() {
        let folder = tempfile::tempdir().unwrap();
        let file = |path: &str| folder.path().join(path);
        fs::create_dir_all(file("a/b")).unwrap();
        fs::write(file("a/one.conf"), "one;").unwrap();
        fs::write(file("a/b/two.conf"), "two;").unwrap();
        let read_with = |pattern: &str| {
            fs::write(file("nginx.conf"), format!("include {pattern};")).unwrap();
            read(&file("nginx.conf"))
        };
        let names = |source: Source| -> Vec<String> {
            let all = source.directives.into_iter().skip(1);
            all.map(|one| one.name).collect()
        };
        assert_eq!(names(read_with("**/*.conf").unwrap()), ["one"]);
        for number in 0..=MAX_FILES {
            fs::write(file(&format!("a/{number}.conf")), "x;").unwrap();
        }
        let error = read_with("a/*.conf").unwrap_err();
        assert!(error.contains("more than 2000 files"), "{error}");
    }

    #[test]
    fn errors_name_the_line() {
        for (text, error) in [
            ("a {\n b;", "nginx.conf:2: a block has no `}`"),
            ("a\nb", "nginx.conf:1: `a` does not end in `;`"),
            ("a;\n}", "nginx.conf:2: a directive has no name"),
            (
                &"a {".repeat(20_000),
                "nginx.conf:1: blocks are nested more than 64 deep",
            ),
            ("a \"b", "nginx.conf:1: a quoted text has no end"),
            (
                "a \"b\"c;",
                "nginx.conf:1: a space is missing behind a quote",
            ),
        ] {
            assert_eq!(parsed(text).unwrap_err(), error, "{text}");
        }
    }
}
