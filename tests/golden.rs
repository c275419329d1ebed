//! The files under `tests/golden`: the good ones hold what is written beside them, the bad ones are refused.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ckpt::error::Result;
use ckpt::ffi::ckpt_status;
use ckpt::reader::Reader;

/// Golden files are small: a clone of the repository carries them forever.
const MOST_BYTES: u64 = 1 << 20;

/// No tensor in them is larger than this, whatever a bad one says.
const MOST_TENSOR_BYTES: u64 = 16 << 20;

/// The folders of a kind, one a format: `tests/golden/FORMAT/KIND`.
fn folders(kind: &str) -> Vec<PathBuf> {
    let formats = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"));
    let found: Vec<_> = formats.iter().map(|format| format.join(kind)).filter(|dir| dir.is_dir()).collect();
    assert!(kind == "bad" || !found.is_empty());
    found
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Whether a file is there for one of these checkpoints, an index: `m_00001.weights.h5` is for `m.weights.json`.
fn is_part(file: &str, of: &[&str]) -> bool {
    let mut stems = of.iter().filter(|index| index.ends_with(".json")).filter_map(|i| i.split('.').next());
    stems.any(|stem| file.strip_prefix(stem).is_some_and(|rest| rest.starts_with(['_', '-'])))
}

/// Every file in the folder is one of these, there for one of these, or one of the others.
fn assert_nothing_is_forgotten(folder: &Path, checkpoints: &[&str], others: impl Fn(&str) -> bool) {
    for path in files(folder) {
        let file = name(&path);
        let known = checkpoints.contains(&file) || is_part(file, checkpoints) || others(file);
        assert!(known, "{}: nothing says what it is", path.display());
    }
}

/// What a file holds, as the lines of an expectation.
fn describe(reader: &Reader, wanted: &str) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (i, spec) in reader.tensors().iter().enumerate() {
        assert!(spec.nbytes() <= MOST_TENSOR_BYTES, "{}: {} bytes", spec.path, spec.nbytes());
        let mut bytes = vec![0; spec.nbytes() as usize];
        reader.read(i, &mut bytes)?;
        let shape = format!("{:?}", spec.shape).replace(' ', "");
        lines.push(format!("{} {} {shape} {:08x}", spec.path, spec.dtype.name(), crc32fast::hash(&bytes)));
    }
    for (group, name) in reader.names() {
        let vars = format!("{group}/vars");
        lines.push(format!("@name {} {name}", vars.trim_start_matches('/')));
    }
    let (config, metadata) = (reader.config()?, reader.metadata()?);
    let texts = [
        ("@config", config.as_deref().map(str::as_bytes)),
        ("@metadata", metadata.as_deref().map(str::as_bytes)),
        ("@state", reader.state()?),
    ];
    let present = texts.iter().filter_map(|(key, text)| Some((key, (*text)?)));
    lines.extend(present.map(|(key, text)| format!("{key} {:08x}", crc32fast::hash(text))));
    // An expectation that says nothing of the names, or of the state, leaves them open.
    lines.retain(|line| match line.strip_prefix('@').and_then(|rest| rest.split(' ').next()) {
        Some(key) => wanted.lines().any(|w| w.starts_with(&format!("@{key} "))),
        None => true,
    });
    Ok(lines)
}

#[test]
fn good_files_hold_what_is_written_beside_them() {
    for folder in folders("good") {
        let all = files(&folder);
        let checkpoints: Vec<_> = all.iter().filter_map(|p| name(p).strip_suffix(".expected")).collect();
        assert_nothing_is_forgotten(&folder, &checkpoints, |file| file.ends_with(".expected"));
        for checkpoint in checkpoints {
            let path = folder.join(checkpoint);
            let wanted = std::fs::read_to_string(folder.join(format!("{checkpoint}.expected"))).unwrap();
            let reader = Reader::open(&path).unwrap_or_else(|e| panic!("{e}"));
            let found = describe(&reader, &wanted).unwrap_or_else(|e| panic!("{e}"));
            let listed = found.len();
            let found: BTreeSet<_> = found.iter().map(String::as_str).collect();
            assert_eq!(found.len(), listed, "{}: something is listed twice", path.display());
            let wanted: BTreeSet<_> = wanted.lines().collect();
            let (lost, new): (Vec<_>, Vec<_>) =
                (wanted.difference(&found).collect(), found.difference(&wanted).collect());
            assert!(
                lost.is_empty() && new.is_empty(),
                "{}: expected {lost:#?}, found {new:#?}",
                path.display()
            );
            reader.verify().unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

/// The lines of `bad.txt`: a file, the status that refuses it, and why.
fn refusals(text: &str) -> BTreeMap<&str, (&str, &str)> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let fields = lines.map(|line| {
        let (file, rest) = line.split_once(char::is_whitespace).unwrap_or_else(|| panic!("'{line}'"));
        let rest = rest.trim_start();
        (file, rest.split_once(char::is_whitespace).unwrap_or_else(|| panic!("'{line}': say why")))
    });
    fields.collect()
}

/// Opens a file and reads all that is in it.
fn read_all(path: &Path) -> Result<()> {
    let reader = Reader::open(path)?;
    describe(&reader, "@config \n@metadata \n@state ")?;
    reader.verify()
}

#[test]
fn bad_files_are_refused() {
    for folder in folders("bad") {
        let list = std::fs::read_to_string(folder.join("bad.txt")).unwrap();
        let refusals = refusals(&list);
        let checkpoints: Vec<_> = refusals.keys().copied().collect();
        assert_nothing_is_forgotten(&folder, &checkpoints, |file| file == "bad.txt");
        for (file, (status, reason)) in refusals {
            let path = folder.join(file);
            let Err(error) = read_all(&path) else { panic!("{} is read, though {reason}", path.display()) };
            assert_eq!(format!("{:?}", ckpt_status::from(error.status())), status, "{reason}: {error}");
            assert!(error.message().contains(name(&path)), "it does not name the file: {error}");
        }
    }
}

#[test]
fn all_of_them_are_small() {
    let folders = ["good", "bad"].into_iter().flat_map(folders);
    let sizes = folders.flat_map(|folder| files(&folder)).map(|file| file.metadata().unwrap().len());
    let all: u64 = sizes.sum();
    assert!(all < MOST_BYTES, "{all} bytes, more than {MOST_BYTES}");
}
