//! Where policy, layout, engine and reader meet: the model and the checkpointing session.
//!
//! - `model`: the tensors and their memory; `load`, `ahead`, `renames`: the way back into them.
//! - `run`: the session; `options`: what it is made with.
//! - `save`: a call of save, up to the thread that makes it; `work`: what that needs of the model.
//! - `job`: the making of a save; `flight`: what its caller, its writer and whoever cancels it have in common.
//! - `background`: the thread that makes saves behind their calls.
//! - `shared`: what the threads in a session share, and how a save ends.
//! - `keep`: what becomes of checkpoints: which stay, which go, the stable name of the newest.
//! - `lock`: one process at a time under a template.
//! - `log`, `callbacks`: the caller's functions, one at a time.
//! - `signals`: what asks for a save from outside.
//! - `process`: forks, and the end of the process.
//! - `state`: the training state in a checkpoint; `data`: the trainer's own.
//! - `resume`: the way back into a training; `surroundings`: what a session finds where its files go.
//! - `convert`: one format into another.

mod ahead;
mod background;
mod callbacks;
mod convert;
mod data;
mod flight;
mod job;
mod keep;
mod load;
mod lock;
mod log;
mod model;
mod options;
mod process;
mod renames;
mod resume;
mod run;
mod save;
mod shared;
mod signals;
mod state;
mod surroundings;
mod work;

pub use crate::policy::Level;
pub use callbacks::Progress;
pub use convert::convert;
pub use load::{Loaded, Loading, Skipped};
pub use log::Log;
pub use model::Model;
pub use options::{Async, Backpressure, Lock, Options, Stats};
pub use process::is_out_of_reach;
pub use renames::{Rename, Renames};
pub use resume::Resumed;
pub use run::Session;
pub use signals::check as check_signal;
pub use state::save_counter;
