//! Every allocation whose size comes from a model or a file fails once: an error, no abort, and nothing is lost.
//!
//! Each is refused in a child of its own, since one that is not provided for ends its process. Of all allocations some are
//! tried, from a fixed seed; `CKPT_ALLOCATIONS=all` tries each, and `CKPT_ALLOCATIONS_ONLY=TEXT` what has it in its name.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is its own harness: one thread, which forks"
)]

mod allocations_support;
mod scratch;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use allocations_support::save::FILES;
use allocations_support::{End, Refusing, c, check, child, convert, learn_constants, others, read, save};
use ckpt::session::Async;
use scratch::Scratch;

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

type Case = (String, Box<dyn Fn(&Scratch)>);

fn cases(others: &Path) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |name: String, work: Box<dyn Fn(&Scratch)>| cases.push((name, work));
    add("build".into(), Box::new(save::build));
    add("state".into(), Box::new(save::state));
    for file in FILES {
        add(format!("prepare {file}"), Box::new(move |dir| save::prepare(dir, file)));
        for (mode, text) in [(Async::Off, "sync"), (Async::Copy, "copy"), (Async::Borrow, "borrow")] {
            add(format!("save {text} {file}"), Box::new(move |dir| save::over(dir, file, mode, true)));
            add(format!("again {text} {file}"), Box::new(move |dir| save::over(dir, file, mode, false)));
        }
        add(format!("read {file}"), Box::new(move |dir| read::all(dir, file)));
        add(format!("c {file}"), Box::new(move |dir| c::all(dir, file)));
        add(format!("resume {file}"), Box::new(move |dir| read::resume(dir, file)));
        add(format!("convert m.keras {file}"), Box::new(move |dir| convert::into(dir, "m.keras", file)));
        if file != "m.keras" {
            let to = "m.safetensors";
            add(format!("convert {file} {to}"), Box::new(move |dir| convert::into(dir, file, to)));
        }
    }
    for file in others::FILES {
        let path = others.join(file);
        add(format!("others {file}"), Box::new(move |_| others::all(&path)));
    }
    cases
}

/// Allocations of each case that are tried from the first on, unless all are; then less and less of them.
const SAMPLE: u64 = 2;

fn main() -> ExitCode {
    // As the harness of Rust has it: words that select tests by their names.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if std::env::args().any(|word| word == "--list")
        || !words.is_empty() && !words.iter().any(|word| "allocations".contains(word.as_str()))
    {
        return ExitCode::SUCCESS;
    }
    learn_constants();
    // Of an abort, the place that is printed here is enough.
    // SAFETY: there is one thread.
    unsafe { std::env::set_var("RUST_BACKTRACE", "0") };
    let all = std::env::var("CKPT_ALLOCATIONS").is_ok_and(|value| value == "all");
    let only = std::env::var("CKPT_ALLOCATIONS_ONLY").unwrap_or_default();
    let (mut tried, mut wrong) = (0, BTreeMap::<String, (u64, String)>::new());
    for (name, work) in cases(&others::make()).iter().filter(|(name, _)| name.contains(&only)) {
        let (mut n, mut failures, mut step, mut seed) = (1, 0, 1, 0x9e37_79b9_u64);
        check(&**work);
        let count = loop {
            match child(n, &**work) {
                End::Over => break n - 1,
                End::Fine => {}
                End::Wrong(text) => {
                    failures += 1;
                    wrong.entry(text).or_insert((0, format!("{name}, allocation {n}"))).0 += 1;
                }
            }
            tried += 1;
            if !all && n >= SAMPLE {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                step = n / 2 + (seed >> 33) % (n + 1);
            }
            n += step;
        };
        println!("{name}: up to {count}, {failures} wrong");
    }
    println!("allocations: {tried} refused, {} kinds of failures", wrong.len());
    for (text, (count, first)) in &wrong {
        println!("--- {count} times, first {first}:\n{text}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
