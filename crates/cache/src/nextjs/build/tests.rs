//! Tests of reading a build's folder, and of reading it again.

use std::{fs, path::Path, sync::Arc};

use http::{HeaderMap, Method};

use super::{
    super::{
        InvalidImageRequest, NextRules, PathSet, Releases, RequestShape, shape, shape::PathKind,
    },
    watch::{BuildCheck, WatchState},
    *,
};
use crate::chain::KeyBuilder;

/// Manifest of Next.js 16.4 for `matcher: ['/secret', '/secret/:path*']`.
const SECRET: &str = r#"{ "version": 1, "functions": { "/_middleware": { "runtime": "nodejs", "matchers": [
    { "regexp": "^(?:\\/(_next\\/data\\/[^/]{1,}))?\\/secret(\\.json|\\.rsc|\\.segments\\/.+\\.segment\\.rsc)?[\\/#\\?]?$", "originalSource": "/secret" },
    { "regexp": "^(?:\\/(_next\\/data\\/[^/]{1,}))?\\/secret(?:\\/((?:[^\\/#\\?]+?)(?:\\/(?:[^\\/#\\?]+?))*))?(\\.json|\\.rsc|\\.segments\\/.+\\.segment\\.rsc)?[\\/#\\?]?$", "originalSource": "/secret/:path*" }
] } } }"#;

/// Manifest of Next.js 15.2 for the matcher in its documentation.
const ALL_BUT: &str = r#"{ "version": 3, "middleware": { "/": { "files": [], "name": "middleware", "page": "/", "matchers": [
    { "regexp": "^(?:\\/(_next\\/data\\/[^/]{1,}))?(?:\\/((?!api|_next\\/static|_next\\/image|favicon.ico).*))(\\.json)?[\\/#\\?]?$", "originalSource": "/((?!api|_next/static|_next/image|favicon.ico).*)",
      "missing": [{ "type": "header", "key": "next-router-prefetch" }] }
] } }, "functions": {}, "sortedMiddleware": ["/"] }"#;

const IMAGES_MANIFEST: &str = r#"{ "version": 1, "images": { "deviceSizes": [640, 1080], "imageSizes": [64, 128], "path": "/_next/image",
    "loader": "default", "formats": ["image/webp"], "qualities": [75], "unoptimized": false } }"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.0.path().join("server")).unwrap();
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    fn build(&self) -> Build {
        Build::read(self.path(), false).unwrap()
    }
}

fn shape_of(folder: &Folder, guarded: Option<PathSet>, target: &str) -> RequestShape {
    let (watch, _) = BuildWatch::new("web", folder.path(), false);
    let rules = NextRules {
        build: Some(Arc::new(watch)),
        guarded,
        ..NextRules::default()
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = HeaderMap::new();
    shape(
        &Method::GET,
        path.as_bytes(),
        Some(query.as_bytes()),
        &headers,
        &rules,
        None,
    )
}

fn key(shape: &RequestShape) -> Vec<u8> {
    let mut key = KeyBuilder::default();
    shape.key_parts(&mut key);
    key.as_bytes().to_vec()
}

#[test]
fn paths_guarded_by_a_middleware_are_read_from_the_build() {
    let build = Folder::new(&[(BUILD_ID, "abc\n"), (FUNCTIONS, SECRET)]).build();
    assert_eq!(build.id(), Some("abc"));
    for guarded in [
        "/secret",
        "/secret/",
        "/secret/a/b",
        "/secret.rsc",
        "/secret.segments/_tree.segment.rsc",
        "/_next/data/abc/secret.json",
        "/%73ecret",
        "/a/../secret",
        "/a/%2E%2e/secret",
    ] {
        assert!(build.is_guarded(guarded.as_bytes()), "{guarded}");
    }
    for open in ["/", "/isr", "/secrets", "/a/secret", "/api/hello"] {
        assert!(!build.is_guarded(open.as_bytes()), "{open}");
    }
}

#[test]
fn a_matcher_that_looks_ahead_is_understood() {
    let build = Folder::new(&[(BUILD_ID, "abc"), (MIDDLEWARE, ALL_BUT)]).build();
    for guarded in ["/", "/isr", "/a/b/c", "/%61pi", "/API/x"] {
        assert!(build.is_guarded(guarded.as_bytes()), "{guarded}");
    }
    for open in [
        "/api/hello",
        "/_next/static/a.js",
        "/_next/image",
        "/favicon.ico",
    ] {
        assert!(!build.is_guarded(open.as_bytes()), "{open}");
    }
}

/// Invariant: Next.js adds the default language to a path that has none before it compares it, so
/// such a path is guarded too.
#[test]
fn a_path_without_its_language_is_guarded_like_the_one_with_it() {
    // As Next.js 16.4 writes `matcher: ['/', '/account']`, without and with `basePath`.
    let matchers = |base: &str| {
        let of = |page: &str| {
            format!(
                r#"{{ "regexp": "^{base}(?:\\/(_next\\/data\\/[^/]{{1,}}))?(?:\\/((?!_next\\/)[^/.]{{1,}})){page}[\\/#\\?]?$" }}"#
            )
        };
        let home = of(r"(|\\.json|\\/?index|\\/?index\\.json)?");
        let account = of(r"\\/account(\\.json)?");
        format!(r#"{{ "functions": {{ "/_middleware": {{ "matchers": [{home}, {account}] }} }} }}"#)
    };
    let languages = r#""i18n": { "locales": ["en", "de"], "defaultLocale": "en",
        "domains": [{ "domain": "laden.test", "defaultLocale": "de" }] }"#;
    for base in ["", "/site"] {
        let routes = format!(r#"{{ "basePath": "{base}", {languages} }}"#);
        let functions = matchers(&base.replace('/', r"\\/"));
        let files = [
            (BUILD_ID, "abc"),
            (FUNCTIONS, &functions),
            (ROUTES, &routes),
        ];
        let build = Folder::new(&files).build();
        for guarded in [
            "/",
            "/en",
            "/account",
            "/%61ccount/",
            "/de/account",
            "/_next/data/abc/account.json",
            "/_next/data/abc/en/account.json",
            "/_next/data/abc/index.json",
        ] {
            let path = format!("{base}{guarded}");
            assert!(build.is_guarded(path.as_bytes()), "{path}");
        }
        assert!(base.is_empty() || build.is_guarded(base.as_bytes()));
        for open in [
            "/plain/one",
            "/de/plain",
            "/a/b/account",
            "/_next/image",
            "/_next/data/abc",
        ] {
            let path = format!("{base}{open}");
            assert!(!build.is_guarded(path.as_bytes()), "{path}");
        }
    }
    // Of a path with a language, nothing but the rest is compared with a negated matcher.
    let all_but = r#"{ "functions": { "/_middleware": { "matchers": [
        { "regexp": "^(?:\\/((?!_next\\/)[^/.]{1,}))(?:\\/((?!login).*))$" }] } } }"#;
    let routes = format!("{{ {languages} }}");
    let files = [(BUILD_ID, "abc"), (FUNCTIONS, all_but), (ROUTES, &*routes)];
    let build = Folder::new(&files).build();
    for (path, is_guarded) in [("/login", false), ("/DE/login", false), ("/other", true)] {
        assert_eq!(build.is_guarded(path.as_bytes()), is_guarded, "{path}");
    }
}

#[test]
fn a_middleware_without_a_matcher_guards_all_but_the_files_of_the_build() {
    let all = r#"{ "middleware": { "/": { "page": "/" } } }"#;
    let folder = Folder::new(&[(BUILD_ID, "abc"), (MIDDLEWARE, all)]);
    assert_eq!(shape_of(&folder, None, "/isr").bypass(), Some("guarded"));
    assert_eq!(
        shape_of(&folder, None, "/_next/image?url=a").bypass(),
        Some("guarded")
    );
    assert_eq!(shape_of(&folder, None, "/_next/static/a.js").bypass(), None);
    let own = Some(PathSet::new(["/account/*"]));
    assert_eq!(shape_of(&folder, own.clone(), "/isr").bypass(), None);
    assert_eq!(
        shape_of(&folder, own, "/account/x").bypass(),
        Some("guarded")
    );
}

fn allowed(build: &Build, query: Option<&[u8]>) -> Result<(), InvalidImageRequest> {
    build.image_query(b"/_next/image", query).map(drop)
}

#[test]
fn every_file_but_the_build_id_may_be_missing() {
    let build = Folder::new(&[(BUILD_ID, "abc")]).build();
    assert!(!build.is_guarded(b"/secret"));
    assert_eq!(allowed(&build, Some(b"url=a&w=65&q=1")), Ok(()));
    let empty = Folder::new(&[(FUNCTIONS, SECRET)]);
    let error = Build::read(empty.path(), false).unwrap_err();
    assert!(
        error.to_string().contains("the file `BUILD_ID` is missing"),
        "{error}"
    );
    // The guarded paths are not known yet.
    assert_eq!(shape_of(&empty, None, "/isr").bypass(), Some("no_build"));
}

#[test]
fn the_folder_counts_until_a_release_does() {
    let folder = Folder::new(&[(BUILD_ID, "abc")]);
    let (watch, _) = BuildWatch::new("web", folder.path(), false);
    let mut rules = NextRules {
        build: Some(Arc::new(watch)),
        releases: Some(Arc::new(Releases::new("web", folder.path()))),
        ..NextRules::default()
    };
    let bypass = |rules: &NextRules, release| {
        let headers = HeaderMap::new();
        shape(&Method::GET, b"/isr", None, &headers, rules, release).bypass()
    };
    assert_eq!(bypass(&rules, None), None);
    assert_eq!(bypass(&rules, Some("one")), Some("no_build"));
    rules.build = None;
    assert_eq!(bypass(&rules, None), Some("no_build"));
}

#[test]
fn invalid_manifests_are_reported_by_name_and_not_by_content() {
    for (name, text) in [
        (ROUTES, "{ \"basePath\": 4711 }"),
        (FUNCTIONS, "{ \"functions\": 4711"),
        (IMAGES, "{ \"images\": \"4711\" }"),
    ] {
        let folder = Folder::new(&[(BUILD_ID, "abc"), (name, text)]);
        let error = Build::read(folder.path(), false).unwrap_err();
        let message = crate::base::error::chain(&error);
        assert!(message.contains(name), "{message}");
        assert!(!message.contains("4711"), "{message}");
    }
    let odd = r#"{ "functions": { "/_middleware": { "matchers": [{ "regexp": "(" }] } } }"#;
    let folder = Folder::new(&[(BUILD_ID, "abc"), (FUNCTIONS, odd)]);
    let error = Build::read(folder.path(), false).unwrap_err();
    assert!(
        error.to_string().contains("unsupported matcher: `(`"),
        "{error}"
    );
}

#[test]
fn no_key_of_draft_mode_is_stored_or_logged() {
    for secret in ["prerender-manifest.json", "server/preview-props.json"] {
        assert!(!FILES.contains(&secret));
    }
    let build = Folder::new(&[
        (BUILD_ID, "abc"),
        (
            "prerender-manifest.json",
            "{ \"preview\": { \"previewModeId\": \"hidden\" } }",
        ),
    ])
    .build();
    assert!(!format!("{build:?}").contains("hidden"));
    // The place where 15.2 writes them, valid and invalid.
    let with_env = ALL_BUT.replace("\"files\": []", "\"env\": { \"KEY\": \"hidden\" }");
    let folder = Folder::new(&[(BUILD_ID, "abc"), (MIDDLEWARE, &with_env)]);
    let build = folder.build();
    assert!(build.is_guarded(b"/isr") && !format!("{build:?}").contains("hidden"));
    for broken in [
        with_env.replace("\"matchers\": [", "\"matchers\": \"hidden\", ["),
        with_env.replace("\"matchers\": [", "\"matchers\": [\"hidden\", "),
    ] {
        folder.write(MIDDLEWARE, &broken);
        let error = Build::read(folder.path(), false).unwrap_err();
        let message = format!("{error:?} {}", crate::base::error::chain(&error));
        assert!(!message.contains("hidden"), "{message}");
    }
}

/// Files of a build have the path of `assetPrefix`, which is another app's for all else.
#[test]
fn files_below_a_prefix_are_those_of_the_build() {
    const ROUTES_WITH_PREFIX: &str = r#"{ "basePath": "/site", "headers": [], "redirects": [],
        "rewrites": { "beforeFiles": [{ "source": "/cdn/_next/:path+", "regex": "^/cdn/_next/" }] } }"#;
    for (prefix, own) in [
        ("/cdn", true),
        ("cdn/", true),
        ("https://cdn.test/cdn", false),
        ("", false),
    ] {
        let server = format!(r#"{{ "config": {{ "assetPrefix": "{prefix}" }} }}"#);
        let folder = Folder::new(&[
            (BUILD_ID, "abc"),
            (ROUTES, ROUTES_WITH_PREFIX),
            (SERVER_FILES, &server),
        ]);
        let build = Build::read(folder.path(), true).unwrap();
        let asset = |path: &str| build.asset(path.as_bytes()).is_some();
        assert_eq!(asset("/cdn/_next/static/a.js"), own, "{prefix}");
        assert!(asset("/site/_next/static/a.js"), "{prefix}");
        for other in [
            "/_next/static/a.js",
            "/cdn/a.js",
            "/cdn/_next/data/x",
            "/cdn2/_next/static/a.js",
        ] {
            assert!(!asset(other), "{prefix}: {other}");
        }
    }
}

/// R9: a refusal has the same text as in Next.js 16.4.
#[test]
fn images_that_the_app_would_refuse_are_refused_alike() {
    let build = Folder::new(&[(BUILD_ID, "abc"), (IMAGES, IMAGES_MANIFEST)]).build();
    let message = |query: &str| match allowed(&build, Some(query.as_bytes())) {
        Ok(()) => String::new(),
        Err(bad) => bad.to_string(),
    };
    for (query, expected) in [
        ("url=%2Fpic.png&w=64&q=75", ""),
        ("url=/pic.png&w=%364&q=75", ""),
        (
            "url=%2Fpic.png&w=65&q=75",
            "\"w\" parameter (width) of 65 is not allowed",
        ),
        ("url=%2Fpic.png&w=064&q=75", ""),
        (
            "url=%2Fpic.png&w=64&q=74",
            "\"q\" parameter (quality) of 74 is not allowed",
        ),
        (
            "url=%2Fpic.png&w=64&q=101",
            "\"q\" parameter (quality) must be an integer between 1 and 100",
        ),
        (
            "url=%2Fpic.png&w=64&q=x",
            "\"q\" parameter (quality) must be an integer between 1 and 100",
        ),
        (
            "url=%2Fpic.png&w=-1&q=75",
            "\"w\" parameter (width) must be an integer greater than 0",
        ),
        (
            "url=%2Fpic.png&w=0&q=75",
            "\"w\" parameter (width) must be an integer greater than 0",
        ),
        (
            "url=%2Fpic.png&w=64&w=64&q=75",
            "\"w\" parameter (width) cannot be an array",
        ),
        ("url=%2Fpic.png&q=75", "\"w\" parameter (width) is required"),
        (
            "url=%2Fpic.png&w=64",
            "\"q\" parameter (quality) is required",
        ),
        ("w=64&q=75", "\"url\" parameter is required"),
        (
            "url=a&url=b&w=64&q=75",
            "\"url\" parameter cannot be an array",
        ),
        (
            "url=%2F%2Fevil.test%2Fa.png&w=64&q=75",
            "\"url\" parameter cannot be a protocol-relative URL (//)",
        ),
    ] {
        assert_eq!(message(query), expected, "{query}");
    }
    assert_eq!(allowed(&build, None), Err(InvalidImageRequest::NoUrl));
    let folder = Folder::new(&[(BUILD_ID, "abc"), (IMAGES, IMAGES_MANIFEST)]);
    let shape = |target| shape_of(&folder, None, target);
    let bad = shape("/_next/image?url=%2Fpic.png&w=65&q=75");
    assert_eq!(bad.bad_image(), Some(&InvalidImageRequest::Width(65)));
    let good = shape("/_next/image?url=%2Fpic.png&w=64&q=75");
    assert_eq!(good.bad_image(), None);
    assert_eq!(shape("/isr?w=65").bad_image(), None);
    let long = format!("url={}&w=64&q=75", "a".repeat(4000));
    assert_eq!(message(&long), "\"url\" parameter is too long");
    let none = IMAGES_MANIFEST.replace("\"unoptimized\": false", "\"unoptimized\": true");
    let build = Folder::new(&[(BUILD_ID, "abc"), (IMAGES, &none)]).build();
    assert_eq!(allowed(&build, Some(b"w=65")), Ok(()));
}

/// Invariant: where paths have languages, the app serves its files; images of the optimizer, whose
/// path has none, are made at the edge.
#[test]
fn images_need_no_app_where_paths_have_languages() {
    let images = IMAGES_MANIFEST.replace(
        "\"unoptimized\": false",
        r#""unoptimized": false, "minimumCacheTTL": 60, "maximumResponseBody": 50000000,
        "contentSecurityPolicy": "sandbox", "contentDispositionType": "attachment""#,
    );
    let redirect =
        |path: &str| format!(r#""redirects": [{{ "source": "/x", "regex": "^{path}$" }}]"#);
    let languages = r#""i18n": { "locales": ["en"], "defaultLocale": "en" }"#;
    for (rules, has_image, has_file) in [
        (redirect("/(en)/plain"), true, true),
        (languages.to_owned(), true, false),
        (
            format!("{languages}, {}", redirect("/(en)/plain")),
            true,
            false,
        ),
        (
            format!("{languages}, {}", redirect("/_next/image")),
            false,
            false,
        ),
    ] {
        let routes = format!("{{ {rules} }}");
        let files = [(BUILD_ID, "abc"), (IMAGES, &*images), (ROUTES, &routes)];
        let folder = Folder::new(&files);
        let build = Build::read(folder.path(), true).unwrap();
        let accept: [&[u8]; 1] = [b"image/webp"];
        let query = Some(&b"url=%2Fpic.png&w=64&q=75"[..]);
        let image = build.image(b"/_next/image", query, accept.into_iter());
        assert_eq!(image.is_some(), has_image, "{rules}");
        assert_eq!(
            build.asset(b"/_next/static/a.js").is_some(),
            has_file,
            "{rules}"
        );
    }
}

/// R6: the effect of a deploy on keys.
#[test]
fn pages_are_keyed_by_build_and_its_files_are_not() {
    let old = Folder::new(&[(BUILD_ID, "one")]);
    let new = Folder::new(&[(BUILD_ID, "two")]);
    for (target, empties) in [
        ("/isr", true),
        ("/favicon.ico", true),
        ("/_next/image?url=%2Fpic.png&w=64&q=75", true),
        (
            "/_next/image?url=%2F_next%2Fstatic%2Fmedia%2Fa.1b.png&w=64&q=75",
            false,
        ),
        ("/_next/static/chunks/a.js", false),
    ] {
        let keys = [&old, &new].map(|folder| key(&shape_of(folder, None, target)));
        assert_eq!(keys[0] != keys[1], empties, "{target}");
    }
}

/// Invariant: rewritten files of a build make another build; files that the app writes while it
/// runs, and a copy of the folder, do not.
#[test]
fn a_build_differs_if_any_of_its_marks_differs() {
    let routes = |id: &str| format!("{{ \"version\": 3, \"deploymentId\": \"{id}\" }}");
    let files = |routes: &str| -> Vec<(String, String)> {
        [
            (BUILD_ID, "build-TfctsWXpff2fKS"),
            (ROUTES, routes),
            (FUNCTIONS, SECRET),
            (identity::SERVER_FILES, "{}"),
            (identity::TRACE, "[{\"duration\":1}]"),
            ("build-manifest.json", "{}"),
            ("server/app/page.js", "one"),
            ("server/chunks/a.js", "code"),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into()
    };
    let mark = |files: &[(String, String)]| {
        let folder = Folder::new(&[]);
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder.build().mark
    };
    let first = files(&routes("d1"));
    assert_eq!(mark(&first), mark(&first), "a copy");
    assert_ne!(mark(&first), mark(&files(&routes("d2"))), "deploymentId");
    for at in 0..first.len() {
        let mut other = first.clone();
        // The replacement has the same length.
        other[at].1 = other[at].1.replace(['1', 'o', 's', '{'], " ");
        if other[at].0 == FUNCTIONS || other[at].0 == ROUTES {
            other[at].1.clone_from(&first[at].1);
            other[at].1.push(' ');
        }
        if other[at].1 != first[at].1 {
            assert_ne!(mark(&first), mark(&other), "{}", other[at].0);
        }
        let mut without = first.clone();
        if without.remove(at).0 != BUILD_ID {
            assert_ne!(mark(&first), mark(&without), "without {}", first[at].0);
        }
    }
    for (name, text) in [
        ("server/app/index.html", "rendered again"),
        ("server/app/index.meta", "{}"),
        ("server/route-cache/a", "x"),
        ("cache/x.js", "x"),
        ("prerender-manifest.json", "{ \"preview\": 1 }"),
        ("server/server-reference-manifest.js", "key"),
        ("server/preview-props.json", "key"),
    ] {
        let mut later = first.clone();
        later.push((name.to_owned(), text.to_owned()));
        assert_eq!(mark(&first), mark(&later), "{name}");
    }
    // Moving content from one file to another changes the mark.
    let mut moved = first.clone();
    moved.swap(6, 7);
    (moved[6].0, moved[7].0) = (first[6].0.clone(), first[7].0.clone());
    assert_ne!(mark(&first), mark(&moved));
}

#[test]
fn an_app_below_a_path_has_its_files_there() {
    let routes = r#"{ "version": 3, "basePath": "/docs" }"#;
    let images = IMAGES_MANIFEST.replace("/_next/image", "/docs/_next/image");
    let folder = Folder::new(&[(BUILD_ID, "abc"), (ROUTES, routes), (IMAGES, &images)]);
    assert_eq!(
        shape_of(&folder, None, "/docs/_next/static/a.js").kind,
        PathKind::File
    );
    assert_ne!(
        shape_of(&folder, None, "/_next/static/a.js").kind,
        PathKind::File
    );
    assert!(shape_of(&folder, None, "/docs/_next/image?url=a").is_image());
    assert!(!shape_of(&folder, None, "/_next/image?url=a").is_image());
}

#[test]
fn another_build_takes_the_place_once_its_files_are_still() {
    let folder = Folder::new(&[(BUILD_ID, "one"), (FUNCTIONS, SECRET)]);
    let (watch, error) = BuildWatch::new("web", folder.path(), false);
    assert!(error.is_none());
    let mut before = WatchState::default();
    let mut look = || watch.look(&mut before);
    let id = || watch.now().id().map(str::to_owned);
    assert!(matches!(look(), BuildCheck::Same));
    assert!(matches!(look(), BuildCheck::Same));

    // `next build` begins: no id, then manifests one by one.
    fs::remove_file(folder.path().join(BUILD_ID)).unwrap();
    folder.write(FUNCTIONS, "{ \"func");
    for _ in 0..3 {
        assert!(matches!(look(), BuildCheck::Same));
    }
    assert_eq!(id().as_deref(), Some("one"));
    assert!(watch.now().is_guarded(b"/secret"));

    folder.write(BUILD_ID, "two");
    assert!(matches!(look(), BuildCheck::Same), "just written");
    assert!(matches!(look(), BuildCheck::Broken(_)));
    assert!(matches!(look(), BuildCheck::Same), "reported once");
    assert_eq!(id().as_deref(), Some("one"));

    folder.write(FUNCTIONS, "{ \"functions\": {} }");
    assert!(matches!(look(), BuildCheck::Same));
    assert!(matches!(look(), BuildCheck::Changed(_)));
    assert_eq!(id().as_deref(), Some("two"));
    assert!(!watch.now().is_guarded(b"/secret"));
    assert!(matches!(look(), BuildCheck::Same));
}

#[tokio::test(start_paused = true)]
async fn the_folder_is_followed_while_the_work_is_polled() {
    let folder = Folder::new(&[]);
    let (watch, error) = BuildWatch::new("web", folder.path(), false);
    assert!(error.is_some());
    let watch = Arc::new(watch);
    let work = Arc::clone(&watch).watch();
    folder.write(BUILD_ID, "one");
    let seen = async {
        while watch.now().id() != Some("one") {
            tokio::time::advance(watch::EVERY).await;
        }
    };
    tokio::select! {
        () = work => panic!("it goes on"),
        () = seen => {}
    }
}
