//! Texts with placeholders that are filled in for each request, and lookup tables from one to
//! another: what headers, conditions and the choice of an upstream have in common.

mod lookup;
mod template;

pub(crate) use self::{
    lookup::{MapConfig, Maps},
    template::{Names, Template},
};
