//! The commit: at every instant the destination is the whole old checkpoint or the whole new one.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::error::{Error, Result, Status};
use crate::layout::{Layout, Stamp};

use super::buffer::Buffer;
use super::host::free_space;
use super::storage::{FileId, Info, Kind, Storage, retry};
use super::temp::TempFile;
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

/// A file that a save has put in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Where it is, behind symbolic links, from any directory.
    pub path: PathBuf,
    /// Which file it is.
    pub id: FileId,
    /// The directories that were made for it, each as `path` is.
    pub made_dirs: Vec<PathBuf>,
}

/// What a save did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteStats {
    /// The file.
    pub file: Written,
    /// Bytes of the file.
    pub bytes: u64,
    /// Seconds until the bytes were handed to the system.
    pub write_secs: f64,
    /// Seconds until the disk had them, and the file its name.
    pub sync_secs: f64,
}

/// Links to follow before they count as a circle, as Linux does.
const MAX_LINKS: u32 = 40;

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
    // Dropped in reverse order: the file goes before the directory it is in.
    let mut made = MadeDirs { storage, dirs: Vec::new() };
    let mut temp = create(storage, dir, &mut made, old)
        .map_err(|e| e.context(format_args!("cannot save to '{}'", path.display())))?;
    let (file, size) = (temp.handle(), layout.size());

    let failed = |what: &str, e: io::Error| {
        let error = Error::io(what, &path, &e);
        let full = error.status() == Status::NoSpace;
        if full { error.context(format!("no room for {size} bytes")) } else { error }
    };
    retry(|| file.preallocate(size)).map_err(|e| failed("reserve the space for", e))?;
    let crcs = write::tensors(file, layout, buffers, options.threads).map_err(|e| failed("write", e))?;
    layout.seal(&crcs, stamp)?;
    write::literals(file, layout).map_err(|e| failed("write", e))?;
    if let Some(old) = old {
        // An error leaves it to no more people than the old one was: no reason to lose the save.
        let _ = retry(|| file.set_mode(old.mode));
    }
    let written = Instant::now();

    if options.durable {
        // Never a second time: after a failure the system has dropped what it could not write.
        retry(|| file.sync()).map_err(|e| failed("sync", e))?;
        // Before the rename: should it fail, the directories go again, and the next save knows them to be new.
        made.sync()?;
    } else {
        retry(|| file.flush()).map_err(|e| failed("write", e))?;
    }
    let id = retry(|| storage.info(temp.path())).map_err(|e| failed("look at", e))?.id;
    // From another directory it may not be found then; no reason to lose the save.
    let real_dir = retry(|| storage.real_path(dir)).unwrap_or_else(|_| dir.to_owned());
    let made_dirs = made.dirs.iter().filter_map(|dir| retry(|| storage.real_path(dir)).ok()).collect();
    temp.rename(&path).map_err(|e| failed("replace", e))?;
    made.keep();
    if options.durable {
        retry(|| storage.sync_dir(dir)).map_err(|e| {
            let stands =
                format!("'{}' is written and stands, but a loss of power may undo it", path.display());
            Error::io("sync the directory", dir, &e).context(stands)
        })?;
    }
    Ok(WriteStats {
        file: Written {
            path: path.file_name().map_or(real_dir.clone(), |name| real_dir.join(name)),
            id,
            made_dirs,
        },
        bytes: size,
        write_secs: (written - start).as_secs_f64(),
        sync_secs: written.elapsed().as_secs_f64(),
    })
}

/// Finds out whether a file of `bytes` can be made in `dir`, and makes the directory, durably, if it is missing.
pub fn probe(storage: &dyn Storage, dir: &Path, bytes: u64) -> Result<()> {
    let mut made = MadeDirs { storage, dirs: Vec::new() };
    drop(create(storage, dir, &mut made, None)?);
    if let Some(free) = free_space(dir).filter(|&free| free < bytes) {
        let cause = io::Error::from_raw_os_error(libc::ENOSPC);
        let error = Error::io("save in", dir, &cause);
        return Err(error.context(format!("a checkpoint has {bytes} bytes, but {free} are free")));
    }
    made.sync()?;
    made.keep();
    Ok(())
}

/// Finds out whether `path` can be that of a checkpoint, as [`save`] does.
pub fn check(storage: &dyn Storage, path: &Path) -> Result<()> {
    destination(storage, path).map(|_| ())
}

/// Removes a file that a save has put in place, if it still is that file: `false` if somebody has removed or
/// replaced it since.
pub fn remove(storage: &dyn Storage, file: &Written) -> Result<bool> {
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    match retry(|| storage.info(&file.path)) {
        Ok(info) if info.id != file.id => return Ok(false),
        Err(e) if !gone(&e) => return Err(Error::io("remove", &file.path, &e)),
        Err(_) => return Ok(false),
        Ok(_) => {}
    }
    match retry(|| storage.remove(&file.path)) {
        Err(e) if gone(&e) => Ok(false),
        Err(e) => Err(Error::io("remove", &file.path, &e)),
        Ok(()) => Ok(true),
    }
}

/// The file that `path` means, behind its symbolic links, and what is there now.
fn destination(storage: &dyn Storage, path: &Path) -> Result<(PathBuf, Option<Info>)> {
    let refuse = |at: &Path, os: i32, why: &str| {
        let cause = io::Error::from_raw_os_error(os);
        Err(Error::io("save to", at, &cause).context(why))
    };
    let mut at = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let last = at.as_os_str().as_encoded_bytes().rsplit(|&b| b == b'/').next().unwrap_or_default();
        if matches!(last, b"" | b"." | b"..") {
            let message = format!("cannot save to '{}': expected the path of a file", at.display());
            return Err(Error::new(Status::InvalidArgument, message));
        }
        match retry(|| storage.info(&at)) {
            Ok(info) => match info.kind {
                Kind::File => return Ok((at, Some(info))),
                Kind::Link => {
                    let target =
                        retry(|| storage.read_link(&at)).map_err(|e| Error::io("read the link", &at, &e))?;
                    at = at.parent().map_or_else(|| target.clone(), |dir| dir.join(&target));
                }
                Kind::Dir => return refuse(&at, libc::EISDIR, "expected the path of a file"),
                Kind::Other => {
                    return refuse(&at, libc::EINVAL, "there is something that is no regular file");
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((at, None)),
            Err(e) if e.raw_os_error() == Some(libc::ENOTDIR) => {
                return refuse(&at, libc::ENOTDIR, "one of the directories in the path is a file");
            }
            Err(e) => return Err(Error::io("save to", &at, &e)),
        }
    }
    refuse(path, libc::ELOOP, "its symbolic links lead in a circle")
}

/// A temporary file in `dir`, which is made if it is not there.
fn create<'a>(
    storage: &'a dyn Storage,
    dir: &Path,
    made: &mut MadeDirs<'_>,
    old: Option<Info>,
) -> Result<TempFile<'a>> {
    // Ours to read and write while it is temporary, whatever the old one was: a sweep must be able to open it.
    let mode = old.map_or(0o666, |old| old.mode | 0o600);
    let file = match TempFile::create(storage, dir, mode) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            made.make(dir)?;
            TempFile::create(storage, dir, mode)
        }
        result => result,
    };
    file.map_err(|e| Error::io("create a file in", dir, &e))
}

/// Removes a directory, if it is empty.
pub fn remove_dir(storage: &dyn Storage, dir: &Path) -> bool {
    retry(|| storage.remove_dir(dir)).is_ok()
}

/// The directory that `path` is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The directories that a save has made, outermost first. Dropped before [`MadeDirs::keep`], they are removed:
/// a later save then makes them again, and syncs what they are in.
struct MadeDirs<'a> {
    storage: &'a dyn Storage,
    dirs: Vec<PathBuf>,
}

impl MadeDirs<'_> {
    /// Makes a directory and those above it.
    fn make(&mut self, dir: &Path) -> Result<()> {
        let mut result = retry(|| self.storage.make_dir(dir));
        if let (Err(e), Some(above)) = (&result, dir.parent())
            && e.kind() == io::ErrorKind::NotFound
        {
            self.make(above)?;
            result = retry(|| self.storage.make_dir(dir));
        }
        match result {
            Ok(()) => self.dirs.push(dir.to_owned()),
            // Somebody else made it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("make the directory", dir, &e)),
        }
        Ok(())
    }

    /// Syncs what they are in, the innermost first.
    fn sync(&self) -> Result<()> {
        for dir in self.dirs.iter().rev().map(|made| parent(made)) {
            retry(|| self.storage.sync_dir(dir)).map_err(|e| Error::io("sync the directory", dir, &e))?;
        }
        Ok(())
    }

    fn keep(mut self) {
        self.dirs.clear();
    }
}

impl Drop for MadeDirs<'_> {
    fn drop(&mut self) {
        for dir in self.dirs.iter().rev() {
            // An error means that somebody uses it by now.
            let _ = retry(|| self.storage.remove_dir(dir));
        }
    }
}
