//! Texts with placeholders that are filled in for each request, and lookup tables from one to
//! another: what headers, conditions and the choice of an upstream have in common.

mod condition;
mod file;
mod lookup;
mod template;
mod variable;

use crate::{chain::Exchange, limits::key::CountedText};

pub(crate) use crate::base::expression::{Expression as Pattern, Groups};

pub(crate) use self::{
    condition::{
        Codes, Comparison, ConditionResponse, ReadRequest, ResponseParts, decoded_path,
        has_any_version, is_odd, undecided,
    },
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
