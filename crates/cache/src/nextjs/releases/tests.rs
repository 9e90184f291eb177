//! Invariant: a request that names a release, in whatever way, goes to one that suits it and runs;
//! a file goes to a release that has it; a document goes to the current release; an action that no
//! running release has goes to none.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;

use super::{Destination, ReleaseRequest, Releases};

const NAMES: [&str; 4] = ["r1", "r2", "r3", "r4"];
const DEPLOYMENTS: [&str; 4] = ["", "dpl-a", "dpl-b", "dpl-c"];
const ACTIONS: [&str; 4] = ["40a1", "60b2", "7fc3", "00d4"];
const FILES: [&str; 4] = [
    "chunks/a.js",
    "chunks/b-[id].js",
    "css/c.css",
    "media/p.png",
];

/// Content of a release, by positions in the lists above.
#[derive(Clone, Debug)]
struct Plan {
    deployment: usize,
    actions: Vec<usize>,
    files: Vec<usize>,
    is_up: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let some = || prop::sample::subsequence((0..4).collect::<Vec<_>>(), 0..=4);
    (0..4_usize, some(), some(), any::<bool>()).prop_map(|(deployment, actions, files, is_up)| {
        Plan {
            deployment,
            actions,
            files,
            is_up,
        }
    })
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn put(folder: &Path, name: &str, plan: &Plan) {
    let build: PathBuf = folder.join(name).join(".next");
    write(&build, "routes-manifest.json", r#"{ "basePath": "" }"#);
    let config = match DEPLOYMENTS[plan.deployment] {
        "" => "{}".to_owned(),
        id => format!(r#"{{ "deploymentId": "{id}" }}"#),
    };
    let server_files = format!(r#"{{ "version": 1, "config": {config} }}"#);
    write(&build, "required-server-files.json", &server_files);
    let ids: Vec<String> = plan
        .actions
        .iter()
        .map(|at| format!(r#""{}": {{ "workers": {{}} }}"#, ACTIONS[*at]))
        .collect();
    let actions = format!(
        r#"{{ "node": {{ {} }}, "edge": {{}}, "encryptionKey": "a secret" }}"#,
        ids.join(", ")
    );
    write(&build, "server/server-reference-manifest.json", &actions);
    for at in &plan.files {
        write(&build, &format!("static/{}", FILES[*at]), "file");
    }
    write(&build, "BUILD_ID", &format!("build-{name}"));
}

/// Releases of these plans, read from a folder.
struct Bench {
    plans: Vec<Plan>,
    current: usize,
    releases: Releases,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(plans: Vec<Plan>, current: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, plan) in NAMES.iter().zip(&plans) {
            put(folder.path(), name, plan);
        }
        Self {
            current: current % plans.len(),
            releases: Releases::new("web", folder.path()),
            plans,
            _folder: folder,
        }
    }

    fn ask(&self, request: &ReleaseRequest<'_>) -> Destination {
        let is_up = |name: &str| self.plans[at(name)].is_up;
        let current = NAMES[self.current];
        self.releases
            .now()
            .destination(request, Some(current), is_up)
    }

    /// Returns the plan of the release that a request goes to.
    fn plan_of(&self, destination: &Destination) -> Option<&Plan> {
        match destination {
            Destination::Release(name) => Some(&self.plans[at(name)]),
            _ => None,
        }
    }

    fn ups(&self) -> impl Iterator<Item = &Plan> {
        self.plans.iter().filter(|plan| plan.is_up)
    }
}

fn at(name: &str) -> usize {
    NAMES.iter().position(|own| *own == name).unwrap()
}

fn get<'a>(path: &'a str, query: Option<&'a str>, headers: &'a HeaderMap) -> ReleaseRequest<'a> {
    ReleaseRequest {
        method: &Method::GET,
        path: path.as_bytes(),
        query: query.map(str::as_bytes),
        headers,
        beginning: None,
    }
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// Writes a path as browsers may: with brackets percent-encoded.
fn spelled(file: &str, is_encoded: bool) -> String {
    let file = if is_encoded {
        file.replace('[', "%5B").replace(']', "%5d")
    } else {
        file.to_owned()
    };
    format!("/_next/static/{file}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn requests_go_to_a_release_that_suits_them(
        plans in prop::collection::vec(plan(), 1..=4),
        current in 0..4_usize,
        action in 0..4_usize,
        file in 0..4_usize,
        deployment in 1..4_usize,
        is_encoded in any::<bool>(),
    ) {
        let bench = Bench::new(plans, current);
        let none = HeaderMap::new();
        prop_assert_eq!(bench.ask(&get("/shop", Some("a=1"), &none)), Destination::Current);

        // Documents, payloads and images that name a deployment.
        let id = DEPLOYMENTS[deployment];
        let named = headers(&[("x-deployment-id", id), ("rsc", "1")]);
        let runs = |plan: &Plan| plan.is_up && plan.deployment == deployment;
        let query = format!("_rsc=1&dpl={id}");
        for request in [
            get("/shop", Some("_rsc=1"), &named),
            get("/_next/image", Some(&query), &none),
            get("/base/_next/other", Some(&query), &none),
        ] {
            let found = bench.ask(&request);
            if bench.plans.iter().any(runs) {
                prop_assert!(bench.plan_of(&found).is_some_and(runs), "{found:?}");
            } else {
                prop_assert_eq!(found, Destination::Current);
            }
        }

        // Files, with and without a deployment.
        let path = spelled(FILES[file], is_encoded);
        let has = |plan: &Plan| plan.files.contains(&file);
        let found = bench.ask(&get(&path, None, &none));
        let owned = bench.plans.iter().any(has);
        prop_assert_eq!(bench.plan_of(&found).is_some_and(has), owned, "{:?}", found);
        if owned && has(&bench.plans[bench.current]) {
            prop_assert_eq!(&found, &Destination::Release(NAMES[bench.current].into()));
        }
        let found = bench.ask(&get(&path, Some(&query), &none));
        let is_its = |plan: &Plan| has(plan) && plan.deployment == deployment;
        if bench.plans.iter().any(is_its) {
            prop_assert!(bench.plan_of(&found).is_some_and(is_its), "{found:?}");
        } else if owned {
            prop_assert!(bench.plan_of(&found).is_some_and(has), "{found:?}");
        }

        // Images made from a file.
        let url = format!("url={}&w=64&q=75", path.replace('/', "%2F").replace("%5", "%255"));
        let found = bench.ask(&get("/_next/image", Some(&url), &none));
        prop_assert_eq!(bench.plan_of(&found).is_some_and(|plan| has(plan) && plan.is_up),
            bench.ups().any(has), "{:?}", found);
        prop_assert_eq!(bench.plan_of(&found).is_some_and(has), owned, "{:?}", found);

        // Actions of a script and of a form.
        let can = |plan: &Plan| plan.actions.contains(&action);
        let lists = bench.ups().any(|plan| !plan.actions.is_empty());
        let by_script = headers(&[("next-action", ACTIONS[action])]);
        let form = headers(&[("content-type", "Multipart/Form-Data; boundary=X")]);
        let body = format!(
            "--X\r\nContent-Disposition: form-data; name=\"$ACTION_ID_{}\"\r\n\r\n\r\n--X--\r\n",
            ACTIONS[action]
        );
        for (headers, beginning, gone) in [
            (&by_script, None, Destination::ActionGone),
            (&form, Some(body.as_bytes()), Destination::FormGone),
        ] {
            let request = ReleaseRequest { method: &Method::POST, beginning, ..get("/shop", None, headers) };
            let found = bench.ask(&request);
            if bench.ups().any(can) {
                prop_assert!(bench.plan_of(&found).is_some_and(|plan| can(plan) && plan.is_up));
            } else {
                prop_assert_eq!(found, if lists { gone } else { Destination::Current });
            }
        }
        let unread = ReleaseRequest { method: &Method::POST, ..get("/shop", None, &form) };
        prop_assert_eq!(bench.ask(&unread) == Destination::NeedsBeginning, lists);
        let upload = ReleaseRequest { beginning: Some(b"--X\r\n\r\nfile"), ..unread };
        prop_assert_eq!(bench.ask(&upload), Destination::Current);

        // Data of the Pages Router.
        for (name, plan) in NAMES.iter().zip(&bench.plans) {
            let path = format!("/_next/data/build-{name}/shop.json");
            let found = bench.ask(&get(&path, None, &none));
            let expected = if plan.is_up {
                Destination::Release(Arc::from(*name))
            } else {
                Destination::Current
            };
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_release_counts_while_it_is_whole() {
    let plan = Plan {
        deployment: 1,
        actions: vec![0],
        files: vec![0],
        is_up: true,
    };
    let folder = tempfile::tempdir().unwrap();
    let releases = Releases::new("web", folder.path());
    let mut state = super::watch::WatchState::default();
    let names = || {
        let table = releases.now();
        table.names().map(ToString::to_string).collect::<Vec<_>>()
    };
    releases.look(&mut state);
    assert!(names().is_empty());
    put(folder.path(), "r1", &plan);
    put(folder.path(), ".unfinished", &plan);
    releases.look(&mut state);
    assert!(names().is_empty(), "it may still be written");
    releases.look(&mut state);
    assert_eq!(names(), ["r1"]);
    // A manifest that cannot be read keeps a release out, and disturbs no other.
    put(folder.path(), "r2", &plan);
    write(folder.path(), "r2/.next/routes-manifest.json", "{");
    releases.look(&mut state);
    releases.look(&mut state);
    assert_eq!(names(), ["r1"]);
    put(folder.path(), "r2", &plan);
    releases.look(&mut state);
    releases.look(&mut state);
    let both = names();
    assert!(
        both.len() == 2 && both.contains(&"r2".to_owned()),
        "{both:?}"
    );
    fs::remove_dir_all(folder.path().join("r1")).unwrap();
    releases.look(&mut state);
    assert_eq!(names(), ["r2"]);
}
