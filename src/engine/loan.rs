//! The tensors of one save or load, on loan from who owns them: he hears when they are taken, and when he has them back.
#![forbid(unsafe_code)]

use std::any::Any;
use std::sync::Arc;

use crate::error::Result;

use super::buffer::Buffer;

/// What tensors are lent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// They are read.
    Save,
    /// They are written.
    Load,
}

/// Stands at both ends of a loan.
pub trait Fence: Send + Sync {
    /// Before the first byte of a tensor is moved. An error ends the save or the load.
    fn begin(&self, purpose: Purpose) -> Result<()>;

    /// After the last, or where none will be moved any more; once for each [`Fence::begin`] that went well. An error ends
    /// the save, whose file is not in place yet, or the load.
    fn end(&self, purpose: Purpose) -> Result<()>;
}

/// Who lends tensors: fences, and what has to live as long as anybody uses them, some of it under a name.
#[derive(Clone, Default)]
pub struct Lender {
    /// In the order in which they begin.
    pub fences: Arc<Vec<Arc<dyn Fence>>>,
    /// What is kept, each with its name, if it has one.
    pub kept: Arc<Vec<(Option<String>, Kept)>>,
}

/// Something that lives as long as anybody uses the tensors.
pub type Kept = Arc<dyn Any + Send + Sync>;

/// Tensors on loan; dropped, they are given back.
pub struct Loan {
    buffers: Arc<Vec<Buffer>>,
    /// Gone once they are.
    purpose: Option<Purpose>,
    /// After the buffers, which may need what it keeps.
    lender: Lender,
}

impl Loan {
    /// Takes the tensors. Where a fence refuses, those before it hear that it is over.
    pub fn begin(purpose: Purpose, buffers: Arc<Vec<Buffer>>, lender: Lender) -> Result<Loan> {
        for (i, fence) in lender.fences.iter().enumerate() {
            if let Err(error) = fence.begin(purpose) {
                let _ = lender.fences.iter().take(i).rev().try_for_each(|fence| fence.end(purpose));
                return Err(error);
            }
        }
        Ok(Loan { buffers, purpose: Some(purpose), lender })
    }

    /// Tensors that nobody asks back for.
    pub fn of(buffers: &[Buffer]) -> Loan {
        Loan { buffers: Arc::new(buffers.to_vec()), purpose: None, lender: Lender::default() }
    }

    /// The tensors, in the order of the schema.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }

    /// Gives the tensors back. All fences hear of it; the first error is that of the loan.
    pub fn end(&mut self) -> Result<()> {
        let Some(purpose) = self.purpose.take() else { return Ok(()) };
        self.lender.fences.iter().rev().map(|fence| fence.end(purpose)).fold(Ok(()), Result::and)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // Whatever they are lent for has failed already.
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Status};
    use crate::sync::parking_lot::Mutex;

    type Heard = Arc<Mutex<Vec<(usize, &'static str)>>>;

    struct Noting {
        number: usize,
        heard: Heard,
        refuses: Option<&'static str>,
    }

    impl Noting {
        fn note(&self, what: &'static str) -> Result<()> {
            self.heard.lock().push((self.number, what));
            match self.refuses {
                Some(refused) if refused == what => Err(Error::new(Status::State, self.number.to_string())),
                _ => Ok(()),
            }
        }
    }

    impl Fence for Noting {
        fn begin(&self, _: Purpose) -> Result<()> {
            self.note("begin")
        }
        fn end(&self, _: Purpose) -> Result<()> {
            self.note("end")
        }
    }

    fn loan(refuses: [Option<&'static str>; 2]) -> (Result<Loan>, Heard) {
        let heard = Heard::default();
        let fence = |number| -> Arc<dyn Fence> {
            Arc::new(Noting { number, heard: heard.clone(), refuses: refuses[number] })
        };
        let lender = Lender { fences: Arc::new(vec![fence(0), fence(1)]), kept: Arc::default() };
        (Loan::begin(Purpose::Save, Arc::default(), lender), heard)
    }

    #[test]
    fn every_fence_hears_both_ends_once() {
        let (mut begun, heard) = loan([None, None]);
        begun.as_mut().unwrap().end().unwrap();
        drop(begun);
        assert_eq!(*heard.lock(), [(0, "begin"), (1, "begin"), (1, "end"), (0, "end")]);

        let (begun, heard) = loan([None, None]);
        drop(begun);
        assert_eq!(heard.lock().len(), 4, "dropped is given back");
    }

    #[test]
    fn a_refusal_is_heard_and_leaves_nothing_begun() {
        let (begun, heard) = loan([None, Some("begin")]);
        assert_eq!(begun.err().unwrap().message(), "1");
        assert_eq!(*heard.lock(), [(0, "begin"), (1, "begin"), (0, "end")]);

        let (begun, heard) = loan([Some("end"), Some("end")]);
        assert_eq!(begun.unwrap().end().unwrap_err().message(), "1");
        assert_eq!(heard.lock().len(), 4, "the other one hears it, too");
    }
}
