//! The commit: at every instant the destination is the whole old checkpoint or the whole new one.
#![forbid(unsafe_code)]

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::error::{Error, Result, Status};
use crate::layout::{Layout, Stamp};
use crate::memory;
use crate::sync::thread;

use super::arena::Arena;
use super::backend::{self, Backend};
use super::buffer::Buffer;
use super::destination::{MadeDirs, destination, parent};
use super::files::{self, NewFile, Placed};
use super::loan::Loan;
use super::remove::remove_superseded;
use super::space::Space;
use super::spare::Spares;
use super::stage::{Feed, stage};
use super::storage::{FileId, Storage, retry};
use super::watch::{Meter, Unwatched, Watch};
use super::write::{self, Body, Job, Means};

/// Bytes of staging memory for tensors that are not in host memory.
const FETCHED: u64 = 8 << 20;

/// How a save is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Threads that gather the tensors' bytes; 0: as many as help, two at most.
    pub threads: u32,
    /// Whether the save ends only when the disk has it. Without, a crash of the process leaves the old
    /// checkpoint or the new one, but a loss of power may leave neither.
    pub durable: bool,
    /// How bytes reach the disk.
    pub backend: Backend,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { threads: 0, durable: true, backend: Backend::Auto }
    }
}

/// Where the tensors of a save come from.
pub enum Tensors {
    /// The caller's, who has them back when all bytes have been read.
    Lent(Loan),
    /// Staging memory, which another thread fills.
    Staged(Feed),
}

/// One save: a file with this layout, put in place of `path`.
pub struct Save<'a> {
    /// Where.
    pub storage: &'a dyn Storage,
    /// The file.
    pub path: &'a Path,
    /// What its bytes are.
    pub layout: &'a mut Layout,
    /// What is filled into it.
    pub stamp: &'a Stamp,
    /// The tensors.
    pub tensors: Tensors,
    /// How.
    pub options: WriteOptions,
    /// Who follows it.
    pub watch: &'a dyn Watch,
    /// Staging memory for tensors that are not in host memory; `None`: the save's own.
    pub arena: Option<&'a Arc<Arena>>,
    /// The files that a session has to recycle; what the save replaces may become one.
    pub spares: Option<&'a Spares>,
}

/// What a save has put in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Where it is, behind symbolic links, from any directory.
    pub path: PathBuf,
    /// Which file it is.
    pub id: FileId,
    /// The files that belong to it, each as `path` and `id` are: those that the save has put there, and one from an
    /// earlier save that it would have written in the same way.
    pub companions: Arc<Vec<(PathBuf, FileId)>>,
    /// The directories that were made for it, each as `path` is.
    pub made_dirs: Vec<PathBuf>,
}

/// What a save did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteStats {
    /// The file.
    pub file: Written,
    /// Bytes of the file and its companions.
    pub bytes: u64,
    /// Seconds until the bytes were handed to the system.
    pub write_secs: f64,
    /// Seconds until the disk had them, and the file its name.
    pub sync_secs: f64,
}

/// Makes a [`Save`] that nobody follows, of tensors in the caller's memory.
pub fn save(
    storage: &dyn Storage,
    path: &Path,
    layout: &mut Layout,
    stamp: &Stamp,
    buffers: &[Buffer],
    options: &WriteOptions,
) -> Result<WriteStats> {
    let (tensors, options) = (Tensors::Lent(Loan::of(buffers)), *options);
    Save { storage, path, layout, stamp, tensors, options, watch: &Unwatched, arena: None, spares: None }
        .run()
}

impl Save<'_> {
    /// Writes the file and puts it in place. Missing directories are made. Returns when all is done; no thread is
    /// left.
    ///
    /// - An error before the new file has its name leaves the old one as it was, and neither a temporary file nor
    ///   a new directory. If the directory cannot be synced after that, the error says that the new file stands.
    /// - A symbolic link at `path` is followed, as by open(2), Keras and h5py: the file it points to is replaced,
    ///   and the link stays. Another name (hard link) of the old file keeps the old file.
    /// - A new file's permissions are those of open(2), 0666 less the umask; a file that replaces another has that
    ///   one's, where it may set them, and never more. Its owner is the process'.
    /// - What is there and is no regular file (a directory, a device) is refused.
    /// - The companions of a layout are written beside the file, under names that are new, and have them before the
    ///   file has its own. After that, those that the save has superseded are removed, as far as no living save holds
    ///   them.
    /// - Where there is no room for it, spares are given up, and what [`Watch::give_up`] has, before a byte is read; or
    ///   nothing, where all of that would not be enough.
    /// - [`Watch::released`] is called once, whatever becomes of the save.
    pub fn run(self) -> Result<WriteStats> {
        let released = Released(self.watch);
        // What is in here goes before that: whoever waits for the buffers finds them given back.
        let Save { storage, path, layout, stamp, tensors, options, watch, arena, spares } = self;
        if let Tensors::Lent(loan) = &tensors {
            write::check(layout, &memory::collect(loan.buffers().iter().map(Buffer::nbytes))?)?;
        }
        let start = Instant::now();
        let (path, old) = destination(storage, path)?;
        let dir = parent(&path);
        files::name(storage, &path, layout, stamp)?;
        let mut space =
            Space { storage, path: &path, bytes: layout.total_size(), spares, watch, helps: None };
        space.find()?;

        // Dropped in reverse order: the files go before the directory they are in.
        let mut made = MadeDirs::new(storage);
        let mut create = || {
            let (mut file, mut companions) = files::create_all(storage, &path, layout, &mut made, old)?;
            for file in companions.iter_mut().chain([&mut file]) {
                file.reserve(layout, spares, options.durable)?;
            }
            Ok::<_, Error>((file, companions))
        };
        let (mut file, mut companions) = loop {
            match create() {
                Err(e) if space.make_more(&e) => {}
                files => break files?,
            }
        };
        let all = || companions.iter().chain([&file]);
        let bytes = all().map(|file| file.layout(layout).size()).sum();
        let device = file.id()?.inode.0;
        let means = Means {
            threads: options.threads,
            choice: backend::choose(options.backend, options.durable, device, bytes),
            durable: options.durable,
            device,
            meter: Meter::new(watch, bytes),
            refused: AtomicBool::new(false),
        };
        let files: Vec<&NewFile<'_>> = memory::collect(all())?;
        let bodies = bodies(&files, layout, tensors, &means, arena)?;
        drop(files);
        drop(released);
        let mut crcs = Vec::new();
        bodies.iter().try_for_each(|body| memory::append(&mut crcs, &body.crcs))?;
        layout.seal(&crcs, stamp)?;
        for file in all() {
            let held = &bodies[file.place_in(layout)].held;
            file.write_edges(layout, held, old.map(|old| old.mode), &means.meter)?;
        }
        let written = Instant::now();

        for file in all() {
            file.flush(options.durable)?;
        }
        let sync_dir = || match options.durable {
            true => retry(|| storage.sync_dir(dir)).map_err(|e| Error::io("sync the directory", dir, &e)),
            false => Ok(()),
        };
        if options.durable {
            // Before the rename: should it fail, the directories go again, and the next save knows them to be new.
            made.sync()?;
        }
        means.meter.go_on().map_err(|e| file.not_written(e))?;
        let placed = Placed::place(storage, &mut companions, layout)?;
        if !companions.is_empty() {
            // Before the file that names them.
            sync_dir()?;
        }
        let id = file.id()?;
        // From another directory it may not be found then; no reason to lose the save.
        let real_dir = retry(|| storage.real_path(dir)).unwrap_or_else(|_| dir.to_owned());
        let real = |path: &Path| path.file_name().map_or(real_dir.clone(), |name| real_dir.join(name));
        let made_dirs = made.dirs().iter().filter_map(|dir| retry(|| storage.real_path(dir)).ok()).collect();
        // From here on no memory is asked for of which the model says how much: the file stands.
        let mut beside = memory::collect(placed.files().iter().map(|(path, id)| (real(path), *id)))?;
        memory::reserve(&mut beside, 1)?;
        let outgoing = file.replace(&real(&path), spares)?;
        watch.placed(&real(&path));
        placed.keep();
        for (path, id) in files::left_out(storage, &path, layout) {
            let earlier = (real(&path), id);
            if !beside.contains(&earlier) {
                beside.push(earlier);
            }
        }
        made.keep();
        sync_dir().map_err(|e| {
            let stands =
                format!("'{}' is written and stands, but a loss of power may undo it", path.display());
            e.context(stands)
        })?;
        let file = Written { path: real(&path), id, companions: Arc::new(beside), made_dirs };
        if let Some(spares) = spares {
            spares.saved(&file, bytes);
        }
        watch.committed(&file);
        if let Some(outgoing) = outgoing {
            outgoing.keep(options.durable);
        }
        // While the locks of the new companions are held.
        remove_superseded(storage, &file.path, id, layout, spares);
        Ok(WriteStats {
            file,
            bytes,
            write_secs: (written - start).as_secs_f64(),
            sync_secs: written.elapsed().as_secs_f64(),
        })
    }
}

/// Writes the bodies of all files; gives them in the order of the layout.
fn bodies(
    files: &[&NewFile<'_>],
    layout: &Layout,
    tensors: Tensors,
    means: &Means<'_>,
    arena: Option<&Arc<Arena>>,
) -> Result<Vec<Body>> {
    let at = |place: usize| files.iter().find(|file| file.place_in(layout) == place);
    let staged = |feed: Feed| {
        let targets = files.iter().map(|file| (file.place_in(layout), file.target())).collect();
        feed.write(&targets, means).map_err(|(place, e)| match at(place) {
            Some(file) => file.not_written(e),
            None => Error::new(Status::Internal, format!("file {place} of a save: {e:?}")),
        })
    };
    match tensors {
        Tensors::Staged(feed) => staged(feed),
        Tensors::Lent(loan) if loan.buffers().iter().any(Buffer::is_source) => {
            let own = Arena::new(FETCHED, None);
            let (filler, feed) = stage(arena.unwrap_or(&own), layout, loan.buffers().len())?;
            thread::scope(|scope| {
                let writer = thread::Builder::new().name("ckpt-write".into());
                let writer = writer
                    .spawn_scoped(scope, || staged(feed))
                    .map_err(|e| Error::no_memory("a thread that writes what is fetched", 0).context(e))?;
                let filled = filler.fill(loan, 1, means.meter.watch());
                let bodies = writer.join().unwrap_or_else(|panic| resume_unwind(panic));
                filled.and(bodies)
            })
        }
        Tensors::Lent(mut loan) => {
            let buffers = loan.buffers();
            let jobs = write::jobs(layout, buffers.len())?;
            for (place, job) in jobs.iter().enumerate() {
                if let Some(file) = at(place) {
                    job.write(file.target(), buffers, means).map_err(|e| file.not_written(e))?;
                }
            }
            loan.end()?;
            memory::try_collect(jobs.into_iter().map(Job::finish))
        }
    }
}

/// Tells of the end of reading, whatever became of it.
struct Released<'a>(&'a dyn Watch);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.released();
    }
}
