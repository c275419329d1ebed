//! A session in memory, tensors whose bytes say when they were read, and what all that comes to.

use std::cell::UnsafeCell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::panicking;

use ckpt::engine::{Buffer, Source};
use ckpt::error::Result;
use ckpt::policy;
use ckpt::session::{Async, Backpressure, Lock, Log, Model, Options, Session};
use ckpt::tensor::Dtype;
use shuttle::sync::{Condvar, Mutex};

use crate::account::Account;
use crate::mem::{Fault, Mem};

/// Bytes of a tensor: several pieces of a file, and more than two blocks of staging memory.
const BYTES: usize = 60_000;

/// What a tensor holds that nobody may read.
const SPOILT: u8 = 0xee;

/// How a session is made.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub mode: Async,
    pub backpressure: Backpressure,
    pub staging_limit: u64,
    pub threads: u32,
    /// The call of the file system that fails.
    pub fails: Option<usize>,
    pub best_only: bool,
    pub keep_last: u64,
    /// Whether one thread alone saves.
    pub alone: bool,
}

impl Setup {
    pub fn new(mode: Async) -> Setup {
        Setup {
            mode,
            backpressure: Backpressure::Block,
            staging_limit: 0,
            threads: 1,
            fails: None,
            best_only: false,
            keep_last: 0,
            alone: true,
        }
    }
}

/// A session and what was heard of it.
pub struct Trial {
    pub session: Arc<Session>,
    pub account: Arc<Account>,
    pub mem: Mem,
    setup: Setup,
}

impl Trial {
    /// A session whose log goes to the account, and to `hear`.
    pub fn new(setup: Setup, hear: impl Fn(&str) + Send + Sync + 'static) -> Trial {
        let mem = Mem::new(Fault::None, 0);
        let account = Arc::new(Account::default());
        let heard = account.clone();
        let log = Log::new(move |level, line| {
            heard.line(level, line);
            hear(line);
        });
        let Setup { mode, backpressure, staging_limit, threads, best_only, keep_last, .. } = setup;
        let policy = policy::Options {
            save_weights_only: true,
            save_best_only: best_only,
            keep_last,
            verbose: true,
            ..policy::Options::default()
        };
        let options = Options {
            policy,
            mode,
            backpressure,
            staging_limit,
            threads,
            storage: Arc::new(mem.clone()),
            lock: Lock::Off,
            log,
            ..Options::default()
        };
        let session = Arc::new(Session::new("/d/{epoch}.weights.h5", options).unwrap());
        if let Some(at) = setup.fails {
            let mut state = mem.0.lock().unwrap();
            state.at = state.calls.len() + at;
            state.fault = Fault::Errno(libc::EIO);
        }
        Trial { session, account, mem, setup }
    }

    /// Makes the save of an epoch due, and makes it. The tensor is the caller's again where that is so.
    pub fn save(&self, epoch: u64, loss: f64, tensor: &Tensor) {
        tensor.fill(epoch as u8 + 1);
        self.session.on_epoch_end(epoch, &[("val_loss", loss)]).unwrap();
        let path = self.session.due_path().unwrap_or_default();
        let saved = self.session.save(&tensor.model);
        if self.setup.alone && saved.is_err() {
            assert_eq!(self.session.due_path().unwrap_or_default(), path, "a save that failed is still due");
        }
        if self.setup.mode != Async::Borrow || saved.is_err() {
            tensor.spoil();
        }
        self.account.hear(saved, Some(&path));
    }

    pub fn wait(&self) {
        self.account.hear(self.session.wait(), None);
    }

    pub fn wait_buffers(&self) {
        self.account.hear(self.session.wait_buffers(), None);
    }

    /// Frees the session; all of it has gone then, each save has ended once, and each file is of one time.
    pub fn end(self) {
        let Trial { session, account, mem, setup } = self;
        let session = Arc::into_inner(session).expect("the last user of the session");
        drop(session);
        assert_eq!(Arc::strong_count(&account), 1, "a thread of the session has outlived it");
        let files = mem.files();
        let is_whole =
            |bytes: &Vec<u8>| bytes.chunk_by(|a, b| a == b).any(|run| run[0] != SPOILT && run.len() >= BYTES);
        let (temporary, files): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(path, _)| is_temporary(path));
        for (path, bytes) in &files {
            assert!(is_whole(bytes), "{path} was read at two times, or after its buffers were given back");
        }
        if setup.fails.is_none() {
            assert!(temporary.is_empty(), "left behind: {:?}", temporary[0].0);
        }
        let stands = |path: &String| files.iter().any(|(file, _)| file == path);
        assert!(setup.keep_last > 0 || account.made().iter().all(stands), "made, and not there");
        account.check(setup.backpressure == Backpressure::Replace, setup.alone);
    }
}

fn is_temporary(path: &str) -> bool {
    Path::new(path).file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".ckpt-tmp"))
}

/// A tensor of equal bytes, and the model of it.
pub struct Tensor {
    memory: Arc<Memory>,
    model: Model,
}

struct Memory {
    bytes: UnsafeCell<Vec<u8>>,
    /// Whether a save may ask for it, whether one has, and whether one has that was not to.
    lent: AtomicBool,
    asked: AtomicBool,
    misread: AtomicBool,
    /// Whoever asks for it waits.
    held: Mutex<bool>,
    let_go: Condvar,
}

// SAFETY: the threads of a schedule run one at a time, on one thread of the system.
unsafe impl Sync for Memory {}

impl Tensor {
    /// In host memory.
    pub fn new() -> Tensor {
        let memory = Memory::new();
        // SAFETY: the vector keeps its memory, and the Tensor outlives the session; the explorer has one thread run at a
        // time, so that nobody writes it while it is read.
        let buffer = unsafe { Buffer::new((*memory.bytes.get()).as_mut_ptr(), 1, &[BYTES as u64], None) };
        Tensor::of(memory, buffer.unwrap())
    }

    /// Out of it: a function fetches the bytes.
    pub fn source() -> Tensor {
        let memory = Memory::new();
        let buffer = Buffer::source(BYTES as u64, 1, memory.clone()).unwrap();
        Tensor::of(memory, buffer)
    }

    /// Whoever asks for it waits, or no longer does.
    pub fn hold(&self, held: bool) {
        *self.memory.held.lock().unwrap() = held;
        self.memory.let_go.notify_all();
    }

    /// Whether a save has asked for it.
    pub fn was_asked(&self) -> bool {
        self.memory.asked.load(Relaxed)
    }

    fn of(memory: Arc<Memory>, buffer: Buffer) -> Tensor {
        let mut model = Model::new();
        model.add("layers/dense/vars/0", Dtype::U8, &[BYTES as u64], buffer).unwrap();
        Tensor { memory, model }
    }

    fn fill(&self, byte: u8) {
        self.memory.lent.store(true, Relaxed);
        // SAFETY: as above.
        unsafe { (*self.memory.bytes.get()).fill(byte) };
    }

    /// Nobody may read it any more.
    pub fn spoil(&self) {
        self.fill(SPOILT);
        self.memory.lent.store(false, Relaxed);
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        let misread = self.memory.misread.load(Relaxed) && !panicking();
        assert!(!misread, "fetched after its buffers were given back");
    }
}

impl Memory {
    fn new() -> Arc<Memory> {
        let bytes = UnsafeCell::new(vec![SPOILT; BYTES]);
        let [lent, asked, misread] = Default::default();
        Arc::new(Memory { bytes, lent, asked, misread, held: Mutex::default(), let_go: Condvar::default() })
    }

    fn look(&self) {
        self.misread.fetch_or(!self.lent.load(Relaxed), Relaxed);
    }
}

impl Source for Memory {
    fn fetch(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        self.asked.store(true, Relaxed);
        self.look();
        drop(self.let_go.wait_while(self.held.lock().unwrap(), |held| *held));
        self.look();
        let offset = offset as usize;
        // SAFETY: as above.
        dst.copy_from_slice(unsafe { &(&*self.bytes.get())[offset..offset + dst.len()] });
        Ok(())
    }

    fn put(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn can_put(&self) -> bool {
        false
    }
}
