//! Where policy, layout, engine and reader meet: the model and the checkpointing session.

mod log;
mod model;
mod run;
mod state;
mod surroundings;

pub use crate::policy::Level;
pub use log::Log;
pub use model::Model;
pub use run::{Options, Session, Stats};
pub use state::save_counter;
