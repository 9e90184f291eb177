//! Configuration of `basic_auth` as written, and its compilation.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use edgeway_base::{credential::PasswordHash, gateway_headers::GatewayHeaders, secret::Secret};
use edgeway_config::{diagnostic::Place, tree::Spanned};
use edgeway_core::chain::{AuthMetrics, CompileContext};
use http::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::{BasicAuth, User, check::Comparisons};
use crate::read_list;

/// Requires a user's name and password (RFC 7617).
#[derive(Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(deny_unknown_fields, default)]
pub struct BasicAuthConfig {
    /// Realm that browsers show when they prompt for a password.
    #[default(Spanned::nowhere("Restricted".to_owned()))]
    realm: Spanned<String>,
    /// File with lines `NAME:HASH`, as `edgeway hash password` and `htpasswd -B` write them. Read
    /// when the configuration is loaded. The weak hashes `$apr1$` and `{SHA}` of older files are
    /// accepted with a warning.
    file: Option<Spanned<PathBuf>>,
    /// Users as name → hash, in addition to those of the file.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    users: BTreeMap<String, Spanned<Secret>>,
    /// Header that carries the user's name to the backend; a header of this name sent by a client
    /// is removed.
    forward: Option<Spanned<String>>,
    /// True to remove the `Authorization` header from the request to the backend.
    #[default(true)]
    strip: bool,
}

impl BasicAuthConfig {
    pub(super) fn compile(self, cx: &mut CompileContext<'_>) -> Option<BasicAuth> {
        let mut list = UsersFound(HashMap::new());
        let errors = cx.diagnostics.errors();
        if let Some(file) = &self.file {
            list.read(file, cx);
        }
        for (name, hash) in &self.users {
            list.add(name, hash.value.reveal(), hash.place, "", cx);
        }
        let challenge = challenge(&self.realm, cx);
        let forward = self.forward.as_ref();
        let forward = forward.and_then(|name| cx.own_header(name, "edgeway::basic_auth::forward"));
        if list.0.is_empty() && cx.diagnostics.errors() == errors {
            return cx.here("edgeway::basic_auth::nobody").refuse(
                "`basic_auth` has no users, so no user could pass",
                "write `file: users.htpasswd`, and create its lines with `edgeway hash password \
                 --user NAME`",
            );
        }
        let checks = cx.zones.get_or_create("basic_auth", Comparisons::default);
        Some(BasicAuth {
            list: Arc::from(list.fingerprint()),
            users: list.0,
            challenge: challenge?,
            own: GatewayHeaders::new(forward.iter().cloned()),
            forward,
            strip: self.strip,
            checks,
            clock: cx.clock.clone(),
            metrics: AuthMetrics::new(cx.metrics, "basic_auth", cx.route),
        })
    }
}

/// Users found so far.
struct UsersFound(HashMap<Box<str>, User>);

impl UsersFound {
    fn read(&mut self, file: &Spanned<PathBuf>, cx: &mut CompileContext<'_>) {
        let help = "create its line with `edgeway hash password --user NAME`";
        let text = read_list(file, "users", "edgeway::basic_auth::file", help, cx);
        for (index, line) in text.unwrap_or_default().lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = format!("line {} of `{}`: ", index + 1, file.value.display());
            if let Some((name, hash)) = line.split_once(':') {
                self.add(name, hash, file.place, &at, cx);
                continue;
            }
            cx.at(file.place, "edgeway::basic_auth::line")
                .error(format!("{at}expected `NAME:HASH`"), help);
        }
    }

    fn add(&mut self, name: &str, hash: &str, place: Place, at: &str, cx: &mut CompileContext<'_>) {
        let shown = name.escape_debug();
        if name.is_empty() || HeaderValue::from_str(name).is_err() || name.contains(':') {
            cx.at(place, "edgeway::basic_auth::name").error(
                format!("{at}invalid user name `{shown}`"),
                "write a name of visible characters without `:`",
            );
            return;
        }
        let hash: PasswordHash = match hash.trim().parse() {
            Ok(hash) => hash,
            Err(error) => {
                cx.at(place, "edgeway::basic_auth::hash")
                    .error(format!("{at}the user `{shown}`: {error}"), error.help);
                return;
            }
        };
        if hash.is_weak() {
            cx.at(place, "edgeway::basic_auth::weak").warn(
                format!(
                    "{at}the hash of the user `{shown}` is weak: a thief of it can guess the \
                     password"
                ),
                "make a new one with `edgeway hash password --user NAME`",
            );
        }
        let user = User {
            name: name.into(),
            hash: Arc::new(hash),
        };
        if self.0.insert(name.into(), user).is_some() {
            cx.at(place, "edgeway::basic_auth::twice").error(
                format!("{at}the user `{shown}` is listed twice"),
                "remove one of the two",
            );
        }
    }

    /// Returns a hash that differs for every other list of users: credentials remembered for one
    /// list are unknown to another.
    fn fingerprint(&self) -> Vec<u8> {
        let users = self.0.iter();
        let mut lines: Vec<String> = users
            .map(|(name, user)| format!("{name}:{}", user.hash.text()))
            .collect();
        lines.sort();
        let digest = ring::digest::digest(&ring::digest::SHA256, lines.join("\n").as_bytes());
        digest.as_ref().to_vec()
    }
}

/// Builds `Basic realm="…"` with the charset in which names and passwords are read.
fn challenge(realm: &Spanned<String>, cx: &mut CompileContext<'_>) -> Option<HeaderValue> {
    let quoted = realm.value.replace('\\', "\\\\").replace('"', "\\\"");
    let value = format!("Basic realm=\"{quoted}\", charset=\"UTF-8\"");
    let Ok(value) = HeaderValue::try_from(value) else {
        return cx.at(realm.place, "edgeway::basic_auth::realm").refuse(
            "this `realm` has characters that are not allowed in a header",
            "write a few plain words such as `Staff only`",
        );
    };
    Some(value)
}
