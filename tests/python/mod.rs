//! Runs the scripts of this folder: Python's own answers, to hold ours against.

use std::process::Command;

/// The lines that a script prints.
pub fn lines(script: &str, args: &[&str]) -> Vec<String> {
    let python = std::env::var("CKPT_TEST_PYTHON").expect(
        "CKPT_TEST_PYTHON is not set: run `make test`, or set CKPT_TEST_PYTHON to a Python with Keras",
    );
    let script = format!("{}/tests/python/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(&python).arg(&script).args(args).env("PYTHONUTF8", "1").output();
    let output = output.unwrap_or_else(|error| panic!("cannot run CKPT_TEST_PYTHON '{python}': {error}"));
    assert!(output.status.success(), "{python} {script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The seed of a random test: `CKPT_TEST_SEED`, or always the same.
pub fn seed() -> String {
    std::env::var("CKPT_TEST_SEED").unwrap_or("20260224".to_owned())
}
