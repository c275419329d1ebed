//! *How it reaches the disk*: storage, writing, checksums, commit.
//!
//! - [`storage`]: the seam below all I/O of a save: the real disk, or a test's faulty one.
//! - [`buffer`]: where the elements of one tensor are: the caller's memory, or a source.
//! - [`loan`]: the tensors of one save or load, between the fences of who owns them.
//! - [`strided`]: moves bytes between strided memory and row-major bytes.
//! - `tiles`: cuts a file into pieces: its body, and the edges that wait for the checksums.
//! - `gather`, `sums`: copy the bytes of a piece, and sum them in the same pass.
//! - `write`: writes the pieces of a file, through the page cache or past it.
//! - [`backend`]: which of the two ways.
//! - [`queue`], `sink`: the way past the page cache, and how blocks go either way.
//! - [`arena`], `pages`: staging memory.
//! - [`stage()`]: copies tensors on one thread while another one writes them.
//! - [`watch`]: progress, cancellation, what the log should know.
//! - [`host`]: what only the operating system knows: the local time, the free space.
//! - [`temp`]: temporary files, held by their lock, and the sweep of those that nobody holds.
//! - [`destination`]: where a save goes: behind the links, into directories that it makes.
//! - `files`: the files of one save while they have no names of their own.
//! - `needed`: which of a checkpoint's files another one needs.
//! - [`commit`]: temporary files, sync, rename, sync of the directory.
//! - [`alias`]: another name of a checkpoint.
//! - [`remove`]: the end of checkpoints.
//! - `space`: room for a save, and what can be given up for it.
//! - [`spare`]: files that are not kept, for the next save to write anew.
//! - `lease`: who else can see the bytes of a file.
//! - [`claim`]: the lock file of a template; `holder`: whose it is, and whether that process lives.
//! - `forks`: what a forked child must not have.

pub mod alias;
pub mod arena;
pub mod backend;
pub mod buffer;
pub mod claim;
pub mod commit;
pub mod destination;
mod files;
mod forks;
mod gather;
mod holder;
pub mod host;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod lease;
pub mod loan;
mod needed;
mod pages;
pub mod queue;
pub mod remove;
mod sink;
mod space;
pub mod spare;
pub mod stage;
pub mod storage;
pub mod strided;
mod sums;
pub mod temp;
mod tiles;
pub mod watch;
mod write;

pub use alias::alias;
pub use arena::{Allocator, Arena};
pub use backend::Backend;
pub use buffer::{Buffer, SOURCE_BLOCK, Source};
pub use claim::{Claim, Refusal};
pub use commit::{Save, Tensors, WriteOptions, WriteStats, Written, save};
pub use destination::{check, probe};
pub use forks::{PerProcess, close_in_child};
pub use holder::Holder;
pub use host::local_date;
pub use loan::{Fence, Kept, Lender, Loan, Purpose};
pub use remove::{frees, remove, remove_dir, stands};
pub use spare::{Recycle, Spares};
pub use stage::{Feed, Filler, stage};
pub use storage::{Disk, Storage};
pub use temp::sweep;
pub use watch::{Unwatched, Watch};
