//! Files: `root`, `alias`, `try_files`, `index`, and their media types.

use serde_json::{Map, Value, json};

use super::{
    actions::shut,
    collect::{NamedLocation, mark_and_path},
    locations::{Location, Place, Routes},
    output::add_to,
    pages,
    parse::Directive,
    scope::Scope,
    tables,
    variables::{At, culprit, expression, has_group, known},
    words::{Piece, encoded, pieces, spelled},
};

impl<'a> Routes<'a, '_> {
    /// Returns the keys of a location with files.
    pub(super) fn files(
        &mut self,
        place: &Place<'_, 'a>,
        location: &Location<'a>,
    ) -> Map<String, Value> {
        let scope = &location.scope;
        // Locations within one with `alias` have it too.
        let root = scope.nearest_of(&["alias", "root"]).first().copied();
        let alias = root.filter(|root| root.name == "alias");
        // The block of an `if` does not inherit it.
        let tries = scope.own("try_files").first().copied();
        let path = root.and_then(|root| tables::header(root.arg(0), scope));
        let by_expression = alias.and_then(|alias| by_expression(alias, scope));
        let (folder, rewrite) = by_expression.unzip();
        let path = folder.or(path.filter(|path| !path.contains('{')));
        let (Some(root), Some(path)) = (root, path) else {
            return Self::without_root(place, location, (root, tries));
        };
        root.changed(OF_FILES);
        let mut files = json!({
            "root": path, "dot_files": true, "symlinks": "follow", "reroute_index": true,
        });
        let dates = scope.one("if_modified_since");
        if let Some(dates) = dates {
            match dates.arg(0) {
                "off" => dates.lost("`If-Modified-Since` counts"),
                _ => dates.carried(""),
            }
        }
        if dates.map(|dates| dates.arg(0)) != Some("before") {
            files["if_modified_since"] = "exact".into();
        }
        if let Some(index) = scope.one("index") {
            let names = index.args.iter();
            let names: Vec<&String> = names
                .filter(|name| !name.contains(['/', '$']) && !name.is_empty())
                .collect();
            if names.len() == index.args.len() {
                index.carried("");
            } else {
                index.changed("without paths and variables");
            }
            files["index"] = json!(names);
        }
        if refuses_links(scope) {
            files["symlinks"] = "refuse".into();
        }
        if let Some(list) = scope.one("autoindex").filter(|list| list.is_on()) {
            list.lost("there are no listings of folders: 403");
        }
        let gzip = scope.one("gzip_static");
        if let Some(gzip) = gzip.filter(|gzip| gzip.arg(0) != "off") {
            gzip.carried("");
            files["precompressed"] = json!(["gzip"]);
        }
        self.media_types(scope, &mut files);
        if let Some(tries) = tries {
            Self::tries(tries, place, scope, &mut files);
        }
        // What is no file, the app gets with the body of the request.
        let app = pages::taking("404", scope, place);
        let is_passed = |app: &&NamedLocation<'_>| !app.scope.own("proxy_pass").is_empty();
        let app = app.filter(|app| tries.or(alias).is_none() && is_passed(app));
        if let Some(app) = &app {
            files["try"] = json!(["{path.decoded}", "{path.decoded}/"]);
            files["otherwise"] = json!({ "route": app.route });
        }
        let mut keys = Map::from_iter([("files".to_owned(), files)]);
        if app.is_some() {
            // nginx asks the app only for what it would have sent itself.
            let methods = json!({ "allow": ["GET", "HEAD", "POST"], "status": 405 });
            keys.insert("methods".to_owned(), methods);
        }
        if let Some(rewrite) = rewrite {
            keys.insert("rewrite".to_owned(), rewrite);
        } else if let Some(owner) = alias.and_then(|alias| scope.owner_of(alias)) {
            let (mark, prefix) = mark_and_path(owner);
            let is_file = mark == "=";
            // Beside a folder without a slash, nginx serves files whose names begin with it.
            let is_known = is_file || root.arg(0).ends_with('/') || !prefix.ends_with('/');
            if !is_known || mark.starts_with('~') || !prefix.starts_with('/') {
                root.closed("this `alias` has no counterpart");
                return shut();
            }
            let regex = spelled(prefix);
            let (regex, with) = if prefix.ends_with('/') {
                (format!("^{regex}"), "/".to_owned())
            } else if root.arg(0).ends_with('/') {
                root.changed(OF_SLASH);
                let to = format!("{}/{{query_mark}}{{query}}", encoded(prefix));
                let to_folder = json!({
                    "if": "{method}", "is": "~^(GET|HEAD|POST)$",
                    "regex": format!("^{regex}$"), "status": 301, "to": to,
                });
                if scope.location().is_some_and(|own| own.id == owner.id) {
                    keys.insert("rules".to_owned(), json!([to_folder]));
                }
                (format!("^{regex}/"), "/".to_owned())
            } else {
                // What follows the prefix follows the name of the file or folder.
                let (folder, name) = root.arg(0).rsplit_once('/').unwrap_or(("/", ""));
                keys["files"]["root"] = if folder.is_empty() { "/" } else { folder }.into();
                let end = if is_file { "$" } else { "" };
                let with = format!("/{}", encoded(name).replace('$', "$$"));
                (format!("^{regex}{end}"), with)
            };
            let value = json!({ "regex": regex, "with": with });
            keys.insert("rewrite".to_owned(), value);
        }
        keys
    }

    /// Returns the keys of a location with the files of nginx itself, of which there are none here.
    fn without_root(
        place: &Place<'_, 'a>,
        location: &Location<'a>,
        (root, tries): (Option<&'a Directive>, Option<&'a Directive>),
    ) -> Map<String, Value> {
        let is_server = location.directive.id == place.server.directive.id;
        if let Some(tries) = tries.filter(|_| root.is_none()) {
            let mut files = json!({ "root": "/usr/share/nginx/html" });
            Self::tries(tries, place, &location.scope, &mut files);
            files["try"] = json!(["/dev/null"]);
            tries.changed(
                "its location has no `root`: the files that nginx installs are not looked for",
            );
            return Map::from_iter([("files".to_owned(), files)]);
        }
        if let Some(tries) = tries {
            tries.lost("its location has no fixed `root`");
        }
        if let Some(root) = root {
            let name = culprit(root.arg(0), At::request(&location.scope));
            root.missing(&format!(
                "a folder by {name} has no counterpart: 404 instead of its files"
            ));
        } else if !is_server && location.scope.one("internal").is_none() {
            let note = "it has no `root`: 404 instead of the files that nginx installs";
            location.directive.changed(note);
        }
        let mut keys = Map::from_iter([("respond".to_owned(), json!(404))]);
        let mut rules = location.scope.nearest_of(&["allow", "deny"]).into_iter();
        if !rules.any(|rule| rule.name == "deny" && rule.arg(0) == "all") {
            // Whom nginx refuses, it refuses whatever the method.
            let methods = json!({ "allow": ["GET", "HEAD", "POST"], "status": 405 });
            keys.insert("methods".to_owned(), methods);
        }
        keys
    }

    /// Translates `try_files`.
    fn tries(tries: &Directive, place: &Place<'_, 'a>, scope: &Scope<'a>, files: &mut Value) {
        let Some((last, paths)) = tries.args.split_last() else {
            return;
        };
        let of = |text: &String| match known(text, At::request(scope)) {
            Ok(path) if path.starts_with(['/', '{']) => Ok(path),
            Ok(_) => Err(format!("`{text}` does not begin with a slash: left out")),
            Err(why) => Err(format!("{why}: left out")),
        };
        let (mut list, mut whys) = (Vec::new(), Vec::new());
        for path in paths {
            match of(path) {
                Ok(path) => list.push(path),
                Err(why) => whys.push(why),
            }
        }
        let otherwise = if let Some(code) = last.strip_prefix('=') {
            let code = code.parse::<u16>().ok();
            code.filter(|code| (400..600).contains(code))
                .map(|code| json!({ "status": code }))
                .ok_or_else(|| format!("`{last}` is no status of an error: 404"))
        } else if let Some(name) = last.strip_prefix('@') {
            let mut named = place.named.iter();
            let target = named.find(|known| known.name == name);
            target
                .map(|known| json!({ "route": known.route }))
                .ok_or_else(|| format!("there is no `{last}`: 404"))
        } else {
            of(last).map(|path| json!({ "reroute": path }))
        };
        let otherwise = otherwise.unwrap_or_else(|why| {
            whys.push(why);
            json!({ "status": 404 })
        });
        let query = last.split_once('?').map_or("", |(_, query)| query);
        if !whys.is_empty() {
            tries.lost(whys.join("; "));
        } else if query.contains("$uri") {
            tries.changed("`$uri` is percent-encoded where a character has a meaning in a query");
        } else {
            tries.carried("");
        }
        files["try"] = json!(list);
        files["otherwise"] = otherwise;
    }

    /// Translates media types that are not those of all locations.
    fn media_types(&mut self, scope: &Scope<'_>, files: &mut Value) {
        for types in scope.nearest("types") {
            for one in std::iter::once(types).chain(types.children()) {
                one.carried("");
            }
        }
        let is_own = |name: &str| {
            let nearest = scope.one(name);
            nearest.is_some_and(|own| self.http.own(name).iter().all(|one| one.id != own.id))
        };
        if !["types", "default_type", "charset"]
            .iter()
            .any(|name| is_own(name))
        {
            return;
        }
        let common = super::media::types(self.http);
        let types = super::media::types(scope);
        let default = types.default.clone();
        let mut written = Map::new();
        // Types of its own replace those around it, and without any, only what is listed is known.
        let is_whole = is_own("types");
        let has_default = is_whole || default != common.default;
        let has_all = has_default && (is_whole || self.http.nearest("types").is_empty());
        for (ending, kind) in &types.by_ending {
            if has_all || common.by_ending.get(ending) != Some(kind) {
                written.insert(ending.clone(), kind.clone().into());
            }
        }
        if has_default {
            let ending = if has_all { "*" } else { "" };
            written.insert(ending.to_owned(), default.into());
        }
        add_to(files, "types", written);
    }
}

/// Returns folder and rewrite of an `alias` in an expression, which is the path of a whole file, with
/// groups of the expression; `None` if it has no counterpart.
fn by_expression(alias: &Directive, scope: &Scope<'_>) -> Option<(String, Value)> {
    let owner = scope.owner_of(alias)?;
    // Another expression may have matched since.
    let matches = |one: &Directive| {
        one.name == "rewrite" || one.name == "if" && one.args.iter().any(|arg| arg.contains('~'))
    };
    if scope.location()?.id != owner.id || owner.children().iter().any(matches) {
        return None;
    }
    let (mark, regex) = expression(owner)?;
    let list = pieces(alias.arg(0));
    let Some(Piece::Text(fixed)) = list.first() else {
        return None;
    };
    let (folder, _) = fixed.rsplit_once('/')?;
    let mut with = String::new();
    for piece in &list {
        match piece {
            Piece::Text(text) => with.push_str(&encoded(text).replace('$', "$$")),
            Piece::Variable(name) if has_group(&regex, name) => with.extend(["$${", name, "}"]),
            Piece::Variable(_) => return None,
        }
    }
    let case = if mark == "~*" { "(?i)" } else { "" };
    let regex = format!("{case}^.*?(?:{regex}).*$");
    regex::Regex::new(&regex).ok()?;
    let rewrite = json!({ "regex": regex, "with": with[encoded(folder).len()..] });
    Some((format!("{folder}/"), rewrite))
}

/// Translates `disable_symlinks`; returns true if links are refused.
fn refuses_links(scope: &Scope<'_>) -> bool {
    let Some(links) = scope.one("disable_symlinks") else {
        return false;
    };
    match links.arg(0) {
        "off" => links.carried(""),
        "on" => links.changed(OF_LINKS),
        _ => links.changed(format!(
            "links of the same owner are refused too; {OF_LINKS}"
        )),
    }
    links.arg(0) != "off"
}

/// Note of the report on an `alias` with a slash for a location without one.
const OF_SLASH: &str = "a path that goes on without a slash after that of the location is no file of \
    the folder";

/// Note of the report on links.
const OF_LINKS: &str = "a folder that is a link gets 403, not 404; the root itself may be a link";

/// Note of the report on files.
pub(super) const OF_FILES: &str = "methods other than GET and HEAD get 405 for a file; ranges and \
    conditions follow RFC 9110: only GET has ranges, and one range only; 416 has headers of \
    `add_header` once, not twice";
