//! A read-only stretch of a file, read by position: the whole file, or a member of an archive in it.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result, Status};
use crate::memory;

/// A stretch of an open file. Its clones share the descriptor; reads from several threads do not disturb each
/// other.
#[derive(Clone, Debug)]
pub(super) struct Source {
    file: Arc<File>,
    path: Arc<PathBuf>,
    base: u64,
    len: u64,
}

impl Source {
    /// Opens a regular file.
    pub fn open(path: &Path) -> Result<Source> {
        // Without O_NONBLOCK, opening a FIFO would wait for a writer.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| {
            match e.kind() {
                io::ErrorKind::NotFound => {
                    Error::new(Status::NotFound, format!("there is no file '{}'", path.display()))
                }
                _ => Error::io("open", path, &e),
            }
        })?;
        let meta = file.metadata().map_err(|e| Error::io("open", path, &e))?;
        if meta.is_dir() {
            return Err(Error::io("open", path, &io::Error::from_raw_os_error(libc::EISDIR)));
        }
        if !meta.is_file() {
            return Err(Error::new(Status::Format, format!("'{}' is not a regular file", path.display())));
        }
        let len = meta.len();
        Ok(Source { file: Arc::new(file), path: Arc::new(path.to_owned()), base: 0, len })
    }

    /// The file that has taken the place of this one since it was opened, if one has.
    pub fn replaced(&self) -> Option<Source> {
        let id = |source: &Source| source.file.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
        let now = Source::open(&self.path).ok()?;
        (id(&now) != id(self)).then_some(now)
    }

    /// The part `[offset, offset + len)` of this stretch; `None` where it does not lie in it.
    pub fn part(&self, offset: u64, len: u64) -> Option<Source> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| Source { base: self.base + offset, len, ..self.clone() })
    }

    /// Bytes of the stretch, when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where in its file an offset of the stretch is; anywhere if it is beyond its end.
    pub fn position(&self, offset: u64) -> u64 {
        self.base.wrapping_add(offset)
    }

    /// The name under which the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `buf` from `offset` on.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(self.beyond(offset, buf.len() as u64));
        }
        self.file.read_exact_at(buf, self.base + offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it was cut off while it was read"),
            _ => Error::io("read", &self.path, &e),
        })
    }

    /// `len` bytes from `offset` on. They are allocated only if the stretch has that many.
    pub fn read_vec(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.len);
        let (true, Ok(size)) = (fits, usize::try_from(len)) else {
            return Err(self.beyond(offset, len));
        };
        let mut buf = memory::filled(0, size)?;
        self.read_at(offset, &mut buf)?;
        Ok(buf)
    }

    fn beyond(&self, offset: u64, len: u64) -> Error {
        damaged(format!("{len} bytes at offset {offset} reach beyond the end of {} bytes", self.len))
    }
}

/// A fault in a file's content. Where a call into the reader ends, the file's name is put before it.
pub(super) fn damaged(what: impl Into<String>) -> Error {
    Error::new(Status::Format, what)
}
