//! Where policy, layout, engine and reader meet: the model and the checkpointing session.

mod ahead;
mod convert;
mod load;
mod log;
mod model;
mod renames;
mod run;
mod state;
mod surroundings;

pub use crate::policy::Level;
pub use convert::convert;
pub use load::{Loaded, Loading, Skipped};
pub use log::Log;
pub use model::Model;
pub use renames::{Rename, Renames};
pub use run::{Options, Session, Stats};
pub use state::save_counter;
