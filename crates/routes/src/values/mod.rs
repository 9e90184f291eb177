//! Texts with placeholders that are filled in for each request, and lookup tables from one to
//! another: what headers, conditions and the choice of an upstream have in common.

mod condition;
mod destination;
mod encoding;
mod file;
mod lookup;
mod markup;
#[cfg(test)]
mod markup_tests;
mod path_text;
mod template;
mod variable;

use edgeway_base::{
    spelling::readings,
    target::{Target, has_spellings},
};
use edgeway_core::{chain::Exchange, limits::key::CountedText};

pub use edgeway_base::expression::{Expression as Pattern, Groups};

pub use self::{
    condition::{
        Codes, Comparison, ConditionResponse, ReadRequest, ResponseParts, decoded_path,
        has_any_version, is_odd, undecided,
    },
    destination::Destination,
    encoding::Encoding,
    lookup::{MapConfig, Maps},
    path_text::{decoded, encoded_path},
    template::{Names, Template},
    variable::Values,
};

/// Text of requests for which a table cannot decide. The result might be a text that is counted: they
/// are counted together.
const UNDECIDED: &str = "undecided";

impl CountedText for Template {
    fn needs_identity(&self) -> bool {
        self.needs_identity()
    }

    fn write(&self, ex: &Exchange<'_>, text: &mut String) {
        let path = Target::new("", ex.head.raw_path()).path;
        if self.reads_path() && has_spellings(path) {
            // An app may take all of these for one path: they are counted as its shortest reading that
            // is counted.
            let mut readings = readings(path);
            readings.sort_by_key(|reading| reading.path().len());
            for reading in readings {
                let values = Values::of_request(ex).at(reading.path());
                if self.write_with(&values, None, text).is_err() {
                    text.push_str(UNDECIDED);
                }
                if !text.is_empty() {
                    return;
                }
            }
        }
        if Self::write(self, ex, text).is_err() {
            text.push_str(UNDECIDED);
        }
    }
}
