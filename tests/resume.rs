//! A training that is cut off after any event and resumed is the training that was not: the same decisions, the same
//! files, the same state of the trainer's own.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod scratch;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ckpt::engine::Buffer;
use ckpt::error::Status;
use ckpt::policy::{self, NEVER, OnNan};
use ckpt::reader::{Reader, training_state};
use ckpt::session::{Async, Level, Log, Model, Options, Resumed, Session};
use ckpt::tensor::Dtype;
use scratch::Scratch;
use serde_json::Value;

const NOTHING: [(&str, f64); 0] = [];
const N: usize = 5;
const CONFIG: &str =
    r#"{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": []}}"#;

/// A trainer whose weights and own state say how many batches it has run.
struct Trainer {
    weights: Box<[f32; N]>,
    model: Model,
}

impl Trainer {
    fn new() -> Trainer {
        let mut weights = Box::new([0.0; N]);
        let mut model = Model::new();
        for (path, at, len) in [("layers/dense/vars/0", 0, 3), ("layers/dense_1/vars/0", 3, 2)] {
            let data = weights[at..].as_mut_ptr().cast();
            // SAFETY: the weights live as long as the model, and are touched between its calls alone.
            let buffer = unsafe { Buffer::new(data, 4, &[len], None) }.unwrap();
            model.add(path, Dtype::F32, &[len], buffer).unwrap();
        }
        model.set_config(CONFIG).unwrap();
        Trainer { weights, model }
    }
}

/// The logs of a batch, or of an epoch's end: up and down, with ties and a NaN.
fn logs(step: u64) -> [(&'static str, f64); 1] {
    let values = [0.9, 0.7, 0.7, f64::NAN, 0.8, 0.5, 0.6, 0.5, 0.4, 0.9];
    [("val_loss", values[(step % 10) as usize])]
}

const EPOCHS: u64 = 4;
const BATCHES: u64 = 5;

/// Trains from where the session stands until `events` have been seen in all, those before it included; gives the paths
/// that were saved to.
fn train(session: &Session, trainer: &mut Trainer, from: Option<Resumed>, events: u64) -> Vec<String> {
    let mut saved = Vec::new();
    let (first_epoch, first_batch) = from.map_or((0, 0), |resumed| (resumed.epoch, resumed.batch));
    let mut save = |session: &Session, trainer: &Trainer, event: u64| {
        if session.should_save() {
            saved.push(session.due_path().unwrap());
            let own = vec![event as u8; event as usize % 7];
            session.set_state("rng", &own).unwrap();
            session.save(&trainer.model).unwrap();
        }
    };
    for epoch in first_epoch..EPOCHS {
        session.on_epoch_begin(epoch).unwrap();
        let batches = if epoch == first_epoch { first_batch } else { 0 };
        for batch in batches..BATCHES {
            let event = epoch * (BATCHES + 1) + batch;
            if event >= events {
                return saved;
            }
            trainer.weights.iter_mut().for_each(|w| *w += 1.0);
            session.on_train_batch_end(batch, &logs(event)).unwrap();
            save(session, trainer, event);
        }
        let event = epoch * (BATCHES + 1) + BATCHES;
        if event >= events {
            return saved;
        }
        session.on_epoch_end(epoch, &logs(event)).unwrap();
        save(session, trainer, event);
    }
    saved
}

/// What is in a directory, but for what depends on the clock: the weights and the trainer's own state in each checkpoint,
/// what it says of the training, and the number of shards.
fn contents(dir: &Path) -> BTreeMap<String, (Vec<Vec<u8>>, Value)> {
    let (mut all, mut shards) = (BTreeMap::new(), 0);
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with(".ckpt-lock") {
            continue;
        }
        let Some(json) = training_state(&path).unwrap() else {
            shards += 1;
            continue;
        };
        let reader = Reader::open(&path).unwrap();
        reader.verify().unwrap();
        let mut bytes: Vec<Vec<u8>> = reader.data().unwrap().into_iter().map(|(_, bytes)| bytes).collect();
        for (i, spec) in reader.tensors().iter().enumerate() {
            let mut tensor = vec![0; spec.nbytes() as usize];
            reader.read(i, &mut tensor).unwrap();
            bytes.push(tensor);
        }
        let mut state: Value = serde_json::from_slice(&json).unwrap();
        let fields = state.as_object_mut().unwrap();
        assert!(fields.remove("run").is_some() && fields.remove("saved_at").is_some());
        all.insert(name, (bytes, state));
    }
    all.insert("shards".to_owned(), (Vec::new(), Value::from(shards)));
    all
}

fn cases() -> Vec<(&'static str, Options)> {
    let policy = policy::Options::default();
    let weights = policy::Options { save_weights_only: true, ..policy.clone() };
    let of = |policy| Options { policy, durable: false, ..Options::default() };
    vec![
        ("{epoch:02d}.keras", of(policy.clone())),
        ("m.keras", of(policy::Options { save_best_only: true, ..policy.clone() })),
        ("{epoch}-{val_loss:.2f}.h5", of(policy::Options { keep_last: 2, ..policy.clone() })),
        (
            "{epoch}-{batch}.weights.h5",
            of(policy::Options { save_freq: 3, keep_last: 1, keep_best: 2, ..weights.clone() }),
        ),
        (
            "{epoch}-{batch}.safetensors",
            of(policy::Options { save_freq: 2, save_best_only: true, keep_every: 2, ..weights.clone() }),
        ),
        (
            "m.weights.json",
            Options { max_shard_bytes: 8, ..of(policy::Options { save_freq: 4, ..weights.clone() }) },
        ),
        (
            "{epoch}-{batch}.weights.h5",
            Options {
                mode: Async::Copy,
                ..of(policy::Options { save_freq: 1, keep_last: 2, keep_best: 1, ..weights.clone() })
            },
        ),
        (
            "m.weights.h5",
            of(policy::Options { save_freq: 2, min_delta: 0.15, save_best_only: true, ..weights.clone() }),
        ),
        (
            "{epoch}-{batch}.weights.h5",
            of(policy::Options { save_freq: 2, on_nan: OnNan::Aside, keep_last: 2, ..weights.clone() }),
        ),
        // Whenever anything happens.
        (
            "{epoch}-{batch}.weights.h5",
            of(policy::Options { save_every_secs: Some(1e-9), keep_last: 3, ..weights.clone() }),
        ),
        (
            "m.weights.h5",
            of(policy::Options {
                save_freq: NEVER,
                save_every_secs: Some(1e-9),
                save_best_only: true,
                save_last: Some("last.weights.h5".to_owned()),
                ..weights.clone()
            }),
        ),
        (
            "m.weights.json",
            Options {
                max_shard_bytes: 8,
                ..of(policy::Options {
                    save_every_secs: Some(1e-9),
                    save_best_only: true,
                    save_last: Some("last.weights.json".to_owned()),
                    ..weights
                })
            },
        ),
    ]
}

#[test]
fn a_resumed_training_is_one_that_was_not_interrupted() {
    let all = EPOCHS * (BATCHES + 1);
    for (case, (template, options)) in cases().into_iter().enumerate() {
        let whole = Scratch::new("resume-whole");
        let open = |dir: &Scratch| {
            let path = |name: &str| format!("{}/{name}", dir.path().display());
            let mut options = options.clone();
            options.policy.save_last = options.policy.save_last.map(|last| path(&last));
            Session::new(&path(template), options).unwrap()
        };
        let session = open(&whole);
        let mut trainer = Trainer::new();
        train(&session, &mut trainer, None, all);
        session.wait().unwrap();
        let (best, best_path) = (session.best().ok(), session.best_path().ok());
        drop(session);
        let expected = contents(whole.path());

        for cut in 0..=all {
            let dir = Scratch::new("resume-cut");
            let session = open(&dir);
            let mut first = train(&session, &mut Trainer::new(), None, cut);
            first.retain(|path| !path.contains(".nan."));
            session.wait().unwrap();
            drop(session);

            let session = open(&dir);
            let mut trainer = Trainer::new();
            let resumed = match session.resume(&mut trainer.model) {
                Ok(resumed) => Some(resumed),
                Err(e) => {
                    assert_eq!(e.status(), Status::NotFound, "{e}");
                    assert_eq!(*trainer.weights, [0.0; N]);
                    None
                }
            };
            let context = format!("case {case}, {template}, cut after {cut} events, {resumed:?}");
            assert_eq!(resumed.is_some(), !first.is_empty(), "{context}");
            if let Some(resumed) = &resumed {
                assert_eq!(Some(&resumed.path), first.last(), "{context}");
                let event = resumed.epoch * (BATCHES + 1) + resumed.batch - 1;
                let own = session.state("rng").unwrap();
                assert_eq!(**own, vec![event as u8; event as usize % 7], "{context}");
            }
            train(&session, &mut trainer, resumed, all);
            session.wait().unwrap();
            assert_eq!(session.best().ok(), best, "{context}");
            let relative = |path: Option<String>| path.map(|p| p.rsplit('/').next().unwrap().to_owned());
            assert_eq!(relative(session.best_path().ok()), relative(best_path.clone()), "{context}");
            drop(session);
            assert_eq!(contents(dir.path()), expected, "{context}");
        }
    }
}

/// A session that keeps its log, and three checkpoints of it with the weights 1, 2 and 3.
fn three(dir: &Scratch, options: Options) -> String {
    let template = format!("{}/{{epoch}}.weights.h5", dir.path().display());
    let session = Session::new(&template, options).unwrap();
    let mut trainer = Trainer::new();
    for epoch in 0..3 {
        trainer.weights.fill(epoch as f32 + 1.0);
        session.on_epoch_end(epoch, &[("val_loss", 0.5 - epoch as f64 / 10.0)].as_slice()).unwrap();
        session.save(&trainer.model).unwrap();
    }
    template
}

fn weights_only() -> Options {
    let policy = policy::Options { save_weights_only: true, ..policy::Options::default() };
    Options { policy, durable: false, ..Options::default() }
}

fn logged(options: Options) -> (Options, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = lines.clone();
    let log = Log::new(move |level, line: &str| {
        if level <= Level::Warn {
            sink.lock().unwrap().push(line.to_owned());
        }
    });
    (Options { log, ..options }, lines)
}

#[test]
fn damaged_checkpoints_are_passed_over() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("a byte of a tensor", |path| {
            let mut bytes = fs::read(path).unwrap();
            let at = bytes.windows(4).rposition(|w| w == 3.0f32.to_le_bytes()).unwrap();
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("cut off", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("empty", |path| fs::write(path, b"").unwrap()),
        ("its state", |path| {
            let mut bytes = fs::read(path).unwrap();
            let at = bytes.windows(9).position(|w| w == b"\"libckpt\"").unwrap();
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let dir = Scratch::new("resume-damaged");
        let template = three(&dir, weights_only());
        // Neither the names nor the times say which is the newest.
        fs::rename(dir.join("3.weights.h5"), dir.join("0.weights.h5")).unwrap();
        damage(&dir.join("0.weights.h5"));
        let (options, lines) = logged(weights_only());
        let session = Session::new(&template, options).unwrap();
        let mut trainer = Trainer::new();
        let resumed = session.resume(&mut trainer.model).unwrap();
        assert_eq!((resumed.epoch, resumed.batch), (2, 0), "{what}");
        assert_eq!(*trainer.weights, [2.0; N], "{what}");
        let lines = lines.lock().unwrap().join("\n");
        assert!(lines.contains("0.weights.h5', which is not whole"), "{what}: {lines}");
        // It is nobody's, and stays.
        assert!(dir.join("0.weights.h5").exists());
        assert_eq!(session.best_path().unwrap().rsplit('/').next(), Some("2.weights.h5"));
    }
}

#[test]
fn where_none_is_whole_that_is_an_error() {
    let dir = Scratch::new("resume-none");
    let template = three(&dir, weights_only());
    for epoch in 1..=3 {
        let path = dir.join(format!("{epoch}.weights.h5"));
        fs::write(&path, &fs::read(&path).unwrap()[..1000]).unwrap();
    }
    let session = Session::new(&template, weights_only()).unwrap();
    let error = session.resume(&mut Trainer::new().model).unwrap_err();
    assert_eq!(error.status(), Status::Format);
    assert!(error.message().contains("no checkpoint of"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_looked_at_is_an_error_and_not_an_empty_one() {
    let dir = Scratch::new("resume-unseen");
    // A directory whose name is too long for any file system; a trainer would begin anew if there seemed to be none.
    let template = format!("{}/{}/{{epoch}}.weights.h5", dir.join("below").display(), "n".repeat(300));
    let session = Session::new(&template, weights_only()).unwrap();
    let error = session.resume(&mut Trainer::new().model).unwrap_err();
    assert_eq!((error.status(), error.os()), (Status::NotFound, 0), "nothing is there yet: {error}");
    fs::create_dir(dir.join("below")).unwrap();
    let error = session.resume(&mut Trainer::new().model).unwrap_err();
    assert_eq!((error.status(), error.os()), (Status::Io, libc::ENAMETOOLONG), "{error}");
    assert!(error.message().contains("look for checkpoints in"), "{error}");
}

#[test]
fn a_best_that_is_damaged_is_not_the_best() {
    let dir = Scratch::new("resume-best");
    let mut options = weights_only();
    (options.policy.keep_last, options.policy.keep_best, options.policy.mode) = (3, 1, policy::Mode::Max);
    let template = three(&dir, options.clone());
    // By mode max the first is the best.
    let path = dir.join("1.weights.h5");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).rposition(|w| w == 1.0f32.to_le_bytes()).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (options, lines) = logged(options);
    let session = Session::new(&template, options).unwrap();
    let mut trainer = Trainer::new();
    session.resume(&mut trainer.model).unwrap();
    assert_eq!(session.best_path().unwrap().rsplit('/').next(), Some("2.weights.h5"));
    session.load_best(&mut trainer.model).unwrap();
    assert_eq!(*trainer.weights, [2.0; N]);
    assert!(lines.lock().unwrap()[0].contains("was the best, and is not whole"));
}

#[test]
fn a_session_that_resumes_itself_knows_what_stands_then() {
    let dir = Scratch::new("resume-again");
    let mut options = weights_only();
    options.policy.keep_best = 2;
    let template = format!("{}/{{epoch}}.weights.h5", dir.path().display());
    let session = Session::new(&template, options).unwrap();
    let mut trainer = Trainer::new();
    let save = |trainer: &mut Trainer, epoch: u64, loss: f64| {
        trainer.weights.fill(epoch as f32);
        session.on_epoch_end(epoch, &[("val_loss", loss)].as_slice()).unwrap();
        session.save(&trainer.model).unwrap();
    };
    (0..4).for_each(|epoch| save(&mut trainer, epoch, 0.5 - epoch as f64 / 10.0));
    // The two best: one is damaged, the other is all that is left.
    fs::write(dir.join("4.weights.h5"), b"").unwrap();
    session.resume(&mut trainer.model).unwrap();
    assert_eq!(session.best_path().unwrap().rsplit('/').next(), Some("3.weights.h5"));
    session.load_best(&mut trainer.model).unwrap();
    assert_eq!(*trainer.weights, [2.0; N]);
    (4..7).for_each(|epoch| save(&mut trainer, epoch, epoch as f64));
    assert_eq!(dir.names(), ["3.weights.h5", "4.weights.h5", "5.weights.h5", "7.weights.h5"]);
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    let dir = Scratch::new("resume-mismatch");
    let template = three(&dir, weights_only());
    let session = Session::new(&template, weights_only()).unwrap();
    let mut values = [7.0f32; 4];
    let mut model = Model::new();
    // SAFETY: the values outlive the model.
    let buffer = unsafe { Buffer::new(values.as_mut_ptr().cast(), 4, &[4], None) }.unwrap();
    model.add("layers/dense/vars/0", Dtype::F32, &[4], buffer).unwrap();
    let error = session.resume(&mut model).unwrap_err();
    assert_eq!(error.status(), Status::Mismatch, "{error}");
    assert!(error.message().contains("3.weights.h5"), "{error}");
    assert_eq!(values, [7.0; 4]);
    assert_eq!(session.best_path().unwrap_err().status(), Status::NotFound);
}

#[test]
fn files_of_another_training_stay() {
    let dir = Scratch::new("resume-others");
    let mut options = weights_only();
    options.policy.keep_last = 1;
    let template = format!("{}/{{epoch}}.weights.h5", dir.path().display());
    let mut trainer = Trainer::new();
    // Two trainings, one after the other, neither of which resumes.
    for epochs in [0..3, 10..12] {
        let session = Session::new(&template, options.clone()).unwrap();
        for epoch in epochs {
            session.on_epoch_end(epoch, &NOTHING).unwrap();
            session.save(&trainer.model).unwrap();
        }
    }
    assert!(dir.join("3.weights.h5").exists() && dir.join("12.weights.h5").exists());
    let session = Session::new(&template, options).unwrap();
    let resumed = session.resume(&mut trainer.model).unwrap();
    assert_eq!(resumed.epoch, 12, "the newest by the counter");
    session.on_epoch_end(12, &NOTHING).unwrap();
    session.save(&trainer.model).unwrap();
    let names: Vec<_> = contents(dir.path()).into_keys().collect();
    assert_eq!(
        names,
        ["13.weights.h5", "3.weights.h5", "shards"],
        "of the first training it is not this one's to go"
    );
}

#[test]
fn what_somebody_has_moved_and_linked_or_copied_stays() {
    let dir = Scratch::new("resume-moved");
    let template = three(&dir, weights_only());
    fs::create_dir(dir.join("archive")).unwrap();
    let archived = dir.join("archive/precious");
    fs::rename(dir.join("1.weights.h5"), &archived).unwrap();
    std::os::unix::fs::symlink(&archived, dir.join("1.weights.h5")).unwrap();
    let copy = dir.join("20.weights.h5");
    fs::copy(dir.join("2.weights.h5"), &copy).unwrap();
    let later = fs::metadata(&copy).unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
    fs::File::options().write(true).open(&copy).unwrap().set_modified(later).unwrap();
    let mut options = weights_only();
    (options.policy.keep_last, options.policy.mode) = (2, policy::Mode::Max);
    let session = Session::new(&template, options).unwrap();
    let mut trainer = Trainer::new();
    session.resume(&mut trainer.model).unwrap();
    assert_eq!(session.best_path().unwrap().rsplit('/').next(), Some("1.weights.h5"));
    for epoch in 3..6 {
        session.on_epoch_end(epoch, &[("val_loss", 1.0 + epoch as f64)].as_slice()).unwrap();
        session.save(&trainer.model).unwrap();
    }
    assert!(archived.exists(), "no longer the best, but not in our place");
    session.load_best(&mut trainer.model).unwrap();
    let names = dir.names();
    assert_eq!(names, ["1.weights.h5", "20.weights.h5", "5.weights.h5", "6.weights.h5", "archive"]);
}

#[test]
fn directories_go_with_what_is_in_them() {
    let dir = Scratch::new("resume-dirs");
    let template = format!("{}/run/{{epoch}}/of/m.weights.h5", dir.path().display());
    let mut options = weights_only();
    options.policy.keep_last = 1;
    let mut trainer = Trainer::new();
    for epochs in [0..2, 2..4, 4..5] {
        let session = Session::new(&template, options.clone()).unwrap();
        let _ = session.resume(&mut trainer.model);
        fs::write(dir.join("run/2/mine"), b"").unwrap_or_default();
        for epoch in epochs {
            session.on_epoch_end(epoch, &NOTHING).unwrap();
            session.save(&trainer.model).unwrap();
        }
    }
    let names = |path: &str| {
        let names =
            fs::read_dir(dir.join(path)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with(".ckpt-lock")).collect();
        names.sort();
        names
    };
    assert_eq!(names("run"), ["2", "5"]);
    assert_eq!(names("run/2"), ["mine"], "and stay with what somebody has put there");
}

#[test]
fn what_the_cut_off_session_had_no_time_to_remove_goes() {
    let dir = Scratch::new("resume-late");
    let template = three(&dir, weights_only());
    let mut options = weights_only();
    options.policy.keep_last = 1;
    let session = Session::new(&template, options).unwrap();
    session.resume(&mut Trainer::new().model).unwrap();
    assert_eq!(
        contents(dir.path()).into_keys().collect::<Vec<_>>(),
        ["3.weights.h5", "shards"],
        "the best, and the newest"
    );
}

#[test]
fn state_of_any_size_and_key_travels() {
    let big: Vec<u8> = (0..3_000_001u32).map(|i| (i * 7) as u8).collect();
    let entries: [(&str, &[u8]); 5] =
        [("", &[]), ("rng", b"\0\xff\n\"\\"), ("a/b/../c%2f", b"x"), ("big", &big), ("ключ", b"y")];
    for ending in ["keras", "h5", "weights.h5", "weights.json", "safetensors"] {
        for mode in [Async::Off, Async::Copy, Async::Borrow] {
            let dir = Scratch::new("resume-state");
            let template = format!("{}/m.{ending}", dir.path().display());
            let mut options = Options { mode, max_shard_bytes: 1 << 20, ..weights_only() };
            options.policy.save_weights_only = ending != "keras" && ending != "h5";
            let mut trainer = Trainer::new();
            {
                let session = Session::new(&template, options.clone()).unwrap();
                assert_eq!(session.set_state("", b"").unwrap_err().status(), Status::InvalidArgument);
                for (key, bytes) in entries.iter().skip(1) {
                    session.set_state(key, b"an earlier one").unwrap();
                    session.set_state(key, bytes).unwrap();
                }
                session.set_state("none", b"").unwrap();
                session.on_epoch_end(0, &NOTHING).unwrap();
                session.save(&trainer.model).unwrap();
                // Not in the save that is being made.
                session.set_state("rng", b"later").unwrap();
                session.wait().unwrap();
            }
            let reader = Reader::open(&dir.join(format!("m.{ending}"))).unwrap();
            assert_eq!(reader.tensors().len(), 2, "the trainer's own is not listed");
            reader.verify().unwrap();
            let mut out = [0; 4];
            assert_eq!(reader.read(2, &mut out).unwrap_err().status(), Status::InvalidArgument);

            let session = Session::new(&template, options).unwrap();
            session.set_state("mine", b"gone after the resume").unwrap();
            session.resume(&mut trainer.model).unwrap();
            for (key, bytes) in entries.iter().skip(1) {
                assert_eq!(session.state(key).unwrap().as_slice(), *bytes, "{ending} {mode:?} {key}");
            }
            assert!(session.state("none").unwrap().is_empty());
            let error = session.state("mine").unwrap_err();
            assert_eq!(error.status(), Status::NotFound);
            assert!(error.message().contains("'rng'"), "{error}");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_trainers_state_is_found() {
    let dir = Scratch::new("resume-flip");
    let template = format!("{}/m.weights.h5", dir.path().display());
    let mut trainer = Trainer::new();
    let session = Session::new(&template, weights_only()).unwrap();
    session.set_state("rng", b"needle in the file").unwrap();
    session.on_epoch_end(0, &NOTHING).unwrap();
    session.save(&trainer.model).unwrap();
    let path = dir.join("m.weights.h5");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|w| w == b"needle").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = Reader::open(&path).unwrap().verify().unwrap_err();
    assert!(error.message().contains("libckpt/data/rng"), "{error}");
    assert_eq!(session.resume(&mut trainer.model).unwrap_err().status(), Status::Format);
}
