//! Validation of a plugin's `config` against a JSON Schema in a file beside its module.

use std::{error::Error, fmt, path::Path};

use boon::{
    CompileError, Compiler, ErrorKind, InstanceToken, SchemaIndex, Schemas, UrlLoader,
    ValidationError,
};
use serde_json::Value;

use super::{error::Failure, source};

/// Name of the schema file.
pub const FILE: &str = "config.schema.json";

/// URL of the schema itself; nothing is read from there.
const ADDRESS: &str = "plugin:///config.schema.json";

/// Most problems reported at once.
const MAX_PROBLEMS: usize = 20;

/// Start of the message about an invalid key name.
const WRONG_NAME: &str = "has a name that";

/// Schema of a plugin's `config` (draft 2020-12, or the one that its `$schema` names). Formats are
/// checked; a `default` is for editors, and is not filled in.
pub struct ConfigSchema {
    schemas: Schemas,
    index: SchemaIndex,
    /// Schema as written.
    json: Value,
}

/// Deepest nesting of schemas that is followed.
const MAX_DEPTH: usize = 32;

/// Problem of a `config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaError {
    /// Keys and positions from `config` down to the value. An unknown key is the last of them.
    pub at: Vec<Step>,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Item(usize),
}

impl ConfigSchema {
    /// Reads the schema in this folder, if there is one.
    pub fn beside(folder: &Path) -> Result<Option<Self>, Failure> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = source::read(&path).map_err(|error| no_schema(&error))?;
        Self::parse(&text).map(Some)
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        let json: Value = serde_json::from_str(text).map_err(|error| no_schema(&error))?;
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.use_loader(Box::new(NoLoader));
        compiler.enable_format_assertions();
        // The alternate form includes the cause.
        let refused = |error: CompileError| no_schema(&format_args!("{error:#}"));
        compiler
            .add_resource(ADDRESS, json.clone())
            .map_err(refused)?;
        let index = compiler.compile(ADDRESS, &mut schemas).map_err(refused)?;
        Ok(Self {
            schemas,
            index,
            json,
        })
    }

    /// Returns the paths of secrets in a `config`: those that the schema marks as `writeOnly`, or
    /// as a `password`.
    pub fn secrets(&self, config: &Value) -> Vec<Vec<Step>> {
        let mut all = Vec::new();
        self.secrets_in(&self.json, config, &mut Vec::new(), 0, &mut all);
        all
    }

    fn secrets_in(
        &self,
        schema: &Value,
        config: &Value,
        path: &mut Vec<Step>,
        depth: usize,
        all: &mut Vec<Vec<Step>>,
    ) {
        if depth > MAX_DEPTH {
            return;
        }
        if schema["writeOnly"] == true || schema["format"] == "password" {
            all.push(path.clone());
            return;
        }
        if let Some(pointer) = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#'))
            && let Some(other) = self.json.pointer(pointer)
        {
            self.secrets_in(other, config, path, depth + 1, all);
        }
        for choice in ["allOf", "anyOf", "oneOf"] {
            for other in schema[choice].as_array().into_iter().flatten() {
                self.secrets_in(other, config, path, depth + 1, all);
            }
        }
        let mut below = |step: Step, schema: &Value, value: &Value| {
            path.push(step);
            self.secrets_in(schema, value, path, depth + 1, all);
            path.pop();
        };
        match config {
            Value::Object(map) => {
                for (key, value) in map {
                    let part = schema["properties"].get(key);
                    let schema = part.unwrap_or(&schema["additionalProperties"]);
                    below(Step::Key(key.clone()), schema, value);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    let part = schema["prefixItems"].get(index);
                    below(Step::Item(index), part.unwrap_or(&schema["items"]), value);
                }
            }
            _ => {}
        }
    }

    /// Returns all problems of this `config`.
    pub fn check(&self, config: &Value) -> Vec<SchemaError> {
        let mut all = Vec::new();
        if let Err(error) = self.schemas.validate(config, self.index) {
            collect(&error, &mut all);
        }
        all.truncate(MAX_PROBLEMS);
        for wrong in &mut all {
            // The validator does not report the path of an invalid key name.
            if let [Step::Key(key)] = &*wrong.at
                && wrong.why.starts_with(WRONG_NAME)
                && let Some(path) = find(config, key)
            {
                wrong.at = path;
            }
        }
        all
    }

    /// Checks a `config`, with all problems in one failure, for callers that cannot report each.
    pub(super) fn demand(&self, config: &str) -> Result<(), Failure> {
        let config = serde_json::from_str(config)
            .map_err(|error| Failure::load(format!("its `config` is not JSON: {error}")))?;
        let all = self.check(&config);
        if all.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        Err(Failure::load(format!("{} (by its {FILE})", all.join("; "))))
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`config")?;
        for step in &self.at {
            match step {
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Item(at) => write!(f, "[{at}]")?,
            }
        }
        write!(f, "` {}", self.why)
    }
}

edgeway_base::opaque_debug!(ConfigSchema);

fn no_schema(why: &dyn fmt::Display) -> Failure {
    Failure::load(format!("{FILE} is not a JSON Schema: {why}"))
}

/// Loader that refuses all URLs: a schema must contain all that it refers to.
struct NoLoader;

impl UrlLoader for NoLoader {
    fn load(&self, _url: &str) -> Result<Value, Box<dyn Error>> {
        Err("a schema can refer only to itself".into())
    }
}

/// Returns the first path of a key.
fn find(value: &Value, key: &str) -> Option<Vec<Step>> {
    let below = |step: Step, value: &Value| {
        let mut path = find(value, key)?;
        path.insert(0, step);
        Some(path)
    };
    match value {
        Value::Object(map) if map.contains_key(key) => Some(vec![Step::Key(key.to_owned())]),
        Value::Object(map) => map
            .iter()
            .find_map(|(name, value)| below(Step::Key(name.clone()), value)),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.find_map(|(path, value)| below(Step::Item(path), value))
        }
        _ => None,
    }
}

/// Collects the errors that carry information; the others only report that one of these occurred.
fn collect(error: &ValidationError<'_, '_>, all: &mut Vec<SchemaError>) {
    let here: Vec<Step> = steps(error);
    let mut report = |key: Option<&str>, why: String| {
        let key = key.map(|key| Step::Key(key.to_owned()));
        let path = here.iter().cloned().chain(key).collect();
        let wrong = SchemaError { at: path, why };
        all.extend((!all.contains(&wrong)).then_some(wrong));
    };
    match &error.kind {
        ErrorKind::AnyOf | ErrorKind::OneOf(None) if !error.causes.is_empty() => {
            // Each alternative would be valid alone, so no single one is the problem.
            let mut choices = Vec::new();
            for cause in &error.causes {
                collect(cause, &mut choices);
            }
            let is_deeper = choices.iter().any(|choice| choice.at.len() > here.len());
            let lead = if is_deeper { "does not fit: " } else { "" };
            let describe = |choice: SchemaError| match choice.at.get(here.len()) {
                Some(Step::Key(key)) => format!("`{key}` {}", choice.why),
                _ => choice.why,
            };
            let mut choices: Vec<String> = choices.into_iter().map(describe).collect();
            choices.dedup();
            report(None, format!("{lead}{}", choices.join(", or ")));
        }
        ErrorKind::AdditionalProperties { got } => {
            for key in got {
                report(Some(key), "is an unknown key".to_owned());
            }
        }
        ErrorKind::Required { want } => {
            for key in want {
                report(Some(key), "is missing".to_owned());
            }
        }
        ErrorKind::Type { got, want } => {
            let want: Vec<String> = want.iter().map(|kind| kind.to_string()).collect();
            report(None, format!("is {got}, not {}", want.join(" or ")));
        }
        // The value is not repeated: it may be a secret.
        ErrorKind::Pattern { want, .. } => report(None, format!("does not match `{want}`")),
        ErrorKind::Format { want, .. } => report(None, format!("is not a valid `{want}`")),
        ErrorKind::PropertyName { prop } => {
            let mut names = Vec::new();
            for cause in &error.causes {
                collect(cause, &mut names);
            }
            let why: Vec<String> = names.into_iter().map(|name| name.why).collect();
            let why = why.join(" and ");
            report(Some(prop), format!("{WRONG_NAME} {why}"));
        }
        ErrorKind::FalseSchema => report(None, "is not allowed".to_owned()),
        kind if error.causes.is_empty() => report(None, format!("does not fit: {kind}")),
        _ => {
            for cause in &error.causes {
                collect(cause, all);
            }
        }
    }
}

fn steps(error: &ValidationError<'_, '_>) -> Vec<Step> {
    let tokens = error.instance_location.tokens.iter();
    tokens
        .map(|token| match token {
            InstanceToken::Prop(key) => Step::Key(key.to_string()),
            InstanceToken::Item(at) => Step::Item(*at),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn errors(schema: &Value, config: &Value) -> Vec<String> {
        let schema = ConfigSchema::parse(&schema.to_string()).unwrap();
        let all = schema.check(config);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_errors_are_reported_with_their_positions() {
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["secret"],
            "properties": {
                "secret": { "type": "string", "minLength": 3 },
                "hosts": { "type": "array", "items": { "type": "string", "format": "hostname" } },
                "mode": { "enum": ["on", "off"] },
                "ttl": { "anyOf": [{ "type": "integer" }, { "type": "null" }] },
            },
        });
        let right = json!({ "secret": "abc", "hosts": ["a.test"], "mode": "on", "ttl": null });
        assert_eq!(errors(&schema, &right), [""; 0]);
        let wrong = json!({ "hosts": ["a.test", 5], "mode": "x", "ttl": "1s", "sercet": "abc" });
        let mut found = errors(&schema, &wrong);
        found.sort();
        assert_eq!(
            found,
            [
                "`config.hosts[1]` is number, not string",
                "`config.mode` does not fit: value must be one of 'on', 'off'",
                "`config.secret` is missing",
                "`config.sercet` is an unknown key",
                "`config.ttl` is string, not integer, or is string, not null",
            ]
        );
    }

    #[test]
    fn errors_repeat_names_and_no_values() {
        let schema = json!({
            "anyOf": [{ "required": ["key"] }, { "required": ["keys"] }],
            "properties": {
                "key": { "pattern": "^sha256:" },
                "of": { "format": "ipv4" },
                "headers": { "propertyNames": { "pattern": "^x-" } },
            },
        });
        assert_eq!(
            errors(&schema, &json!({})),
            ["`config` does not fit: `key` is missing, or `keys` is missing"]
        );
        let wrong = json!({ "key": "secret", "of": "secret", "headers": { "a": 1 } });
        let mut found = errors(&schema, &wrong);
        found.sort();
        assert_eq!(
            found,
            [
                "`config.headers.a` has a name that does not match `^x-`",
                "`config.key` does not match `^sha256:`",
                "`config.of` is not a valid `ipv4`",
            ]
        );
    }

    #[test]
    fn secrets_are_where_the_schema_says_so() {
        let schema = json!({
            "properties": {
                "salt": { "$ref": "#/$defs/hidden" },
                "pins": { "items": { "type": "string", "format": "password" } },
                "other": { "type": "string" },
            },
            "additionalProperties": { "anyOf": [{ "type": "number" }, { "writeOnly": true }] },
            "$defs": { "hidden": { "writeOnly": true, "type": "string" } },
        });
        let schema = ConfigSchema::parse(&schema.to_string()).unwrap();
        let config = json!({ "salt": "a", "pins": ["b", "c"], "other": "d", "more": "e" });
        let key = |key: &str| Step::Key(key.to_owned());
        let expected = [
            vec![key("more")],
            vec![key("pins"), Step::Item(0)],
            vec![key("pins"), Step::Item(1)],
            vec![key("salt")],
        ];
        let mut secrets = schema.secrets(&config);
        secrets.sort_by_key(|at| format!("{at:?}"));
        let mut expected = expected.to_vec();
        expected.sort_by_key(|at| format!("{at:?}"));
        assert_eq!(secrets, expected);
    }

    #[test]
    fn an_invalid_schema_is_refused_with_its_reason() {
        for (text, why) in [
            ("{", "EOF"),
            (r#"{ "type": "text" }"#, "metaschema"),
            (r#"{ "$ref": "file:///etc/passwd" }"#, "only to itself"),
            (r#"{ "$ref": "other.json" }"#, "only to itself"),
            (r##"{ "$ref": "#/$defs/gone" }"##, "gone"),
        ] {
            let failure = ConfigSchema::parse(text).unwrap_err();
            assert!(failure.message.contains(why), "{text}: {failure:?}");
            assert!(failure.message.starts_with(FILE), "{failure:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(ConfigSchema::beside(folder.path()).unwrap().is_none());
    }

    #[test]
    fn a_schema_that_refers_to_itself_is_followed() {
        let tree = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$ref": "#/$defs/tree",
            "$defs": { "tree": {
                "type": "object",
                "properties": { "next": { "$ref": "#/$defs/tree" } },
                "unevaluatedProperties": false,
            } },
        });
        assert_eq!(errors(&tree, &json!({ "next": { "next": {} } })), [""; 0]);
        assert!(!errors(&tree, &json!({ "next": { "nxet": {} } })).is_empty());
    }
}
