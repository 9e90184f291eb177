//! The `releases` section of an upstream as written.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smart_default::SmartDefault;

use super::{number, seconds, shorthand::at_least_one, upstream::ScaleManager};
use crate::{
    base::units::{ByteSize, Percent, Span},
    tree::Spanned,
};

/// Releases of an app: folders with a build each, and instances that `edgeway deploy` starts. At
/// least `folder`, `ports`, and one of `unit` and `start`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleasesConfig {
    /// Folder with a folder for each release, such as `/srv/web/releases`.
    pub folder: Spanned<PathBuf>,
    /// Port range of the instances, both ends included, such as `4000-4031`.
    pub ports: Spanned<String>,
    /// Unit of the instance on a port, such as `web@{port}.service`. Its working directory is
    /// `instances/{port}` in `folder`, a link to the release.
    pub unit: Option<Spanned<String>>,
    /// Manager of the units: the `system`, or the `user` who runs `edgeway deploy`.
    #[serde(default)]
    pub manager: ScaleManager,
    /// Command that starts an instance in the folder of its release, such as `[npm, start]`, with
    /// the port in the variable `PORT`; in place of `unit`.
    pub start: Option<Spanned<Vec<String>>>,
    /// Address at which the instances listen; `127.0.0.1` if absent.
    pub address: Option<Spanned<String>>,
    /// Instances of a release.
    #[serde(default = "number::<2>", deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    pub instances: u32,
    /// Instances that may run while a release replaces another one.
    #[serde(default)]
    pub overlap: ReleaseOverlap,
    /// Number of responses that `edgeway deploy` fetches from a new release before it gets
    /// visitors: the most requested ones of the current release. At most 2000; 0 for none.
    #[serde(default)]
    #[schemars(range(max = 2000))]
    pub warm: Spanned<u32>,
    /// Time for which a replaced release still gets the requests of browsers that have its pages.
    #[serde(default = "seconds::<1800>")]
    pub linger: Span,
    /// Releases kept whole, for `edgeway rollback`.
    #[serde(default = "number::<3>", deserialize_with = "at_least_one")]
    #[schemars(range(min = 1))]
    pub keep: u32,
    /// Time for which the files of older releases are kept.
    #[serde(default = "seconds::<604_800>")]
    pub vault: Span,
    /// Limit on the size of all kept files.
    #[serde(default = "vault_size")]
    pub vault_size: ByteSize,
    /// Steps and criteria of `edgeway deploy --canary`.
    #[serde(default)]
    pub canary: CanaryConfig,
}

fn vault_size() -> ByteSize {
    ByteSize(2 << 30)
}

/// Instances that may run while a release replaces another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseOverlap {
    /// All instances of both releases: the new release is complete before it replaces the other
    /// one.
    #[default]
    All,
    /// Instances one by one, for a machine with little memory: each new instance replaces an
    /// old one.
    One,
}

/// Trial of a new release: it gets more visitors step by step, and is rolled back if it is worse
/// than the current one.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, SmartDefault)]
#[serde(default, deny_unknown_fields)]
pub struct CanaryConfig {
    /// Share of the visitors in each step, ascending; after the last step the release gets all.
    /// `[5%, 25%, 50%]` if absent.
    pub steps: Option<Spanned<Vec<Percent>>>,
    /// Shortest duration of a step.
    #[default(Span::secs(5 * 60))]
    pub step: Span,
    /// Requests of the new release that each step waits for.
    #[default(200)]
    pub requests: u64,
    /// Rule that chooses the visitors.
    #[default(CanarySplit::Client)]
    pub by: CanarySplit,
    /// Tolerated error ratio of the new release, as a multiple of the current release's; `1.5` if
    /// absent.
    pub errors: Option<Spanned<f64>>,
    /// Tolerated 95th percentile of the new release's time to the response headers, as a multiple
    /// of the current release's; `1.3` if absent.
    pub p95: Option<Spanned<f64>>,
}

/// Rule that chooses the visitors of a canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CanarySplit {
    /// Client address and `User-Agent`: a visitor keeps the release.
    #[default]
    Client,
    /// Each request is chosen separately: for load tests, and for traffic of few clients.
    Request,
}
