//! The commit: at every instant the destination is the whole old checkpoint or the whole new one.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::layout::{Layout, Stamp};

use super::buffer::Buffer;
use super::destination::{MadeDirs, destination, parent};
use super::files::{self, Placed};
use super::remove::remove_superseded;
use super::storage::{FileId, Storage, retry};
use super::write;

/// How a save is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Threads that move bytes, 4 MiB of staging memory each; 0: as many as help whatever else runs, which is one.
    pub threads: u32,
    /// Whether the save ends only when the disk has it. Without, a crash of the process leaves the old
    /// checkpoint or the new one, but a loss of power may leave neither.
    pub durable: bool,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { threads: 0, durable: true }
    }
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
    pub companions: Vec<(PathBuf, FileId)>,
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

/// Writes a file with this layout, the tensors from `buffers` in the order of the schema, and puts it in place
/// of `path`. Missing directories are made. Returns when all is done; no thread is left.
///
/// - An error before the new file has its name leaves the old one as it was, and neither a temporary file nor
///   a new directory. If the directory cannot be synced after that, the error says that the new file stands.
/// - A symbolic link at `path` is followed, as by open(2), Keras and h5py: the file it points to is replaced,
///   and the link stays. Another name (hard link) of the old file keeps the old file.
/// - A new file's permissions are those of open(2), 0666 less the umask; a file that replaces another has that
///   one's, where it may set them, and never more. Its owner is the process'.
/// - What is there and is no regular file (a directory, a device) is refused.
/// - The companions of a layout are written beside the file, under names that are new, and have them before the file
///   has its own. After that, those that the save has superseded are removed, as far as no living save holds them.
pub fn save(
    storage: &dyn Storage,
    path: &Path,
    layout: &mut Layout,
    stamp: &Stamp,
    buffers: &[Buffer],
    options: &WriteOptions,
) -> Result<WriteStats> {
    write::check(layout, buffers)?;
    let start = Instant::now();
    let (path, old) = destination(storage, path)?;
    let dir = parent(&path);
    files::name(storage, &path, layout, stamp)?;

    // Dropped in reverse order: the files go before the directory they are in.
    let mut made = MadeDirs::new(storage);
    let (mut file, mut companions) = files::create_all(storage, &path, layout, &mut made, old)?;
    let all = || companions.iter().chain([&file]);
    let bytes = all().map(|file| file.layout(layout).size()).sum();
    for file in all() {
        file.reserve(layout)?;
    }
    let mut crcs = vec![0; buffers.len()];
    for file in all() {
        file.write_tensors(layout, buffers, options.threads, &mut crcs)?;
    }
    layout.seal(&crcs, stamp)?;
    for file in all() {
        file.write_literals(layout, old.map(|old| old.mode))?;
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
    file.place()?;
    let mut beside = placed.keep();
    for earlier in files::left_out(storage, &path, layout) {
        if !beside.contains(&earlier) {
            beside.push(earlier);
        }
    }
    let beside = beside.iter().map(|(path, id)| (real(path), *id)).collect();
    made.keep();
    sync_dir().map_err(|e| {
        let stands = format!("'{}' is written and stands, but a loss of power may undo it", path.display());
        e.context(stands)
    })?;
    // While the locks of the new companions are held.
    remove_superseded(storage, &path, id, layout);
    Ok(WriteStats {
        file: Written { path: real(&path), id, companions: beside, made_dirs },
        bytes,
        write_secs: (written - start).as_secs_f64(),
        sync_secs: written.elapsed().as_secs_f64(),
    })
}
