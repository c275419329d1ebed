//! Losses of power in memory: a training on a file system that knows what there can be after one, at each call.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ckpt::engine::Storage;

use crate::account::Account;
use crate::mem::{Fault, Mem, Node};
use crate::scratch::{Place, Scratch};
use crate::setup::Setup;
use crate::trainer::{Ended, Trainer, judge};
use crate::watchdog;
use crate::weights::Weights;

/// Outcomes of one loss that are looked at, at most.
const OUTCOMES: usize = 64;

/// Looks at up to `most` outcomes of losses of power in a training of some epochs. How many there were until one had
/// lost something, and what; or all of them.
pub fn losses(
    setup: &Setup,
    epochs: u64,
    most: u64,
    wrap: impl Fn(Arc<dyn Storage>) -> Arc<dyn Storage>,
) -> Result<(u64, Option<String>), String> {
    let mut weights = Weights::new(0);
    let mut seen = 0;
    for at in 0.. {
        watchdog::step(|| format!("a loss of power at call {at} in {setup:?}"));
        let scratch = Scratch::new(Place::Memory).map_err(|e| e.to_string())?;
        let dir = scratch.path();
        let mem = Mem::new(Fault::Death, at);
        dir.ancestors().for_each(|dir| mem.put(&dir.to_string_lossy(), Node::Dir));
        let storage = wrap(Arc::new(mem.clone()));
        let trainer = Trainer { setup, dir, epochs: 0..epochs, together: 1, resumes: false, storage };
        let mut said = Vec::new();
        trainer.run(&mut weights, &mut said);
        let lines = String::from_utf8_lossy(&said);
        let mut outcomes = mem.all_after_power_loss();
        outcomes.dedup();
        let step = outcomes.len().div_ceil(OUTCOMES);
        for outcome in outcomes.iter().step_by(step) {
            let _ = fs::remove_dir_all(dir);
            let file = |(path, bytes): (&String, &Vec<u8>)| {
                fs::create_dir_all(Path::new(path).parent().unwrap_or(dir))?;
                fs::write(path, bytes)
            };
            let all = fs::create_dir_all(dir).and_then(|()| outcome.iter().try_for_each(file));
            all.map_err(|e| e.to_string())?;
            seen += 1;
            let verdict = judge(setup, &weights, dir, &mut Account::default(), &lines, Ended::Crashed);
            if let Err(lost) = verdict {
                return Ok((seen, Some(format!("at call {at}: {lost}"))));
            }
        }
        if seen >= most || lines.ends_with("end\n") {
            break;
        }
    }
    Ok((seen, None))
}
