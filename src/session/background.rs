//! The thread of a session that makes saves in the background: begun with the first, asleep where there is none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::policy::Level;
use crate::sync::thread::{self, JoinHandle};

use super::callbacks::{self, Saving};
use super::process;
use super::shared::{Caller, Core, Open, Shared};

/// Begins the thread, unless there is one.
pub(super) fn begin(shared: &Arc<Shared>, core: &mut Core) -> Result<()> {
    if core.thread.is_none() {
        shared.home.settle()?;
        let this = shared.clone();
        let thread = thread::Builder::new().name("ckpt-save".into()).spawn(move || work(&this));
        core.thread = Some(thread.map_err(|e| Error::no_memory("a thread for saves", 0).context(e))?);
        process::enlist(shared);
    }
    Ok(())
}

/// Makes the saves in the queue until the session is closed.
fn work(shared: &Shared) {
    callbacks::enter_background();
    loop {
        let mut core = shared.wait_while(shared.lock(), |core| core.queue.is_empty() && !core.closing);
        let Some(job) = core.queue.pop_front() else { return };
        core.running = Some(job.counter);
        drop(core);
        let (_, lines) = shared.make(job);
        // A panic is the log function's; it goes no further.
        let _ = catch_unwind(AssertUnwindSafe(|| shared.say(lines)));
    }
}

impl Shared {
    /// Ends all saves that have not been made, as soon as can be.
    pub fn cancel(&self) {
        self.lock().open.values().for_each(|open| open.flight.cancel());
        self.tell_change();
    }

    /// The process ends: of the saves in the background those are made that need nobody's memory any more, the others
    /// end, and none begins.
    pub fn wind_up(&self) {
        let mut core = self.lock();
        core.closing = true;
        let in_need = |open: &&Open| open.borrowed || !matches!(open.caller, Caller::Gone);
        core.open.values().filter(in_need).for_each(|open| open.flight.cancel());
        drop(core);
        self.tell_change();
    }

    /// Waits until none is left to be made, and gives up what was kept for more; not where the saves are this thread's
    /// to make.
    pub fn wait_until_idle(&self) {
        let core = self.lock();
        let is_ours = callbacks::in_background() && Saving::is_of(self);
        if !is_ours && !core.thread.as_ref().is_some_and(is_this) {
            drop(self.wait_while(core, |core| !core.queue.is_empty() || core.running.is_some()));
            self.spares.release();
        }
    }

    /// The session is freed: makes what is left, ends the thread, and logs the failure that nobody has been told of.
    pub fn close(self: &Arc<Shared>) {
        let mut core = self.lock();
        core.closing = true;
        let thread = core.thread.take();
        drop(core);
        self.tell_change();
        match thread {
            None => return,
            Some(thread) if is_this(&thread) || self.log.gate().is_inside() => {
                let line = "a session was freed from a log or progress function: its saves go on, and are not waited for";
                self.log.line(Level::Error, line);
            }
            // It has reported its panics.
            Some(thread) => drop(thread.join()),
        }
        process::strike(self);
        let failure = self.lock().take_failure();
        if let Err(error) = failure {
            self.log.line(Level::Error, error.message());
        }
    }
}

fn is_this(thread: &JoinHandle<()>) -> bool {
    thread.thread().id() == thread::current().id()
}
