//! The process around the sessions: its forks, which leave their threads behind, and its end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::{io, ptr};

use crate::engine::{self, PerProcess};
use crate::error::{Error, Result, Status};

use super::callbacks;
use super::shared::Shared;

/// Counts the forks that led to this process, from 1.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Whether the process has begun to end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// The sessions with a thread in this process.
static SESSIONS: PerProcess<Mutex<Vec<Weak<Shared>>>> = PerProcess::new();

/// Whether the process has begun to end: the caller's functions may be gone.
pub(super) fn is_ending() -> bool {
    ENDING.load(SeqCst)
}

/// Whether the caller's functions are not to be called any more: on a thread of ours, while the process ends.
pub fn is_out_of_reach() -> bool {
    is_ending() && callbacks::in_background()
}

/// Which of the forks that led here the last one was.
pub(super) fn generation() -> u64 {
    GENERATION.load(SeqCst)
}

/// Which process a session belongs to: any, until it has what a fork does not copy.
#[derive(Default)]
pub(super) struct Home(AtomicU64);

impl Home {
    /// The session has a thread, or holds files, in this process: it is of no use in a child.
    pub fn settle(&self) -> Result<()> {
        listen()?;
        self.0.store(generation(), SeqCst);
        Ok(())
    }

    /// Whether the session belongs to the process that this one was forked from.
    pub fn is_elsewhere(&self) -> bool {
        let home = self.0.load(SeqCst);
        home != 0 && home != generation()
    }

    /// Refuses what such a session cannot do. To be asked before any of its locks is taken: its holder may not exist
    /// here.
    pub fn check(&self) -> Result<()> {
        match self.is_elsewhere() {
            false => Ok(()),
            true => Err(Error::new(
                Status::State,
                "the session belongs to the process that this one was forked from: its saves go on there; make a new \
                 session here",
            )),
        }
    }
}

/// From now on the end of the process waits for the session's saves.
pub(super) fn enlist(session: &Arc<Shared>) {
    if cfg!(ckpt_shuttle) {
        // The locks of a schedule that has failed are nothing without its explorer.
        return;
    }
    sessions().push(Arc::downgrade(session));
}

/// The session has ended.
pub(super) fn strike(session: &Arc<Shared>) {
    sessions().retain(|other| !ptr::eq(other.as_ptr(), Arc::as_ptr(session)));
}

fn sessions() -> MutexGuard<'static, Vec<Weak<Shared>>> {
    SESSIONS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hears of forks from now on, in which a child must not have the locks of its parent, and of the end, after which no lock
/// file is to be left. Where that cannot be, nothing is lost but time: whoever comes next finds out.
pub(super) fn listen_for_locks() {
    static HEARD: OnceLock<()> = OnceLock::new();
    let _ = hear_of_forks();
    HEARD.get_or_init(|| {
        let _ = hear_of_end(remove_locks);
    });
}

/// Hears of forks and of the end from now on.
fn listen() -> Result<()> {
    static REFUSED: OnceLock<i32> = OnceLock::new();
    let refused =
        *REFUSED.get_or_init(|| if hear_of_forks() && hear_of_end(at_exit) { 0 } else { libc::ENOMEM });
    if refused == 0 {
        return Ok(());
    }
    let cause = io::Error::from_raw_os_error(refused);
    let message = "cannot begin a save in the background, since the process' end would not be heard of";
    Err(Error::new(Status::Internal, format!("{message}: {cause}")))
}

fn hear_of_forks() -> bool {
    static REFUSED: OnceLock<i32> = OnceLock::new();
    // SAFETY: the function lives as long as the process, since the library is never unloaded (-z nodelete); what runs
    // in a child changes atomics and closes descriptors.
    *REFUSED.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(in_child)) }) == 0
}

fn hear_of_end(call: extern "C" fn()) -> bool {
    // SAFETY: the function lives as long as the process, as above.
    unsafe { libc::atexit(call) == 0 }
}

unsafe extern "C" fn in_child() {
    GENERATION.fetch_add(1, SeqCst);
    engine::close_in_child();
}

/// Finishes the saves that need nobody's memory any more, and ends the others.
extern "C" fn at_exit() {
    ENDING.store(true, SeqCst);
    let sessions: Vec<Arc<Shared>> = sessions().iter().filter_map(Weak::upgrade).collect();
    sessions.iter().for_each(|session| session.wind_up());
    sessions.iter().for_each(|session| session.wait_until_idle());
}

/// After the saves, which are heard of later and so come before.
extern "C" fn remove_locks() {
    engine::claim::remove_all();
}
