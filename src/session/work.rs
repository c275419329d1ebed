//! What a save needs of a model: it outlives the model, and goes to whichever thread makes the save.

use std::path::Path;
use std::sync::Arc;

use crate::engine::{
    self, Arena, Feed, Filler, Loan, Save, Spares, Storage, Tensors, Watch, WriteOptions, WriteStats,
};
use crate::error::Result;
use crate::layout::{Layout, Stamp};
use crate::sync::parking_lot::Mutex;

use super::model::Kind;

/// The most layouts of a model that are kept: for a save that is being made, for one that waits, and one to copy from.
const MOST: usize = 3;

/// The layouts of a model that nobody uses at the moment: a further save replays one.
#[derive(Default)]
pub(super) struct Layouts(Mutex<Vec<(Kind, Layout)>>);

impl Layouts {
    /// A layout of this kind with room for a training state of so many bytes, if there is one. `keeps_one`: a copy
    /// rather than the last, so that the next save finds one while this one is being made.
    pub fn take(&self, kind: &Kind, state_bytes: usize, keeps_one: bool) -> Result<Option<Layout>> {
        let mut layouts = self.0.lock();
        let fits = |(k, layout): &(Kind, Layout)| k == kind && layout.state_capacity() >= state_bytes;
        let Some(at) = layouts.iter().rposition(fits) else { return Ok(None) };
        match keeps_one && layouts.iter().filter(|entry| fits(entry)).count() == 1 {
            true => layouts.get(at).map(|(_, last)| last.copied()).transpose(),
            false => Ok(Some(layouts.remove(at).1)),
        }
    }

    /// Keeps a layout for the next save.
    pub fn put(&self, kind: Kind, layout: Layout) {
        let mut layouts = self.0.lock();
        let oldest = (layouts.len() == MOST).then(|| layouts.remove(0));
        layouts.push((kind, layout));
        // It is large: not under the lock, which a fork may find held.
        drop(layouts);
        drop(oldest);
    }
}

/// Where the tensors of a save are.
enum Held {
    /// The caller's.
    Lent(Loan),
    /// In staging memory, or on their way there.
    Staged(Feed),
}

/// What a save needs of a model.
pub(super) struct Work {
    kind: Kind,
    layout: Layout,
    /// Where the layout goes when the save is over.
    home: Arc<Layouts>,
    tensors: Held,
}

impl Work {
    /// The tensors of a loan, to be written from where they are.
    pub fn new(kind: Kind, layout: Layout, home: Arc<Layouts>, loan: Loan) -> Work {
        Work { kind, layout, home, tensors: Held::Lent(loan) }
    }

    /// Has the tensors written from staging memory instead; `None` where they are to be already.
    pub fn stage(&mut self, arena: &Arc<Arena>) -> Result<Option<(Filler, Loan)>> {
        let Held::Lent(loan) = &self.tensors else { return Ok(None) };
        let (filler, feed) = engine::stage(arena, &self.layout, loan.buffers().len())?;
        match std::mem::replace(&mut self.tensors, Held::Staged(feed)) {
            Held::Lent(loan) => Ok(Some((filler, loan))),
            Held::Staged(_) => Ok(None),
        }
    }

    /// Writes the file and puts it in place.
    pub fn run(
        self,
        storage: &dyn Storage,
        path: &Path,
        state: Vec<u8>,
        options: &WriteOptions,
        (arena, spares): (Option<&Arc<Arena>>, Option<&Spares>),
        watch: &dyn Watch,
    ) -> Result<WriteStats> {
        let Work { kind, mut layout, home, tensors } = self;
        let stamp = Stamp { state, date: engine::local_date() };
        let tensors = match tensors {
            Held::Lent(loan) => Tensors::Lent(loan),
            Held::Staged(feed) => Tensors::Staged(feed),
        };
        let save = Save {
            storage,
            path,
            layout: &mut layout,
            stamp: &stamp,
            tensors,
            options: *options,
            watch,
            arena,
            spares,
        };
        let result = save.run();
        home.put(kind, layout);
        result
    }

    /// Lets go of a save that is not made.
    pub fn discard(self) {
        self.home.put(self.kind, self.layout);
    }
}
