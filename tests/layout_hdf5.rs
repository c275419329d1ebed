//! Random schemas, laid out by us, opened, read and edited by the HDF5 library.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod layout_support;

use std::collections::{BTreeMap, BTreeSet};

use ckpt::layout::schema::Node;
use ckpt::layout::{Format, Layout, Options, Schema, own, plan};
use ckpt::tensor::{Dtype, path_key};
use layout_support::hdf5::{self, Id};
use layout_support::{Random, Scratch, data, materialize, random_schema};

const CONFIG: &str = r#"{"module": "keras", "class_name": "Sequential", "config": {}}"#;

fn planned(schema: &Schema, format: Format) -> Layout {
    plan(schema, format, &Options { config: Some(CONFIG), ..Options::default() }).unwrap()
}

/// What a file must hold: changed along with it.
#[derive(Default)]
struct Model {
    groups: BTreeMap<String, Option<String>>,
    tensors: BTreeMap<String, (Dtype, Vec<u64>, Vec<u8>)>,
}

impl Model {
    fn new(schema: &Schema, data: &[Vec<u8>]) -> Model {
        let mut model = Model::default();
        let mut todo = vec![(String::new(), Schema::ROOT)];
        while let Some((path, id)) = todo.pop() {
            match schema.node(id) {
                Node::Group { children, name } => {
                    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
                    todo.extend(children.iter().map(|(name, &id)| (format!("{prefix}{name}"), id)));
                    model.groups.insert(path, name.as_deref().map(str::to_owned));
                }
                Node::Tensor(i) => {
                    let spec = &schema.tensors()[*i];
                    assert_eq!(path, spec.path);
                    model.tensors.insert(path, (spec.dtype, spec.shape.clone(), data[*i].clone()));
                }
            }
        }
        model
    }

    /// The names in each group.
    fn children(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut children: BTreeMap<&str, BTreeSet<&str>> =
            self.groups.keys().map(|path| (path.as_str(), BTreeSet::new())).collect();
        for path in self.groups.keys().chain(self.tensors.keys()).filter(|path| !path.is_empty()) {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            children.get_mut(parent).unwrap().insert(name);
        }
        children
    }

    /// Compares all of it with what the library sees.
    fn check(&self, file: &Id) {
        for (path, expected) in self.children() {
            let group = hdf5::group(file, if path.is_empty() { "/" } else { path });
            let mut names = hdf5::names(&group);
            names.retain(|name| !(path.is_empty() && name == own::OWN_GROUP));
            assert!(names.iter().map(String::as_str).eq(expected.iter().copied()), "{path}: {names:?}");
            assert_eq!(hdf5::string_attribute(&group, "name"), self.groups[path], "{path}");
            for name in expected {
                let inner = if path.is_empty() { (*name).to_owned() } else { format!("{path}/{name}") };
                let Some((dtype, shape, bytes)) = self.tensors.get(&inner) else { continue };
                let found = hdf5::read(&group, name, *dtype);
                assert_eq!(&found.shape, shape, "{inner}");
                assert!(found.bytes == *bytes, "{inner} differs");
                let expected = (*dtype == Dtype::Bf16).then(|| "bfloat16".to_owned());
                assert_eq!(found.dtype_attribute, expected);
            }
        }
    }

    /// Changes the file and this alike.
    fn edit(&mut self, file: &Id, r: &mut Random) {
        let groups: Vec<String> = self.groups.keys().cloned().collect();
        for i in 0..groups.len().min(20) {
            let path = &groups[r.below(groups.len())];
            if !self.groups.contains_key(path) {
                continue;
            }
            let group = hdf5::group(file, if path.is_empty() { "/" } else { path });
            let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            match r.below(5) {
                0 => {
                    let name = format!("new group {i} {}", r.next());
                    hdf5::create_group(&group, &name);
                    self.groups.insert(inner(&name), None);
                }
                1 => {
                    let name = "n".repeat(r.below(3000)) + &i.to_string();
                    hdf5::set_string_attribute(&group, "name", &name);
                    self.groups.insert(path.clone(), Some(name));
                }
                2 => {
                    let prefix = inner("");
                    let mine = self
                        .tensors
                        .keys()
                        .filter(|p| p.strip_prefix(&prefix).is_some_and(|name| !name.contains('/')));
                    let mine: Vec<String> = mine.cloned().collect();
                    for path in mine.iter().filter(|_| r.below(3) > 0) {
                        hdf5::delete(&group, &path[prefix.len()..]);
                        self.tensors.remove(path);
                    }
                }
                3 if !path.is_empty() => {
                    hdf5::delete(file, path);
                    let prefix = inner("");
                    self.groups.retain(|p, _| p != path && !p.starts_with(&prefix));
                    self.tensors.retain(|p, _| !p.starts_with(&prefix));
                }
                _ => {
                    for k in 0..1 + r.below(20) {
                        let (name, bytes) = (format!("new {k} {}", r.next()), vec![k as u8; 12]);
                        hdf5::create(&group, &name, Dtype::I16, &[2, 3], &bytes);
                        self.tensors.insert(inner(&name), (Dtype::I16, vec![2, 3], bytes));
                    }
                }
            }
        }
    }
}

#[test]
fn the_library_reads_and_edits_random_files() {
    let _held = hdf5::lock();
    let scratch = Scratch::new("layout-random");
    for seed in 0..120 {
        let mut r = Random(seed);
        let n = r.pick(&[0, 1, 5, 20, 60, 300]);
        let schema = random_schema(&mut r, n);
        let data = data(&schema, &mut r);
        let mut model = Model::new(&schema, &data);
        let format = r.pick(&[Format::WeightsH5, Format::Keras]);
        let file = materialize(&mut planned(&schema, format), &data, b"{}");
        let path = scratch.write("file.h5", &file);
        println!("seed {seed}, {n} tensors, {format:?}");
        model.check(&hdf5::open(&path, false));
        for _ in 0..2 {
            model.edit(&hdf5::open(&path, true), &mut r);
            model.check(&hdf5::open(&path, false));
        }
    }
}

#[test]
fn our_group_holds_the_state_and_the_checksums() {
    let _held = hdf5::lock();
    let scratch = Scratch::new("layout-own");
    let mut r = Random(7);
    let schema = random_schema(&mut r, 40);
    let data = data(&schema, &mut r);
    for format in [Format::WeightsH5, Format::Keras] {
        let mut layout = planned(&schema, format);
        materialize(&mut layout, &data, &[b'x'; 4096]);
        let file = materialize(&mut layout, &data, br#"{"epoch": 3}"#);
        let file = hdf5::open(&scratch.write("file.h5", &file), false);
        let group = hdf5::group(&file, own::OWN_GROUP);
        assert_eq!(hdf5::names(&group), [own::CHECKSUMS, own::STATE]);
        let state = hdf5::read(&group, own::STATE, Dtype::U8);
        assert_eq!(state.shape, [own::STATE_CAPACITY as u64]);
        assert_eq!(std::str::from_utf8(&state.bytes).unwrap().trim_end(), r#"{"epoch": 3}"#);

        let table = hdf5::read(&group, own::CHECKSUMS, Dtype::U64);
        assert_eq!(table.shape, [schema.tensors().len() as u64 + 1, 2]);
        let words: Vec<u64> =
            table.bytes.chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
        let rows: Vec<(u64, u64)> = words.chunks(2).map(|row| (row[0], row[1])).collect();
        assert!(rows.is_sorted_by_key(|row| row.0));
        let own_spec = ckpt::tensor::TensorSpec {
            path: own::STATE_PATH.into(),
            dtype: Dtype::U8,
            shape: state.shape.clone(),
        };
        let all = schema.tensors().iter().zip(&data).chain([(&own_spec, &state.bytes)]);
        for (spec, bytes) in all {
            let row = (path_key(&spec.path), spec.checksum(crc32fast::hash(bytes)).into());
            assert!(rows.contains(&row), "{}", spec.path);
        }
    }
}

#[test]
fn a_hundred_thousand_children() {
    let _held = hdf5::lock();
    let scratch = Scratch::new("layout-many");
    let mut schema = Schema::new();
    for i in 0..100_000 {
        schema.add(&format!("optimizer/vars/{i}"), Dtype::U8, &[1]).unwrap();
    }
    let data: Vec<Vec<u8>> = (0..100_000u32).map(|i| vec![(i % 251) as u8]).collect();
    let path = scratch.write("many.h5", &materialize(&mut planned(&schema, Format::WeightsH5), &data, b""));
    let mut model = Model::new(&schema, &data);
    {
        let file = hdf5::open(&path, true);
        let group = hdf5::group(&file, "optimizer/vars");
        assert_eq!(hdf5::names(&group).len(), 100_000);
        for i in (0..100_000).step_by(997) {
            assert_eq!(hdf5::read(&group, &i.to_string(), Dtype::U8).bytes, data[i]);
        }
        for i in 0..2_000 {
            let (gone, new) = ((i * 37).to_string(), format!("{}x", i * 41));
            hdf5::delete(&group, &gone);
            hdf5::create(&group, &new, Dtype::U8, &[1], &[7]);
            model.tensors.remove(&format!("optimizer/vars/{gone}"));
            model.tensors.insert(format!("optimizer/vars/{new}"), (Dtype::U8, vec![1], vec![7]));
        }
    }
    model.check(&hdf5::open(&path, false));
}

#[test]
fn a_deep_path() {
    let _held = hdf5::lock();
    let scratch = Scratch::new("layout-deep");
    let mut schema = Schema::new();
    let path = vec!["a"; 2_000].join("/");
    schema.add(&path, Dtype::F32, &[]).unwrap();
    let file = materialize(&mut planned(&schema, Format::WeightsH5), &[vec![1, 2, 3, 4]], b"");
    let file = hdf5::open(&scratch.write("deep.h5", &file), false);
    assert_eq!(hdf5::read(&file, &path, Dtype::F32).bytes, [1, 2, 3, 4]);
}

/// Names whose bytes end at the end of a collection of the global heap, or some bytes before.
#[test]
fn names_that_fill_the_heap() {
    let _held = hdf5::lock();
    let scratch = Scratch::new("layout-heap");
    for len in (4000..4100).chain([10, 500, 60_000]) {
        let mut schema = Schema::new();
        for group in ["a", "b"] {
            schema.set_name(group, &group.repeat(len)).unwrap();
        }
        let path = scratch.write("heap.h5", &materialize(&mut planned(&schema, Format::WeightsH5), &[], b""));
        let mut model = Model::new(&schema, &[]);
        model.check(&hdf5::open(&path, false));
        for (group, name) in [("b", "short".to_owned()), ("a", "long".repeat(2_000))] {
            let file = hdf5::open(&path, true);
            let path = format!("{group}/vars");
            hdf5::set_string_attribute(&hdf5::group(&file, &path), "name", &name);
            model.groups.insert(path, Some(name));
        }
        model.check(&hdf5::open(&path, false));
    }
}
