//! *How C sees it*: one noun a file. The only layer with `extern "C"`.
//!
//! Handles and places for results enter as `Option` of a reference, whose `None` is C's NULL: the header's contract
//! (a handle came from its `_new`, was not freed, and is used by one thread at a time where it says so) makes that
//! sound. Enums enter as plain integers, since an invalid Rust enum is undefined behaviour.
#![allow(
    non_camel_case_types,
    clippy::missing_safety_doc,
    reason = "the names and contracts are those of the header"
)]

mod args;
mod convert;
mod fence;
mod keras;
mod load;
mod model;
mod options;
mod reader;
mod resume;
mod retention;
mod saving;
mod session;
mod source;
mod status;
mod when;

pub use convert::*;
pub use fence::*;
pub use keras::*;
pub use load::*;
pub use model::*;
pub use options::*;
pub use reader::*;
pub use resume::*;
pub use retention::*;
pub use saving::*;
pub use session::*;
pub use source::*;
pub use status::*;
pub use when::*;
