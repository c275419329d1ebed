//! Staging memory: blocks of one size, in huge pages where the system has them, made as they are needed, used again.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result, Status};
use crate::memory;
use crate::sync::parking_lot::{Condvar, Mutex, MutexGuard};

use super::pages;
use super::tiles::{PAGE, TILE};

/// Bytes of a block: room for one tile.
pub(super) const BLOCK: usize = TILE as usize;

/// Blocks that are allocated as one.
const TOGETHER: usize = 16;

/// How long to wait for a block before asking again whether the save goes on.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);

/// Where staging memory comes from: pinned memory, for example.
pub trait Allocator: Send + Sync {
    /// Memory of this many bytes at a multiple of `align`, a power of two; NULL where there is none. It is used from
    /// any thread.
    fn alloc(&self, bytes: usize, align: usize) -> *mut u8;

    /// Takes memory back.
    ///
    /// # Safety
    ///
    /// It came from [`Allocator::alloc`] for as many bytes, and nothing uses it any more.
    unsafe fn dealloc(&self, memory: *mut u8, bytes: usize);
}

/// The staging memory of a session, or of one save. Dropped with its last block, it gives its memory back.
pub struct Arena {
    allocator: Option<Arc<dyn Allocator>>,
    state: Mutex<State>,
    freed: Condvar,
    /// Whose turn it is to call the allocator.
    turn: Mutex<()>,
}

struct State {
    /// The most blocks.
    limit: usize,
    /// Set by the user, not by what one checkpoint needs.
    fixed: bool,
    chunks: Vec<Chunk>,
    /// Blocks that were made, free or not.
    made: usize,
    free: Vec<NonNull<u8>>,
}

/// Memory for several blocks.
struct Chunk {
    memory: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the pointers are to memory that this State owns, and any thread may use it.
unsafe impl Send for State {}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        write!(f, "Arena({} of {} blocks free, at most {})", state.free.len(), state.made, state.limit)
    }
}

impl Arena {
    /// Memory of at most `limit` bytes, two blocks at least; 0: what [`Arena::reserve`] asks for.
    pub fn new(limit: u64, allocator: Option<Arc<dyn Allocator>>) -> Arc<Arena> {
        let state = State { limit: blocks(limit), fixed: limit > 0, chunks: vec![], made: 0, free: vec![] };
        Arc::new(Arena { allocator, state: Mutex::new(state), freed: Condvar::new(), turn: Mutex::new(()) })
    }

    /// Raises the limit to what `bytes` need, unless the user has set one.
    pub(super) fn reserve(&self, bytes: u64) {
        let mut state = self.state.lock();
        if !state.fixed {
            state.limit = state.limit.max(blocks(bytes));
        }
    }

    /// Makes as many blocks as `bytes` need, and the limit allows, now, and has the system give them pages.
    pub fn prefault(&self, bytes: u64) -> Result<()> {
        self.reserve(bytes);
        let mut state = self.state.lock();
        while state.made < state.limit.min(blocks(bytes)) {
            self.grow(&mut state)?;
        }
        Ok(())
    }

    /// A block, if one is free or can be made.
    ///
    /// # Errors
    /// There is no memory, and no block in use that one could wait for.
    pub(super) fn try_take(self: &Arc<Arena>) -> Result<Option<Block>> {
        let mut state = self.state.lock();
        if state.free.is_empty() && state.made < state.limit {
            match self.grow(&mut state) {
                // With less memory than was wanted it goes on more slowly.
                Err(_) if state.made > 0 => state.limit = state.made,
                result => result?,
            }
        }
        Ok(state.free.pop().map(|memory| Block { memory, arena: self.clone() }))
    }

    /// A block, as soon as there is one; `None` if `stop` says so before.
    pub(super) fn take(self: &Arc<Arena>, stop: &dyn Fn() -> bool) -> Result<Option<Block>> {
        loop {
            if let Some(block) = self.try_take()? {
                return Ok(Some(block));
            }
            if stop() {
                return Ok(None);
            }
            let mut state = self.state.lock();
            if state.free.is_empty() {
                self.freed.wait_for(&mut state, PATIENCE);
            }
        }
    }

    /// Makes some more blocks. Whatever the allocator does, blocks can come back meanwhile.
    fn grow(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
        let count = TOGETHER.min(state.limit - state.made);
        let bytes = count * BLOCK;
        memory::reserve(&mut state.chunks, 1)?;
        // All blocks may come back: whoever brings one cannot do without.
        let all = state.made + count - state.free.len();
        memory::reserve(&mut state.free, all)?;
        let memory = match &self.allocator {
            Some(allocator) => {
                state.made += count;
                let memory = MutexGuard::unlocked(state, || {
                    let _turn = self.turn.lock();
                    allocator.alloc(bytes, BLOCK)
                });
                state.made -= count;
                memory
            }
            None => pages::map(bytes, BLOCK),
        };
        let memory =
            NonNull::new(memory).ok_or_else(|| Error::no_memory("the staging of a save", bytes as u64))?;
        let chunk = Chunk { memory, bytes };
        if memory.addr().get() % PAGE as usize != 0 {
            // SAFETY: it has just come from this allocator, and nothing uses it.
            unsafe { self.release(&chunk) };
            let message = format!("the staging allocator gave {memory:p}: expected a multiple of {BLOCK}");
            return Err(Error::new(Status::InvalidArgument, message));
        }
        if self.allocator.is_some() {
            // SAFETY: the allocator has given as many bytes. So they have a value, and pages.
            unsafe { memory.write_bytes(0, bytes) };
        }
        state.chunks.push(chunk);
        state.made += count;
        // SAFETY: each block is within the chunk.
        state.free.extend((0..count).rev().map(|i| unsafe { memory.add(i * BLOCK) }));
        Ok(())
    }

    /// Gives a chunk back.
    ///
    /// # Safety
    ///
    /// It is of this arena, and nothing uses it any more.
    unsafe fn release(&self, chunk: &Chunk) {
        match &self.allocator {
            // SAFETY: our caller's promise.
            Some(allocator) => unsafe { allocator.dealloc(chunk.memory.as_ptr(), chunk.bytes) },
            // SAFETY: our caller's promise.
            None => unsafe { pages::unmap(chunk.memory.as_ptr(), chunk.bytes) },
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for chunk in std::mem::take(&mut self.state.get_mut().chunks) {
            // SAFETY: every block holds the arena, so none is left.
            unsafe { self.release(&chunk) };
        }
    }
}

/// A block of an arena; goes back when dropped.
pub struct Block {
    memory: NonNull<u8>,
    arena: Arc<Arena>,
}

// SAFETY: the memory is this Block's alone, and any thread may use it.
unsafe impl Send for Block {}
// SAFETY: as above; through a shared Block it is only read.
unsafe impl Sync for Block {}

impl Deref for Block {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: BLOCK bytes, which had the value 0 when the chunk was made; this Block's alone.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), BLOCK) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), BLOCK) }
    }
}

impl Block {
    /// Gives the block up for good: whoever was told to read it cannot be asked whether he has. The arena makes another.
    pub(super) fn abandon(self) {
        self.arena.state.lock().made -= 1;
        self.arena.freed.notify_one();
        std::mem::forget(self);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.arena.state.lock().free.push(self.memory);
        self.arena.freed.notify_one();
    }
}

fn blocks(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(BLOCK as u64)).unwrap_or(usize::MAX).max(2)
}

#[cfg(test)]
mod tests {
    use std::alloc::{Layout, alloc, dealloc};
    use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};
    use std::thread;

    use super::*;

    #[test]
    fn blocks_come_back_and_are_used_again() {
        let arena = Arena::new(3 * BLOCK as u64, None);
        let mut blocks: Vec<Block> = (0..3).map(|_| arena.try_take().unwrap().unwrap()).collect();
        assert!(arena.try_take().unwrap().is_none(), "more than the limit");
        for (i, block) in blocks.iter_mut().enumerate() {
            assert!(block.iter().all(|&b| b == 0) && block.as_ptr().addr().is_multiple_of(BLOCK));
            block.fill(i as u8 + 1);
        }
        assert!(
            blocks.iter().enumerate().all(|(i, block)| block.iter().all(|&b| b == i as u8 + 1)),
            "shared"
        );
        let second = blocks[1].as_ptr();
        drop(blocks.remove(1));
        assert_eq!(arena.try_take().unwrap().unwrap().as_ptr(), second);
    }

    #[test]
    fn the_limit_is_what_a_checkpoint_needs_unless_it_was_set() {
        let count = |arena: &Arc<Arena>| {
            let blocks = std::iter::from_fn(|| arena.try_take().unwrap());
            blocks.collect::<Vec<_>>().len()
        };
        let made = |arena: &Arc<Arena>| arena.state.lock().made;
        let needed = Arena::new(0, None);
        assert_eq!(count(&needed), 2);
        needed.prefault(17 * BLOCK as u64 + 1).unwrap();
        assert_eq!(made(&needed), 18);
        assert_eq!(count(&needed), 18);
        let set = Arena::new(1, None);
        set.prefault(17 * BLOCK as u64).unwrap();
        assert_eq!(made(&set), 2);
        assert_eq!(count(&set), 2);
    }

    #[test]
    fn waits_for_a_block_until_it_is_told_to_stop() {
        let arena = Arena::new(0, None);
        let held = [(); 2].map(|()| arena.try_take().unwrap());
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| arena.take(&|| stop.load(Relaxed)).unwrap().is_some());
            drop(held);
            assert!(waiter.join().unwrap());
            let _held = [(); 2].map(|()| arena.try_take().unwrap());
            let waiter = scope.spawn(|| arena.take(&|| stop.load(Relaxed)).unwrap().is_some());
            stop.store(true, Relaxed);
            assert!(!waiter.join().unwrap());
        });
    }

    #[test]
    fn an_abandoned_block_is_not_used_again_and_leaves_room_for_another() {
        let arena = Arena::new(0, None);
        let [lost, kept] = [(); 2].map(|()| arena.try_take().unwrap().unwrap());
        let memory = lost.as_ptr();
        assert!(arena.try_take().unwrap().is_none());
        lost.abandon();
        let new = arena.try_take().unwrap().unwrap();
        assert!(new.as_ptr() != memory && new.as_ptr() != kept.as_ptr());
        assert!(arena.try_take().unwrap().is_none());
    }

    /// Counts the bytes that are out; gives what is at `offset` from where it should be, and fails from `room` on.
    struct Counting {
        out: AtomicIsize,
        offset: usize,
        room: isize,
    }

    impl Counting {
        fn layout(&self, bytes: usize) -> Layout {
            Layout::from_size_align(bytes + BLOCK, BLOCK).unwrap()
        }
    }

    impl Allocator for Counting {
        fn alloc(&self, bytes: usize, align: usize) -> *mut u8 {
            assert_eq!(align, BLOCK);
            if self.out.fetch_add(bytes as isize, Relaxed) + bytes as isize > self.room {
                self.out.fetch_sub(bytes as isize, Relaxed);
                return std::ptr::null_mut();
            }
            // SAFETY: the size is not 0, and `offset` is less than what was added to it.
            unsafe { alloc(self.layout(bytes)).add(self.offset) }
        }
        unsafe fn dealloc(&self, memory: *mut u8, bytes: usize) {
            self.out.fetch_sub(bytes as isize, Relaxed);
            // SAFETY: as in `alloc`, by the caller's promise.
            unsafe { dealloc(memory.sub(self.offset), self.layout(bytes)) }
        }
    }

    #[test]
    fn memory_of_the_users_goes_back_to_him() {
        let own = Arc::new(Counting { out: 0.into(), offset: 0, room: isize::MAX });
        let arena = Arena::new(20 * BLOCK as u64, Some(own.clone()));
        let block = arena.take(&|| false).unwrap();
        assert_eq!(own.out.load(Relaxed), (TOGETHER * BLOCK) as isize);
        drop(arena);
        assert_ne!(own.out.load(Relaxed), 0, "a block was still in use");
        drop(block);
        assert_eq!(own.out.load(Relaxed), 0);
    }

    #[test]
    fn bad_or_no_memory_is_an_error_and_less_of_it_is_not() {
        let crooked = Arc::new(Counting { out: 0.into(), offset: 64, room: isize::MAX });
        let arena = Arena::new(0, Some(crooked.clone()));
        assert_eq!(arena.try_take().map(|_| ()).unwrap_err().status(), Status::InvalidArgument);
        assert_eq!(crooked.out.load(Relaxed), 0);

        let none = Arena::new(0, Some(Arc::new(Counting { out: 0.into(), offset: 0, room: 0 })));
        let error = none.prefault(1).unwrap_err();
        assert_eq!((error.status(), error.os()), (Status::Io, libc::ENOMEM));

        let room = (TOGETHER * BLOCK) as isize;
        let little =
            Arena::new(100 * BLOCK as u64, Some(Arc::new(Counting { out: 0.into(), offset: 0, room })));
        let blocks: Vec<Block> = std::iter::from_fn(|| little.try_take().unwrap()).collect();
        assert_eq!(blocks.len(), TOGETHER);
    }
}
