//! *When* to save, what is best, what to keep, what a file is called. No I/O, no clock, no unsafe.
#![forbid(unsafe_code)]
