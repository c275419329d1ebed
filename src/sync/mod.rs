//! Locks, channels and threads, of the standard library and of parking_lot; under `--cfg ckpt_shuttle` those of an
//! explorer of schedules instead, which has one thread run at a time and chooses which (tests/schedules).
//!
//! Whatever a thread may hold or wait for while it saves comes from here: the explorer cannot pass a lock that it does
//! not know of.

#[cfg(not(ckpt_shuttle))]
mod system {
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic, mpsc};
    pub(crate) use std::{thread, thread_local};

    /// The locks of parking_lot.
    pub(crate) mod parking_lot {
        pub(crate) use ::parking_lot::{Condvar, Mutex, MutexGuard, ReentrantMutex};
    }
}

#[cfg(not(ckpt_shuttle))]
pub(crate) use system::*;

#[cfg(ckpt_shuttle)]
mod explored;
#[cfg(ckpt_shuttle)]
pub use explored::*;
