//! Files beside other features: plugins, identity, lifetimes, rewrites, pages in place of files.

use std::fs;

use super::write_tree;
use crate::support::{
    gateway::Gateway,
};

/// A page in place of missing files is open under another path than that of the request.
#[tokio::test]
async fn a_page_that_is_written_in_place_is_sent_as_it_is_now() {
    for (key, status) in [("not_found", 404), ("fallback", 200)] {
        let yaml = format!(
            "routes: [{{ match: {{ path: /* }}, files: {{ root: www, recheck: 1h, {key}: /page.html }} }}]"
        );
        let old = vec![b'a'; 40_000];
        let gateway = Gateway::start_in(&yaml, |folder| {
            write_tree(&folder.join("www"), &[("page.html", &old)]);
        })
        .await;
        let first = gateway.get("/none").await;
        assert_eq!((first.status(), &first.body[..]), (status, &old[..]));
        let new = vec![b'b'; 50_000];
        fs::write(gateway.folder().join("www/page.html"), &new).unwrap();
        for path in ["/none", "/other"] {
            let next = gateway.get(path).await;
            assert_eq!(next.status(), status, "{key} {path}");
            assert!(next.body == new, "{key} {path}");
        }
    }
}

