//! Runs a scenario under many schedules.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ckpt::sync::set_timeouts;
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Schedules of each scenario, unless CKPT_SCHEDULES says how many.
const SCHEDULES: usize = 2_000;

/// The preemptions that PCT looks for.
const DEPTH: usize = 4;

/// A layout is computed on the stack of whoever saves.
const STACK: usize = 256 << 10;

/// More steps than any schedule takes: whoever takes them goes round and round.
const STEPS: usize = 300_000;

/// Runs the scenario under schedules at random, and under those of few preemptions, each with waits that time out at
/// once and with waits that never do.
pub fn explore(seed: u64, scenario: impl Fn() + Send + Sync + 'static) {
    let count = std::env::var("CKPT_SCHEDULES").map_or(SCHEDULES, |count| count.parse().unwrap()).div_ceil(4);
    let ran = Ran::default();
    let counted = ran.0.clone();
    let scenario = Arc::new(move || {
        counted.fetch_add(1, Relaxed);
        scenario();
    });
    for timeouts in [true, false] {
        set_timeouts(timeouts);
        run(RandomScheduler::new_from_seed(seed, count), &scenario);
        run(PctScheduler::new_from_seed(seed, DEPTH, count), &scenario);
    }
}

/// Schedules that have begun; says how many they were where one has failed.
#[derive(Default)]
struct Ran(Arc<AtomicUsize>);

impl Drop for Ran {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the schedule that fails is number {}", self.0.load(Relaxed));
        }
    }
}

fn run(scheduler: impl Scheduler + 'static, scenario: &Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    config.stack_size = STACK;
    config.max_steps = MaxSteps::FailAfter(STEPS);
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    let scenario = scenario.clone();
    Runner::new(scheduler, config).run(move || scenario());
}

/// A number below `n` that the schedule chooses.
pub fn below(n: u64) -> u64 {
    thread_rng().gen_range(0..n)
}

/// One of these.
pub fn one_of<T: Copy>(these: &[T]) -> T {
    these[below(these.len() as u64) as usize]
}
