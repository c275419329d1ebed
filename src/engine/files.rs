//! The files of one save: the companions of a layout, and the file itself.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result, Status};
use crate::layout::{Companion, HEAD, Layout, Source, Stamp};
use crate::memory;

use super::destination::{MadeDirs, create, destination, parent};
use super::gather::Held;
use super::remove::remove_file;
use super::sink::Target;
use super::spare::{Outgoing, Spares};
use super::storage::{FileId, Info, Kind, Storage, read_full, retry};
use super::temp::TempFile;
use super::watch::{Failure, Meter};
use super::write;

/// Generations to try before giving up.
const TRIES: u32 = 8;

/// Which of a layout's files it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A place in [`Layout::companions`].
    Companion(usize),
    Itself,
}

/// A file of a save while it has no name of its own. Dropped without one, it is removed; its lock goes then too.
pub(super) struct NewFile<'a> {
    storage: &'a dyn Storage,
    temp: TempFile<'a>,
    role: Role,
    /// The name that it is to have.
    to: PathBuf,
    /// Bytes that all files of the save have, at most.
    needed: u64,
}

/// Names the companions of a save to `path` as no file there is called.
pub(super) fn name(storage: &dyn Storage, path: &Path, layout: &mut Layout, stamp: &Stamp) -> Result<()> {
    if layout.companions().is_empty() {
        return Ok(());
    }
    let file = path.file_name().and_then(OsStr::to_str).ok_or_else(|| {
        let message = format!(
            "cannot save to '{}': the name of a checkpoint of several files must be UTF-8",
            path.display()
        );
        Error::new(Status::InvalidArgument, message)
    })?;
    for _ in 0..TRIES {
        layout.name_companions(file, generation(), stamp)?;
        let mut names = layout.companions().iter().filter(|c| !c.yields()).map(|c| c.name());
        let taken = names.try_fold(false, |taken, name| {
            Ok::<_, Error>(taken || exists(storage, &path.with_file_name(name))?)
        })?;
        if !taken {
            return Ok(());
        }
    }
    let taken = io::Error::from(io::ErrorKind::AlreadyExists);
    Err(Error::io("name the files beside", path, &taken))
}

/// A number that no other save has, as far as can be told.
fn generation() -> u64 {
    // Its keys are from the system's source of randomness.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u128(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos()));
    hasher.write_u32(std::process::id());
    hasher.finish()
}

fn exists(storage: &dyn Storage, path: &Path) -> Result<bool> {
    match retry(|| storage.info(path)) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("look at", path, &e)),
    }
}

/// Makes the files of a save to `path`, where `old` is now: the file itself, and the companions.
pub(super) fn create_all<'a>(
    storage: &'a dyn Storage,
    path: &Path,
    layout: &Layout,
    made: &mut MadeDirs<'_>,
    old: Option<Info>,
) -> Result<(NewFile<'a>, Vec<NewFile<'a>>)> {
    let count = layout.companions().len();
    let mut wanted = Vec::new();
    memory::reserve(&mut wanted, count)?;
    for (i, companion) in layout.companions().iter().enumerate() {
        let to = path.with_file_name(companion.name());
        let gives_way = gives_way(storage, companion, &to);
        if !gives_way.map_err(|e| e.context(format_args!("cannot save to '{}'", path.display())))? {
            wanted.push((Role::Companion(i), to));
        }
    }
    let mut new = |role, to| match create(storage, parent(path), made, old) {
        Ok(temp) => Ok(NewFile { storage, temp, role, to, needed: layout.total_size() }),
        Err(e) => {
            let too_many = count > 0 && matches!(e.os(), libc::EMFILE | libc::ENFILE);
            let e = e.context(format_args!("cannot save to '{}'", path.display()));
            Err(if too_many { e.context(open_at_once(count + 1)) } else { e })
        }
    };
    let file = new(Role::Itself, path.to_owned())?;
    let companions = memory::try_collect(wanted.into_iter().map(|(role, to)| new(role, to)))?;
    Ok((file, companions))
}

/// Whether a companion is left out because of what is at `to`: a file that Keras can open, be it behind links. Another
/// file, and a link to nothing, are replaced.
///
/// # Errors
/// There is something that is not to be replaced: a directory, a device.
fn gives_way(storage: &dyn Storage, companion: &Companion, to: &Path) -> Result<bool> {
    if !companion.yields() {
        return Ok(false);
    }
    let (file, Some(_)) = destination(storage, to)? else { return Ok(false) };
    let mut head = [0; HEAD];
    match read_full(storage, &file, 0, &mut head) {
        Ok(_) => Ok(companion.is_of_its_kind(&head)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        // Somebody else's: what is in it cannot be told.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(true),
        Err(e) => Err(Error::io("look at", to, &e)),
    }
}

/// The companions that a save to `path` has left out, where what is there is what it would have written, byte for byte:
/// an earlier save has.
pub(super) fn left_out(storage: &dyn Storage, path: &Path, layout: &Layout) -> Vec<(PathBuf, FileId)> {
    let same = |companion: &Companion| {
        let (to, expected) = (path.with_file_name(companion.name()), literals(companion.layout())?);
        let info = retry(|| storage.info(&to)).ok().filter(|info| info.kind == Kind::File)?;
        let mut found = vec![0; expected.len() + 1];
        let len = read_full(storage, &to, 0, &mut found).ok()?;
        (found.get(..len) == Some(&*expected)).then_some((to, info.id))
    };
    layout.companions().iter().filter(|companion| companion.yields()).filter_map(same).collect()
}

/// The bytes of a file without tensors.
fn literals(layout: &Layout) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(layout.size()).ok()?];
    for extent in layout.extents() {
        let Source::Literal(i) = extent.source else { return None };
        let begin = usize::try_from(extent.offset).ok()?;
        let literal = layout.literals().get(i)?;
        bytes.get_mut(begin..begin.checked_add(literal.len())?)?.copy_from_slice(literal);
    }
    Some(bytes)
}

fn open_at_once(count: usize) -> String {
    format!(
        "all {count} files of the checkpoint are open while it is saved: raise the limit of open files (ulimit -n), or \
         make the files larger and fewer"
    )
}

impl NewFile<'_> {
    /// Its place among the files of a layout: the companions, then the file itself.
    pub fn place_in(&self, whole: &Layout) -> usize {
        match self.role {
            Role::Companion(i) => i,
            Role::Itself => whole.companions().len(),
        }
    }

    /// What its bytes are written to.
    pub fn target(&self) -> Target<'_> {
        Target { storage: self.storage, path: self.temp.path(), handle: self.temp.handle() }
    }

    /// Its own layout, where `whole` is that of the save.
    pub fn layout<'l>(&self, whole: &'l Layout) -> &'l Layout {
        match self.role {
            Role::Companion(i) => whole.companions()[i].layout(),
            Role::Itself => whole,
        }
    }

    /// Whether it is left out because of what has its name.
    fn gives_way(&self, whole: &Layout) -> Result<bool> {
        match self.role {
            Role::Companion(i) => gives_way(self.storage, &whole.companions()[i], &self.to),
            Role::Itself => Ok(false),
        }
    }

    /// Reserves the space for it, in a spare where there is one for it.
    pub fn reserve(&mut self, whole: &Layout, spares: Option<&Spares>, durable: bool) -> Result<()> {
        let size = self.layout(whole).size();
        if let Some(spares) = spares {
            spares.lend(&mut self.temp, size, durable);
        }
        retry(|| self.temp.handle().preallocate(size)).map_err(|e| self.failed("reserve the space for", &e))
    }

    /// Writes what the layout, which has been sealed, was waiting for, and gives it the permissions that it is to have.
    pub fn write_edges(
        &self,
        whole: &Layout,
        held: &[Held],
        mode: Option<u32>,
        meter: &Meter<'_>,
    ) -> Result<()> {
        write::edges(self.temp.handle(), self.layout(whole), held, meter)
            .map_err(|e| self.failed("write", &e))?;
        if let Some(mode) = mode {
            // An error leaves it to no more people than the old one was: no reason to lose the save.
            let _ = retry(|| self.temp.handle().set_mode(mode));
        }
        Ok(())
    }

    /// Its body could not be written.
    pub fn not_written(&self, failure: Failure) -> Error {
        match failure {
            Failure::Io(e) => self.failed("write", &e),
            Failure::Other(e) => e.context(format_args!("cannot write '{}'", self.to.display())),
        }
    }

    /// Waits until the disk has it, or, where it need not, hears of the errors so far.
    pub fn flush(&self, durable: bool) -> Result<()> {
        match durable {
            // Never a second time: after a failure the system has dropped what it could not write.
            true => retry(|| self.temp.handle().sync()).map_err(|e| self.failed("sync", &e)),
            false => retry(|| self.temp.handle().flush()).map_err(|e| self.failed("write", &e)),
        }
    }

    /// Which file it is, once it has been written.
    pub fn id(&self) -> Result<FileId> {
        Ok(retry(|| self.storage.info(self.temp.path())).map_err(|e| self.failed("look at", &e))?.id)
    }

    /// Gives it its name, which is `path` behind links; the file that had that may be one to recycle.
    pub fn replace<'s>(&mut self, path: &Path, spares: Option<&'s Spares>) -> Result<Option<Outgoing<'s>>> {
        match spares.and_then(|spares| spares.exchange(&mut self.temp, &self.to, path)) {
            Some(outgoing) => Ok(Some(outgoing)),
            None => self.place().map(|()| None),
        }
    }

    /// Gives it its name.
    pub fn place(&mut self) -> Result<()> {
        self.temp.rename(&self.to).map_err(|e| self.failed("replace", &e))
    }

    fn failed(&self, what: &str, e: &io::Error) -> Error {
        let error = Error::io(what, &self.to, e);
        let full = error.status() == Status::NoSpace;
        if full { error.context(format!("no room for {} bytes", self.needed)) } else { error }
    }
}

/// Companions that have their names, but whose file has not. Dropped before [`Placed::keep`], they are removed.
pub(super) struct Placed<'a> {
    storage: &'a dyn Storage,
    files: Vec<(PathBuf, FileId)>,
}

impl<'a> Placed<'a> {
    /// Gives companions their names, all but those that yield to what is there.
    pub fn place(
        storage: &'a dyn Storage,
        companions: &mut [NewFile<'a>],
        layout: &Layout,
    ) -> Result<Placed<'a>> {
        let mut placed = Placed { storage, files: Vec::new() };
        memory::reserve(&mut placed.files, companions.len())?;
        for file in companions {
            if file.gives_way(layout)? {
                continue;
            }
            let id = file.id()?;
            file.place()?;
            placed.files.push((file.to.clone(), id));
        }
        Ok(placed)
    }

    /// Those that have theirs.
    pub fn files(&self) -> &[(PathBuf, FileId)] {
        &self.files
    }

    /// The file that they belong to stands.
    pub fn keep(mut self) {
        self.files.clear();
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        for (path, id) in &self.files {
            // Nothing is left to do about an error here: the next save to this path tries again.
            let _ = remove_file(self.storage, path, *id);
        }
    }
}
