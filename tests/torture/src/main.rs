//! What a checkpoint must survive: faults, kills, crashes of the file system, losses of power.
//!
//! - `layers`: the layers by their names; `tally`: what a run has done, found, and goes on from.
//! - `arguments`: the command line.

mod account;
mod arguments;
mod blocklog;
mod disk;
mod flips;
mod fs;
mod image;
mod layers;
#[allow(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../../engine_support/mem.rs"]
mod mem;
mod mutant;
mod mutants;
mod power;
mod process;
mod random;
mod scratch;
mod seam;
mod setup;
mod tally;
mod trainer;
mod watchdog;
mod weights;
mod wrapped;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use arguments::Arguments;
use layers::{LAYERS, Layer};
use tally::Tally;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("torture: {message}\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    let chosen: Vec<&Layer> = LAYERS.iter().filter(|layer| arguments.wants(layer.name)).collect();
    let shares: u32 = chosen.iter().filter_map(|layer| layer.share).sum();
    let mut good = true;
    for layer in chosen {
        let time = arguments.seconds.zip(layer.share);
        let time = time.map(|(all, share)| Duration::from_secs(all) * share / shares.max(1));
        good &= run(layer, &arguments, time);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs cases of a layer until there are enough, or the time is up; whether all was well.
fn run(layer: &Layer, arguments: &Arguments, time: Option<Duration>) -> bool {
    if let Some(why) = (layer.missing)() {
        println!("{}: not run: {why}", layer.name);
        return !is_ci();
    }
    let mut tally = Tally::resume(layer, arguments.seed, arguments.state.as_deref());
    let (begin, enough) = (Instant::now(), arguments.count.unwrap_or(layer.enough));
    while tally.units() < enough && time.is_none_or(|time| begin.elapsed() < time) {
        let case = tally.next_case();
        if !(layer.case)(case, &mut tally) {
            break;
        }
        tally.save();
    }
    tally.print(begin.elapsed());
    tally.is_good()
}

/// Whether this runs where a layer that cannot run is a failure.
fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|ci| !ci.is_empty())
}
