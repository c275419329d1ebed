//! *How it reaches the disk*: storage, writing, checksums, commit.
//!
//! - [`storage`]: the seam below all I/O of a save: the real disk, or a test's faulty one.
//! - [`buffer`]: the caller's memory for one tensor.
//! - [`strided`]: moves bytes between strided memory and row-major bytes.
//! - [`write`]: moves the extents of a layout, checksums in the same pass.
//! - [`host`]: what only the operating system knows: the local time, the free space.
//! - [`temp`]: temporary files, held by their lock, and the sweep of those that nobody holds.
//! - [`commit`]: temporary file, sync, rename, sync of the directory.

pub mod buffer;
pub mod commit;
pub mod host;
pub mod storage;
pub mod strided;
pub mod temp;
pub mod write;

pub use buffer::Buffer;
pub use commit::{WriteOptions, WriteStats, Written, check, probe, remove, remove_dir, save};
pub use host::local_date;
pub use storage::{Disk, Storage};
pub use temp::sweep;
