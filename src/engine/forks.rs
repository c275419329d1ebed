//! What a fork must not copy: descriptors, with which a child would keep the lock that goes with them, and values whose
//! locks a thread may hold that the child does not have.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering::SeqCst};
use std::{process, ptr};

/// What stands in a place that is free.
const NONE: RawFd = -1;

/// A place for a descriptor. Never freed: what runs in a child walks from one to the next without a lock.
struct Place {
    fd: AtomicI32,
    next: AtomicPtr<Place>,
}

static FIRST: AtomicPtr<Place> = AtomicPtr::new(ptr::null_mut());

/// The places, the last one that was made first.
fn places() -> impl Iterator<Item = &'static Place> {
    let mut next = &FIRST;
    std::iter::from_fn(move || {
        // SAFETY: NULL or from `Box::leak` in `Listed::new`, and never freed.
        let place = unsafe { next.load(SeqCst).as_ref() }?;
        next = &place.next;
        Some(place)
    })
}

/// A descriptor that forked children close; to be dropped before it is closed here.
pub(super) struct Listed(&'static Place);

impl Listed {
    /// An open descriptor.
    pub fn new(fd: RawFd) -> Listed {
        let free = |place: &&Place| place.fd.compare_exchange(NONE, fd, SeqCst, SeqCst).is_ok();
        if let Some(place) = places().find(free) {
            return Listed(place);
        }
        let next = AtomicPtr::new(FIRST.load(SeqCst));
        let place: &'static Place = Box::leak(Box::new(Place { fd: AtomicI32::new(fd), next }));
        let address = ptr::from_ref(place).cast_mut();
        while let Err(first) = FIRST.compare_exchange(place.next.load(SeqCst), address, SeqCst, SeqCst) {
            place.next.store(first, SeqCst);
        }
        Listed(place)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.fd.store(NONE, SeqCst);
    }
}

/// Closes what is listed, in a child that has just been forked: does nothing that a signal handler may not. Whoever had
/// those files open in the parent must not close them here again.
pub fn close_in_child() {
    for place in places() {
        let fd = place.fd.swap(NONE, SeqCst);
        if fd != NONE {
            // SAFETY: listed, so open, and a descriptor of ours; nobody in this process uses it any more.
            unsafe { libc::close(fd) };
        }
    }
}

/// A value that every process has one of: a forked child begins with a new one, since a thread that it does not have
/// may hold the locks in its parent's.
pub struct PerProcess<T>(AtomicPtr<Owned<T>>);

/// A value of one process. Never freed.
struct Owned<T> {
    owner: u32,
    value: T,
    /// The value of the process that this one was forked from: within reach, so that nobody takes it for a leak.
    _former: AtomicPtr<Owned<T>>,
}

impl<T: Default> PerProcess<T> {
    /// None yet.
    #[allow(clippy::new_without_default, reason = "a default is no constant")]
    pub const fn new() -> PerProcess<T> {
        PerProcess(AtomicPtr::new(ptr::null_mut()))
    }

    /// This process' value.
    pub fn get(&self) -> &T {
        let this = process::id();
        let found = self.0.load(SeqCst);
        // SAFETY: NULL or from `Box::into_raw` below, and never freed once others can see it.
        match unsafe { found.as_ref() } {
            Some(owned) if owned.owner == this => return &owned.value,
            _ => {}
        }
        let owned = Owned { owner: this, value: T::default(), _former: AtomicPtr::new(found) };
        let fresh = Box::into_raw(Box::new(owned));
        let (own, spare) = match self.0.compare_exchange(found, fresh, SeqCst, SeqCst) {
            Ok(_) => (fresh, None),
            Err(other) => (other, Some(fresh)),
        };
        if let Some(spare) = spare {
            // SAFETY: it came from a Box just now, and nobody else has seen it.
            drop(unsafe { Box::from_raw(spare) });
        }
        // SAFETY: from a Box of this process, ours or another thread's, that others can see: never freed.
        unsafe { &(*own).value }
    }
}
