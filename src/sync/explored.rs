//! What the explorer knows: its own locks and threads, and what it lacks of those of the system made of them.
#![allow(
    missing_docs,
    reason = "the names and the meaning are those of the standard library and of parking_lot"
)]

use std::cell::Cell;
use std::sync::LockResult;

pub use shuttle::sync::{Mutex, MutexGuard, atomic};
pub use shuttle::thread_local;

std::thread_local! {
    static TIMEOUTS: Cell<bool> = const { Cell::new(true) };
    /// Calls of `notify_all` up to the one that wakes nobody; 0: none does.
    static LOST: Cell<u64> = const { Cell::new(0) };
}

/// A fault, to see that it is found: the call of [`Condvar::notify_all`] after so many wakes nobody.
pub fn lose_notification(after: u64) {
    LOST.set(after + 1);
}

/// Whether waits that have a timeout end by it, at once, or never by it: without, whoever is not woken is found, and
/// whoever needs his timeout too. For all that this thread of the system explores.
pub fn set_timeouts(timeouts: bool) {
    TIMEOUTS.set(timeouts);
}

/// Lets a wait with a timeout end, if they end; others run before.
fn times_out() -> bool {
    let timeouts = TIMEOUTS.get();
    if timeouts {
        shuttle::thread::yield_now();
    }
    timeouts
}

#[derive(Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    pub const fn new() -> Condvar {
        Condvar(shuttle::sync::Condvar::new())
    }

    pub fn wait_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait_while(guard, condition)
    }

    pub fn notify_all(&self) {
        if LOST.replace(LOST.get().saturating_sub(1)) != 1 {
            self.0.notify_all();
        }
    }
}

pub mod thread {
    use std::io;
    use std::sync::{Arc, PoisonError};

    use shuttle::sync::{Condvar, Mutex};
    pub use shuttle::thread::{JoinHandle, Scope, ScopedJoinHandle, current};
    pub use std::thread::available_parallelism;

    /// The explorer's wakes the thread of the scope when the last thread in it ends, whatever that one is waiting for: a
    /// thread more ends only when the scope does.
    pub fn scope<'env, T>(work: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T) -> T {
        let over: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let last = over.clone();
        shuttle::thread::scope(move |scope| {
            scope.spawn(move || {
                let over = last.0.lock().unwrap_or_else(PoisonError::into_inner);
                drop(last.1.wait_while(over, |over| !*over));
            });
            let result = work(scope);
            *over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            over.1.notify_all();
            result
        })
    }

    #[derive(Default)]
    pub struct Builder(shuttle::thread::Builder);

    impl Builder {
        pub fn new() -> Builder {
            Builder::default()
        }

        pub fn name(self, name: String) -> Builder {
            Builder(self.0.name(name))
        }

        pub fn spawn<T: Send + 'static>(
            self,
            work: impl FnOnce() -> T + Send + 'static,
        ) -> io::Result<JoinHandle<T>> {
            self.0.spawn(work)
        }

        pub fn spawn_scoped<'scope, T: Send + 'scope>(
            self,
            scope: &'scope Scope<'scope, '_>,
            work: impl FnOnce() -> T + Send + 'scope,
        ) -> io::Result<ScopedJoinHandle<'scope, T>> {
            Ok(scope.spawn(work))
        }
    }
}

pub mod mpsc {
    use std::time::Duration;

    pub use shuttle::sync::mpsc::{RecvTimeoutError, Sender, TryRecvError};

    pub struct Receiver<T>(shuttle::sync::mpsc::Receiver<T>);

    pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (to, from) = shuttle::sync::mpsc::channel();
        (to, Receiver(from))
    }

    impl<T> Receiver<T> {
        pub fn try_recv(&self) -> Result<T, TryRecvError> {
            self.0.try_recv()
        }

        pub fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
            if super::times_out() {
                return self.0.try_recv().map_err(|e| match e {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                });
            }
            self.0.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
    }

    impl<T> Drop for Receiver<T> {
        /// The explorer's keeps what nobody has taken until the senders have gone; that of the system does not.
        fn drop(&mut self) {
            while self.0.try_recv().is_ok() {}
        }
    }
}

pub mod parking_lot {
    use std::fmt;
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;
    use std::time::Duration;

    use shuttle::sync as explored;
    use shuttle::thread::{ThreadId, current};

    #[derive(Default)]
    pub struct Mutex<T>(explored::Mutex<T>);

    pub struct MutexGuard<'a, T> {
        mutex: &'a Mutex<T>,
        /// `None` only within the calls that let go of it.
        held: Option<explored::MutexGuard<'a, T>>,
    }

    const HELD: &str = "held outside of those calls";

    impl<T> Mutex<T> {
        pub const fn new(value: T) -> Mutex<T> {
            Mutex(explored::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard { mutex: self, held: Some(self.take()) }
        }

        fn take(&self) -> explored::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }

        pub fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T> fmt::Debug for Mutex<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Mutex")
        }
    }

    impl<T> MutexGuard<'_, T> {
        pub fn unlocked<U>(this: &mut Self, work: impl FnOnce() -> U) -> U {
            this.held = None;
            let result = work();
            this.held = Some(this.mutex.take());
            result
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.held.as_ref().expect(HELD)
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.held.as_mut().expect(HELD)
        }
    }

    #[derive(Default)]
    pub struct Condvar(explored::Condvar);

    impl Condvar {
        pub const fn new() -> Condvar {
            Condvar(explored::Condvar::new())
        }

        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) {
            match super::TIMEOUTS.get() {
                true => drop(MutexGuard::unlocked(guard, super::times_out)),
                false => self.wait(guard),
            }
        }

        fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let held = guard.held.take().expect(HELD);
            guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Whose turn it is, and how often over.
    #[derive(Default)]
    pub struct ReentrantMutex<T> {
        owner: Mutex<Option<(ThreadId, usize)>>,
        freed: Condvar,
        _value: T,
    }

    pub struct ReentrantMutexGuard<'a, T>(&'a ReentrantMutex<T>);

    impl<T> ReentrantMutex<T> {
        pub fn lock(&self) -> ReentrantMutexGuard<'_, T> {
            let mut owner = self.owner.lock();
            loop {
                if let Some(guard) = self.enter(&mut owner) {
                    return guard;
                }
                self.freed.wait(&mut owner);
            }
        }

        pub fn try_lock_for(&self, _: Duration) -> Option<ReentrantMutexGuard<'_, T>> {
            if super::times_out() { self.enter(&mut self.owner.lock()) } else { Some(self.lock()) }
        }

        fn enter(&self, owner: &mut Option<(ThreadId, usize)>) -> Option<ReentrantMutexGuard<'_, T>> {
            let this = current().id();
            let (owner, times) = owner.get_or_insert((this, 0));
            (*owner == this).then(|| {
                *times += 1;
                ReentrantMutexGuard(self)
            })
        }

        pub fn is_owned_by_current_thread(&self) -> bool {
            self.owner.lock().is_some_and(|(owner, _)| owner == current().id())
        }
    }

    impl<T> Drop for ReentrantMutexGuard<'_, T> {
        fn drop(&mut self) {
            let mut owner = self.0.owner.lock();
            *owner = owner.take().filter(|(_, times)| *times > 1).map(|(owner, times)| (owner, times - 1));
            drop(owner);
            self.0.freed.notify_one();
        }
    }
}
