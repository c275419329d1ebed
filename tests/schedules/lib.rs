//! The session under an explorer of schedules, which has one thread run at a time, chooses which at each lock, channel
//! and atomic, and finds whoever waits for ever: under each schedule all threads come to their end, each save ends
//! exactly once, each failure is told once, and no buffer is read once it was given back.
//!
//! What it cannot see: orders of memory weaker than the order of the program, and what passes no lock.
#![cfg(all(test, ckpt_shuttle))]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod account;
mod explore;
#[path = "../engine_support/mem.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod mem;
mod scenarios;
mod trial;
