//! The tensors of one save on their way through staging memory: one thread copies them, another one writes them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result, Status};
use crate::layout::Layout;
use crate::memory;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use crate::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};

use super::arena::{Arena, BLOCK, Block, PATIENCE};
use super::buffer::Buffer;
use super::gather::Next;
use super::loan::Loan;
use super::sink::{Sink, Target};
use super::tiles::{Piece, Role};
use super::watch::{Failure, Watch, cancelled};
use super::write::{self, Body, Job, Means, jobs, together};

/// Blocks that pieces smaller than one may take in all beyond the bytes that they hold.
const SPARE_BLOCKS: u64 = 8;

/// Both ends of the way: the one that copies, and the one that goes with the save to the thread that writes.
pub fn stage(arena: &Arc<Arena>, layout: &Layout, tensors: usize) -> Result<(Filler, Feed)> {
    let files = jobs(layout, tensors)?;
    let body = |file: &Job| file.pieces().iter().filter(|piece| piece.role == Role::Body).count();
    let left = memory::collect(files.iter().map(body))?;
    // A block for each piece, unless they are small: files of a page each are not to cost 2 MiB each.
    let bytes: u64 = files.iter().flat_map(Job::pieces).map(|piece| piece.len() as u64).sum();
    let blocks = (left.iter().sum::<usize>() as u64).min(bytes.div_ceil(BLOCK as u64) + SPARE_BLOCKS);
    arena.reserve(blocks * BLOCK as u64);
    let (to, from) = channel();
    let dropped = Arc::new(AtomicBool::new(false));
    let filler = Filler { arena: arena.clone(), files, to, dropped: dropped.clone() };
    Ok((filler, Feed { from, left, dropped }))
}

/// What goes from the one to the other.
enum Message {
    /// A piece of the body of one of the files.
    Piece { file: usize, piece: Piece, block: Block },
    /// All pieces have been sent: the rest of what is known of each file.
    Done(Vec<Body>),
}

/// The end that copies.
pub struct Filler {
    arena: Arc<Arena>,
    files: Vec<Job>,
    to: Sender<Message>,
    dropped: Arc<AtomicBool>,
}

impl Filler {
    /// Gathers all tensors, waiting for free blocks behind the writer, on `threads` threads at most, 0: as many as
    /// help; on the calling thread alone, and in the order of the file, where a tensor is not in host memory. When it
    /// returns, they have been given back.
    ///
    /// What is lent are the tensors of the layout's schema. After an error the save fails, as cancelled. Where the other end
    /// was dropped, which ends the save too, there is no error.
    pub fn fill(self, mut loan: Loan, threads: u32, watch: &dyn Watch) -> Result<()> {
        let buffers = loan.buffers();
        let pieces = self.files.iter().enumerate();
        let pieces = pieces.flat_map(|(i, file)| file.pieces().iter().map(move |piece| (i, piece)));
        let pieces: Vec<(usize, &Piece)> = memory::collect(pieces)?;
        let Filler { arena, files, to, dropped } = &self;
        let next = AtomicUsize::new(0);
        let stop = || dropped.load(Relaxed) || watch.cancelled();
        let work = |to: Sender<Message>| -> Result<()> {
            while let Some(&(i, piece)) = pieces.get(next.fetch_add(1, Relaxed)) {
                let file = &files[i];
                if piece.role == Role::Edge {
                    file.hold(piece, buffers, &stop)?;
                    continue;
                }
                let Some(mut block) = arena.take(&stop)? else { return Err(cancelled()) };
                let block_of_piece = &mut block[..piece.len()];
                file.gather(piece, buffers, block_of_piece, (Next::Memory, &stop))?;
                if stop() {
                    return Err(cancelled());
                }
                let _ = to.send(Message::Piece { file: i, piece: piece.clone(), block });
            }
            Ok(())
        };
        let work = |to: Sender<Message>| {
            let result = work(to);
            if result.is_err() {
                // The others need not go on.
                next.store(pieces.len(), Relaxed);
            }
            result
        };
        // What is not in host memory comes in order, on this thread.
        // One thread takes most of what the memory can move; a second one is worth its processor where there are more.
        let helpful = if write::threads(0, 3) > 2 { 2 } else { 1 };
        let count = if buffers.iter().any(Buffer::is_source) { 1 } else { write::threads(threads, helpful) };
        let count = count.min(pieces.len());
        let senders = vec![to.clone(); count];
        let result = together(senders, "ckpt-copy", work);
        if dropped.load(Relaxed) && !watch.cancelled() {
            return Ok(());
        }
        result?;
        loan.end()?;
        let bodies = memory::try_collect(self.files.into_iter().map(Job::finish))?;
        let _ = self.to.send(Message::Done(bodies));
        Ok(())
    }
}

/// The end that is written from. Dropped, it makes the other one stop.
pub struct Feed {
    from: Receiver<Message>,
    /// Pieces of each file's body that have not come.
    left: Vec<usize>,
    dropped: Arc<AtomicBool>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.dropped.store(true, Relaxed);
    }
}

impl Feed {
    /// Writes all that comes to the files, each by its place among those of the layout. A failure comes with the place
    /// of its file.
    pub(super) fn write(
        mut self,
        files: &BTreeMap<usize, Target<'_>>,
        means: &Means<'_>,
    ) -> std::result::Result<Vec<Body>, (usize, Failure)> {
        let mut sinks: BTreeMap<usize, Sink<'_>> = BTreeMap::new();
        let last = files.keys().next_back().copied().unwrap_or_default();
        loop {
            let message = match self.from.try_recv() {
                // What is written gives its block back, which the other end may be waiting for.
                Err(TryRecvError::Empty) => match sinks.iter_mut().find(|(_, sink)| sink.is_busy()) {
                    Some((&file, sink)) => {
                        sink.reap().map_err(|e| (file, e.into()))?;
                        continue;
                    }
                    // The other end may be in a function of the caller's that never returns.
                    None => match self.from.recv_timeout(PATIENCE) {
                        Err(RecvTimeoutError::Timeout) => {
                            means.meter.go_on().map_err(|e| (last, e))?;
                            continue;
                        }
                        message => message.ok(),
                    },
                },
                message => message.ok(),
            };
            match message {
                Some(Message::Piece { file, piece, block }) => {
                    let left = self.left.get_mut(file).filter(|left| **left > 0);
                    let (Some(left), Some(&target)) = (left, files.get(&file)) else {
                        let message = format!("staged bytes of file {file}, which has no room for them");
                        return Err((file, Error::new(Status::Internal, message).into()));
                    };
                    *left -= 1;
                    let done = *left == 0;
                    let sink = sinks.entry(file).or_insert_with(|| means.open(target));
                    let write = || {
                        means.meter.go_on()?;
                        sink.write(block, piece.len(), piece.range.start)?;
                        if done { Ok::<_, Failure>(sink.finish()?) } else { Ok(()) }
                    };
                    write().map_err(|e| (file, e))?;
                    means.heed(sink);
                    if done {
                        sinks.remove(&file);
                    }
                }
                Some(Message::Done(bodies)) => return Ok(bodies),
                // The other end gave up.
                None => return Err((last, cancelled().into())),
            }
        }
    }
}
