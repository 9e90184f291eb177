//! Reading of ecosystem files. Node itself runs those in JavaScript, as PM2 lets it.

use std::{fs, path::Path, process::Command};

use edgeway_config::{diagnostic::Style, source, tree};
use edgeway_project::pm2;
use serde_json::{Map, Value};

/// Precedes the configuration on node's standard output; the file may print lines of its own.
const MARK: &str = "\u{1}ecosystem\u{1}";

/// Prints the export of the file in `argv[1]`, a `CommonJS` or ES module.
const SCRIPT: &str = r"
const url = require('node:url').pathToFileURL(process.argv[1]).href;
import(url).then((module) => {
  const line = process.env.EDGEWAY_MARK + JSON.stringify(module.default ?? module) + '\n';
  // A timer or a connection of the file would keep node alive.
  process.stdout.write(line, () => process.exit(0));
}).catch((error) => { console.error(error?.stack ?? error); process.exit(1); });
";

/// Reads the apps of an ecosystem file.
pub(super) fn read(path: &Path) -> Result<Vec<Map<String, Value>>, String> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let value = match ending {
        Some("js" | "cjs" | "mjs") => by_node(path)?,
        Some("yaml" | "yml") => yaml(path)?,
        Some("json") => {
            let text =
                fs::read_to_string(path).map_err(|error| format!("cannot read it: {error}"))?;
            pm2::json(&text)?
        }
        _ => {
            return Err(
                "unknown ending; write a `.js`, `.cjs`, `.mjs`, `.json` or `.yaml` file".to_owned(),
            );
        }
    };
    let apps = pm2::listed(value);
    if apps.is_empty() {
        return Err(
            "no apps in it; an ecosystem file exports `{ apps: [{ name, script }] }`".to_owned(),
        );
    }
    Ok(apps)
}

fn by_node(path: &Path) -> Result<Value, String> {
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    if !path.is_file() {
        return Err("there is no such file".to_owned());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let ran = Command::new("node")
        .args(["--input-type=commonjs", "-e", SCRIPT])
        .arg(&path)
        .current_dir(folder)
        .env("EDGEWAY_MARK", MARK)
        .output()
        .map_err(|error| format!("cannot run `node`, which reads it: {error}"))?;
    let output = String::from_utf8_lossy(&ran.stdout);
    match output.split_once(MARK) {
        Some((_, json)) if ran.status.success() => {
            // The file may print more as node exits.
            let json = json.lines().next().unwrap_or_default();
            serde_json::from_str(json).map_err(|error| error.to_string())
        }
        _ => Err(format!(
            "node cannot read it:\n{}",
            String::from_utf8_lossy(&ran.stderr).trim_end()
        )),
    }
}

fn yaml(path: &Path) -> Result<Value, String> {
    let (sources, node, mut diagnostics) = source::load(path);
    let value = node.and_then(|node| tree::read(&node, &mut diagnostics));
    value.filter(|_| !diagnostics.has_errors()).ok_or_else(|| {
        // Without colour: escape sequences in messages are those of the file.
        let plain = Style::Graphical { colour: false };
        format!("\n{}", diagnostics.render(&sources, plain))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_file_gives_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "a.config.js",
                "console.log('noise'); module.exports = { apps: [{ name: 'a', script: require('path').join('b', 'c.js') }] }",
            ),
            (
                "a.config.cjs",
                "module.exports = { apps: [{ name: 'a', script: 'b/c.js', post: () => 1 }] }",
            ),
            (
                "timer.config.js",
                "setInterval(() => 0, 1000); process.on('exit', () => console.log('bye'));\n\
                 module.exports = [{ name: 'a', script: 'b/c.js' }]",
            ),
            (
                "a.config.mjs",
                "export default { apps: [{ name: 'a', script: 'b/c.js' }] }",
            ),
            (
                "a.json",
                r#"{ "apps": [{ "name": "a", "script": "b/c.js" }] }"#,
            ),
            (
                "comments.json",
                "/* one app */ { apps: [{ name: 'a', script: 'b/c.js', }] } // end",
            ),
            ("a.yaml", "apps:\n  - name: a\n    script: b/c.js\n"),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            let apps = read(&path).unwrap();
            assert_eq!(
                json!(apps),
                json!([{ "name": "a", "script": "b/c.js" }]),
                "{name}"
            );
        }
        let broken = folder.path().join("b.config.js");
        fs::write(&broken, "module.exports = {").unwrap();
        let why = read(&broken).unwrap_err();
        assert!(
            why.contains("node cannot read it") && why.contains("SyntaxError"),
            "{why}"
        );
    }
}
