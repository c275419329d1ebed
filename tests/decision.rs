//! A decision allocates nothing: ckpt_on_train_batch_end and ckpt_on_epoch_end where no save is due.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::mem::MaybeUninit;

use ::ckpt::ffi::*;

/// The system's allocator, which counts what the calling thread asks of it.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = COUNT.try_with(|c| c.set(c.get() + 1));
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(f: impl FnOnce()) -> usize {
    let before = COUNT.get();
    f();
    COUNT.get() - before
}

fn session(filepath: &std::ffi::CStr, set: impl FnOnce(&mut ckpt_options)) -> *mut ckpt {
    let mut options = MaybeUninit::uninit();
    assert_eq!(ckpt_options_new(Some(&mut options)), ckpt_status::CKPT_OK);
    // SAFETY: written by a call that succeeded; the string is one; both are freed once, here.
    unsafe {
        let options = options.assume_init();
        set(&mut *options);
        let mut out = MaybeUninit::uninit();
        assert_eq!(ckpt_new(filepath.as_ptr(), Some(&*options), Some(&mut out)), ckpt_status::CKPT_OK);
        ckpt_options_free(options);
        out.assume_init()
    }
}

#[test]
fn a_decision_allocates_nothing() {
    let logs = [
        ckpt_metric { name: c"loss".as_ptr(), value: 0.25 },
        ckpt_metric { name: c"acc".as_ptr(), value: 0.5 },
        ckpt_metric { name: c"val_loss".as_ptr(), value: 0.75 },
    ];
    let by_epoch = session(c"never/{epoch}.keras", |_| {});
    let by_batch = session(c"never/{epoch}-{batch}-{loss:.2f}.keras", |o| {
        ckpt_options_set_save_freq(Some(o), 1 << 40);
    });
    let paced = session(c"never/{epoch}-{batch}-{loss:.2f}.keras", |o| {
        ckpt_options_set_save_freq(Some(o), CKPT_SAVE_FREQ_NEVER);
        ckpt_options_set_save_every_secs(Some(o), 1e9);
        ckpt_options_set_save_on_signal(Some(o), 10);
    });
    // SAFETY: the sessions live until they are freed, once, below; the logs are strings and numbers.
    let count = allocations(|| unsafe {
        for epoch in 0..3 {
            for c in [by_epoch, by_batch, paced] {
                ckpt_on_epoch_begin(c, epoch);
                for batch in 0..100 {
                    assert_eq!(ckpt_on_train_batch_end(c, batch, logs.as_ptr(), 3), ckpt_status::CKPT_OK);
                    assert!(!ckpt_should_save(c.as_ref()));
                }
            }
            assert_eq!(ckpt_on_epoch_end(by_batch, epoch, logs.as_ptr(), 3), ckpt_status::CKPT_OK);
        }
    });
    assert_eq!(count, 0);
    // SAFETY: freed once.
    unsafe {
        ckpt_free(by_epoch);
        ckpt_free(by_batch);
        ckpt_free(paced);
    }
}
