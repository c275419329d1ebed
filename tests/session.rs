//! The session: what it finds when it begins, what travels in its files, what it keeps.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ckpt::engine::Buffer;
use ckpt::error::Status;
use ckpt::policy;
use ckpt::reader::{Reader, training_state};
use ckpt::session::{Level, Log, Model, Options, Session};
use ckpt::tensor::Dtype;
use serde_json::Value;

/// A directory of the test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("ckpt-session-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn template(&self, below: &str) -> String {
        format!("{}/{below}", self.0.display())
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
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
    serde_json::from_slice(&training_state(path).unwrap()).unwrap()
}

#[test]
fn the_save_counter_goes_on_from_the_largest_that_is_there() {
    let dir = Scratch::new("counter");
    let template = dir.template("run-{epoch}/w.weights.h5");
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    let first = Session::new(&template, weights_only()).unwrap();
    for epoch in [3, 1, 2] {
        save(&first, epoch, &[("val_loss", 0.5)], &model);
    }
    // What the template cannot have written does not count, nor does what is no checkpoint.
    fs::copy(dir.0.join("run-3/w.weights.h5"), dir.0.join("run-3/other.weights.h5")).unwrap();
    fs::create_dir(dir.0.join("run-9")).unwrap();
    fs::write(dir.0.join("run-9/w.weights.h5"), b"nothing").unwrap();
    let second = Session::new(&template, weights_only()).unwrap();
    save(&second, 7, &[("val_loss", 0.25)], &model);
    let state = state(&dir.0.join("run-8/w.weights.h5"));
    assert_eq!(state["save"], 4);
    assert_eq!(state["epoch"], 7);
    assert_eq!(state["metrics"]["val_loss"], 0.25);
}

#[test]
fn leftovers_go_from_every_directory_of_the_template_and_from_no_other() {
    let dir = Scratch::new("leftovers");
    for below in ["run-1", "run-1/deeper"] {
        fs::create_dir(dir.0.join(below)).unwrap();
    }
    let leftovers =
        ["run-1/.ckpt-tmp-1", ".ckpt-tmp-2", "run-1/deeper/.ckpt-tmp-3"].map(|name| dir.0.join(name));
    for path in &leftovers {
        fs::write(path, b"cut off").unwrap();
    }
    Session::new(&dir.template("run-{epoch}/w.weights.h5"), weights_only()).unwrap();
    assert_eq!(leftovers.map(|path| path.exists()), [false, false, true]);
}

#[test]
fn a_state_of_any_size_travels_whole() {
    let dir = Scratch::new("state");
    let session = Session::new(&dir.template("w.weights.h5"), weights_only()).unwrap();
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    let names: Vec<String> = (0..3000).map(|i| format!("metric number {i}")).collect();
    let logs: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 0.1)).collect();
    save(&session, 0, &[("loss", 0.5)], &model);
    save(&session, 1, &logs, &model);
    let path = dir.0.join("w.weights.h5");
    assert_eq!(state(&path)["metrics"].as_object().unwrap().len(), 3000);
    Reader::open(&path).unwrap().verify().unwrap();
}

#[test]
fn the_log_may_call_back() {
    let dir = Scratch::new("callback");
    let slot: Arc<OnceLock<Session>> = Arc::new(OnceLock::new());
    let lines = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let (inner, heard) = (slot.clone(), lines.clone());
    let log = Log::new(move |level, line| {
        heard.lock().push(format!("{level:?} {line}"));
        if let Some(session) = inner.get() {
            let _ = (session.should_save(), session.due_path(), session.best(), session.best_path());
            if level == Level::Warn {
                session.on_epoch_begin(5);
            }
        }
    });
    let mut options = Options { log, ..weights_only() };
    options.policy.save_best_only = true;
    options.policy.verbose = true;
    let session = slot.get_or_init(|| Session::new(&dir.template("w.weights.h5"), options).unwrap());
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    save(session, 0, &[("val_loss", 0.5)], &model);
    session.on_epoch_end(1, &[("loss", 0.5)]).unwrap();
    assert!(!session.should_save(), "the event in the callback has forgotten it");
    let path = dir.template("w.weights.h5");
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
    let dir = Scratch::new("rules");
    fs::write(dir.0.join("07.weights.h5"), b"an earlier run's").unwrap();
    let mut options = weights_only();
    options.policy.keep_last = 1;
    let session = Session::new(&dir.template("{epoch:02d}.weights.h5"), options).unwrap();
    let mut values = [1.0f32; 5];
    let model = model(&mut values);
    for (epoch, loss) in [0.5, 0.25, 0.75, 1.0].into_iter().enumerate() {
        save(&session, epoch as u64, &[("val_loss", loss)], &model);
    }
    assert_eq!(dir.files(), ["02.weights.h5", "04.weights.h5", "07.weights.h5"]);
    assert_eq!(session.best_path().unwrap(), dir.template("02.weights.h5"));
}

#[test]
fn preparing_says_early_what_would_fail_late() {
    let dir = Scratch::new("prepare");
    let mut values = [1.0f32; 5];
    let mut model = model(&mut values);
    let session = Session::new(&dir.template("new/dir/{epoch}.keras"), Options::default()).unwrap();
    assert_eq!(session.prepare(&model).unwrap_err().status(), Status::State);
    model.set_config(r#"{"module": "keras", "class_name": "Sequential", "config": {}}"#).unwrap();
    session.prepare(&model).unwrap();
    assert!(dir.0.join("new/dir").is_dir());
    assert_eq!(fs::read_dir(dir.0.join("new/dir")).unwrap().count(), 0);

    fs::write(dir.0.join("file"), b"").unwrap();
    let session = Session::new(&dir.template("file/{epoch}.keras"), Options::default()).unwrap();
    assert_eq!(session.prepare(&model).unwrap_err().status(), Status::Io);
}
