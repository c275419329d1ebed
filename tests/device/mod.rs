//! Tensors of a test: in memory, or on a device that only its two functions can see.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use ckpt::engine::{Buffer, SOURCE_BLOCK, Source};
use ckpt::error::{Error, Result, Status};
use ckpt::tensor::TensorSpec;
use parking_lot::Mutex;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Fetch,
    Put,
}

/// A call of one of the functions.
#[derive(Clone, Debug)]
pub struct Call {
    pub way: Way,
    pub tensor: usize,
    pub offset: u64,
    pub len: usize,
    pub thread: ThreadId,
}

/// Tensors that are seen through calls alone, which are noted.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    /// Locked for as long as a call takes: two at once are an error.
    memory: Mutex<Vec<Vec<u8>>>,
    calls: Mutex<Vec<Call>>,
    /// The number of the call that fails.
    broken: Mutex<Option<usize>>,
    read_only: bool,
}

impl Device {
    pub fn new(memory: Vec<Vec<u8>>) -> Device {
        let (calls, broken) = (Mutex::default(), Mutex::default());
        Device(Arc::new(Inner { memory: Mutex::new(memory), calls, broken, read_only: false }))
    }

    /// Without a way back.
    pub fn read_only(self) -> Device {
        let memory = Mutex::new(self.0.memory.lock().clone());
        Device(Arc::new(Inner { memory, calls: Mutex::default(), broken: Mutex::default(), read_only: true }))
    }

    pub fn buffer(&self, tensor: usize, spec: &TensorSpec) -> Buffer {
        let source = OnDevice { device: self.clone(), tensor, itemsize: spec.dtype.size() };
        Buffer::source(spec.nbytes(), spec.dtype.size(), Arc::new(source)).unwrap()
    }

    pub fn bytes(&self, tensor: usize) -> Vec<u8> {
        self.0.memory.lock()[tensor].clone()
    }

    pub fn calls(&self) -> Vec<Call> {
        self.0.calls.lock().clone()
    }

    /// Forgets the calls, and works again.
    pub fn forget(&self) {
        self.0.calls.lock().clear();
        *self.0.broken.lock() = None;
    }

    /// Has the call with this number fail.
    pub fn fail_at(&self, call: usize) {
        *self.0.broken.lock() = Some(call);
    }

    /// The tensors in the order of the calls, which are all of this kind, and come one after the other for all bytes of
    /// a tensor before another's.
    pub fn order_of(&self, way: Way, specs: &[TensorSpec]) -> Vec<usize> {
        let mut order: Vec<usize> = Vec::new();
        let mut end = 0;
        for call in self.calls() {
            assert_eq!(call.way, way);
            if end == 0 {
                order.push(call.tensor);
            }
            let tensor = *order.last().unwrap();
            assert_eq!((call.tensor, call.offset), (tensor, end), "not the bytes that follow");
            end += call.len as u64;
            if end == specs[tensor].nbytes() {
                end = 0;
            }
        }
        assert_eq!(end, 0, "the last tensor is not whole");
        order
    }
}

struct OnDevice {
    device: Device,
    tensor: usize,
    itemsize: usize,
}

impl OnDevice {
    /// The part of the device's memory that a call is for, with `len` bytes of the host's at `address`.
    fn call<T>(
        &self,
        way: Way,
        offset: u64,
        (address, len): (usize, usize),
        copy: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T> {
        let Inner { memory, calls, broken, .. } = &*self.device.0;
        let mut memory = memory.try_lock().expect("two calls at once");
        assert!((1..=SOURCE_BLOCK).contains(&len), "{len} bytes at once");
        assert!(offset.is_multiple_of(self.itemsize as u64) && len.is_multiple_of(self.itemsize));
        assert!(address.is_multiple_of(self.itemsize), "not aligned to the elements");
        let number = calls.lock().len();
        calls.lock().push(Call { way, tensor: self.tensor, offset, len, thread: thread::current().id() });
        if *broken.lock() == Some(number) {
            return Err(Error::new(Status::NoSpace, "call failed"));
        }
        Ok(copy(&mut memory[self.tensor][offset as usize..offset as usize + len]))
    }
}

impl Source for OnDevice {
    fn fetch(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let host = (dst.as_ptr().addr(), dst.len());
        self.call(Way::Fetch, offset, host, |memory| dst.copy_from_slice(memory))
    }

    fn put(&self, offset: u64, src: &[u8]) -> Result<()> {
        let host = (src.as_ptr().addr(), src.len());
        self.call(Way::Put, offset, host, |memory| memory.copy_from_slice(src))
    }

    fn can_put(&self) -> bool {
        !self.device.0.read_only
    }
}

/// Tensors in memory.
pub struct Memory(Vec<UnsafeCell<Vec<u8>>>);

impl Memory {
    pub fn new(memory: Vec<Vec<u8>>) -> Memory {
        Memory(memory.into_iter().map(UnsafeCell::new).collect())
    }

    pub fn buffer(&self, tensor: usize, spec: &TensorSpec) -> Buffer {
        // SAFETY: the memory outlives the models of a test, which touch it in saves and loads alone; a test looks at it
        // between them.
        unsafe {
            let data = (*self.0[tensor].get()).as_mut_ptr();
            Buffer::new(data, spec.dtype.size(), &spec.shape, None).unwrap()
        }
    }

    pub fn bytes(&self, tensor: usize) -> Vec<u8> {
        // SAFETY: as above.
        unsafe { (*self.0[tensor].get()).clone() }
    }
}
