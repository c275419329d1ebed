//! *How it reaches the disk*: storage, writing, checksums, commit.
//!
//! - [`storage`]: the seam below all I/O of a save: the real disk, or a test's faulty one.
//! - [`buffer`]: where the elements of one tensor are: the caller's memory, or a source.
//! - [`strided`]: moves bytes between strided memory and row-major bytes.
//! - [`write`]: moves the extents of a layout, checksums in the same pass.
//! - [`host`]: what only the operating system knows: the local time, the free space.
//! - [`temp`]: temporary files, held by their lock, and the sweep of those that nobody holds.
//! - [`destination`]: where a save goes: behind the links, into directories that it makes.
//! - `files`: the files of one save while they have no names of their own.
//! - `needed`: which of a checkpoint's files another one needs.
//! - [`commit`]: temporary files, sync, rename, sync of the directory.
//! - [`remove`]: the end of checkpoints.

pub mod buffer;
pub mod commit;
pub mod destination;
mod files;
pub mod host;
mod needed;
pub mod remove;
pub mod storage;
pub mod strided;
pub mod temp;
pub mod write;

pub use buffer::{Buffer, SOURCE_BLOCK, Source};
pub use commit::{WriteOptions, WriteStats, Written, save};
pub use destination::{check, probe};
pub use host::local_date;
pub use remove::{remove, remove_dir, stands};
pub use storage::{Disk, Storage};
pub use temp::sweep;
