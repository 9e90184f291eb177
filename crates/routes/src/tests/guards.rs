//! Tests that no spelling bypasses a guarded route.

use proptest::prelude::*;

use super::*;

/// Parses the guards of a route: one letter for each guard, a capital for a limit; `=` in front for
/// `spelling: exact`. After a `>` comes the destination: another app, or nothing for a redirect;
/// with `!` the route rewrites.
fn guarding(letters: &str) -> RouteProtection {
    let (letters, upstream) = letters.split_once('>').unwrap_or((letters, "app"));
    let guards = letters.trim_start_matches('=');
    RouteProtection {
        guards: guards.bytes().map(u32::from).collect(),
        has_access: guards.bytes().any(|letter| letter.is_ascii_lowercase()),
        upstream: match upstream.trim_end_matches('!') {
            "" => None,
            name => Some(name.into()),
        },
        files: None,
        rewrites: upstream.ends_with('!'),
        is_exact: letters.starts_with('='),
        ..RouteProtection::default()
    }
}

/// Compiles routes with the guards of each.
pub(super) fn guarded(yaml: &str, guards: &[&str]) -> Compiled {
    let mut compiled = compile(yaml);
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(yaml, 0, &mut diagnostics).unwrap();
    let list: Vec<tree::Spanned<MatchConfig>> = tree::read(&node, &mut diagnostics).unwrap();
    let routes: Vec<(&MatchConfig, Place)> = list.iter().map(|m| (&m.value, m.place)).collect();
    let guarding: Vec<RouteProtection> = guards.iter().map(|letters| guarding(letters)).collect();
    let table = compiled.table.as_mut().unwrap();
    table.guard(&routes, &guarding, Slashes::Merge, &mut diagnostics);
    assert_eq!(diagnostics.list(), []);
    compiled
}

/// Returns the route, and the routes whose guards apply as well.
fn taken(compiled: &Compiled, line: &str, params: &mut Params) -> Option<(usize, Vec<usize>)> {
    let (method, url) = line.split_once(' ').unwrap();
    let (host, path) = url.split_at(url.find('/').unwrap());
    let normal = normalise(path.as_bytes(), Slashes::Merge).ok()?;
    let path = edgeway_base::target::join(&normal.path, normal.query);
    let head = request(method, std::str::from_utf8(&path).unwrap(), &[]);
    let target = Target::new(host, &path);
    let table = compiled.table.as_ref().unwrap();
    let literal = table.find(&target, &head, params)?;
    if table.lacks_guards(literal.route, normal.has_spellings)
        && let Some(guarded) = table.guarded(&target, &head, &literal, (&[], Some(&[])), params)
    {
        return Some((guarded.route, guarded.also));
    }
    Some((literal.route, literal.also))
}

#[track_caller]
pub(super) fn check(compiled: &Compiled, cases: &[(&str, usize, &[usize])]) {
    for (line, route, also) in cases {
        let found = taken(compiled, line, &mut Params::default());
        assert_eq!(found, Some((*route, also.to_vec())), "{line}");
    }
}

#[test]
fn a_guarded_route_takes_every_spelling_of_its_paths() {
    let all = guarded(
        "[{ path: [/*] }, { path: [/api/*] }, { path: [/admin] }, { path: ['/u/{id}'] }]",
        &["", "a", "b", "c"],
    );
    check(
        &all,
        &[
            ("GET h/x", 0, &[]),
            ("GET h/X/", 0, &[]),
            ("GET h/api/x", 1, &[]),
            ("GET h/API/x", 1, &[]),
            ("GET h/Api", 1, &[]),
            ("GET h/%61pi/x", 1, &[]),
            ("GET h/%2561pi/x", 1, &[]),
            ("GET h//api/x", 1, &[]),
            ("GET h/api;a=b/x", 1, &[]),
            ("GET h/api%2Fx", 1, &[]),
            ("GET h/api%252fx", 1, &[]),
            ("GET h/%2Fapi/x", 1, &[]),
            ("GET h/x/%252e%252e/api", 1, &[]),
            ("GET h/API?x=1", 1, &[]),
            ("GET h/admin/", 2, &[]),
            ("GET h/Admin%2F", 2, &[]),
            ("GET h/admin;x/y", 2, &[]),
            ("GET h/admin%3Fx", 2, &[]),
            ("GET h/admin/x", 0, &[]),
            ("GET h/U/5", 3, &[]),
            ("GET h/u/5/", 3, &[]),
            ("GET h/U/a%2Fb", 3, &[]),
            ("GET h/U/;a", 3, &[]),
            ("GET h/U/5/x", 0, &[]),
            ("GET h/_next/data/b1/api/x.json", 1, &[]),
            ("GET h/admin.rsc", 2, &[]),
            ("GET h/apis/X", 0, &[]),
        ],
    );
}

/// Next.js fetches the source of an image itself, past the routes.
#[test]
fn the_source_of_an_image_is_guarded() {
    let all = guarded(
        "[{ path: [/*] }, { path: ['/u/{id}'] }, { path: [/u/open] }, { path: [/other/*] }]",
        &["", "a", "", "b>elsewhere"],
    );
    check(
        &all,
        &[
            ("GET h/_next/image?url=%2Fu%2Fa.png&w=64&q=75", 0, &[1]),
            ("GET h/_next/image/?w=64&%75rl=/u/a.png", 0, &[1]),
            ("GET h/base/_next/image?url=/u/a.png%3Fv=1", 0, &[1]),
            ("GET h/_next/image?url=/U/./a%2epng", 0, &[1]),
            ("GET h/_next/image?url=/u/%2561", 0, &[1]),
            ("GET h/_next/image?url=/u%5Ca", 0, &[1]),
            ("GET h/_next/image?url=/other/a", 0, &[3]),
            ("GET h/_next/image?url=/u/open", 0, &[]),
            ("GET h/_next/image?url=/a.png&a=/u/a.png", 0, &[]),
            ("GET h/_next/image?url=https://h/u/a.png", 0, &[]),
            ("GET h/_next/image?url=/_next/image?url=/u/a.png", 0, &[]),
            ("GET h/_next/image", 0, &[]),
            ("GET h/image?url=/u/a.png", 0, &[]),
        ],
    );
}

/// Next.js runs a server action at any path, where a page that has it runs.
#[test]
fn the_pages_of_an_action_are_guarded_unless_one_is_open() {
    let all = guarded(
        "[{ path: [/*] }, { path: [/u/*] }, { path: [/v/*] }]",
        &["", "a", "b"],
    );
    let table = all.table.as_ref().unwrap();
    let guards_with = |path: &str, pages: &[&str], others: Option<&[String]>| {
        let head = RequestHeader::build("POST", path.as_bytes(), None).unwrap();
        let target = Target::new("h", path.as_bytes());
        let mut params = Params::default();
        let literal = table.find(&target, &head, &mut params).unwrap();
        let pages: Vec<Box<[u8]>> = pages.iter().map(|page| page.as_bytes().into()).collect();
        let guarded = table.guarded(&target, &head, &literal, (&pages, others), &mut params);
        guarded.map(|guarded| (guarded.route, guarded.also))
    };
    let guards_of = |path: &str, pages: &[&str]| guards_with(path, pages, Some(&[]));
    assert_eq!(guards_of("/", &["/u/a"]), Some((0, vec![1])));
    assert_eq!(guards_of("/v/a", &["/u/a"]), Some((2, vec![1])));
    for open in [&["/u/a", "/open"][..], &["/open", "/u/a"], &["/open"], &[]] {
        assert_eq!(guards_of("/", open), None, "{open:?}");
    }
    // From a page that has the action, whatever else has it.
    assert_eq!(guards_of("/u/b", &["/v/id", "/u/id"]), None);
    // Other paths of the page are too many to look at: each guard applies.
    assert_eq!(guards_with("/", &[], None), Some((0, vec![1, 2])));
    assert_eq!(guards_with("/u/a", &[], None), Some((1, vec![2])));
}

#[test]
fn values_are_where_the_path_as_it_came_has_them() {
    let all = guarded("[{ path: [/*] }, { path: ['/u/{id}/*'] }]", &["", "a"]);
    let mut params = Params::default();
    let found = taken(&all, "GET h/U/Ab%2Dc/X%2f/y/", &mut params);
    assert_eq!(found, Some((1, Vec::new())));
    let path = b"/U/Ab-c/X%2F/y/";
    let slot = all.table.as_ref().unwrap().params_of(1).slot("id").unwrap();
    assert_eq!(params.get(slot, path), b"Ab-c");
    assert_eq!(params.rest(path), b"X%2F/y");
}

#[test]
fn an_open_route_below_a_guarded_one_stays_open() {
    let all = guarded(
        "[{ path: [/*] }, { path: [/api/*] }, { path: [/api/open/*] }, { path: [/api/hook], method: [POST] }]",
        &["", "a", "", ""],
    );
    check(
        &all,
        &[
            ("GET h/api/open/X", 2, &[]),
            ("GET h/API/open/x", 0, &[]),
            ("GET h/api/open/%252e%252e/x", 1, &[]),
            ("POST h/api/hook/", 1, &[]),
            ("POST h/API/hook", 0, &[]),
            ("GET h/API/hook", 1, &[]),
        ],
    );
}

/// A route that an expression opens keeps its own paths, also beside one that refuses all others:
/// without the slash at its end, only the latter would take such a path.
#[test]
fn a_route_that_an_expression_opens_stays_open_beside_a_refusing_one() {
    let all = guarded(
        "[{ location: / }, { location: '~ ^/(?:api|auth)/' }, { location: '= /api/Secret' }]",
        &["r>", "", "s>"],
    );
    check(
        &all,
        &[
            ("GET h/api/", 1, &[]),
            ("GET h/auth/x/", 1, &[]),
            ("GET h/auth/X%20y/", 1, &[]),
            ("GET h/api", 0, &[]),
            ("GET h/API/x/", 0, &[]),
            // The controls: another path for some app, and a path of its own that is refused.
            ("GET h/api/%252e%252e/x/", 1, &[0]),
            ("GET h/api/secret/", 1, &[2]),
        ],
    );
    let whole = guarded(
        "[{ location: '~ ^/' }, { location: '~ ^/only$' }]",
        &["r>", ""],
    );
    check(&whole, &[("GET h/only", 0, &[])]);
    let whole = guarded(
        "[{ location: '~ ^/only$' }, { location: '~ ^/' }]",
        &["", "r>"],
    );
    check(&whole, &[("GET h/only", 0, &[]), ("GET h/only/", 1, &[])]);
}

#[test]
fn every_guard_that_may_be_meant_runs() {
    let all = guarded(
        "[{ path: [/*] }, { path: [/api/*] }, { path: [/files/*] }, { path: [/both/*] }, { path: [/same/*] }]",
        &["w", "a", "f", "aw", "w"],
    );
    check(
        &all,
        &[
            // The guards of the original path's route still apply.
            ("GET h/API/x", 1, &[0]),
            ("GET h/BOTH/x", 3, &[]),
            ("GET h/SAME/x", 0, &[]),
            // Two readings, two routes.
            ("GET h/FILES/%252e%252e/api/x", 2, &[1, 0]),
        ],
    );
}

#[test]
fn hosts_predicates_and_regular_expressions_count_as_ever() {
    let all = guarded(
        "[{ path: [/*] }, { host: [b.test], path: [/api/*] }, { path: [/w/*], method: [POST] },
          { path_regex: '^/Rx/\\d+/?$' }, { path: [/q], query: { mode: admin } }, { path: [/q] },
          { path: [/o], query: { open: '1' } }, { path: [/o] }]",
        &["", "a", "b", "c", "d", "", "", "e"],
    );
    check(
        &all,
        &[
            ("GET a.test/API/x", 0, &[]),
            ("GET b.test/API/x", 1, &[]),
            ("POST h/W/x", 2, &[]),
            ("GET h/W/x", 0, &[]),
            ("GET h/rx/1", 3, &[]),
            ("GET h/RX/1/", 3, &[]),
            ("GET h/q?mode=admin", 4, &[]),
            ("GET h/q?mode=user&m%6Fde=%61dmin", 4, &[]),
            ("GET h/q?mode[]=admin", 4, &[]),
            ("GET h/Q?mode=admin", 4, &[]),
            ("GET h/q?mode=user", 5, &[]),
            ("GET h/o?open=1", 6, &[]),
            ("GET h/o?open=1&open=0", 7, &[]),
            ("GET h/o?open=1&open[]=0", 7, &[]),
        ],
    );
}

#[test]
fn routes_of_another_app_or_a_redirect_hide_no_guard() {
    for beside in [">", ">two", ">two!"] {
        let all = guarded(
            "[{ path: [/*] }, { path: [/docs/*] }, { path: [/docs] }, { path: [/account/], method: [GET] }, { path: [/account] }]",
            &["B", "Ba", beside, beside, "Bb"],
        );
        check(
            &all,
            &[
                ("GET h/docs/", 1, &[]),
                ("GET h/docs", 2, &[]),
                ("GET h/DOCS/", 1, &[]),
                ("GET h/DOCS", 1, &[]),
                ("GET h/docs;x/", 1, &[]),
                ("GET h/doc%2573/", 1, &[]),
                ("GET h/ACCOUNT", 4, &[]),
                ("GET h/Account/", 4, &[]),
                ("GET h/account;x", 4, &[]),
            ],
        );
    }
    // The order in the file does not matter.
    for order in [[0, 1], [1, 0]] {
        let paths = ["{ path: [/account/] }", "{ path: [/account] }"];
        let guards = ["", "a"];
        let all = guarded(
            &format!(
                "[{}, {}, {{ path: [/*] }}]",
                paths[order[0]], paths[order[1]]
            ),
            &[guards[order[0]], guards[order[1]], ""],
        );
        check(&all, &[("GET h/ACCOUNT", order[1], &[])]);
    }
}

#[test]
fn nothing_reaches_an_app_or_a_path_that_its_own_route_does_not_lead_to() {
    for other in ["a>internal", "a>internal!", "a>app!", "A>app!", "a>"] {
        let all = guarded("[{ path: [/*] }, { path: [/api/*] }]", &["", other]);
        check(
            &all,
            &[
                ("GET h/api/x", 1, &[]),
                ("GET h/API/x", 0, &[1]),
                ("GET h/admin/%252e%252e/api/x", 0, &[1]),
            ],
        );
    }
    let all = guarded("[{ path: [/*] }, { path: [/api/*] }]", &[">app!", "a"]);
    check(&all, &[("GET h/API/x", 0, &[1])]);
}

#[test]
fn a_route_that_rewrites_takes_its_own_paths_in_other_letters() {
    let all = guarded(
        "[{ path: [/api/*] }, { path: [/*] }, { path: ['/u/{id}'] }]",
        &[">app!", "a", ">app!"],
    );
    check(
        &all,
        &[("GET h/api/Products", 0, &[]), ("GET h/u/ABC", 2, &[])],
    );
}

#[test]
fn a_parameter_of_a_guarded_path_may_be_empty() {
    let all = guarded(
        "[{ path: [/*] }, { path: ['/items/{id}'] }, { path: ['/users/{id}'] }, { path: [/users/] }]",
        &["", "a", "b", ""],
    );
    check(
        &all,
        &[
            ("GET h/items/7", 1, &[]),
            ("GET h/items/", 1, &[]),
            ("GET h/ITEMS/7/../", 1, &[]),
            ("GET h/items", 0, &[]),
            ("GET h/users/", 3, &[]),
            ("GET h/users/7", 2, &[]),
        ],
    );
}

#[test]
fn limits_of_all_readings_count() {
    let all = guarded("[{ path: [/*] }, { path: [/upload/*] }]", &["L", "M"]);
    check(
        &all,
        &[
            ("GET h/UPLOAD/x", 1, &[0]),
            ("GET h/profile/%252e%252e/upload", 1, &[0]),
            ("GET h/profile/X", 0, &[]),
        ],
    );
}

#[test]
fn of_several_values_none_leads_around_a_guard() {
    let all = guarded(
        "[{ path: [/doc], query: { view: public } }, { path: [/doc] },
          { path: [/limit], query: { view: public } }, { path: [/limit] },
          { path: [/plan], cookie: { plan: free } }, { path: [/plan] },
          { path: [/two], header: { x-int: '1' } }, { path: [/two] }]",
        &["B", "Ba", "BL", "B", "Bb", "Bc", "B", "Bd"],
    );
    check(
        &all,
        &[
            ("GET h/doc?view=public", 0, &[]),
            ("GET h/doc?view=public&view=public", 0, &[]),
            ("GET h/doc?view=public&view=secret", 1, &[]),
            ("GET h/doc?view=secret&view=public", 1, &[]),
            ("GET h/limit?view=public&view=x", 3, &[2]),
        ],
    );
    let table = all.table.as_ref().unwrap();
    let find = |path: &str, headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let head = request("GET", path, &headers);
        let found = table.find(
            &Target::new("h", path.as_bytes()),
            &head,
            &mut Params::default(),
        );
        found.map(|found| (found.route, found.also)).unwrap()
    };
    assert_eq!(find("/plan", &[("cookie", "plan=free")]), (4, vec![]));
    let both = [("cookie", "plan=free; plan=gold")];
    assert_eq!(find("/plan", &both), (4, vec![5]));
    assert_eq!(find("/two", &[("x-int", "1")]), (6, vec![]));
    let both = [("x-int", "1"), ("x-int", "2")];
    assert_eq!(find("/two", &both), (6, vec![7]));
}

#[test]
fn other_values_lead_around_no_guard_of_exact_paths() {
    let all = guarded(
        "[{ path: [/doc], header: { x-part: open } }, { path: [/doc] }]",
        &["", "=a"],
    );
    let table = all.table.as_ref().unwrap();
    let find = |values: &[&str]| {
        let lines: Vec<_> = values
            .iter()
            .map(|value| ("x-part".to_owned(), (*value).to_owned()))
            .collect();
        let head = request("GET", "/doc", &lines);
        let found = table.find(&Target::new("h", b"/doc"), &head, &mut Params::default());
        found.map(|found| (found.route, found.also)).unwrap()
    };
    assert_eq!(find(&["open"]), (0, vec![]));
    assert_eq!(find(&["open", "closed"]), (0, vec![1]));
    assert_eq!(find(&["closed"]), (1, vec![]));
}

#[test]
fn a_slash_that_no_app_has_seen_guards_nothing_but_regular_expressions() {
    let all = guarded(
        "[{ path: [/*] }, { path: [/account] }, { path: [/account/*] }, { path_regex: '^/Rx/$' }]",
        &["", "", "a", "b"],
    );
    check(
        &all,
        &[
            ("GET h/account", 1, &[]),
            ("GET h/ACCOUNT", 0, &[]),
            ("GET h/ACCOUNT/", 2, &[]),
            ("GET h/account/X", 2, &[]),
            ("GET h/RX", 3, &[]),
        ],
    );
}

#[test]
fn a_guarded_path_that_is_spelled_oddly_itself_is_guarded_in_plain_letters() {
    let all = guarded(
        "[{ path: [/*] }, { path: [/API/*] }, { path: [/admin/] }, { path: [/a%2Fb] }]",
        &["", "a", "b", "c"],
    );
    check(
        &all,
        &[
            ("GET h/api/x", 1, &[]),
            ("GET h/admin", 2, &[]),
            ("GET h/a/b", 3, &[]),
            ("GET h/x", 0, &[]),
        ],
    );
}

#[test]
fn a_route_that_wants_exact_spelling_is_asked_for_nothing_by_routes_behind_it() {
    let compiled = guarded(
        "[{ path: [/*] }, { host: a.test, path: [/img/*] }, { host: a.test, path: [/*] }]",
        &["b>other", "=a>files", ">app"],
    );
    check(
        &compiled,
        &[
            ("GET a.test/img/A.jpg", 1, &[]),
            ("GET a.test/IMG/a.jpg", 2, &[]),
        ],
    );
}

#[test]
fn a_route_that_wants_exact_spelling_gets_no_other() {
    let all = guarded(
        "[{ path: [/*] }, { path: [/api/*] }, { path: [/x] }]",
        &["", "=a", "b"],
    );
    check(
        &all,
        &[
            ("GET h/API/x", 0, &[]),
            ("GET h/api/X", 1, &[]),
            ("GET h/X", 2, &[]),
        ],
    );
    let alone = guarded("[{ path: [/*] }, { path: [/api/*] }]", &["", "=a"]);
    assert!(!alone.table.as_ref().unwrap().lacks_guards(0, true));
}

proptest! {
    /// For an app that folds in any known way: every path that it treats as guarded is guarded by
    /// the gateway.
    #[test]
    fn no_app_that_folds_is_reached_past_a_guard(
        path in "(/|/{1,2}([aA]|%61|%2561|%41)([pP]|%70)[iI](/|;x=y/|%2[fF]|%252f|//|/;/|/\\./|/x/%252e%252e/)?([a-cA-C]|%2e|;|%3b|%3F){0,4}/?)",
        decodes in 0..4_usize,
        strips in any::<bool>(),
    ) {
        let all = guarded(
            "[{ path: [/*] }, { path: [/api/*] }, { path: ['/api/{x}'] }]",
            &["", "a", "ab"],
        );
        let found = taken(&all, &format!("GET h{path}"), &mut Params::default());
        let Some((route, _)) = found else {
            // The gateway refuses the path.
            return Ok(());
        };
        let normal = normalise(path.as_bytes(), Slashes::Merge).unwrap();
        let mut seen = normal.path.into_owned();
        for _ in 0..decodes {
            seen = percent_encoding::percent_decode(&seen).collect();
        }
        let seen = String::from_utf8_lossy(&seen).to_lowercase();
        let mut segments: Vec<&str> = Vec::new();
        for segment in seen.split('/') {
            let segment = if strips { segment.split(';').next().unwrap() } else { segment };
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                _ => segments.push(segment),
            }
        }
        if segments.first() == Some(&"api") {
            prop_assert_ne!(route, 0, "{} is {:?}", path, segments);
        }
    }
}

#[test]
fn no_spelling_bypasses_a_guarded_location() {
    let all = guarded(
        "[{ location: / }, { location: /Admin/ }, { location: '~ \\.secret$' }, { location: = /One }]",
        &["", "a", "b", "c"],
    );
    check(
        &all,
        &[
            ("GET h/x", 0, &[]),
            ("GET h/Admin/x", 1, &[]),
            ("GET h/admin/x", 1, &[]),
            ("GET h/ADMIN", 1, &[]),
            ("GET h/Admin%2Fx", 1, &[]),
            ("GET h/a.SECRET", 2, &[]),
            ("GET h/a.secret/", 2, &[]),
            ("GET h/a%2Esecret", 2, &[]),
            ("GET h/one", 3, &[]),
            ("GET h/ONE/", 3, &[]),
            ("GET h/onex", 0, &[]),
        ],
    );
}

#[test]
fn a_location_before_a_guarding_expression_takes_its_path_with_a_slash_too() {
    let all = guarded(
        "[{ location: / }, { location: ^~ /.well-known/acme }, { location: '~ ^/\\.' }]",
        &["", "", "a"],
    );
    check(
        &all,
        &[
            ("GET h/.well-known/acme", 1, &[]),
            ("GET h/.well-known/acme/x", 1, &[]),
            ("GET h/.git", 2, &[]),
            ("GET h/%2Egit/", 2, &[]),
        ],
    );
}

#[test]
fn expressions_that_differ_in_case_alone_keep_their_order() {
    let all = guarded(
        "[{ location: / }, { location: '~ ^/(?!x).*b$' }, { location: '~* ^/(?!x).*b$' },
          { within: '~* ^/(?!x).*b$', location: '~ /b' }]",
        &["", "", "", "a"],
    );
    check(
        &all,
        &[
            ("GET h/b", 1, &[]),
            ("GET h/a/b", 1, &[]),
            ("GET h/b/B", 3, &[]),
            ("GET h/xb", 0, &[]),
        ],
    );
}
