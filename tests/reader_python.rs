//! Reads what h5py, Keras and zipfile write, and compares with what they read from it.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ckpt::error::{Result, Status};
use ckpt::reader::{Reader, Target};
use parking_lot::Mutex;
use serde_json::Value;

/// The files, written once for all tests of this program.
fn files() -> &'static (PathBuf, Vec<Value>) {
    static FILES: OnceLock<(PathBuf, Vec<Value>)> = OnceLock::new();
    FILES.get_or_init(|| {
        let python = std::env::var("CKPT_TEST_PYTHON").unwrap_or_else(|_| {
            panic!("CKPT_TEST_PYTHON is not set: run `make test`, or set CKPT_TEST_PYTHON to a Python with keras and h5py")
        });
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reader_files");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/reader_files.py");
        let run = Command::new(python).arg(script).arg(&dir).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let manifest = std::fs::read(dir.join("manifest.json")).unwrap();
        let Value::Array(list) = serde_json::from_slice(&manifest).unwrap() else { panic!("no list") };
        (dir, list)
    })
}

fn each(mut check: impl FnMut(&str, PathBuf, &Value)) {
    let (dir, list) = files();
    for entry in list {
        let name = entry["file"].as_str().unwrap();
        check(name, dir.join(name), entry);
    }
}

/// A target that is read into, or only takes bytes, as one with strides does.
struct Memory {
    bytes: Mutex<Vec<u8>>,
    lent: bool,
}

impl Target for Memory {
    fn nbytes(&self) -> u64 {
        self.bytes.lock().len() as u64
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        self.bytes.lock()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn fill(&self, offset: u64, len: usize, read: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<bool> {
        if self.lent {
            read(&mut self.bytes.lock()[offset as usize..][..len])?;
        }
        Ok(self.lent)
    }
}

#[test]
fn lists_and_reads_what_python_wrote() {
    each(|name, path, entry| {
        let Some(expected) = entry["tensors"].as_array() else { return };
        let reader = Reader::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found: Vec<_> =
            reader.tensors().iter().map(|t| (t.path.as_str(), t.dtype.name(), &t.shape)).collect();
        let shapes: Vec<Vec<u64>> = expected
            .iter()
            .map(|t| t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect())
            .collect();
        let listed: Vec<_> = expected
            .iter()
            .zip(&shapes)
            .map(|(t, shape)| (t["path"].as_str().unwrap(), t["dtype"].as_str().unwrap(), shape))
            .collect();
        assert_eq!(found, listed, "{name}");
        let changed: Vec<_> = entry["changed"].as_array().into_iter().flatten().collect();
        for (i, t) in expected.iter().enumerate() {
            let path = t["path"].as_str().unwrap();
            assert_eq!(reader.find(path), Some(i), "{name}: {path}");
            let mut bytes = vec![0; t["nbytes"].as_u64().unwrap() as usize];
            let done = reader.read(i, &mut bytes);
            if let Some(word) = entry["refuses"][path].as_str() {
                let error = done.unwrap_err();
                assert_eq!(error.status(), Status::Unsupported, "{name}: {error}");
                assert!(error.message().contains(word), "{name}: {error}");
                continue;
            }
            if changed.contains(&&t["path"]) {
                let error = done.unwrap_err();
                assert_eq!(error.status(), Status::Format, "{name}: {error}");
                assert!(error.message().contains(&format!("'{path}'")), "{name}: {error}");
            } else {
                done.unwrap_or_else(|e| panic!("{name}: {path}: {e}"));
            }
            assert_eq!(u64::from(crc32fast::hash(&bytes)), t["crc"].as_u64().unwrap(), "{name}: {path}");
        }
        if let Some(names) = entry["names"].as_object() {
            let names: HashMap<_, _> = names.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect();
            assert_eq!(reader.names().collect::<HashMap<_, _>>(), names, "{name}");
        }
        assert_eq!(reader.find("layers"), None);
        assert_eq!(reader.find("libckpt/state"), None);
    });
}

#[test]
fn loads_whole_files_in_parallel() {
    each(|name, path, entry| {
        let Some(expected) = entry["tensors"].as_array() else { return };
        if entry["refuses"].is_object() {
            return;
        }
        let reader = Reader::open(&path).unwrap();
        for (threads, lent) in [(1, true), (4, false), (0, true)] {
            let memory: Vec<_> = reader
                .tensors()
                .iter()
                .map(|t| Memory { bytes: Mutex::new(vec![0; t.nbytes() as usize]), lent })
                .collect();
            let targets: Vec<_> = memory.iter().enumerate().map(|(i, m)| (i, m as &dyn Target)).collect();
            let done = reader.load(&targets, threads);
            match entry["changed"][0].as_str() {
                Some(first) => {
                    let error = done.unwrap_err();
                    assert_eq!(error.status(), Status::Format);
                    assert!(error.message().contains(&format!("'{first}'")), "{name}: {error}");
                }
                None => done.unwrap_or_else(|e| panic!("{name}: {e}")),
            }
            for (t, memory) in expected.iter().zip(&memory) {
                let crc = crc32fast::hash(&memory.bytes.lock());
                assert_eq!(u64::from(crc), t["crc"].as_u64().unwrap(), "{name}: {}", t["path"]);
            }
        }
    });
}

#[test]
fn verifies_and_reads_state_and_config() {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    each(|name, path, entry| {
        if entry["tensors"].is_null() {
            return;
        }
        let reader = Reader::open(&path).unwrap();
        let verified = reader.verify();
        let culprit = entry["changed"][0].as_str().or(entry["verify"].as_str());
        let culprit = culprit.or(entry["state_status"].as_str().map(|_| "libckpt/state"));
        match culprit {
            Some(culprit) => {
                let error = verified.unwrap_err();
                assert!(error.message().contains(&format!("'{culprit}'")), "{name}: {error}");
                *seen.entry("wrong").or_default() += 1;
            }
            None => verified.unwrap_or_else(|e| panic!("{name}: {e}")),
        }
        match (entry["state"].as_str(), entry["state_status"].as_str()) {
            (_, Some(_)) => assert_eq!(reader.state().unwrap_err().status(), Status::Format),
            (state, None) => {
                assert_eq!(reader.state().unwrap(), state.map(str::as_bytes), "{name}");
                *seen.entry("state").or_default() += u32::from(state.is_some());
            }
        }
        match entry["config_status"].as_str() {
            Some(status) => {
                assert_eq!(format!("{:?}", reader.config().unwrap_err().status()), status, "{name}")
            }
            None => assert_eq!(reader.config().unwrap().as_deref(), entry["config"].as_str(), "{name}"),
        }
    });
    assert!(seen["wrong"] >= 3 && seen["state"] >= 4, "{seen:?}");
}

#[test]
fn refuses_what_leads_elsewhere_or_is_damaged() {
    let mut count = 0;
    each(|name, path, entry| {
        let (Some(status), Some(says)) = (entry["status"].as_str(), entry["says"].as_str()) else { return };
        let error = Reader::open(&path).err().unwrap_or_else(|| panic!("{name} was opened"));
        assert_eq!(format!("{:?}", error.status()), status, "{name}: {error}");
        assert!(error.message().contains(says), "{name}: {error}");
        assert!(error.message().contains(name), "{name}: {error}");
        count += 1;
    });
    assert!(count > 15);
}

#[test]
fn refuses_paths_that_are_no_files() {
    let dir = &files().0;
    let status = |path: &Path| Reader::open(path).err().map(|e| (e.status(), e.os()));
    assert_eq!(status(&dir.join("missing")), Some((Status::NotFound, 0)));
    assert_eq!(status(dir), Some((Status::Io, libc::EISDIR)));
    assert_eq!(status(&dir.join("empty.h5/x")), Some((Status::Io, libc::ENOTDIR)));
    assert_eq!(status(Path::new("/dev/null")), Some((Status::Format, 0)));
}

#[test]
fn checks_sizes_and_indices() {
    let reader = Reader::open(&files().0.join("common-latest.h5")).unwrap();
    let i = reader.find("layers/int64/vars/0").unwrap();
    let error = reader.read(i, &mut [0; 119]).unwrap_err();
    assert_eq!(error.status(), Status::Mismatch);
    assert!(error.message().contains("120") && error.message().contains("119"), "{error}");
    let small = Memory { bytes: Mutex::new(vec![0; 8]), lent: true };
    assert_eq!(reader.load(&[(i, &small)], 0).unwrap_err().status(), Status::Mismatch);
    assert_eq!(reader.read(usize::MAX, &mut []).unwrap_err().status(), Status::InvalidArgument);
    assert_eq!(reader.load(&[(9999, &small)], 0).unwrap_err().status(), Status::InvalidArgument);
}

/// Files of others, damaged: no panic and no hang.
#[test]
fn survives_damaged_files_of_others() {
    let (dir, _) = files();
    let mut seed = 1_u64;
    let mut random = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % n
    };
    let path = dir.join("damaged");
    let mut opened = 0;
    let small = [
        "small-earliest.h5",
        "small-latest.h5",
        "edited-earliest.h5",
        "edited-latest.h5",
        "order-latest.h5",
        "resized-default.h5",
        "resized-latest.h5",
        "direct-latest.h5",
        "early-latest.h5",
        "plain-edges-latest.h5",
        "committed-v110.h5",
        "booleans-default.h5",
        "keras-dense.keras",
    ];
    for name in small {
        let good = std::fs::read(dir.join(name)).unwrap();
        for _ in 0..600 {
            let mut bytes = good.clone();
            for _ in 0..1 + random(6) {
                let at = random(bytes.len());
                bytes[at] = [0, 1, 0xff, random(256) as u8][random(4)];
            }
            std::fs::write(&path, &bytes).unwrap();
            let start = std::time::Instant::now();
            if let Ok(reader) = Reader::open(&path) {
                opened += 1;
                let _ = (reader.verify(), reader.state(), reader.config());
                for (i, t) in reader.tensors().iter().enumerate().filter(|(_, t)| t.nbytes() < 1 << 20) {
                    let _ = reader.read(i, &mut vec![0; t.nbytes() as usize]);
                }
            }
            assert!(start.elapsed() < std::time::Duration::from_secs(2), "{name}");
        }
    }
    assert!((1000..7000).contains(&opened), "{opened} of them were opened");
}
