//! The signals that ask for a save: counted when they come, answered at the next event.
//!
//! The handler lives here and not in ffi, as the process' other hooks do (`process`): signals are the operating system's, no
//! part of the C API. It does what may be done in a handler and no more: it counts, in atomics, and calls the handler that
//! was there before.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{c_int, c_void, sigaction, siginfo_t};

use crate::engine::PerProcess;
use crate::error::{Error, Result, Status};

/// More than any system has signals.
const MOST: usize = 129;

/// What the handler knows of a signal.
struct Slot {
    arrivals: AtomicU64,
    /// The process whose sessions listen: a child that was forked from it has the handler, too.
    owner: AtomicI32,
    /// Whether the handler may be called: it is there, or was when another was put in its place.
    in_place: AtomicBool,
    /// What was there before, and its flags.
    previous: AtomicUsize,
    flags: AtomicI32,
}

static SLOTS: [Slot; MOST] = [const {
    Slot {
        arrivals: AtomicU64::new(0),
        owner: AtomicI32::new(0),
        in_place: AtomicBool::new(false),
        previous: AtomicUsize::new(libc::SIG_DFL),
        flags: AtomicI32::new(0),
    }
}; MOST];

/// Those of a process who listen to a signal.
struct Listeners {
    signal: c_int,
    sessions: u64,
    /// What was there before the first; not known in a child whose parent listens.
    previous: Option<sigaction>,
}

static REGISTRY: PerProcess<Mutex<Vec<Listeners>>> = PerProcess::new();

fn registry() -> MutexGuard<'static, Vec<Listeners>> {
    REGISTRY.get().lock().unwrap_or_else(PoisonError::into_inner)
}

fn process() -> c_int {
    // SAFETY: no arguments, and it cannot fail.
    unsafe { libc::getpid() }
}

/// Signals that a session listens to, until it is dropped.
pub(super) struct Signals {
    process: c_int,
    listening: Vec<c_int>,
    /// The arrivals when it began.
    before: u64,
}

impl Signals {
    /// Listens to these from now on.
    pub fn listen(signals: &[i32]) -> Result<Signals> {
        let mut this = Signals { process: process(), listening: Vec::new(), before: 0 };
        for &signal in signals {
            if !this.listening.contains(&signal) {
                check(signal)?;
                add(signal).map_err(|e| {
                    let message = format!("cannot listen to signal {signal}: {e}");
                    Error::new(Status::Internal, message)
                })?;
                this.listening.push(signal);
            }
        }
        this.before = this.arrivals();
        Ok(this)
    }

    /// How many have come since.
    pub fn count(&self) -> u64 {
        self.arrivals().wrapping_sub(self.before)
    }

    fn arrivals(&self) -> u64 {
        let of = |signal: &c_int| slot(*signal).map_or(0, |slot| slot.arrivals.load(SeqCst));
        self.listening.iter().map(of).fold(0, u64::wrapping_add)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if !self.listening.is_empty() && self.process == process() {
            self.listening.iter().for_each(|&signal| remove(signal));
        }
    }
}

/// Refuses what is no signal, cannot be caught, or says that the program cannot go on.
pub fn check(signal: i32) -> Result<()> {
    let problem = match signal {
        libc::SIGKILL | libc::SIGSTOP => "it cannot be caught",
        libc::SIGSEGV
        | libc::SIGBUS
        | libc::SIGFPE
        | libc::SIGILL
        | libc::SIGTRAP
        | libc::SIGSYS
        | libc::SIGABRT => "it says that the program cannot go on",
        signal if !is_signal(signal) => "there is no such signal for programs",
        _ => return Ok(()),
    };
    Err(Error::new(Status::InvalidArgument, format!("signum is {signal}: {problem}")))
}

#[cfg(target_os = "linux")]
fn is_signal(signal: c_int) -> bool {
    // Between them are the C library's own.
    (1..=31).contains(&signal) || (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal)
}

#[cfg(not(target_os = "linux"))]
fn is_signal(signal: c_int) -> bool {
    (1..=31).contains(&signal)
}

fn slot(signal: c_int) -> Option<&'static Slot> {
    SLOTS.get(usize::try_from(signal).ok()?)
}

/// One session more listens.
fn add(signal: c_int) -> io::Result<()> {
    let mut registry = registry();
    let slot = slot(signal).ok_or(io::ErrorKind::InvalidInput)?;
    let found = disposition(signal, None)?;
    let known = registry.iter().position(|listeners| listeners.signal == signal);
    let known = known.map(|at| registry.swap_remove(at));
    let mut listeners = known.unwrap_or(Listeners { signal, sessions: 0, previous: None });
    // What was put in place of the handler calls it, as far as can be known; else it would be called in a circle. What was
    // there before the handler, and is there again, does not.
    let is_back = |before: &sigaction| before.sa_sigaction == found.sa_sigaction;
    let is_there = found.sa_sigaction == handler() || slot.in_place.load(SeqCst);
    if !is_there || listeners.previous.as_ref().is_some_and(is_back) {
        if let Err(error) = install(signal, slot, &found) {
            registry.push(listeners);
            return Err(error);
        }
        listeners.previous = Some(found);
    }
    slot.owner.store(process(), SeqCst);
    listeners.sessions += 1;
    registry.push(listeners);
    Ok(())
}

/// Puts the handler there, in the place of `previous`.
fn install(signal: c_int, slot: &Slot, previous: &sigaction) -> io::Result<()> {
    if (slot.previous.load(SeqCst), slot.flags.load(SeqCst)) != (previous.sa_sigaction, previous.sa_flags) {
        // Never one's flags with the other's function, whoever is in the handler at the moment.
        slot.previous.store(libc::SIG_IGN, SeqCst);
        slot.flags.store(previous.sa_flags, SeqCst);
        slot.previous.store(previous.sa_sigaction, SeqCst);
    }
    slot.owner.store(process(), SeqCst);
    let mut own = *previous;
    own.sa_sigaction = handler();
    own.sa_flags = previous.sa_flags & (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT);
    own.sa_flags |= libc::SA_SIGINFO | libc::SA_ONSTACK;
    // A program whose own handler has calls interrupted counts on that.
    if !is_function(previous.sa_sigaction) || previous.sa_flags & libc::SA_RESTART != 0 {
        own.sa_flags |= libc::SA_RESTART;
    }
    disposition(signal, Some(&own))?;
    slot.in_place.store(true, SeqCst);
    Ok(())
}

/// One session fewer listens; after the last one what was there before is there again, unless somebody else has put
/// something there since.
fn remove(signal: c_int) {
    let mut registry = registry();
    let Some(at) = registry.iter().position(|listeners| listeners.signal == signal) else { return };
    let (Some(listeners), Some(slot)) = (registry.get_mut(at), slot(signal)) else { return };
    listeners.sessions -= 1;
    if listeners.sessions > 0 {
        return;
    }
    let Ok(found) = disposition(signal, None).map(|found| found.sa_sigaction) else { return };
    match listeners.previous {
        // A child's: it is to the handler again as if nobody listened.
        None => slot.owner.store(0, SeqCst),
        Some(previous) if [handler(), previous.sa_sigaction].contains(&found) => {
            if found == handler() && disposition(signal, Some(&previous)).is_err() {
                return;
            }
            slot.in_place.store(false, SeqCst);
        }
        // Whoever has set that may put ours back: it is to the handler then as if nobody listened.
        Some(_) => return slot.owner.store(0, SeqCst),
    }
    registry.swap_remove(at);
}

fn is_function(handler: usize) -> bool {
    ![libc::SIG_DFL, libc::SIG_IGN].contains(&handler)
}

/// What becomes of a signal, before it is set to `new`.
fn disposition(signal: c_int, new: Option<&sigaction>) -> io::Result<sigaction> {
    let mut old = MaybeUninit::<sigaction>::zeroed();
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is NULL or a disposition: our handler, which lives as long as the process, since the library is never
    // unloaded (-z nodelete), or what this function found there. `old` is written by a call that succeeds.
    unsafe {
        match sigaction(signal, new, old.as_mut_ptr()) {
            0 => Ok(old.assume_init()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether the handler is the signal's.
fn is_in_place(signal: c_int) -> bool {
    disposition(signal, None).is_ok_and(|found| found.sa_sigaction == handler())
}

fn handler() -> usize {
    on_signal as *const () as usize
}

/// Counts the signal, then calls who was there before.
extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(slot) = slot(signal) else { return };
    let is_owner = slot.owner.load(SeqCst) == process();
    if is_owner {
        slot.arrivals.fetch_add(1, SeqCst);
    }
    let (previous, flags) = loop {
        let (previous, flags) = (slot.previous.load(SeqCst), slot.flags.load(SeqCst));
        if slot.previous.load(SeqCst) == previous {
            break (previous, flags);
        }
    };
    match previous {
        libc::SIG_IGN => {}
        // Where nobody listens, and no other handler has called this one, as if it were not there: in a child that was
        // forked from the trainer, a worker that loads data for example, or where it was put back after the last session.
        libc::SIG_DFL if !is_owner && is_in_place(signal) => act_by_default(signal),
        libc::SIG_DFL => {}
        function => call(function, flags, signal, info, context),
    }
}

/// Calls a handler as the system would.
fn call(previous: usize, flags: c_int, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: it was the signal's handler, of the type that its flags say.
    unsafe {
        if flags & libc::SA_SIGINFO != 0 {
            let function: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = std::mem::transmute(previous);
            function(signal, info, context);
        } else {
            let function: extern "C" fn(c_int) = std::mem::transmute(previous);
            function(signal);
        }
    }
}

/// Has the system do what it does with a signal that nobody handles, as soon as the handler returns.
fn act_by_default(signal: c_int) {
    // SAFETY: a disposition of zeros is the default, without flags; both functions may be called in a handler.
    unsafe {
        let default = MaybeUninit::<sigaction>::zeroed().assume_init();
        sigaction(signal, &default, ptr::null_mut());
        libc::raise(signal);
    }
}
