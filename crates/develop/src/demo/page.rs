//! The page of the demonstration: its texts, with the addresses and the parts of the configuration
//! that it shows.

use askama::Template;

const HOME: &str = env!("CARGO_PKG_REPOSITORY");

/// Parts of the configuration by the tile that shows them: the first line of each.
const SHOWN: [(&str, &[&str]); 6] = [
    ("cache", &["  - match: { path: /product }"]),
    ("limit", &["rate_limits:", "  - match: { path: /limited }"]),
    ("split", &["  - match: { path: /split }"]),
    ("stop", &["  shop:"]),
    ("headers", &["defaults:"]),
    ("explain", &["admin:"]),
];

#[derive(Template)]
#[template(path = "demo.html")]
pub(super) struct Page<'a> {
    pub(super) base: &'a str,
    /// The program, and its admin socket, as a shell takes them.
    pub(super) program: &'a str,
    pub(super) socket: &'a str,
    pub(super) yaml: &'a str,
}

impl Page<'_> {
    /// Returns the parts of the configuration that a tile shows.
    fn yaml_of(&self, tile: &str) -> String {
        let tile = SHOWN.iter().find(|(name, _)| *name == tile);
        let firsts = tile.map_or(&[][..], |(_, firsts)| firsts);
        firsts.iter().map(|first| part(self.yaml, first)).collect()
    }
}

/// Returns the link to a page of the documentation, or its name if the package names no home.
fn link_to(home: &str, page: &str) -> String {
    if home.is_empty() {
        return format!("<code>{page}</code>");
    }
    format!("<a href=\"{home}/blob/main/{page}\">{page}</a>")
}

/// Returns the line that begins so below its key, with the lines that belong to it by their
/// indentation.
fn part(yaml: &str, first: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let depth = indent(first);
    let Some(start) = yaml.lines().position(|line| line.starts_with(first)) else {
        return String::new();
    };
    let before: Vec<&str> = yaml.lines().take(start).collect();
    let key = before
        .into_iter()
        .rfind(|line| !line.is_empty() && indent(line) < depth);
    let mut lines = yaml.lines().skip(start);
    let head = lines.next();
    let lines = lines.take_while(|line| indent(line) > depth);
    let all = key.into_iter().chain(head).chain(lines);
    all.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use edgeway_gateway::{self as gateway, World};

    const PAGE: &str = include_str!("../../templates/demo.html");

    const YAML: &str = "admin: {}\na:\n  b:\n    c: 1\n    d:\n      - 2\n  e: 3\nf: 4\n";

    #[test]
    fn a_part_ends_where_its_indentation_does() {
        for (first, expected) in [
            ("a:", "a:\n  b:\n    c: 1\n    d:\n      - 2\n  e: 3\n"),
            ("  b:", "a:\n  b:\n    c: 1\n    d:\n      - 2\n"),
            ("  e:", "a:\n  e: 3\n"),
            ("f:", "f: 4\n"),
            ("  none:", ""),
        ] {
            assert_eq!(part(YAML, first), expected);
        }
    }

    /// Invariant: each tile shows lines of the configuration that is served, and nothing of the
    /// page is left to fill in.
    #[test]
    fn the_page_shows_the_configuration_that_is_served() {
        let yaml = &include_str!("demo.yaml").replace("{socket}", "");
        let page = Page {
            base: "http://localhost:1",
            program: "edgeway",
            socket: "'/a <b>'",
            yaml,
        };
        let rendered = page.to_string();
        assert!(rendered.contains("--socket &#39;/a &#60;b&#62;&#39;"));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let guides = PAGE.split("link_to(HOME, \"").skip(1);
        let guides: Vec<&str> = guides.filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(guides.len(), SHOWN.len());
        for guide in guides {
            assert!(root.join(guide).is_file(), "{guide}");
            assert!(rendered.contains(&link_to(HOME, guide)), "{guide}");
        }
        for (tile, firsts) in SHOWN {
            assert!(PAGE.contains(&format!("yaml_of(\"{tile}\")")), "{tile}");
            for first in firsts {
                assert!(part(yaml, first).contains(first), "{tile}: {first}");
            }
        }
    }

    #[test]
    fn a_guide_is_a_link_if_the_project_has_a_home() {
        let page = "docs/plugins.md";
        assert_eq!(link_to("", page), "<code>docs/plugins.md</code>");
        let link = link_to("https://git.example.com/edgeway", page);
        let address = "https://git.example.com/edgeway/blob/main/docs/plugins.md";
        assert_eq!(link, format!("<a href=\"{address}\">docs/plugins.md</a>"));
    }

    #[test]
    fn the_smallest_configuration_of_the_page_is_one() {
        let (_, text) = PAGE.split_once("id=\"smallest\">").unwrap();
        let (text, _) = text.split_once("</pre>").unwrap();
        edgeway_filters::register();
        let loaded = gateway::load_text("smallest.yaml", text);
        let file = loaded.file.unwrap();
        let (gateway, found) = gateway::compile(&file, Path::new(""), &World::default());
        assert!(gateway.is_some() && found.list().is_empty(), "{text}");
    }
}
