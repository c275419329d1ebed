//! libckpt: model checkpoints for every trainer that can call C.
//!
//! - [`error`]: the one error type and its pinned statuses.
//! - [`tensor`]: what a tensor is: path, dtype, shape, checksum.
//! - `sync`: locks and threads, of the system or of an explorer of schedules.
//! - `copy`: bytes copied past the caches, and summed on the way.
//! - `memory`: memory that may not be there.
//! - [`policy`]: *when* to save, what is best, what to keep, what a file is called. Pure.
//! - [`layout`]: *where each byte goes*: a schema in, a list of extents out. Pure.
//! - [`engine`]: *how it reaches the disk*: storage, writing, checksums, commit.
//! - [`reader`]: *how it comes back*: name, bytes, the caller's buffer.
//! - [`keras`]: a Keras model by its layers: configuration and variables. Pure.
//! - [`session`]: where the four meet: the model and the checkpointing session.
//! - [`ffi`]: *how C sees it*: one noun a file.

mod copy;
pub mod engine;
pub mod error;
pub mod ffi;
pub mod keras;
pub mod layout;
mod memory;
pub mod policy;
pub mod reader;
pub mod session;
#[cfg(not(ckpt_shuttle))]
mod sync;
#[cfg(ckpt_shuttle)]
pub mod sync;
pub mod tensor;
