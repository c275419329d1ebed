//! A session whose checkpoints are several files: what is kept and what goes, and what a save takes.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod scratch;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use ckpt::engine::Buffer;
use ckpt::error::Status;
use ckpt::policy;
use ckpt::reader::{Reader, training_state};
use ckpt::session::{Model, Options, Session};
use ckpt::tensor::Dtype;
use scratch::Scratch;

/// Three variables of 40 bytes: three shards.
fn model(values: &mut [f32; 30]) -> Model {
    let mut model = Model::new();
    for (i, part) in values.chunks_mut(10).enumerate() {
        // SAFETY: the values outlive the model in every test, which touches them through it alone meanwhile.
        let buffer = unsafe { Buffer::new(part.as_mut_ptr().cast(), 4, &[10], None) }.unwrap();
        model.add(&format!("layers/dense/vars/{i}"), Dtype::F32, &[10], buffer).unwrap();
    }
    model
}

fn session(dir: &Scratch, name: &str, change: impl FnOnce(&mut policy::Options)) -> Session {
    let mut policy = policy::Options { save_weights_only: true, ..policy::Options::default() };
    change(&mut policy);
    let options = Options { policy, durable: false, max_shard_bytes: 40, ..Options::default() };
    Session::new(dir.join(name).to_str().unwrap(), options).unwrap()
}

fn save(session: &Session, epoch: u64, logs: &[(&str, f64)], model: &Model) {
    session.on_epoch_end(epoch, &logs).unwrap();
    session.save(model).unwrap();
}

/// The files of a base: `i` for the index, `f` for the one that Keras opens first, and the number of shards.
fn files(dir: &Path, base: &str) -> String {
    let (mut all, mut shards) = (String::new(), 0);
    for entry in fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        match name.strip_prefix(base) {
            Some(".weights.json") => all.push('i'),
            Some("_00000.weights.h5") => all.push('f'),
            Some(rest) if rest.starts_with('_') => shards += 1,
            _ => {}
        }
    }
    let mut all: Vec<char> = all.chars().collect();
    all.sort_unstable();
    format!("{}{shards}", String::from_iter(all))
}

#[test]
fn rules_remove_all_files_of_a_checkpoint() {
    let dir = Scratch::new("session-shards");
    let session = session(&dir, "m-{epoch}.weights.json", |policy| policy.keep_last = 1);
    let mut values = [1.0; 30];
    let model = model(&mut values);
    for epoch in 0..3 {
        save(&session, epoch, &[("val_loss", 1.0 - epoch as f64)], &model);
    }
    assert_eq!([1, 2, 3].map(|n| files(dir.path(), &format!("m-{n}"))), ["0", "0", "fi3"]);
    Reader::open(&dir.join("m-3.weights.json")).unwrap().verify().unwrap();
}

#[test]
fn a_path_that_is_saved_to_again_is_removed_whole() {
    let dir = Scratch::new("session-shards");
    let session = session(&dir, "m-{loss:.0f}.weights.json", |policy| policy.keep_last = 1);
    let mut values = [1.0; 30];
    let model = model(&mut values);
    // The best stays too: these are no better than the first.
    save(&session, 0, &[("val_loss", 0.0), ("loss", 7.0)], &model);
    for (epoch, loss) in [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)] {
        save(&session, epoch, &[("val_loss", 1.0), ("loss", loss)], &model);
        assert_eq!(files(dir.path(), &format!("m-{loss}")), "fi3");
    }
    assert_eq!(files(dir.path(), "m-1"), "0", "{:?}", dir.names());
    assert_eq!(files(dir.path(), "m-7"), "fi3");
}

#[test]
fn what_others_wrote_beside_a_checkpoint_stays() {
    let dir = Scratch::new("session-shards");
    let session = session(&dir, "m-{epoch}.weights.json", |policy| policy.keep_last = 1);
    let mut values = [1.0; 30];
    let model = model(&mut values);
    // A shard of Keras', there before; and one that Keras wrote over the file that was ours.
    let shard = b"\x89HDF\r\n\x1a\nKeras";
    fs::write(dir.join("m-1_00000.weights.h5"), shard).unwrap();
    save(&session, 0, &[], &model);
    save(&session, 1, &[], &model);
    fs::write(dir.join("m-2_00000.weights.h5"), shard).unwrap();
    fs::write(dir.join("m-2_00001.weights.h5"), b"Keras").unwrap();
    save(&session, 2, &[], &model);
    assert_eq!([1, 2, 3].map(|n| files(dir.path(), &format!("m-{n}"))), ["f0", "f1", "fi3"]);
}

#[test]
fn directories_go_with_the_last_of_the_files() {
    let dir = Scratch::new("session-shards");
    let session = session(&dir, "run-{epoch}/m.weights.json", |policy| policy.keep_last = 1);
    let mut values = [1.0; 30];
    let model = model(&mut values);
    save(&session, 0, &[], &model);
    save(&session, 1, &[], &model);
    assert_eq!(dir.names(), ["run-2"]);
}

#[test]
fn the_save_counter_is_read_from_the_index_alone() {
    let dir = Scratch::new("session-shards");
    let mut values = [1.0; 30];
    let model = model(&mut values);
    for n in 1..=3 {
        let session = session(&dir, "m.weights.json", |_| ());
        save(&session, 0, &[], &model);
        let state: serde_json::Value =
            serde_json::from_slice(&training_state(&dir.join("m.weights.json")).unwrap().unwrap()).unwrap();
        assert_eq!(state["save"], n);
        assert_eq!(files(dir.path(), "m"), "fi3");
        for name in dir.names().iter().filter(|name| name.ends_with(".h5")) {
            fs::write(dir.join(name), b"damaged").unwrap();
        }
    }
}

#[test]
fn a_save_counts_the_bytes_of_all_files() {
    let dir = Scratch::new("session-shards");
    let session = session(&dir, "m.weights.json", |_| ());
    let mut values = [1.0; 30];
    let model = model(&mut values);
    session.prepare(&model).unwrap();
    save(&session, 0, &[], &model);
    let sizes = dir.names().into_iter().map(|name| fs::metadata(dir.join(name)).unwrap().len());
    assert_eq!(session.last_stats().unwrap().bytes, sizes.sum::<u64>());
}

#[test]
fn a_model_is_saved_and_loaded_without_a_session() {
    let dir = Scratch::new("session-shards");
    let path = dir.join("m.weights.json");
    let mut values: [f32; 30] = std::array::from_fn(|i| i as f32);
    model(&mut values).save(&path).unwrap();
    assert_eq!(files(dir.path(), "m"), "fi1");
    let mut found = [0.0; 30];
    model(&mut found).load(&Reader::open(&path).unwrap(), 0).unwrap();
    assert_eq!(values, found);
}

#[test]
fn a_reader_meets_a_whole_checkpoint_whenever_it_looks() {
    let dir = Scratch::new("session-shards");
    let path = dir.join("m.weights.json");
    let savers_left = AtomicU32::new(2);
    thread::scope(|scope| {
        for saver in 0..2 {
            let (dir, savers_left) = (&dir, &savers_left);
            scope.spawn(move || {
                let session = session(dir, "m.weights.json", |_| ());
                for epoch in 0..150u32 {
                    let mut values = [(2 * epoch + saver) as f32; 30];
                    save(&session, epoch.into(), &[], &model(&mut values));
                }
                savers_left.fetch_sub(1, Relaxed);
            });
        }
        let mut looks = 0;
        while savers_left.load(Relaxed) > 0 {
            let reader = match Reader::open(&path) {
                Err(e) if e.status() == Status::NotFound && looks == 0 => continue,
                reader => reader.unwrap_or_else(|e| panic!("look {looks}: {e}")),
            };
            let mut values = [-1.0; 30];
            model(&mut values).load(&reader, 1).unwrap();
            assert!(values.iter().all(|v| *v == values[0] && *v >= 0.0), "{values:?}");
            looks += 1;
        }
        assert!(looks > 20, "only {looks} looks");
    });
    // The last two may have met: then neither could remove the shards of the one that came first.
    save(&session(&dir, "m.weights.json", |_| ()), 0, &[], &model(&mut [1.0; 30]));
    assert_eq!(files(dir.path(), "m"), "fi3", "{:?}", dir.names());
}

#[test]
fn a_copy_of_an_index_keeps_its_shards() {
    let dir = Scratch::new("session-shards");
    let session = session(&dir, "m-{epoch}.weights.json", |policy| policy.keep_last = 1);
    let mut values = [1.0; 30];
    let model = model(&mut values);
    save(&session, 0, &[], &model);
    fs::copy(dir.join("m-1.weights.json"), dir.join("good.weights.json")).unwrap();
    save(&session, 1, &[], &model);
    save(&session, 2, &[], &model);
    assert_eq!([1, 2, 3].map(|n| files(dir.path(), &format!("m-{n}"))), ["3", "0", "fi3"]);
    Reader::open(&dir.join("good.weights.json")).unwrap().verify().unwrap();
}

#[test]
fn what_an_earlier_session_has_put_beside_a_checkpoint_goes_with_it() {
    let dir = Scratch::new("session-shards");
    let mut values = [1.0; 30];
    let model = model(&mut values);
    for keep_last in [0, 1] {
        let session = session(&dir, "m-{epoch}.weights.json", |policy| policy.keep_last = keep_last);
        for epoch in 0..3 {
            save(&session, epoch, &[], &model);
        }
    }
    assert_eq!([1, 2, 3].map(|n| files(dir.path(), &format!("m-{n}"))), ["0", "0", "fi3"]);
}
