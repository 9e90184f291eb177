//! Texts with placeholders that are filled in for each request, and lookup tables from one to
//! another: what headers, conditions and the choice of an upstream have in common.

mod condition;
mod file;
mod lookup;
mod pattern;
mod template;
mod variable;

use crate::{chain::Exchange, limits::key::CountedText};

pub(crate) use self::{
    condition::{Codes, Comparison, ConditionResponse, ResponseParts, has_any_version},
    lookup::{MapConfig, Maps},
    pattern::{Groups, Pattern},
    template::{Names, Template, encoded_path},
    variable::Values,
};

impl CountedText for Template {
    fn write(&self, ex: &Exchange<'_>, text: &mut String) {
        Self::write(self, ex, text);
    }
}
