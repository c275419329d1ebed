#![cfg(ckpt_shuttle)]
#[path = "../engine_support/mem.rs"]
#[allow(dead_code)]
mod mem;
