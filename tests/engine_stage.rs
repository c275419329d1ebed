//! Staged saves: the bytes that one thread has copied are the file that another one writes, whatever the room between
//! them.
#![allow(clippy::unwrap_used, reason = "a test stops at an error")]

mod engine_support;
mod scratch;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use ckpt::engine::{
    Arena, Backend, Buffer, Disk, Feed, Save, Source, Tensors, WriteOptions, WriteStats, stage,
};
use ckpt::engine::{Loan, Unwatched, Watch};
use ckpt::error::{Error, Result, Status};
use ckpt::layout::{Layout, Stamp};
use engine_support::{Model, model};
use parking_lot::Mutex;
use scratch::Scratch;

const MIB: usize = 1 << 20;

fn large(fill: u8) -> Model {
    model(fill, &[100, 9 * MIB, 0x1234, 6 * MIB, 1, MIB, 5 * MIB + 3])
}

fn write(
    model: &Model,
    path: &Path,
    feed: Feed,
    options: WriteOptions,
    watch: &dyn Watch,
) -> Result<WriteStats> {
    let (layout, stamp) = (&mut model.layout.copied().unwrap(), &Stamp::default());
    let tensors = Tensors::Staged(feed);
    Save { storage: &Disk, path, layout, stamp, tensors, options, watch, arena: None, spares: None }.run()
}

#[test]
fn a_staged_save_is_the_file() {
    let place = Scratch::new("stage");
    for limit in [1, 7 * MIB as u64, 0] {
        let arena = Arena::new(limit, None);
        for (fill, backend) in [(1, Backend::Buffered), (2, Backend::Direct), (3, Backend::Auto)] {
            for threads in [0, 1, 3] {
                let (model, path) = (large(fill), place.join("x.keras"));
                let (filler, feed) = stage(&arena, &model.layout, model.buffers.len()).unwrap();
                let options = WriteOptions { backend, ..WriteOptions::default() };
                thread::scope(|scope| {
                    let writer = scope.spawn(|| write(&model, &path, feed, options, &Unwatched));
                    filler.fill(Loan::of(&model.buffers), threads, &Unwatched).unwrap();
                    assert_eq!(writer.join().unwrap().unwrap().bytes, model.file.len() as u64);
                });
                assert!(fs::read(&path).unwrap() == model.file, "limit {limit}, {backend:?}");
            }
        }
    }
    assert_eq!(place.names(), ["x.keras"]);
}

#[test]
fn all_of_it_is_staged_before_it_is_written_where_there_is_room() {
    let place = Scratch::new("stage");
    let (model, path) = (large(1), place.join("x.keras"));
    let arena = Arena::new(0, None);
    let (filler, feed) = stage(&arena, &model.layout, model.buffers.len()).unwrap();
    filler.fill(Loan::of(&model.buffers), 0, &Unwatched).unwrap();
    assert_eq!(place.names(), [""; 0]);
    write(&model, &path, feed, WriteOptions::default(), &Unwatched).unwrap();
    assert!(fs::read(&path).unwrap() == model.file);
}

#[test]
fn a_feed_that_is_dropped_ends_the_copy() {
    let model = large(1);
    let arena = Arena::new(1, None);
    let (filler, feed) = stage(&arena, &model.layout, model.buffers.len()).unwrap();
    thread::scope(|scope| {
        let filling = scope.spawn(|| filler.fill(Loan::of(&model.buffers), 2, &Unwatched));
        drop(feed);
        filling.join().unwrap().unwrap();
    });
    assert_eq!(format!("{arena:?}"), "Arena(2 of 2 blocks free, at most 2)");
}

/// Cancels when it is told to; counts.
#[derive(Default)]
struct Follower {
    cancelled: AtomicBool,
    done: AtomicU64,
    released: AtomicU64,
}

impl Watch for Follower {
    fn wrote(&self, done: u64, total: u64) {
        assert!(done <= total);
        self.done.fetch_max(done, Relaxed);
    }
    fn cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }
    fn released(&self) {
        self.released.fetch_add(1, Relaxed);
    }
}

#[test]
fn a_copy_that_fails_fails_its_save() {
    let place = Scratch::new("stage");
    fs::write(place.join("x.keras"), b"old").unwrap();
    let model = large(1);
    let arena = Arena::new(1, None);
    let follower = Follower::default();
    let (filler, feed) = stage(&arena, &model.layout, model.buffers.len()).unwrap();
    let result = thread::scope(|scope| {
        let writer =
            scope.spawn(|| write(&model, &place.join("x.keras"), feed, WriteOptions::default(), &Unwatched));
        follower.cancelled.store(true, Relaxed);
        assert_eq!(
            filler.fill(Loan::of(&model.buffers), 1, &follower).unwrap_err().status(),
            Status::Cancelled
        );
        writer.join().unwrap()
    });
    assert_eq!(result.unwrap_err().status(), Status::Cancelled);
    assert_eq!(place.names(), ["x.keras"]);
    assert_eq!(fs::read(place.join("x.keras")).unwrap(), b"old");
}

#[test]
fn a_save_tells_how_far_it_is_and_that_the_buffers_may_change() {
    let place = Scratch::new("stage");
    for backend in [Backend::Buffered, Backend::Direct] {
        let (mut model, follower) = (large(1), Follower::default());
        let (layout, stamp, path) = (&mut model.layout, &Stamp::default(), &place.join("x.keras"));
        let options = WriteOptions { backend, ..WriteOptions::default() };
        let save = |layout: &mut Layout, follower: &Follower| {
            let tensors = Tensors::Lent(Loan::of(&model.buffers));
            Save {
                storage: &Disk,
                path,
                layout,
                stamp,
                tensors,
                options,
                watch: follower,
                arena: None,
                spares: None,
            }
            .run()
        };
        save(layout, &follower).unwrap();
        assert_eq!(follower.done.load(Relaxed), model.file.len() as u64);
        assert_eq!(follower.released.load(Relaxed), 1);

        let follower = Follower { cancelled: true.into(), ..Follower::default() };
        assert_eq!(save(layout, &follower).unwrap_err().status(), Status::Cancelled);
        assert_eq!((follower.done.load(Relaxed), follower.released.load(Relaxed)), (0, 1));
        assert_eq!(place.names(), ["x.keras"]);
    }
}

/// A tensor of one value, which fails from a byte on, and notes who asks for what.
struct Device {
    value: u8,
    room: u64,
    calls: Mutex<Vec<(thread::ThreadId, u64, usize)>>,
}

impl Source for Device {
    fn fetch(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        self.calls.lock().push((thread::current().id(), offset, dst.len()));
        if offset >= self.room {
            return Err(Error::new(Status::NotFound, "the device is gone"));
        }
        dst.fill(self.value);
        Ok(())
    }
    fn put(&self, _: u64, _: &[u8]) -> Result<()> {
        unreachable!("a save puts nothing")
    }
    fn can_put(&self) -> bool {
        false
    }
}

#[test]
fn what_is_not_in_host_memory_is_fetched_in_order_by_one_thread() {
    let place = Scratch::new("stage");
    let path = place.join("x.keras");
    for (backend, room) in [Backend::Buffered, Backend::Direct].into_iter().zip([u64::MAX, 7 * MIB as u64]) {
        for room in [u64::MAX, room] {
            let mut model = large(3);
            let size = model.buffers[1].nbytes();
            let device = Arc::new(Device { value: 3, room, calls: Mutex::default() });
            model.buffers[1] = Buffer::source(size, 1, device.clone()).unwrap();
            let _ = fs::remove_file(&path);
            let options = WriteOptions { backend, threads: 4, ..WriteOptions::default() };
            let result = model.save(&Disk, &path, options);
            let mut end = 0;
            for &(thread, offset, len) in device.calls.lock().iter() {
                assert_eq!((thread, offset), (thread::current().id(), end));
                assert!(len > 0 && len <= 2 * MIB);
                end += len as u64;
            }
            if room < size {
                let error = result.unwrap_err();
                assert_eq!(error.status(), Status::NotFound, "{error}");
                assert!(error.message().contains("the device is gone"), "{error}");
                assert_eq!(place.names(), [""; 0]);
            } else {
                result.unwrap();
                assert_eq!(end, size);
                assert!(fs::read(&path).unwrap() == model.file);
            }
        }
    }
}
