//! *How it comes back*: name, bytes, the caller's buffer.
