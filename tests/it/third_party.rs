//! Changed crates are the published ones, plus the patch that lies beside them.

use std::{
    future::poll_fn,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use proptest::{collection::vec, prelude::*};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("third_party")
}

/// Copies `third_party/h2` and takes the patch out of the copy.
fn without_patch() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    let h2 = folder().join("h2");
    run(Command::new("cp")
        .arg("-r")
        .arg(h2.join("."))
        .arg(copy.path()));
    let patch = folder().join("h2.patch");
    // Outside of any repository, so that no path of one is added.
    run(Command::new("git")
        .args(["apply", "--reverse"])
        .arg(patch)
        .env("GIT_CEILING_DIRECTORIES", "/")
        .current_dir(copy.path()));
    copy
}

fn run(command: &mut Command) {
    let output = command.output().expect("the command starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}

/// Returns the names of files that differ from `h2.sha256`, are missing, or are not in it.
fn differences(copy: &Path) -> Vec<String> {
    let list = std::fs::read_to_string(folder().join("h2.sha256")).expect("the hashes");
    let hashes: Vec<_> = list
        .lines()
        .filter_map(|line| line.split_once("  "))
        .collect();
    let mut differences: Vec<_> = hashes
        .iter()
        .filter(|(hash, file)| {
            let sum = Command::new("sha256sum")
                .arg(copy.join(file))
                .output()
                .expect("sha256sum runs");
            !sum.stdout.starts_with(hash.as_bytes())
        })
        .map(|(_, file)| (*file).to_owned())
        .collect();
    let files = Command::new("find")
        .args([".", "-type", "f", "-printf", "%P\n"])
        .current_dir(copy)
        .output()
        .expect("find runs");
    let files = String::from_utf8(files.stdout).expect("names are text");
    let unknown = files
        .lines()
        .filter(|file| !hashes.iter().any(|(_, known)| known == file));
    differences.extend(unknown.map(str::to_owned));
    differences
}

#[test]
fn without_its_patch_h2_is_the_published_crate() {
    let copy = without_patch();
    assert_eq!(differences(copy.path()), [""; 0]);
}

#[test]
fn any_other_change_of_h2_is_seen() {
    let copy = without_patch();
    let file = copy.path().join("src/lib.rs");
    let text = std::fs::read_to_string(&file).expect("the file");
    std::fs::write(&file, text + "\n").expect("it is written");
    std::fs::write(copy.path().join("src/more.rs"), "").expect("it is written");
    assert_eq!(differences(copy.path()), ["src/lib.rs", "src/more.rs"]);
}

/// Draws header sections as one connection sends them: names and values that come again, values that
/// must not be indexed, several of one name, and some that are larger than what the table holds.
fn sections() -> impl Strategy<Value = Vec<Vec<(usize, usize, bool)>>> {
    let field = (0..NAMES.len(), 0..9_usize, prop::bool::weighted(0.1));
    vec(vec(field, 0..24), 1..40)
}

const NAMES: [&str; 14] = [
    "date",
    "etag",
    "vary",
    "server",
    "set-cookie",
    "location",
    "content-type",
    "age",
    "cache-control",
    "accept-encoding",
    "x-request-id",
    "x-powered-by",
    "strict-transport-security",
    "content-security-policy",
];

fn header_map(section: &[(usize, usize, bool)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value, is_sensitive) in section {
        let text = match value {
            0 => String::new(),
            1 => "gzip, deflate".to_owned(),
            // Four of them fill the table.
            2 => "v".repeat(1000),
            value => format!("value {value}"),
        };
        let mut value = HeaderValue::from_str(&text).expect("a value");
        value.set_sensitive(*is_sensitive);
        headers.append(NAMES[*name], value);
    }
    headers
}

/// Header section of a response, and the fields that it shares with others.
type Section = (HeaderMap, Option<Arc<HeaderMap>>);

/// Sends each section with a response, on one connection whose client has a table of `table` bytes,
/// and returns what the client reads.
async fn over_one_connection(sections: &[Section], table: u32) -> Vec<HeaderMap> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let serve = async {
        let mut connection = h2::server::handshake(far).await.expect("a connection");
        for (own, shared) in sections {
            let request = connection.accept().await.expect("a request");
            let (_, mut respond) = request.expect("a whole request");
            let mut response = Response::new(());
            *response.headers_mut() = own.clone();
            let sent = match shared {
                Some(shared) => respond.send_response_with(response, Arc::clone(shared), true),
                None => respond.send_response(response, true),
            };
            sent.expect("it is sent");
        }
        poll_fn(|cx| connection.poll_closed(cx))
            .await
            .expect("the client closes it");
    };
    let ask = async {
        let mut builder = h2::client::Builder::new();
        let handshake = builder.header_table_size(table).handshake::<_, Bytes>(near);
        let (mut requests, connection) = handshake.await.expect("a connection");
        let reading = async move {
            let mut read = Vec::new();
            for _ in sections {
                let request = Request::get("http://a.test/").body(()).expect("a request");
                let (response, _) = requests.send_request(request, true).expect("it is sent");
                read.push(response.await.expect("a response").headers().clone());
            }
            read
        };
        let (read, closed) = tokio::join!(reading, connection);
        closed.expect("the connection ends");
        read
    };
    tokio::join!(serve, ask).1
}

proptest! {
    #[test]
    fn the_headers_of_many_responses_are_read_as_sent(
        sections in sections(),
        shared in sections(),
        table in prop::sample::select(&[0, 80, 600, 4096, 65536][..]),
    ) {
        let shared: Vec<_> = shared.iter().take(3).map(|shared| Arc::new(header_map(shared))).collect();
        let sent: Vec<Section> = sections
            .iter()
            .enumerate()
            .map(|(at, section)| (header_map(section), shared.get(at % 4).cloned()))
            .collect();
        let whole: Vec<_> = sent
            .iter()
            .map(|(own, shared)| {
                let mut whole = own.clone();
                for (name, value) in shared.iter().flat_map(|shared| shared.iter()) {
                    whole.append(name, value.clone());
                }
                whole
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let read = runtime.block_on(over_one_connection(&sent, table));
        prop_assert_eq!(read, whole);
    }
}
