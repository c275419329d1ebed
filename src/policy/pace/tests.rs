use super::super::*;
use super::*;

const NONE: [(&str, f64); 0] = [];

/// A training with a clock of its own.
struct Simulation {
    policy: Policy,
    secs: f64,
    signals: u64,
    epoch: u64,
    batch: u64,
    /// When the save in the background ends.
    saving_until: f64,
    /// How long a batch takes, alone and beside a save.
    batch_secs: (f64, f64),
    /// How long a save keeps its caller, and how long it goes on in the background.
    save_secs: (f64, f64),
}

impl Simulation {
    fn new(filepath: &str, options: Options) -> Simulation {
        Simulation {
            policy: Policy::new(filepath, Options { save_freq: NEVER, ..options }).unwrap(),
            secs: 0.0,
            signals: 0,
            epoch: 0,
            batch: 0,
            saving_until: 0.0,
            batch_secs: (1.0, 1.0),
            save_secs: (0.0, 0.0),
        }
    }

    fn look(&mut self) {
        let saving = self.secs < self.saving_until;
        self.policy.look(Now { secs: self.secs, saving, signals: self.signals });
    }

    /// A batch; the path that it made due. A save that is due is made.
    fn batch(&mut self) -> Option<String> {
        let (alone, beside) = self.batch_secs;
        self.secs += if self.secs < self.saving_until { beside } else { alone };
        self.look();
        self.policy.on_train_batch_end(self.batch, &NONE).unwrap();
        self.batch += 1;
        self.save()
    }

    fn save(&mut self) -> Option<String> {
        let path = self.policy.due()?.path.clone();
        let ticket = self.policy.accept().unwrap();
        self.policy.confirm(ticket);
        let (stall, background) = self.save_secs;
        self.secs += stall;
        self.saving_until = if background > 0.0 { self.secs + background } else { 0.0 };
        self.policy.stalled(stall, true);
        Some(path)
    }

    /// The batches that made a save due, of the next `n`.
    fn run(&mut self, n: u64) -> Vec<u64> {
        (0..n).filter_map(|_| self.batch().map(|_| self.batch)).collect()
    }

    /// Validation and the like, then the epoch's end.
    fn end_epoch(&mut self, secs: f64, logs: &dyn Logs) -> Option<String> {
        self.secs += secs;
        self.look();
        self.policy.on_epoch_end(self.epoch, logs).unwrap();
        self.epoch += 1;
        self.batch = 0;
        self.save()
    }
}

fn every(secs: f64) -> Options {
    Options { save_every_secs: Some(secs), ..Options::default() }
}

#[test]
fn by_time_a_save_is_due_at_the_first_event_after_it() {
    let mut s = Simulation::new("{epoch}-{batch}.keras", every(3.5));
    assert_eq!(s.run(12), [4, 8, 12]);
    assert_eq!(s.end_epoch(1.0, &NONE), None);
    // At an epoch's end the batch is the last one, and the save is the epoch's.
    let mut s = Simulation::new("{epoch}-{batch}.keras", every(3.5));
    s.run(2);
    assert_eq!(s.end_epoch(2.0, &NONE).as_deref(), Some("1-2.keras"));
    // Another save puts it off.
    let mut s = Simulation::new("{epoch}-{batch}.keras", every(3.0));
    s.policy = Policy::new("{epoch}-{batch}.keras", Options { save_freq: 4, ..every(3.0) }).unwrap();
    assert_eq!(s.run(12), [3, 4, 7, 8, 11, 12]);
}

#[test]
fn where_no_batch_was_seen_it_is_no_key() {
    let mut s = Simulation::new("{epoch}-{batch}.keras", every(1.0));
    s.secs = 2.0;
    s.look();
    s.policy.on_epoch_end(0, &NONE).unwrap();
    assert!(s.policy.due().is_none() && s.policy.take_notes()[0].text.contains("needs 'batch'"));
    // It is due until it can be made.
    assert!(s.batch().is_some());
}

#[test]
fn never_is_never() {
    let mut p = Policy::new("{epoch}.keras", Options { save_freq: NEVER, ..Options::default() }).unwrap();
    assert_eq!(p.take_notes().len(), 1);
    for batch in [0, 1, u64::MAX] {
        p.on_train_batch_end(batch, &NONE).unwrap();
        assert_eq!(p.due(), None);
    }
    p.on_epoch_end(0, &NONE).unwrap();
    assert_eq!(p.due(), None);
}

#[test]
fn a_signal_makes_one_save_due() {
    let mut s = Simulation::new("{epoch}-{batch}.keras", Options { signals: vec![15], ..Options::default() });
    assert!(s.run(3).is_empty());
    s.signals = 2;
    assert_eq!(s.run(3), [4]);
    s.signals = 3;
    assert_eq!(s.end_epoch(0.0, &NONE).as_deref(), Some("1-6.keras"));
    assert!(s.run(3).is_empty());
}

#[test]
fn a_budget_pays_for_stalls() {
    // 2 s of every 20 s of training.
    let mut s =
        Simulation::new("{batch}.keras", Options { overhead_budget: Some(0.1), ..Options::default() });
    s.save_secs = (2.0, 0.0);
    assert_eq!(s.run(70), [1, 21, 41, 61]);
    assert_eq!(s.policy.state().cost, Some(2.0));
}

#[test]
fn a_budget_pays_for_slower_batches() {
    // A save of 4 batches in the background, each a quarter slower, costs 1 s and its stall of 1 s.
    let options = Options { overhead_budget: Some(0.1), ..Options::default() };
    let mut s = Simulation::new("{batch}.keras", options);
    s.batch_secs = (1.0, 1.25);
    s.save_secs = (1.0, 5.0);
    let due = s.run(200);
    assert_eq!(due[0], 1);
    assert_eq!(s.policy.state().cost, Some(2.0));
    assert!(due.windows(2).all(|pair| (18..=20).contains(&(pair[1] - pair[0]))), "{due:?}");
    // Validation is nobody's cost; of the batches beside that save the first one's time is not known.
    assert!(s.end_epoch(1000.0, &NONE).is_some());
    s.run(100);
    let cost = s.policy.state().cost.unwrap();
    assert!((1.99..=2.0).contains(&cost), "{cost}");
}

#[test]
fn none_is_due_by_its_cost_while_one_is_being_made() {
    let options = Options { overhead_budget: Some(1.0), ..Options::default() };
    let mut s = Simulation::new("{batch}.keras", options.clone());
    s.save_secs = (0.0, 5.5);
    // 5 batches beside the first, the one in which it ends, and one alone to compare them with.
    assert_eq!(s.run(14), [1, 8, 14]);
    // By time it is, all the same.
    let mut s = Simulation::new("{batch}.keras", Options { save_every_secs: Some(2.0), ..options });
    s.save_secs = (0.0, 5.5);
    assert_eq!(s.run(7), [1, 3, 5, 7]);
}

#[test]
fn a_save_that_fails_is_no_measure() {
    let options = Options { overhead_budget: Some(0.5), ..Options::default() };
    let mut s = Simulation::new("{batch}.keras", options);
    for _ in 0..3 {
        s.secs += 1.0;
        s.look();
        s.policy.on_train_batch_end(s.batch, &NONE).unwrap();
        s.batch += 1;
        let ticket = s.policy.accept().unwrap();
        s.policy.give_back(ticket);
        s.policy.stalled(0.5, false);
    }
    assert_eq!(s.policy.state().cost, None);
    s.save_secs = (2.0, 0.0);
    assert_eq!(s.run(8), [4, 8]);
}

#[test]
fn young_and_daly() {
    // Daly's table has 1 % off Young's sqrt(2CM) where C is small, and M where saves cost more than they save.
    assert_eq!(optimum(0.0, 100.0), 0.0);
    let (cost, mtbf) = (5.0, 24.0 * 3600.0);
    let young = f64::sqrt(2.0 * cost * mtbf);
    assert!((optimum(cost, mtbf) / young - 1.0).abs() < 0.01);
    assert_eq!(optimum(200.0, 100.0), 100.0);
    assert!((optimum(2.0, 64.0) - (16.0 * (1.0 + 0.125 / 3.0 + 0.015_625 / 9.0) - 2.0)).abs() < 1e-12);
    // What is left of the time is the most there.
    let left =
        |cost: f64, mtbf: f64, interval: f64| (interval / mtbf) / (((interval + cost) / mtbf).exp() - 1.0);
    for (cost, mtbf) in [(1.0, 100.0), (10.0, 100.0), (30.0, 1e5)] {
        let best = optimum(cost, mtbf);
        assert!(left(cost, mtbf, best) > left(cost, mtbf, best * 0.9));
        assert!(left(cost, mtbf, best) > left(cost, mtbf, best * 1.1));
    }
}

#[test]
fn of_budget_and_optimum_the_longer_interval_counts() {
    // A cost of 2 s: 14.69 s by the optimum at one failure in 64 s.
    let options =
        |budget: Option<f64>| Options { overhead_budget: budget, mtbf: Some(64.0), ..Options::default() };
    for (budget, second) in [(None, 16), (Some(0.5), 16), (Some(0.05), 41)] {
        let mut s = Simulation::new("{batch}.keras", options(budget));
        s.save_secs = (2.0, 0.0);
        assert_eq!(s.run(41)[..2], [1, second], "{budget:?}");
    }
}

#[test]
fn a_resumed_training_knows_what_a_save_costs() {
    let options = Options { overhead_budget: Some(0.1), ..Options::default() };
    let mut s = Simulation::new("{batch}.keras", options.clone());
    s.save_secs = (2.0, 0.0);
    assert_eq!(s.run(30), [1, 21]);
    let state = s.policy.state();
    let mut again = Simulation::new("{batch}.keras", options);
    again.secs = 77.0;
    again.save_secs = (2.0, 0.0);
    again.look();
    again.policy.restore(&state);
    again.batch = 21;
    assert_eq!(again.run(45), [41, 61]);
}

#[test]
fn what_is_no_better_does_not_take_the_best_ones_place() {
    let options = || Options { save_best_only: true, ..every(3.0) };
    let mut s = Simulation::new("best.keras", options());
    assert_eq!(s.run(4), [0; 0], "the batches have no val_loss");
    let notes = s.policy.take_notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].level == Level::Warn && notes[0].text.contains("save_last"), "{notes:?}");
    assert_eq!(s.end_epoch(0.0, &[("val_loss", 1.0)]).as_deref(), Some("best.keras"));
    assert_eq!(s.end_epoch(3.0, &[("val_loss", 2.0)]), None);
    assert_eq!(s.end_epoch(0.0, &[("val_loss", 0.5)]).as_deref(), Some("best.keras"));
    assert_eq!(s.policy.best(), Some(0.5));
    assert!(s.policy.take_notes().is_empty());

    let mut s =
        Simulation::new("{val_loss}.keras", Options { save_last: Some("last.keras".into()), ..options() });
    for _ in 0..2 {
        s.batch();
    }
    assert_eq!(s.batch().as_deref(), Some("last.keras"), "it needs no key");
    assert_eq!(s.end_epoch(3.0, &[("val_loss", 1.0)]).as_deref(), Some("1.0.keras"));
    s.secs += 3.0;
    s.look();
    s.policy.on_epoch_end(1, &[("val_loss", 1.5)]).unwrap();
    let due = s.policy.due().unwrap();
    assert_eq!((due.place, due.improves, due.path.as_str()), (Place::Last, false, "last.keras"));
    s.save();
    assert_eq!(s.policy.best(), Some(1.0));
}

#[test]
fn a_path_that_an_event_lacks_a_key_of_is_no_end_of_the_training() {
    for on_nan in [OnNan::Skip, OnNan::Aside, OnNan::Keras] {
        let options = || Options { on_nan, ..every(3.0) };
        let mut s = Simulation::new("{epoch}-{val_loss}.keras", options());
        assert_eq!(s.run(6), [0; 0]);
        let notes = s.policy.take_notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].level == Level::Warn && notes[0].text.contains("needs 'val_loss'"), "{notes:?}");
        assert_eq!(s.end_epoch(0.0, &[("val_loss", 1.0)]).as_deref(), Some("1-1.0.keras"), "it is due still");
        assert_eq!(s.run(8), [0; 0]);
        assert!(s.policy.take_notes().is_empty());

        let mut s =
            Simulation::new("{x}.keras", Options { save_last: Some("last.keras".into()), ..options() });
        assert_eq!(s.run(7), [3, 6]);
        s.secs += 3.0;
        s.look();
        s.policy.on_train_batch_end(7, &[("val_loss", f64::NAN)]).unwrap();
        let due = s.policy.due().map(|due| due.path.as_str());
        assert_eq!(due, (on_nan == OnNan::Keras).then_some("last.keras"), "{on_nan:?}");
        assert!(s.policy.on_epoch_end(0, &[("val_loss", 1.0)]).is_ok(), "save_freq is NEVER");
    }
}

#[test]
fn what_keras_finds_no_better_may_be_the_newest() {
    let options =
        Options { save_best_only: true, verbose: true, save_last: Some("last.keras".into()), ..every(3.0) };
    let mut p = Policy::new("best.keras", options).unwrap();
    let paths: Vec<Option<String>> = [(1.0, 3.0), (2.0, 4.0), (2.0, 6.0), (0.5, 7.0)]
        .iter()
        .map(|&(loss, secs)| {
            p.look(Now { secs, ..Now::default() });
            p.on_epoch_end(0, &[("val_loss", loss)]).unwrap();
            let path = p.due().map(|due| due.path.clone());
            if path.is_some() {
                let ticket = p.accept().unwrap();
                p.confirm(ticket);
            }
            path
        })
        .collect();
    let paths: Vec<Option<&str>> = paths.iter().map(Option::as_deref).collect();
    assert_eq!(paths, [Some("best.keras"), None, Some("last.keras"), Some("best.keras")]);
    let said = p.take_notes();
    assert_eq!(said[2].text, "Epoch 1: val_loss did not improve from 1.00000");
    assert_eq!(said[3].text, "Epoch 1: saving model to last.keras");
}

#[test]
fn options_out_of_range_are_refused() {
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let bad = [
            Options { save_every_secs: Some(bad), ..Options::default() },
            Options { mtbf: Some(bad), ..Options::default() },
            Options { overhead_budget: Some(bad), ..Options::default() },
        ];
        for options in bad {
            let error = Policy::new("m.keras", options).unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument, "{error}");
        }
    }
    assert!(Policy::new("m.keras", Options { overhead_budget: Some(1.5), ..Options::default() }).is_err());
    assert!(Policy::new("{batch}.keras", every(1.0)).unwrap().take_notes().is_empty());
}
