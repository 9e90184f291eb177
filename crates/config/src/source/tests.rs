//! Tests of files, includes and the environment.

use std::{collections::BTreeMap, fs, os::unix::net::UnixListener};

use tempfile::TempDir;

use super::*;
use crate::{
    base::secret::TextOrFile,
    diagnostic::{Severity, Style},
    tree::{Spanned, read},
};

/// A folder with files in it.
struct Folder(TempDir);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn load(&self) -> (Sources, Option<Node>, Diagnostics) {
        let path = self.0.path().join("main.yaml");
        Loader::new(&path, &pretended).main(|loader| loader.file(&path, None))
    }

    /// Loads the tree as JSON-like text, and expects no problems.
    fn tree(&self) -> String {
        let (sources, node, diagnostics) = self.load();
        assert_eq!(diagnostics.render(&sources, Style::Lines), "");
        shown(&node.unwrap())
    }

    /// Returns each problem as a line, without the folder's own path.
    fn problems(&self) -> Vec<String> {
        let (sources, _, diagnostics) = self.load();
        let folder = format!("{}/", self.0.path().display());
        let lines = diagnostics.render(&sources, Style::Lines);
        lines
            .replace(&folder, "")
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

fn pretended(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8080".to_owned()),
        "EMPTY" => Some(String::new()),
        "NAME" => Some("${PORT}".to_owned()),
        _ => None,
    }
}

fn shown(node: &Node) -> String {
    let list = |parts: Vec<String>| parts.join(", ");
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::List(items) => format!("[{}]", list(items.iter().map(shown).collect())),
        Value::Map(entries) => format!(
            "{{{}}}",
            list(
                entries
                    .iter()
                    .map(|(k, n)| format!("{}: {}", k.name, shown(n)))
                    .collect()
            )
        ),
    }
}

fn expanded(text: &str) -> String {
    Folder::with(&[("main.yaml", text)]).tree()
}

#[test]
fn variables_stand_anywhere_in_a_scalar_and_are_typed_afterwards() {
    for (written, read) in [
        ("${PORT}", "8080"),
        ("\"${PORT}\"", "\"8080\""),
        ("127.0.0.1:${PORT}", "\"127.0.0.1:8080\""),
        ("${PORT}${PORT}", "80808080"),
        ("${MISSING:-7}", "7"),
        ("${MISSING:-a:-b}", "\"a:-b\""),
        ("${MISSING:-}", "null"),
        ("${EMPTY:-x}", "\"x\""),
        ("'${EMPTY}'", "\"\""),
        ("${NAME}", "\"${PORT}\""),
        ("$${PORT}", "\"${PORT}\""),
        ("a$${PORT}b${PORT}", "\"a${PORT}b8080\""),
        ("$PORT", "\"$PORT\""),
        ("^/old/(.*)$", "\"^/old/(.*)$\""),
        ("/new/$1/${1}", "\"/new/$1/${1}\""),
        (
            "[\"${PORT}\", { a: \"${PORT}\" }]",
            "[\"8080\", {a: \"8080\"}]",
        ),
    ] {
        assert_eq!(
            expanded(&format!("k: {written}\n")),
            format!("{{k: {read}}}"),
            "{written}"
        );
    }
}

#[test]
fn keys_are_never_expanded() {
    assert_eq!(expanded("\"${PORT}\": 1\n"), "{${PORT}: 1}");
}

#[test]
fn a_variable_that_is_not_set_is_reported_at_its_own_place() {
    let text = "a: ü-${NOPE}-${PORT}\nb: \"${ALSO-NOT}\"\nc: ${\nd: '${}'\n";
    assert_eq!(
        Folder::with(&[("main.yaml", text)]).problems(),
        [
            "main.yaml:1:6: error: the environment variable `NOPE` is not set; help: set it, or write `${NOPE:-default}`; write `$${` for a literal `${`",
            "main.yaml:2:5: error: invalid variable name `ALSO-NOT`; help: write `${NAME}` or `${NAME:-default}`; write `$${` for a literal `${`",
            "main.yaml:3:4: error: `${` has no `}`; help: write `${NAME}`, or `$${` for a literal `${`",
            "main.yaml:4:5: error: invalid variable name ``; help: write `${NAME}` or `${NAME:-default}`; write `$${` for a literal `${`",
        ]
    );
}

/// Invariant: only a secret is a path; any other text is what the file says.
#[test]
fn secret_files_start_from_the_main_file() {
    let folder = Folder::with(&[
        (
            "main.yaml",
            "include: sub/a.yaml\na: file:keys/one\nb: file:/etc/two\nc: 'file: no path'\n",
        ),
        ("sub/a.yaml", "d: \"file:${PORT}/three\"\n"),
    ]);
    let (_, node, _) = folder.load();
    let (node, mut diagnostics) = (node.unwrap(), Diagnostics::default());
    let secrets: BTreeMap<String, Spanned<TextOrFile>> = read(&node, &mut diagnostics).unwrap();
    let root = std::path::absolute(folder.0.path()).unwrap();
    let (one, three) = (root.join("keys/one"), root.join("8080/three"));
    let read_as = |key: &str| secrets[key].value.0.clone();
    assert_eq!(read_as("a"), format!("file:{}", one.display()));
    assert_eq!(read_as("b"), "file:/etc/two");
    assert_eq!(read_as("c"), "file: no path");
    assert_eq!(read_as("d"), format!("file:{}", three.display()));
    let texts: BTreeMap<String, String> = read(&node, &mut diagnostics).unwrap();
    assert_eq!(texts["a"], "file:keys/one");
    assert_eq!(texts["d"], "file:8080/three");
}

#[test]
fn includes_add_lists_and_mappings_in_the_order_of_names() {
    let folder = Folder::with(&[
        (
            "main.yaml",
            "include: [routes.d/*.yaml, more.yaml]\nroutes: [1]\nupstreams: { a: 1 }\ndefaults:\n",
        ),
        ("routes.d/2.yaml", "routes: [3]\n"),
        ("routes.d/1.yaml", "routes: [2]\nupstreams: { b: 2 }\n"),
        ("routes.d/.hidden.yaml", "routes: [hidden]\n"),
        ("routes.d/folder.yaml/x", ""),
        (
            "more.yaml",
            "defaults: { c: 3 }\ninclude: deep/more.yaml\nadmin:\n",
        ),
        ("deep/more.yaml", "include: other.yaml\n"),
        ("deep/other.yaml", "routes: [4]\n"),
    ]);
    assert_eq!(
        folder.tree(),
        "{routes: [1, 2, 3, 4], upstreams: {a: 1, b: 2}, defaults: {c: 3}, admin: null}"
    );
}

#[test]
fn a_variable_of_an_included_file_keeps_its_type_where_the_main_file_has_an_empty_key() {
    let folder = Folder::with(&[
        ("main.yaml", "include: a.yaml\nwatch:\n"),
        ("a.yaml", "watch: \"${MISSING:-true}\"\n"),
    ]);
    let (sources, node, mut diagnostics) = folder.load();
    let node = node.unwrap();
    let watch: Option<bool> = read(node.get("watch").unwrap(), &mut diagnostics);
    let problems = diagnostics.render(&sources, Style::Lines);
    assert_eq!((watch, problems.as_str()), (Some(true), ""));
}

#[test]
fn places_name_the_included_file() {
    let folder = Folder::with(&[
        ("main.yaml", "include: a.yaml\n"),
        ("a.yaml", "# a\nroutes: [x]\n"),
    ]);
    let (sources, node, _) = folder.load();
    let node = node.unwrap();
    let at = sources.locate(node.get("routes").unwrap().place);
    assert!(at.file.ends_with("/a.yaml"), "{at:?}");
    assert_eq!((at.line, at.column), (2, 9));
    assert_eq!(sources.folder(), folder.0.path());
}

#[test]
fn the_same_key_in_two_files_is_an_error_that_names_both() {
    let folder = Folder::with(&[
        (
            "main.yaml",
            "include: '*.d/*.yaml'\nupstreams: { web: 1 }\naccess_log: off\n",
        ),
        (
            "a.d/a.yaml",
            "upstreams: { web: 2 }\naccess_log: off\nroutes: [1]\n",
        ),
        ("b.d/b.yaml", "routes: { a: 1 }\n"),
    ]);
    let (sources, _, diagnostics) = folder.load();
    let both = |d: &Diagnostic| {
        let first = sources.locate(d.related[0].0);
        let second = sources.locate(d.place);
        let name = |file: &str| file.rsplit('/').next().unwrap_or_default().to_owned();
        format!(
            "{} {}:{} {}:{}",
            d.message,
            name(&first.file),
            first.line,
            name(&second.file),
            second.line
        )
    };
    assert_eq!(
        diagnostics.list().iter().map(both).collect::<Vec<_>>(),
        [
            "`web` is written in two files main.yaml:2 a.yaml:1",
            "`access_log` is written in two files main.yaml:3 a.yaml:2",
            "`routes` is written in two files a.yaml:3 b.yaml:1",
        ]
    );
}

#[test]
fn invalid_includes_are_reported() {
    for (include, expected) in [
        (
            "none.yaml",
            "main.yaml:1:10: error: cannot read `none.yaml`: no such file; help: check the path; `include` starts from the folder of its file",
        ),
        (
            "sub",
            "main.yaml:1:10: error: cannot read `sub`: it is a folder, not a file; help: name a file in it, or `FOLDER/*.yaml` in `include`",
        ),
        (
            "socket",
            "main.yaml:1:10: error: cannot read `socket`: it is no regular file; help: name a file with the text",
        ),
        (
            "main.yaml",
            "main.yaml:1:10: error: `main.yaml` includes itself; help: keep included files in a folder of their own, such as `routes.d/*.yaml`",
        ),
        (
            "sub/back.yaml",
            "sub/back.yaml:1:10: error: `sub/../main.yaml` includes itself; help: keep included files in a folder of their own, such as `routes.d/*.yaml`",
        ),
        (
            "[sub/ok.yaml, sub/ok.yaml]",
            "main.yaml:1:24: error: `sub/ok.yaml` is included twice; help: include it once",
        ),
        (
            "sub/list.yaml",
            "sub/list.yaml:1:1: error: an included file must be a mapping, found a list; help: begin it with a key such as `routes:`",
        ),
        (
            "sub/latin1.yaml",
            "sub/latin1.yaml:1:4: error: cannot read `sub/latin1.yaml`: it is not UTF-8; help: save the file as UTF-8",
        ),
        (
            "{ a: 1 }",
            "main.yaml:1:10: error: expected a path or a list of paths, found a mapping; help: write `include: routes.d/*.yaml`",
        ),
        (
            "'a[.yaml'",
            "main.yaml:1:10: error: invalid pattern `a[.yaml`: invalid range pattern; help: use `*` for a part of a name, `**` for any folders, `?` for one character",
        ),
        (
            "sub/broken.yaml",
            "sub/broken.yaml:1:4: error: this `[` is never closed; help: add a `]`; text that contains brackets needs quotes",
        ),
    ] {
        let folder = Folder::with(&[
            ("main.yaml", &format!("include: {include}\n")),
            ("sub/back.yaml", "include: ../main.yaml\n"),
            ("sub/ok.yaml", "routes: []\n"),
            ("sub/list.yaml", "[1]\n"),
            ("sub/broken.yaml", "a: [1\nb: 2\n"),
        ]);
        fs::write(folder.0.path().join("sub/latin1.yaml"), b"a: \xfc\n").unwrap();
        // A pipe would be waited for as well.
        let _socket = UnixListener::bind(folder.0.path().join("socket")).unwrap();
        assert_eq!(folder.problems(), [expected], "{include}");
    }
}

#[test]
fn a_pattern_that_matches_nothing_is_a_warning() {
    let folder = Folder::with(&[("main.yaml", "include: conf.d/*.yaml\na: 1\n")]);
    let (_, node, diagnostics) = folder.load();
    assert_eq!(shown(&node.unwrap()), "{a: 1}");
    let [warning] = diagnostics.list() else {
        panic!("{diagnostics:?}")
    };
    assert_eq!(warning.severity, Severity::Warning);
    assert_eq!(warning.message, "`conf.d/*.yaml` matches no file");
}

#[test]
fn a_folder_whose_name_looks_like_a_pattern_is_only_a_folder() {
    let folder = Folder::with(&[
        ("odd[1]*/inner.yaml", "include: '*.d/*.yaml'\n"),
        ("odd[1]*/a.d/a.yaml", "a: 1\n"),
    ]);
    let path = folder.0.path().join("odd[1]*/inner.yaml");
    let (_, node, diagnostics) = load(&path);
    assert_eq!(diagnostics.list(), []);
    assert_eq!(shown(&node.unwrap()), "{a: 1}");
}

#[test]
fn a_main_file_that_cannot_be_read_is_reported_without_a_tree() {
    let folder = Folder::with(&[("a/b", "")]);
    for (name, why) in [
        ("none.yaml", "no such file"),
        ("a", "it is a folder, not a file"),
    ] {
        let path = folder.0.path().join(name);
        let (sources, node, diagnostics) = load(&path);
        assert_eq!(node, None);
        assert_eq!(diagnostics.list().len(), 1);
        let path = path.display();
        assert!(
            diagnostics
                .render(&sources, Style::Lines)
                .starts_with(&format!(
                    "{path}:1:1: error: cannot read `{path}`: {why}; help: "
                )),
        );
    }
}

#[test]
fn a_text_needs_no_file() {
    let (sources, node, diagnostics) = load_text("demo", "a: [1]\nb: {\n");
    assert_eq!(node, None);
    assert!(
        diagnostics
            .render(&sources, Style::Lines)
            .starts_with("demo:2:4: error: ")
    );
    let (_, node, diagnostics) = load_text("demo", "a: [1]\n");
    assert_eq!(
        (shown(&node.unwrap()).as_str(), diagnostics.list()),
        ("{a: [1]}", &[][..])
    );
}

#[test]
fn stored_sources_read_as_the_files_did() {
    let files = [
        (
            "main.yaml",
            "include: ['sub/*.yaml', deep/b.yaml]\na: ${PORT}\nk: file:key\n",
        ),
        ("sub/2.yaml", "routes: [two]\n"),
        (
            "sub/1.yaml",
            "routes: [one]\ninclude: '../other/**/x*.yaml'\n",
        ),
        ("other/y/x1.yaml", "routes: [x1]\n"),
        ("deep/b.yaml", "routes: [b]\n"),
    ];
    let folder = Folder::with(&files);
    let (sources, tree, _) = folder.load();
    let stored = SourceTexts::new(&sources);
    let json = serde_json::to_string(&stored).unwrap();
    assert!(
        !json.contains(&*folder.0.path().to_string_lossy()),
        "{json}"
    );
    let stored: SourceTexts = serde_json::from_str(&json).unwrap();
    let path = folder.0.path().join("main.yaml");
    // None of the files is valid any more, and there are others.
    for (name, _) in files {
        fs::write(folder.0.path().join(name), "{ broken").unwrap();
    }
    fs::write(folder.0.path().join("sub/3.yaml"), "routes: [three]").unwrap();
    fs::remove_file(folder.0.path().join("other/y/x1.yaml")).unwrap();
    let read = |path: &Path| {
        let mut loader = Loader::new(path, &pretended);
        loader.stored = Some(&stored);
        let (sources, node, diagnostics) = loader.main(|loader| loader.file(path, None));
        assert_eq!(diagnostics.render(&sources, Style::Lines), "");
        (sources, shown(&node.unwrap()))
    };
    let (again, text) = read(&path);
    assert_eq!(text, shown(&tree.unwrap()));
    assert!(text.contains("[\"one\", \"x1\", \"two\", \"b\"]"), "{text}");
    assert_eq!(again.files, sources.files);
    // From another folder the paths in messages differ, and all files are found.
    let (moved, text) = read(Path::new("main.yaml"));
    assert!(text.contains("\"x1\""), "{text}");
    assert_eq!(moved.files[1].0, Path::new("sub/1.yaml"));
}

#[test]
fn a_file_that_was_not_stored_is_reported() {
    let folder = Folder::with(&[("main.yaml", "a: 1\n"), ("b.yaml", "b: 1\n")]);
    let (mut sources, ..) = folder.load();
    sources.files[0].1 = "include: b.yaml\n".to_owned();
    let stored = SourceTexts::new(&sources);
    let path = folder.0.path().join("main.yaml");
    let (_, _, diagnostics) = load_stored(&path, &stored);
    let message = &diagnostics.list()[0].message;
    assert!(
        message.ends_with("it is not part of the stored configuration"),
        "{message}"
    );
}

/// The cases of RFC 7396, appendix A, that have mappings; `routes` differ, they are added.
#[test]
fn an_overlay_is_a_merge_patch() {
    for (file, overlay, expected) in [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (
            r#"{"a":{"b":"c"}}"#,
            r#"{"a":{"b":"d","c":null}}"#,
            r#"{"a":{"b":"d"}}"#,
        ),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        (
            r#"{"routes":[1]}"#,
            r#"{"routes":[2]}"#,
            r#"{"routes":[1,2]}"#,
        ),
        ("{}", r#"{"routes":[2]}"#, r#"{"routes":[2]}"#),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgeway.yaml");
        std::fs::write(&path, file).unwrap();
        let overlay = Overlay {
            name: "overlay".into(),
            text: overlay.to_owned(),
            local_site: None,
        };
        let (sources, found, diagnostics) = load_with(&path, &overlay);
        assert!(diagnostics.list().is_empty(), "{file}");
        let (_, expected, _) = load_text("expected", expected);
        assert!(
            found.unwrap().has_same_value(&expected.unwrap()),
            "{file}: {overlay:?}"
        );
        // Only files are watched and kept.
        assert_eq!(sources.files.len(), 1);
    }
}

#[test]
fn a_mistake_in_an_overlay_has_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edgeway.yaml");
    std::fs::write(&path, "a: 1\n").unwrap();
    let overlay = Overlay {
        name: "the overlay".into(),
        text: "b: [\n".to_owned(),
        local_site: None,
    };
    let (sources, _, diagnostics) = load_with(&path, &overlay);
    let report = diagnostics.render(&sources, crate::diagnostic::Style::Json);
    assert!(report.contains("the overlay"), "{report}");
}
