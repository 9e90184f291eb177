//! Lookup below a root: one spelling for a file, no way out, and nothing stale for longer than
//! `recheck`.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{
    FileLookup, FileResponse, Files, Outcome, base::clock::Clock,
    config::model::SymlinksConfig as Symlinks, media_types::MediaTypes, open_files::Settings,
    path::RelativePath, patterns::Patterns, root::Root, segment::Transfer, served::SMALL,
};

const NOW_AND_THEN: Duration = Duration::from_secs(1);

fn settings(root: &Path) -> Settings {
    Settings {
        root: Root::new(root.to_path_buf(), Symlinks::Inside, NOW_AND_THEN),
        index: ["index.html".to_owned()].into(),
        fallback: None,
        not_found: None,
        encodings: [].into(),
        immutable: Patterns::default(),
        max_age: None,
        headers: Box::default(),
        serves_dot_files: false,
        types: MediaTypes::default(),
        transfer: Transfer::Sendfile,
        if_modified_since: crate::config::model::IfModifiedSinceConfig::default(),
        announces_parts: false,
        open_files: 64.try_into().unwrap(),
        recheck: NOW_AND_THEN,
    }
}

fn tree(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// Returns what requests get.
async fn found(files: &Files, path: &[u8]) -> FileLookup {
    match files.kept(path) {
        Some(file) => FileLookup::File(file),
        None => files.find(path).await,
    }
}

async fn response(files: &Files, path: &str, headers: &HeaderMap) -> Option<(StatusCode, String)> {
    let FileLookup::File(file) = found(files, path.as_bytes()).await else {
        return None;
    };
    let Outcome::File(response) = FileResponse::select(file, &Method::GET, headers) else {
        return None;
    };
    let (mut head, ()) = http::Response::new(()).into_parts();
    let body = response.write(&mut head);
    let mut bytes = Vec::new();
    if let Some(mut body) = body {
        while body.left() > 0 {
            bytes.extend(body.next().await.unwrap());
        }
    }
    Some((head.status, String::from_utf8(bytes).unwrap()))
}

async fn content(files: &Files, path: &str) -> Option<String> {
    Some(response(files, path, &HeaderMap::new()).await?.1)
}

#[test]
fn a_path_names_one_file_at_most() {
    let of = |path: &str| {
        let found = RelativePath::parse(path.as_bytes(), false)?;
        Some((String::from_utf8(found.bytes).unwrap(), found.is_folder))
    };
    let file = |path: &str| Some((path.to_owned(), false));
    for (path, expected) in [
        ("/", Some((String::new(), true))),
        ("/a/b", file("a/b")),
        ("/a/", Some(("a".to_owned(), true))),
        ("/a%20b%2Bc", file("a b+c")),
        ("/.well-known/acme", file(".well-known/acme")),
        ("/a/.well-known/x", None),
        ("/.well-known/.env", None),
        ("/.git/config", None),
        ("/a/%2Eenv", None),
        ("/a%2Fb", None),
        ("/a%00b", None),
        ("//a", None),
        ("/a//b", None),
        ("/a//", None),
        ("/..", None),
        ("/a/%2E%2E/b", None),
        ("*", None),
        ("", None),
    ] {
        assert_eq!(of(path), expected, "{path}");
    }
    assert!(RelativePath::parse(b"/.env", true).is_some());
    assert!(RelativePath::parse(b"/..", true).is_none());
}

#[tokio::test]
async fn what_is_at_a_path_is_found() {
    let folder = tree(&[
        ("a.txt", "a"),
        ("sub/index.html", "index"),
        ("empty/.keep", ""),
        ("a b+c", "odd"),
    ]);
    let files = Files::new(settings(folder.path()), &Clock::machine());
    assert_eq!(content(&files, "/a.txt").await.as_deref(), Some("a"));
    assert_eq!(content(&files, "/sub/").await.as_deref(), Some("index"));
    assert_eq!(content(&files, "/a%20b+c").await.as_deref(), Some("odd"));
    assert!(matches!(found(&files, b"/sub").await, FileLookup::Folder));
    assert!(matches!(
        found(&files, b"/empty/").await,
        FileLookup::Forbidden
    ));
    for missing in [
        "/b",
        "/a.txt/",
        "/a.txt/b",
        "/sub/index.html/",
        "/empty/.keep",
    ] {
        let found = found(&files, missing.as_bytes()).await;
        assert!(
            matches!(found, FileLookup::NotFound),
            "{missing}: {found:?}"
        );
    }
    let long = format!("/{}", "x".repeat(5000));
    assert!(matches!(
        found(&files, long.as_bytes()).await,
        FileLookup::NotFound
    ));
}

#[tokio::test]
async fn folders_are_not_found_without_names_of_an_index() {
    let folder = tree(&[("sub/index.html", "index"), ("empty/.keep", "")]);
    let mut settings = settings(folder.path());
    settings.index = [].into();
    let files = Files::new(settings, &Clock::machine());
    for path in [
        "/",
        "/sub",
        "/sub/",
        "/empty",
        "/empty/",
        "/sub/index.html/",
    ] {
        let found = found(&files, path.as_bytes()).await;
        assert!(matches!(found, FileLookup::NotFound), "{path}: {found:?}");
    }
    let page = content(&files, "/sub/index.html").await;
    assert_eq!(page.as_deref(), Some("index"));
}

#[tokio::test]
async fn a_pipe_is_not_served_and_delays_nothing() {
    let folder = tree(&[]);
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let files = Files::new(settings(folder.path()), &Clock::machine());
    assert!(matches!(
        found(&files, b"/pipe").await,
        FileLookup::NotFound
    ));
}

#[tokio::test]
async fn a_file_that_changes_is_seen_after_the_recheck() {
    let clock = Clock::test();
    let folder = tree(&[("a", "one")]);
    let files = Files::new(settings(folder.path()), &clock);
    assert_eq!(content(&files, "/a").await.as_deref(), Some("one"));
    fs::write(folder.path().join("a"), "longer").unwrap();
    assert_eq!(content(&files, "/a").await.as_deref(), Some("one"));
    clock.advance(NOW_AND_THEN);
    assert_eq!(content(&files, "/a").await.as_deref(), Some("longer"));
    fs::remove_file(folder.path().join("a")).unwrap();
    clock.advance(NOW_AND_THEN);
    assert_eq!(content(&files, "/a").await, None);
    fs::write(folder.path().join("a"), "back").unwrap();
    assert_eq!(content(&files, "/a").await.as_deref(), Some("back"));
}

/// Reproducible builds and `rsync --times` set the same time for each version of a file.
#[tokio::test]
async fn a_file_that_is_written_with_its_old_size_and_time_is_seen() {
    let clock = Clock::test();
    let folder = tree(&[]);
    let path = folder.path().join("a");
    let write = |content: &str| {
        use std::os::unix::fs::MetadataExt as _;

        fs::write(&path, content).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        let then = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        file.set_modified(then).unwrap();
        let about = file.metadata().unwrap();
        (about.ctime(), about.ctime_nsec())
    };
    let first = write("version 1");
    let files = Files::new(settings(folder.path()), &clock);
    assert_eq!(content(&files, "/a").await.as_deref(), Some("version 1"));
    // The time of change moves with the kernel's tick.
    while write("version 2") == first {}
    clock.advance(NOW_AND_THEN);
    assert_eq!(content(&files, "/a").await.as_deref(), Some("version 2"));
}

#[tokio::test]
async fn a_page_in_place_of_missing_files_is_forgotten_with_the_path() {
    let folder = tree(&[]);
    let page = folder.path().join("404.html");
    let size = usize::try_from(SMALL).unwrap() * 2;
    fs::write(&page, vec![b'a'; size]).unwrap();
    for is_fallback in [true, false] {
        let mut settings = settings(folder.path());
        let own: Option<Box<[u8]>> = Some(b"/404.html".as_slice().into());
        if is_fallback {
            settings.fallback = own;
        } else {
            settings.not_found = own;
        }
        let files = Files::new(settings, &Clock::test());
        let begun = async || match found(&files, b"/none").await {
            FileLookup::File(file) | FileLookup::NotFoundPage(file) => {
                let headers = HeaderMap::new();
                FileResponse::not_found(file, &Method::GET, &headers)
                    .begin()
                    .await
            }
            found => panic!("{found:?}"),
        };
        begun().await.unwrap();
        fs::write(&page, vec![b'b'; size + usize::from(is_fallback)]).unwrap();
        let later = Clock::machine().wall() + Duration::from_mins(1);
        let file = fs::File::options().write(true).open(&page).unwrap();
        file.set_modified(later).unwrap();
        begun().await.unwrap_err();
        files.forget(b"/none");
        begun().await.unwrap();
    }
}

#[tokio::test]
async fn a_root_that_a_deploy_exchanges_is_followed() {
    let clock = Clock::test();
    let folder = tree(&[("1/a", "one"), ("2/a", "two")]);
    let current = folder.path().join("current");
    symlink("1", &current).unwrap();
    let files = Files::new(settings(&current), &clock);
    assert_eq!(content(&files, "/a").await.as_deref(), Some("one"));
    let next = folder.path().join("next");
    symlink("2", &next).unwrap();
    fs::rename(next, &current).unwrap();
    clock.advance(NOW_AND_THEN);
    assert_eq!(content(&files, "/a").await.as_deref(), Some("two"));
}

#[tokio::test]
async fn no_more_files_are_open_than_allowed() {
    let folder = tree(&[]);
    let large = vec![b'x'; usize::try_from(SMALL).unwrap() + 1];
    for number in 0..200 {
        fs::write(folder.path().join(number.to_string()), &large).unwrap();
    }
    let mut settings = settings(folder.path());
    settings.open_files = 16.try_into().unwrap();
    let files = Files::new(settings, &Clock::machine());
    let here = folder.path().canonicalize().unwrap();
    for number in 0..200 {
        assert!(content(&files, &format!("/{number}")).await.is_some());
    }
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter(|fd| {
        let target = fs::read_link(fd.as_ref().unwrap().path());
        target.is_ok_and(|target| target.starts_with(&here) && target != here)
    });
    assert!(open.count() <= 16);
}

#[tokio::test]
async fn a_file_that_shrinks_or_is_written_is_never_sent_to_its_end() {
    for change in ["shrink", "write"] {
        let folder = tree(&[]);
        let path = folder.path().join("a");
        fs::write(&path, vec![b'a'; 300_000]).unwrap();
        let files = Files::new(settings(folder.path()), &Clock::machine());
        let FileLookup::File(file) = found(&files, b"/a").await else {
            panic!("it is there");
        };
        let Outcome::File(mut response) =
            FileResponse::select(file, &Method::GET, &HeaderMap::new())
        else {
            panic!("no condition was made");
        };
        response.begin().await.unwrap();
        let (mut head, ()) = http::Response::new(()).into_parts();
        let mut body = response.write(&mut head).unwrap();
        assert_eq!(head.headers[header::CONTENT_LENGTH], "300000");
        assert!(!body.next().await.unwrap().is_empty());
        if change == "shrink" {
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(100_000)
                .unwrap();
        } else {
            let later = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
            fs::write(&path, vec![b'b'; 300_000]).unwrap();
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(later)
                .unwrap();
        }
        let mut sent = 0;
        let error = loop {
            match body.next().await {
                Ok(chunk) if chunk.is_empty() => panic!("{change}: sent to its end"),
                Ok(chunk) => sent += chunk.len(),
                Err(error) => break error,
            }
        };
        assert!(sent < 300_000, "{change}: {error}");
        // It is opened again for the next request.
        files.forget(b"/a");
        let length = content(&files, "/a").await.unwrap().len();
        assert_eq!(length, if change == "shrink" { 100_000 } else { 300_000 });
    }
}

#[tokio::test]
async fn the_compressed_file_that_the_client_prefers_is_sent() {
    use crate::base::encoding::Encoding;

    let folder = tree(&[
        ("a.js", "plain"),
        ("a.js.br", "the br"),
        ("a.js.gz", "gzip"),
        ("b.js", "plain"),
        ("b.js.gz", "older"),
        ("c.js", "plain"),
    ]);
    let old = Clock::machine().wall() - Duration::from_mins(10);
    let stale = fs::File::options()
        .write(true)
        .open(folder.path().join("b.js.gz"))
        .unwrap();
    stale.set_modified(old).unwrap();
    let mut settings = settings(folder.path());
    settings.encodings = [Encoding::Br, Encoding::Zstd, Encoding::Gzip].into();
    let files = Files::new(settings, &Clock::machine());
    for (path, accept, expected, vary) in [
        ("/a.js", "gzip, br", "the br", true),
        ("/a.js", "gzip", "gzip", true),
        ("/a.js", "gzip;q=1, br;q=0.5", "gzip", true),
        ("/a.js", "zstd", "plain", true),
        ("/a.js", "br;q=0", "plain", true),
        ("/b.js", "gzip", "plain", false),
        ("/c.js", "gzip", "plain", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accept));
        let (_, body) = response(&files, path, &headers).await.unwrap();
        assert_eq!(body, expected, "{path} {accept}");
        let FileLookup::File(file) = found(&files, path.as_bytes()).await else {
            panic!("{path}");
        };
        assert_eq!(
            file.plain.headers.contains_key(header::VARY),
            vary,
            "{path}"
        );
    }
    let FileLookup::File(file) = found(&files, b"/a.js").await else {
        panic!("it is there");
    };
    let tags: Vec<_> = file.encoded.iter().map(|(_, own)| own.etag()).collect();
    assert_ne!(tags[0], tags[1]);
    assert_ne!(tags[0], file.plain.etag());
}

#[tokio::test]
async fn a_fallback_is_no_file_that_never_changes() {
    let folder = tree(&[
        ("index.html", "app"),
        ("404.html", "gone"),
        ("assets/a.js", "a"),
    ]);
    let mut settings = settings(folder.path());
    settings.fallback = Some(b"/index.html".as_slice().into());
    settings.immutable.add("/assets/*").unwrap();
    settings.immutable.add("~\\.[0-9a-f]{4}\\.js$").unwrap();
    settings.max_age = Some(Duration::from_mins(1));
    let files = Files::new(settings, &Clock::machine());
    assert_eq!(content(&files, "/shop/7").await.as_deref(), Some("app"));
    assert_eq!(content(&files, "/assets/b.js").await, None);
    assert_eq!(content(&files, "/x/y.09af.js").await, None);
    for (path, policy) in [
        ("/assets/a.js", "public, max-age=31536000, immutable"),
        ("/any", "public, max-age=60"),
    ] {
        let FileLookup::File(file) = found(&files, path.as_bytes()).await else {
            panic!("{path}");
        };
        assert_eq!(file.plain.headers[header::CACHE_CONTROL], policy);
    }
}

#[tokio::test]
async fn a_file_has_its_headers_whichever_way_it_is_found() {
    let folder = tree(&[
        ("index.html", "app"),
        ("a.js", "a"),
        ("docs/index.html", "docs"),
    ]);
    let mut settings = settings(folder.path());
    settings.fallback = Some(b"/index.html".as_slice().into());
    settings.max_age = Some(Duration::from_mins(1));
    let own = HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))]);
    settings.headers = [(b"index.html".as_slice().into(), own)].into();
    let files = Files::new(settings, &Clock::machine());
    for (path, policy) in [
        ("/", "no-cache"),
        ("/index.html", "no-cache"),
        ("/shop/7", "no-cache"),
        ("/a.js", "public, max-age=60"),
        ("/docs/", "public, max-age=60"),
    ] {
        let FileLookup::File(file) = found(&files, path.as_bytes()).await else {
            panic!("{path}");
        };
        assert_eq!(file.plain.headers[header::CACHE_CONTROL], policy, "{path}");
    }
}

/// Builds a tree of folders, files and links, some of which lead out, from a list of choices.
fn random_tree(choices: &[(u8, u8, u8)]) -> (TempDir, Vec<Vec<u8>>) {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "outside").unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let mut folders = vec![String::new()];
    for (place, name, kind) in choices {
        let above = folders[usize::from(*place) % folders.len()].clone();
        let name = NAMES[usize::from(*name) % NAMES.len()];
        let own = format!("{above}{name}");
        let path = root.join(&own);
        if path.symlink_metadata().is_ok() {
            // Writing to a link would write to its target.
            continue;
        }
        let below = NAMES[usize::from(*kind / 16) % NAMES.len()];
        let made = match kind % 10 {
            0..=2 => fs::create_dir(&path).map(|()| folders.push(format!("{own}/"))),
            3 | 4 => fs::write(&path, "inside"),
            5 => symlink(below, &path),
            6 => symlink(format!("../{below}"), &path),
            7 => symlink("../../secret", &path),
            8 => symlink(format!("{below}/../{below}/."), &path),
            _ => symlink(folder.path().join("secret"), &path),
        };
        made.unwrap();
    }
    let mut paths: Vec<Vec<u8>> = vec![Vec::new()];
    for one in NAMES {
        paths.push(one.into());
        for two in NAMES {
            paths.push(format!("{one}/{two}").into());
            for three in NAMES {
                paths.push(format!("{one}/{two}/{three}").into());
            }
        }
    }
    (folder, paths)
}

fn read(fd: &std::os::fd::OwnedFd) -> Vec<u8> {
    let mut content = vec![0; 64];
    let read = rustix::io::pread(fd, &mut content, 0).unwrap_or_default();
    content.truncate(read);
    content
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Both ways to open a file open the same one, and none outside of the root.
    #[test]
    fn no_link_leads_out_and_both_ways_agree(
        choices in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..24),
    ) {
        let (folder, paths) = random_tree(&choices);
        let root = folder.path().join("root");
        let now = Clock::machine().now();
        for symlinks in [Symlinks::Inside, Symlinks::Refuse] {
            let kernels = Root::new(root.clone(), symlinks, NOW_AND_THEN);
            let alone = Root::new(root.clone(), symlinks, NOW_AND_THEN);
            alone.walk_alone();
            for path in &paths {
                let one = kernels.open(path, now).map(|fd| read(&fd));
                let other = alone.open(path, now).map(|fd| read(&fd));
                prop_assert_eq!(one.is_ok(), other.is_ok(), "{:?}: {:?}, {:?}", path, one, other);
                for content in [one, other].into_iter().flatten() {
                    prop_assert!(content != b"outside", "{:?}", path);
                }
            }
        }
        // The control: with all links followed, some of these trees lead out.
        let open = Root::new(root.clone(), Symlinks::Follow, NOW_AND_THEN);
        let secret = folder.path().join("secret").canonicalize().unwrap();
        for path in &paths {
            let resolved = root.join(std::str::from_utf8(path).unwrap()).canonicalize();
            let is_out = resolved.is_ok_and(|path| path == secret);
            if is_out {
                prop_assert_eq!(read(&open.open(path, now).unwrap()), b"outside");
            }
        }
    }
}

#[test]
fn a_link_through_a_file_leads_nowhere() {
    let folder = tree(&[("file", "content"), ("sub/a", "content")]);
    for (link, target) in [("x", "file/../file"), ("y", "file/."), ("z", "sub/../file")] {
        symlink(target, folder.path().join(link)).unwrap();
    }
    for is_alone in [false, true] {
        let root = Root::new(folder.path().to_path_buf(), Symlinks::Inside, NOW_AND_THEN);
        if is_alone {
            root.walk_alone();
        }
        let opened = ["x", "y", "z"].map(|link| {
            let opened = root.open(link.as_bytes(), Clock::machine().now());
            opened.is_ok()
        });
        assert_eq!(opened, [false, false, true], "{is_alone}");
    }
}

#[test]
fn exchanged_names_never_lead_out() {
    let folder = tree(&[("secret/file", "outside"), ("root/plain/file", "inside")]);
    let root = folder.path().join("root");
    let (plain, other) = (root.join("plain"), root.join("other"));
    symlink("../secret", root.join("link")).unwrap();
    let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let racing = std::thread::spawn({
        let (is_over, link) = (std::sync::Arc::clone(&is_over), root.join("link"));
        move || {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                fs::rename(&plain, &other).unwrap();
                fs::rename(&link, &plain).unwrap();
                fs::rename(&plain, &link).unwrap();
                fs::rename(&other, &plain).unwrap();
            }
        }
    });
    let mut inside = 0;
    let now = Clock::machine().now();
    for is_alone in [false, true] {
        let opener = Root::new(root.clone(), Symlinks::Inside, NOW_AND_THEN);
        if is_alone {
            opener.walk_alone();
        }
        for _ in 0..20_000 {
            if let Ok(fd) = opener.open(b"plain/file", now) {
                assert_eq!(read(&fd), b"inside");
                inside += 1;
            }
        }
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    racing.join().unwrap();
    assert!(inside > 0);
}
