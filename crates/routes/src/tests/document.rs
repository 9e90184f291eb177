//! Test of the example in `docs/routing.md`.

use edgeway_config::{
    diagnostic::{Diagnostics, Place},
    model::MatchConfig,
    tree::{self, Value},
};

use super::Compiled;
use crate::{RouteTable, Slashes, normalise};

const PAGE: &str = include_str!("../../../../docs/routing.md");

/// Returns the rows of the table whose first column has this title, cells without backticks.
fn rows(title: &str) -> Vec<Vec<String>> {
    let from = PAGE.find(&format!("| {title} |")).expect("the table");
    PAGE[from..]
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split(" | ");
            cells.map(|cell| cell.trim().replace('`', "")).collect()
        })
        .collect()
}

#[test]
fn the_example_is_true() {
    let start = PAGE.find("```yaml\nroutes:\n").expect("the example") + "```yaml\n".len();
    let end = PAGE[start..].find("```").expect("its end") + start;
    let mut diagnostics = Diagnostics::default();
    let node = tree::parse(&PAGE[start..end], 0, &mut diagnostics).unwrap();
    let Value::List(list) = &node.get("routes").unwrap().value else {
        panic!("routes are a list");
    };
    let mut names = Vec::new();
    let mut matches: Vec<MatchConfig> = Vec::new();
    for route in list {
        matches.push(tree::read(route.get("match").unwrap(), &mut diagnostics).unwrap());
        names.push(match &route.get("name").unwrap().value {
            Value::Text(name) => name.clone(),
            other => panic!("{other:?}"),
        });
    }
    let routes: Vec<(&MatchConfig, Place)> =
        matches.iter().map(|m| (m, Place::default())).collect();
    let table = RouteTable::compile(&routes, Slashes::Merge, &mut diagnostics);
    assert_eq!(diagnostics.list(), []);
    let compiled = Compiled {
        yaml: PAGE[start..end].to_owned(),
        table,
        diagnostics,
    };
    let rows = rows("request");
    assert_eq!(rows.len(), 15);
    for row in rows {
        let mut words = row[0].splitn(3, ' ');
        let line = format!("{} {}", words.next().unwrap(), words.next().unwrap());
        let headers: Vec<(&str, &str)> = words.filter_map(|h| h.split_once(": ")).collect();
        let found = compiled
            .find(&line, &headers)
            .map(|(route, _)| &names[route]);
        assert_eq!(found, Some(&row[1]), "{}", row[0]);
    }
}

#[test]
fn paths_documented_as_refused_are_refused() {
    for path in [
        "/%2e", "/a/.%2E", "/..%2f", "/%00", "/%5c", "/..;", "/.;a/", "/..%3B", "/\\", "/ ", "/#",
        "/?#", "/%x",
    ] {
        let refused = normalise(path.as_bytes(), Slashes::Merge).unwrap_err();
        assert_eq!(refused.reason(), "bad_path", "{path}");
    }
}
