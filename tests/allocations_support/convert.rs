//! One format into another.

use ckpt::session::{Async, convert};

use super::model::Weights;
use super::save::{check_names, save, session};
use super::{again, refusing};
use crate::scratch::Scratch;

pub fn into(dir: &Scratch, from: &str, to: &str) {
    let mut weights = Weights::new();
    weights.fill(1);
    save(&session(dir.path(), from, Async::Off), 0, &weights.model()).unwrap();
    let (src, dst) = (dir.join(from), dir.join(to.replace("m.", "converted.")));
    if let Err(error) = refusing(|| convert(&src, &dst)) {
        assert!(!dst.exists(), "after '{error}'");
        check_names(dir);
        again(error, || convert(&src, &dst));
    }
    assert_eq!(weights.time_of(&dst), 1);
    check_names(dir);
}
