//! The session: what it finds when it begins, what travels in its files, what it keeps.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod scratch;

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use ckpt::engine::Buffer;
use ckpt::error::Status;
use ckpt::policy;
use ckpt::reader::{Reader, training_state};
use ckpt::session::{Level, Log, Model, Options, Session};
use ckpt::tensor::Dtype;
use scratch::Scratch;
use serde_json::Value;

fn template(dir: &Scratch, below: &str) -> String {
    format!("{}/{below}", dir.path().display())
}

fn model(values: &mut [f32]) -> Model {
    let mut model = Model::new();
    let shape = [values.len() as u64];
    // SAFETY: the values outlive the model in every test, which touches them through it alone meanwhile.
    let buffer = unsafe { Buffer::new(values.as_mut_ptr().cast(), 4, &shape, None) }.unwrap();
    model.add("layers/dense/vars/0", Dtype::F32, &shape, buffer).unwrap();
    model
}

fn weights_only() -> Options {
    let policy = policy::Options { save_weights_only: true, ..policy::Options::default() };
    Options { policy, durable: false, ..Options::default() }
}

fn save(session: &Session, epoch: u64, logs: &[(&str, f64)], model: &Model) {
    session.on_epoch_end(epoch, &logs).unwrap();
    session.save(model).unwrap();
}

fn state(path: &Path) -> Value {
    serde_json::from_slice(&training_state(path).unwrap().unwrap()).unwrap()
}

#[test]
fn the_save_counter_goes_on_from_the_largest_that_is_there() {
    let dir = Scratch::new("session-counter");
    let template = template(&dir, "run-{epoch}/w.weights.h5");
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    let first = Session::new(&template, weights_only()).unwrap();
    for epoch in [3, 1, 2] {
        save(&first, epoch, &[("val_loss", 0.5)], &model);
    }
    // What the template cannot have written does not count, nor does what is no checkpoint.
    fs::copy(dir.join("run-3/w.weights.h5"), dir.join("run-3/other.weights.h5")).unwrap();
    fs::create_dir(dir.join("run-9")).unwrap();
    fs::write(dir.join("run-9/w.weights.h5"), b"nothing").unwrap();
    let second = Session::new(&template, weights_only()).unwrap();
    save(&second, 7, &[("val_loss", 0.25)], &model);
    let state = state(&dir.join("run-8/w.weights.h5"));
    assert_eq!(state["save"], 4);
    assert_eq!(state["epoch"], 7);
    assert_eq!(state["metrics"]["val_loss"], 0.25);
}

#[test]
fn the_save_counter_is_found_however_the_path_is_written() {
    let dir = Scratch::new("session-slashes");
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    for (n, below) in
        ["/m-{epoch}.weights.h5", "./m-{epoch}.weights.h5", "m-{epoch}.weights.h5"].iter().enumerate()
    {
        let session = Session::new(&template(&dir, below), weights_only()).unwrap();
        save(&session, 0, &[("val_loss", 0.5)], &model);
        assert_eq!(state(&dir.join("m-1.weights.h5"))["save"], n as u64 + 1, "{below}");
    }
}

#[test]
fn links_that_lead_back_are_not_followed_for_ever() {
    let dir = Scratch::new("session-loops");
    for link in 0..10 {
        std::os::unix::fs::symlink(".", dir.join(link.to_string())).unwrap();
    }
    let template = template(&dir, "{epoch}/{batch}/{loss}/{val_loss}/{acc}/{val_acc}/{a}/{b}/m.weights.h5");
    let mut options = weights_only();
    options.policy.save_freq = 1;
    Session::new(&template, options).unwrap();
}

#[test]
fn leftovers_go_from_every_directory_of_the_template_and_from_no_other() {
    let dir = Scratch::new("session-leftovers");
    for below in ["run-1", "run-1/deeper"] {
        fs::create_dir(dir.join(below)).unwrap();
    }
    let leftovers =
        ["run-1/.ckpt-tmp-1", ".ckpt-tmp-2", "run-1/deeper/.ckpt-tmp-3"].map(|name| dir.join(name));
    for path in &leftovers {
        fs::write(path, b"cut off").unwrap();
    }
    Session::new(&template(&dir, "run-{epoch}/w.weights.h5"), weights_only()).unwrap();
    assert_eq!(leftovers.map(|path| path.exists()), [false, false, true]);
}

#[test]
fn a_state_of_any_size_travels_whole() {
    let dir = Scratch::new("session-state");
    let session = Session::new(&template(&dir, "w.weights.h5"), weights_only()).unwrap();
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    let names: Vec<String> = (0..3000).map(|i| format!("metric number {i}")).collect();
    let logs: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 0.1)).collect();
    save(&session, 0, &[("loss", 0.5)], &model);
    save(&session, 1, &logs, &model);
    let path = dir.join("w.weights.h5");
    assert_eq!(state(&path)["metrics"].as_object().unwrap().len(), 3000);
    Reader::open(&path).unwrap().verify().unwrap();
}

#[test]
fn the_log_may_call_back() {
    let dir = Scratch::new("session-callback");
    let slot: Arc<OnceLock<Session>> = Arc::new(OnceLock::new());
    let lines = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (inner, heard) = (slot.clone(), lines.clone());
    let log = Log::new(move |level, line| {
        heard.lock().push(format!("{level:?} {line}"));
        if let Some(session) = inner.get() {
            let _ = (session.should_save(), session.due_path(), session.best(), session.best_path());
            if level == Level::Warn {
                session.on_epoch_begin(5).unwrap();
            }
        }
    });
    let mut options = Options { log, ..weights_only() };
    options.policy.save_best_only = true;
    options.policy.verbose = true;
    let session = slot.get_or_init(|| Session::new(&template(&dir, "w.weights.h5"), options).unwrap());
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    save(session, 0, &[("val_loss", 0.5)], &model);
    session.on_epoch_end(1, &[("loss", 0.5)]).unwrap();
    assert!(!session.should_save(), "the event in the callback has forgotten it");
    let path = template(&dir, "w.weights.h5");
    assert_eq!(
        *lines.lock(),
        [
            format!("Info Epoch 1: val_loss improved from None to 0.50000, saving model to {path}"),
            format!("Info Epoch 1: finished saving model to {path}"),
            "Warn Can save best model only with val_loss available.".to_owned(),
        ]
    );
}

#[test]
fn rules_remove_what_this_session_wrote_and_nothing_else() {
    let dir = Scratch::new("session-rules");
    fs::write(dir.join("07.weights.h5"), b"an earlier run's").unwrap();
    let mut options = weights_only();
    options.policy.keep_last = 1;
    let session = Session::new(&template(&dir, "{epoch:02d}.weights.h5"), options).unwrap();
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    for (epoch, loss) in [0.5, 0.25, 0.75, 1.0].into_iter().enumerate() {
        save(&session, epoch as u64, &[("val_loss", loss)], &model);
    }
    assert_eq!(dir.names(), ["02.weights.h5", "04.weights.h5", "07.weights.h5"]);
    assert_eq!(session.best_path().unwrap(), template(&dir, "02.weights.h5"));
}

#[test]
fn one_file_by_two_paths_is_one() {
    let dir = Scratch::new("session-aliases");
    fs::create_dir(dir.join("real")).unwrap();
    for link in ["1", "2"] {
        std::os::unix::fs::symlink("real", dir.join(link)).unwrap();
    }
    let mut options = weights_only();
    options.policy.keep_last = 1;
    let session = Session::new(&template(&dir, "{epoch}/x.weights.h5"), options.clone()).unwrap();
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    for epoch in 0..2 {
        save(&session, epoch, &[("val_loss", 0.5)], &model);
    }
    assert_eq!(state(&dir.join("real/x.weights.h5"))["save"], 2);
    assert_eq!(session.best_path().unwrap(), template(&dir, "2/x.weights.h5"));
    // A later session finds it behind the links.
    let later = Session::new(&template(&dir, "{epoch}/x.weights.h5"), options).unwrap();
    save(&later, 1, &[("val_loss", 0.5)], &model);
    assert_eq!(state(&dir.join("real/x.weights.h5"))["save"], 3);
}

#[test]
fn directories_go_with_the_last_file_that_they_were_made_for() {
    let dir = Scratch::new("session-directories");
    let mut options = weights_only();
    options.policy.keep_last = 1;
    fs::create_dir(dir.join("1")).unwrap();
    let session = Session::new(&template(&dir, "{epoch}/a/x.weights.h5"), options).unwrap();
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    for epoch in 0..5 {
        save(&session, epoch, &[("loss", 0.5)], &model);
        if epoch == 2 {
            fs::write(dir.join("3/somebody's"), b"").unwrap();
        }
    }
    assert_eq!(dir.names(), ["1", "3", "5"], "1 was there before, 3 is not empty");

    // A directory of somebody else's in the place of ours is not ours.
    fs::remove_dir_all(dir.join("5")).unwrap();
    fs::create_dir_all(dir.join("5/a")).unwrap();
    save(&session, 5, &[("loss", 0.5)], &model);
    assert_eq!(dir.names(), ["1", "3", "5", "6"]);

    fs::create_dir(dir.join("up")).unwrap();
    let mut options = weights_only();
    options.policy.keep_last = 1;
    let session = Session::new(&template(&dir, "up/../{epoch}0/x.weights.h5"), options).unwrap();
    for epoch in 0..3 {
        save(&session, epoch, &[("loss", 0.5)], &model);
    }
    assert_eq!(dir.names(), ["1", "3", "30", "5", "6", "up"]);
}

#[test]
fn what_others_have_replaced_is_left_alone() {
    let dir = Scratch::new("session-replaced");
    let mut options = weights_only();
    options.policy.keep_last = 1;
    let lines = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = lines.clone();
    options.log = Log::new(move |_, line| heard.lock().push(line.to_owned()));
    let template = template(&dir, "{epoch}.weights.h5");
    let first = Session::new(&template, options.clone()).unwrap();
    let second = Session::new(&template, options).unwrap();
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    save(&first, 0, &[("loss", 0.5)], &model);
    save(&second, 0, &[("loss", 0.5)], &model);
    save(&first, 1, &[("loss", 0.5)], &model);
    assert_eq!(dir.names(), ["1.weights.h5", "2.weights.h5"]);
    assert!(lines.lock().iter().any(|line| line.contains("1.weights.h5' is no longer")), "{lines:?}");
    fs::remove_file(dir.join("2.weights.h5")).unwrap();
    fs::write(dir.join("2.weights.h5"), b"somebody's").unwrap();
    save(&first, 2, &[("loss", 0.5)], &model);
    assert_eq!(dir.names(), ["1.weights.h5", "2.weights.h5", "3.weights.h5"]);
}

#[test]
fn a_save_in_the_log_of_another_outlives_it() {
    let dir = Scratch::new("session-reentrant");
    let slot: Arc<OnceLock<Session>> = Arc::new(OnceLock::new());
    let inner = slot.clone();
    let mut values = [1.0f32; 5];
    let model = Arc::new(model(&mut values));
    let again = model.clone();
    let log = Log::new(move |_, line| {
        if let Some(session) = inner.get()
            && line.contains("finished saving")
            && line.contains("0.40")
        {
            save(session, 2, &[("val_loss", 0.5)], &again);
        }
    });
    let mut options = Options { log, ..weights_only() };
    options.policy.keep_last = 1;
    options.policy.verbose = true;
    let session =
        slot.get_or_init(|| Session::new(&template(&dir, "{val_loss:.2f}.weights.h5"), options).unwrap());
    save(session, 0, &[("val_loss", 0.5)], &model);
    save(session, 1, &[("val_loss", 0.4)], &model);
    assert_eq!(dir.names(), ["0.40.weights.h5", "0.50.weights.h5"]);
}

#[test]
fn a_session_looks_only_where_its_template_leads() {
    let dir = Scratch::new("session-foreign");
    for foreign in ["1x", "b", "1/sub"] {
        fs::create_dir_all(dir.join(foreign)).unwrap();
        fs::write(dir.join(foreign).join(".ckpt-tmp-1"), b"not ours").unwrap();
    }
    fs::write(dir.join("1/.ckpt-tmp-1"), b"ours").unwrap();
    Session::new(&template(&dir, "{epoch}/{val/acc:.2f}.weights.h5"), weights_only()).unwrap();
    let stands = |below: &str| dir.join(below).join(".ckpt-tmp-1").exists();
    assert_eq!(["1x", "b", "1/sub", "1"].map(stands), [true, true, true, false]);
}

#[test]
fn preparing_says_early_what_would_fail_late() {
    let dir = Scratch::new("session-prepare");
    let mut values = [1.0f32; 5];
    let mut model = model(&mut values);
    let session = Session::new(&template(&dir, "new/dir/{epoch}.keras"), Options::default()).unwrap();
    assert_eq!(session.prepare(&model).unwrap_err().status(), Status::State);
    model.set_config(r#"{"module": "keras", "class_name": "Sequential", "config": {}}"#).unwrap();
    session.prepare(&model).unwrap();
    assert!(dir.join("new/dir").is_dir());
    let names: Vec<_> = fs::read_dir(dir.join("new/dir")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(matches!(&names[..], [lock] if lock.to_str().unwrap().starts_with(".ckpt-lock")), "{names:?}");

    fs::create_dir(dir.join("taken.keras")).unwrap();
    let session = Session::new(&template(&dir, "taken.keras"), Options::default()).unwrap();
    let error = session.prepare(&model).unwrap_err();
    assert_eq!((error.status(), error.os()), (Status::Io, 21), "{error}");

    fs::write(dir.join("file"), b"").unwrap();
    let session = Session::new(&template(&dir, "file/{epoch}.keras"), Options::default()).unwrap();
    assert_eq!(session.prepare(&model).unwrap_err().status(), Status::Io);
}
