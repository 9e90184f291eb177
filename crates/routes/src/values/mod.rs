//! Texts with placeholders that are filled in for each request, and lookup tables from one to
//! another: what headers, conditions and the choice of an upstream have in common.

mod condition;
mod destination;
mod encoding;
mod file;
mod lookup;
mod template;
mod variable;

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
    template::{Names, Template, encoded_path},
    variable::Values,
};

impl CountedText for Template {
    fn write(&self, ex: &Exchange<'_>, text: &mut String) {
        if Self::write(self, ex, text).is_err() {
            // The result might be a text that is counted: these requests are counted together.
            text.push_str("undecided");
        }
    }
}
