use super::*;

fn policy(filepath: &str, options: Options) -> Policy {
    Policy::new(filepath, options).unwrap()
}

fn best_only() -> Options {
    Options { save_best_only: true, ..Options::default() }
}

/// The path that the last event made due.
fn path(policy: &Policy) -> Option<&str> {
    policy.due().map(|due| due.path.as_str())
}

fn save(policy: &mut Policy) {
    let ticket = policy.accept().unwrap();
    policy.confirm(ticket);
}

fn lines(policy: &mut Policy) -> Vec<String> {
    policy.take_notes().into_iter().map(|note| note.text).collect()
}

#[test]
fn keras_lines() {
    let mut p = policy("{epoch}.keras", Options { verbose: true, ..best_only() });
    p.on_epoch_end(0, &[("val_loss", 1.0)]).unwrap();
    save(&mut p);
    p.on_epoch_end(1, &[("val_loss", 1.5)]).unwrap();
    assert_eq!(path(&p), None);
    p.on_epoch_end(2, &[("loss", 1.5)]).unwrap();
    let notes = p.take_notes();
    assert_eq!(notes.last().unwrap().level, Level::Warn);
    assert_eq!(
        notes.into_iter().map(|n| n.text).collect::<Vec<_>>(),
        [
            "Epoch 1: val_loss improved from None to 1.00000, saving model to 1.keras",
            "Epoch 1: finished saving model to 1.keras",
            "Epoch 2: val_loss did not improve from 1.00000",
            "Can save best model only with val_loss available.",
        ]
    );
    assert_eq!(path(&p), Some("3.keras"));
    save(&mut p);
    assert_eq!(p.best(), Some(1.0));
    assert_eq!(lines(&mut p), ["Epoch 3: finished saving model to 3.keras"]);

    let mut p = policy("m.keras", Options { verbose: true, ..Options::default() });
    p.on_epoch_end(4, &[("val_loss", 1.0)]).unwrap();
    assert_eq!(lines(&mut p), ["Epoch 5: saving model to m.keras"]);
    assert_eq!(p.best(), None);
}

#[test]
fn a_silent_policy_has_nothing_to_say() {
    let mut p = policy("m.keras", best_only());
    p.on_epoch_end(0, &[("val_loss", 1.0)]).unwrap();
    save(&mut p);
    assert_eq!(p.take_notes().capacity(), 0);
}

#[test]
fn nan_is_never_the_best() {
    for mode in [Mode::Min, Mode::Max] {
        let mut p = policy("m.keras", Options { mode, verbose: true, ..best_only() });
        p.on_epoch_end(0, &[("val_loss", f64::NAN)]).unwrap();
        assert_eq!((path(&p), p.best()), (None, None));
        assert_eq!(lines(&mut p), ["Epoch 1: val_loss did not improve from None"]);
        p.on_epoch_end(1, &[("val_loss", 3.0)]).unwrap();
        save(&mut p);
        p.on_epoch_end(2, &[("val_loss", f64::NAN)]).unwrap();
        assert_eq!((path(&p), p.best()), (None, Some(3.0)));
    }
}

#[test]
fn a_failed_save_loses_no_chance() {
    let mut p = policy("{epoch}.keras", best_only());
    p.on_epoch_end(0, &[("val_loss", 1.0)]).unwrap();
    let ticket = p.accept().unwrap();
    assert_eq!((path(&p), p.best()), (None, Some(1.0)));
    p.give_back(ticket);
    assert_eq!((path(&p), p.best()), (Some("1.keras"), None), "it may be tried again");
    p.on_epoch_end(1, &[("val_loss", 2.0)]).unwrap();
    assert_eq!(path(&p), Some("2.keras"), "2 is better than nothing");
    save(&mut p);
    assert_eq!(p.best(), Some(2.0));
    assert_eq!(p.accept().unwrap_err().status(), Status::State);
}

#[test]
fn an_accepted_save_that_fails_later_gives_the_best_back() {
    let losses = [0.5, 0.3, 0.2];
    let accept = |p: &mut Policy| -> Vec<Ticket> {
        let at = |(epoch, loss): (usize, &f64), p: &mut Policy| {
            p.on_epoch_end(epoch as u64, &[("val_loss", *loss)]).unwrap();
            p.accept().unwrap()
        };
        losses.iter().enumerate().map(|save| at(save, p)).collect()
    };
    let start = || policy("m.keras", Options { initial_value_threshold: Some(1.0), ..best_only() });
    // In what order three saves end, which of them fail, and the best after each.
    type Case = ([(usize, bool); 3], [f64; 3]);
    let cases: [Case; 5] = [
        ([(0, true), (1, true), (2, true)], [0.2, 0.2, 0.2]),
        ([(0, false), (1, false), (2, false)], [0.2, 0.2, 1.0]),
        ([(2, false), (1, false), (0, false)], [0.3, 0.5, 1.0]),
        ([(1, true), (2, false), (0, false)], [0.2, 0.3, 0.3]),
        ([(2, false), (0, true), (1, false)], [0.3, 0.3, 0.5]),
    ];
    for (ends, expected) in cases {
        let mut p = start();
        let mut tickets: Vec<Option<Ticket>> = accept(&mut p).into_iter().map(Some).collect();
        p.on_epoch_begin(3);
        for ((save, succeeds), best) in ends.into_iter().zip(expected) {
            let ticket = tickets[save].take().unwrap();
            if succeeds {
                p.confirm(ticket)
            } else {
                p.give_back(ticket)
            }
            assert_eq!(p.best(), Some(best), "{ends:?}");
            assert_eq!(path(&p), None, "the events went on");
        }
    }
}

#[test]
fn a_save_knows_the_best_of_those_before_it_that_have_not_failed() {
    let mut p = policy("m.keras", Options { initial_value_threshold: Some(9.0), ..best_only() });
    let accept = |p: &mut Policy, logs: &[(&str, f64)]| {
        p.on_epoch_end(0, &logs).unwrap();
        p.accept().unwrap()
    };
    let first = accept(&mut p, &[("val_loss", 5.0)]);
    let unmeasured = accept(&mut p, &[("loss", 0.0)]);
    let last = accept(&mut p, &[("val_loss", 4.0)]);
    let best = |p: &Policy| [&first, &unmeasured, &last].map(|ticket| p.state_of(ticket).best);
    assert_eq!(best(&p), [Some(5.0), Some(5.0), Some(4.0)]);
    let counters = |ticket| State { best: None, ..p.state_of(ticket) };
    assert_eq!(counters(&first), State { epoch: 1, ..State::default() });
    p.give_back(first);
    assert_eq!(p.state_of(&unmeasured).best, Some(9.0));
    p.confirm(unmeasured);
    assert_eq!(p.best(), Some(4.0));
    p.give_back(last);
    assert_eq!(p.best(), Some(9.0));
}

#[test]
fn what_waits_gives_way_unless_it_is_the_best() {
    let due = |value: Option<f64>| Due {
        path: String::new(),
        epoch: 0,
        batch: None,
        value,
        improves: false,
        place: Place::Own,
        metrics: Vec::new(),
    };
    let nan = Some(f64::NAN);
    // What waits, what comes, what stands; whether the first gives way.
    type Case<'a> = (Option<f64>, Option<f64>, &'a [f64], bool);
    let cases: [Case<'_>; 9] = [
        (Some(2.0), Some(3.0), &[], false),
        (Some(2.0), Some(1.0), &[], true),
        (Some(2.0), Some(2.0), &[4.0, f64::NAN], false),
        (Some(2.0), None, &[4.0], false),
        (Some(2.0), nan, &[4.0], false),
        (Some(2.0), Some(3.0), &[4.0, 1.0], true),
        (Some(2.0), Some(3.0), &[2.0], true),
        (None, nan, &[], true),
        (nan, None, &[], true),
    ];
    for (waiting, later, others, gives_way) in cases {
        for (mode, sign) in [(Mode::Min, 1.0), (Mode::Max, -1.0)] {
            let p = policy("m.keras", Options { mode, ..best_only() });
            let [waiting, later] = [waiting, later].map(|value| due(value.map(|value| sign * value)));
            let others = others.iter().map(|value| sign * value);
            assert_eq!(p.may_give_way(&waiting, &later, others), gives_way, "{mode:?} {waiting:?} {later:?}");
        }
    }
}

#[test]
fn an_event_forgets_what_was_due() {
    let mut p = policy("m.keras", best_only());
    p.on_epoch_end(0, &[("val_loss", 1.0)]).unwrap();
    assert!(p.due().is_some());
    p.on_epoch_begin(1);
    assert!(p.due().is_none());
    p.on_epoch_end(1, &[("val_loss", 2.0)]).unwrap();
    assert!(p.due().is_some(), "the best was not taken over");
    p.on_train_batch_end(0, &[("val_loss", 2.0)]).unwrap();
    assert!(p.due().is_none());
}

#[test]
fn batches_are_counted_across_epochs_and_strides() {
    let mut p = policy("{epoch}-{batch}.keras", Options { save_freq: 4, ..Options::default() });
    let mut saved = Vec::new();
    for (epoch, batch) in [(0, 1), (0, 3), (0, 5), (1, 1), (1, 3), (1, 30), (2, 2), (2, 3)] {
        if batch == 1 || batch == 2 {
            p.on_epoch_begin(epoch);
        }
        p.on_train_batch_end(batch, &[("loss", 0.5); 0]).unwrap();
        saved.extend(path(&p).map(str::to_owned));
    }
    // 2, 4 -> 0; 2, 4 -> 0 (a new epoch); 2, 29 -> 0 (not 25); 3, 4 -> 0.
    assert_eq!(saved, ["1-4.keras", "2-2.keras", "2-31.keras", "3-4.keras"]);
    p.on_train_batch_end(u64::MAX, &[("loss", 0.5)]).unwrap();
    assert_eq!(path(&p), Some("3-18446744073709551616.keras"));
}

#[test]
fn best_only_by_batches_works_from_the_first() {
    let mut p =
        policy("m.keras", Options { save_freq: 1, mode: Mode::Max, monitor: "x".into(), ..best_only() });
    let mut saved = Vec::new();
    for (batch, x) in [1.0, 0.5, 2.0, 2.0, 3.0].into_iter().enumerate() {
        p.on_train_batch_end(batch as u64, &[("x", x)]).unwrap();
        if p.due().is_some() {
            save(&mut p);
            saved.push(batch);
        }
    }
    assert_eq!(saved, [0, 2, 4]);
}

#[test]
fn without_epoch_begin_epochs_follow_their_ends() {
    let mut p = policy("{epoch}.keras", Options { save_freq: 1, ..Options::default() });
    let none: [(&str, f64); 0] = [];
    p.on_train_batch_end(0, &none).unwrap();
    assert_eq!(path(&p), Some("1.keras"));
    p.on_epoch_end(6, &none).unwrap();
    assert_eq!(path(&p), None);
    p.on_train_batch_end(0, &none).unwrap();
    assert_eq!(path(&p), Some("8.keras"));
    p.on_epoch_end(u64::MAX, &none).unwrap();
}

#[test]
fn keys_of_the_logs_win() {
    let mut p = policy("{batch}-{epoch}-{val/acc:.1f}.keras", Options { save_freq: 1, ..Options::default() });
    p.on_train_batch_end(4, &[("val/acc", 0.25), ("batch", 7.0), ("val/acc", 0.5)]).unwrap();
    assert_eq!(path(&p), Some("7.0-1-0.5.keras"));
    let metrics = &p.due().unwrap().metrics;
    assert_eq!(*metrics, [("val/acc".to_owned(), 0.5), ("batch".to_owned(), 7.0)]);
}

#[test]
fn a_missing_key_is_an_error_even_where_nothing_would_be_saved() {
    let mut p = policy("{val_acc}.keras", best_only());
    p.on_epoch_end(0, &[("val_loss", 1.0), ("val_acc", 0.5)]).unwrap();
    save(&mut p);
    let error = p.on_epoch_end(1, &[("val_loss", 9.0), ("loss", 9.0)]).unwrap_err();
    assert_eq!(error.status(), Status::Template);
    assert_eq!(
        error.message(),
        "Failed to format this callback filepath: \"{val_acc}.keras\". Reason: 'val_acc'. \
         The keys of this event: epoch, val_loss, loss"
    );
    assert!(p.due().is_none());
}

#[test]
fn min_delta_and_threshold() {
    let options = Options { min_delta: -0.5, initial_value_threshold: Some(2.0), ..best_only() };
    for (mode, values) in [(Mode::Min, [1.5, 1.4, 0.9, 0.8]), (Mode::Max, [2.5, 2.6, 3.1, 3.2])] {
        let mut p = policy("m.keras", Options { mode, ..options.clone() });
        let mut saved = Vec::new();
        for value in values {
            p.on_epoch_end(0, &[("val_loss", value)]).unwrap();
            saved.push(p.due().is_some());
            if p.due().is_some() {
                save(&mut p);
            }
        }
        assert_eq!(saved, [false, true, false, true], "{mode:?}");
    }
}

#[test]
fn refuses_options_that_make_no_sense() {
    let bad = [
        ("m.keras", Options { monitor: String::new(), ..best_only() }),
        ("m.keras", Options { initial_value_threshold: Some(f64::NAN), ..best_only() }),
        ("m.keras", Options { min_delta: f64::NAN, ..best_only() }),
        ("m.keras", Options { min_delta: f64::INFINITY, ..best_only() }),
        ("m.keras", Options { save_weights_only: true, ..best_only() }),
        ("m.h5", Options { save_weights_only: true, ..best_only() }),
        ("m.weights.h5", best_only()),
        ("m.safetensors", best_only()),
        ("", best_only()),
    ];
    for (filepath, options) in bad {
        let error = Policy::new(filepath, options).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument, "{filepath}: {error}");
    }
    for filepath in ["m.KERAS", "m"] {
        let error = Policy::new(filepath, best_only()).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported, "{filepath}: {error}");
    }
    policy("m.h5", best_only());
    policy("m.weights.h5", Options { save_weights_only: true, ..best_only() });
    policy("m.weights.json", Options { save_weights_only: true, ..best_only() });
}

#[test]
fn mode_auto_goes_by_the_name() {
    let up = [
        "acc",
        "val_accuracy",
        "sparse_top_k_categorical_accuracy",
        "fmeasure_2",
        "auc",
        "val_auc_12",
        "Precision",
    ];
    let up2 =
        ["mean_io_u", "MeanIoU", "val_f1_score", "r2_score_1", "cosine_similarity", "recall_at_precision"];
    let down = ["loss", "val_loss", "head_loss", "val_mae", "root_mean_squared_error_3", "kl_divergence"];
    for name in [&up[..], &up2].concat() {
        assert_eq!(Direction::of(name), Some(Direction::Up), "{name}");
    }
    for name in down {
        assert_eq!(Direction::of(name), Some(Direction::Down), "{name}");
    }
    for name in ["bleu", "val_", "bleu_1", "true_positives", ""] {
        assert_eq!(Direction::of(name), None, "{name}");
    }
    let mut p = policy("m.keras", Options { monitor: "bleu".into(), ..best_only() });
    assert_eq!(p.direction(), Direction::Down);
    let said = lines(&mut p);
    assert_eq!(said, ["mode auto: less of 'bleu' is taken to be better; set mode max if more is"]);
    let mut p = policy("m.keras", Options { monitor: "bleu".into(), mode: Mode::Max, ..best_only() });
    assert!(lines(&mut p).is_empty());
}

#[test]
fn doubtful_templates_get_a_warning() {
    assert_eq!(lines(&mut policy("{epoch:.2}.keras", best_only())).len(), 1);
    assert_eq!(lines(&mut policy("{batch}.keras", best_only())).len(), 1);
    assert!(lines(&mut policy("{batch}.keras", Options { save_freq: 2, ..best_only() })).is_empty());
}

#[test]
fn state_goes_on_where_it_was() {
    let options = Options { save_freq: 3, ..best_only() };
    let mut p = policy("{epoch}-{batch}.keras", options.clone());
    p.on_epoch_begin(5);
    for batch in 0..3 {
        p.on_train_batch_end(batch, &[("val_loss", 1.0)]).unwrap();
    }
    assert_eq!(p.best(), None);
    let state = p.state();
    assert_eq!(state, State { epoch: 5, last_batch: Some(2), best: Some(1.0), ..State::default() });
    let mut q = policy("{epoch}-{batch}.keras", options);
    q.restore(&state);
    q.on_train_batch_end(5, &[("val_loss", 2.0)]).unwrap();
    assert_eq!((path(&q), q.best()), (None, Some(1.0)));
    q.on_train_batch_end(8, &[("val_loss", 0.5)]).unwrap();
    assert_eq!(path(&q), Some("6-9.keras"));
}

#[test]
fn a_nan_is_skipped_or_put_aside_or_saved_as_keras_does() {
    let run = |on_nan: OnNan, save_best_only: bool| -> (Vec<Option<String>>, Option<f64>, Vec<String>) {
        let mut p = policy(
            "m-{epoch}.weights.h5",
            Options { on_nan, save_best_only, save_weights_only: true, ..Options::default() },
        );
        let values = [f64::NAN, 2.0, 3.0, f64::NAN, 1.0];
        let paths = values.iter().zip(0..).map(|(value, epoch)| {
            p.on_epoch_end(epoch, &[("val_loss", *value)]).unwrap();
            let due = p.due()?.clone();
            assert_eq!(due.place == Place::Aside, due.path.contains(".nan."), "{due:?}");
            save(&mut p);
            Some(due.path)
        });
        (paths.collect(), p.best(), lines(&mut p))
    };
    let own = |n: u64| Some(format!("m-{n}.weights.h5"));
    let aside = |n: u64| Some(format!("m-{n}.nan.weights.h5"));
    let (paths, best, lines) = run(OnNan::Skip, false);
    assert_eq!((paths, best), (vec![None, own(2), own(3), None, own(5)], None));
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1], "Epoch 4: val_loss is NaN: no save is made (see on_nan)");
    let (paths, best, lines) = run(OnNan::Skip, true);
    assert_eq!((paths, best), (vec![None, own(2), None, None, own(5)], Some(1.0)));
    assert!(lines.is_empty());
    let (paths, best, _) = run(OnNan::Aside, false);
    assert_eq!((paths, best), (vec![aside(1), own(2), own(3), aside(4), own(5)], None));
    let (paths, best, _) = run(OnNan::Aside, true);
    assert_eq!((paths, best), (vec![aside(1), own(2), None, aside(4), own(5)], Some(1.0)));
    let (paths, best, _) = run(OnNan::Keras, false);
    assert_eq!((paths, best), ((1..=5).map(own).collect(), None));
    let (paths, best, _) = run(OnNan::Keras, true);
    assert_eq!(paths, [own(1), None, None, None, None]);
    assert!(best.unwrap().is_nan());
}

#[test]
fn the_name_aside_keeps_its_ending() {
    for (path, aside) in [
        ("d.h5/m.keras", "d.h5/m.nan.keras"),
        ("m.weights.h5", "m.nan.weights.h5"),
        ("m.h5", "m.nan.h5"),
        ("m.weights.json", "m.nan.weights.json"),
        ("m.safetensors", "m.nan.safetensors"),
    ] {
        assert_eq!(Options::aside(path), aside);
    }
}
