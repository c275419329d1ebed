//! What the policy has to say: lines for the log, or for standard output.

/// How much a line matters; the discriminants are those of `ckpt_log_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Level {
    /// Something failed that no call reports.
    Error = 0,
    /// Something is not as the caller will want it.
    Warn = 1,
    /// The lines of `verbose`: Keras' own.
    Info = 2,
    /// For whoever looks for a fault.
    Debug = 3,
}

/// A line, without the newlines that Keras prints before and after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub level: Level,
    /// The line.
    pub text: String,
}
