//! Files that were made to do harm: each is refused, or read as it should be, within a second and within memory
//! that the file accounts for. docs/reliability.md lists them.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

mod hostile_support;
mod layout_support;
mod meter;
#[path = "fuzz_support/ours.rs"]
mod ours;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use ckpt::error::Status;
use ckpt::layout::{Format, Options, Schema, plan};
use ckpt::reader::{Reader, training_state};
use ckpt::session::save_counter;
use ckpt::tensor::{Dtype, max_path_bytes};
use hostile_support::*;
use layout_support::{Scratch, materialize};
use ours::Ours;

/// A small file of ours, and its tensors by path.
fn ours(format: Format) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let mut schema = Schema::new();
    for (path, dtype, shape) in [
        ("layers/dense/vars/0", Dtype::F32, &[3, 2][..]),
        ("layers/dense/vars/1", Dtype::Bf16, &[2]),
        ("layers/flags", Dtype::Bool, &[3]),
        ("optimizer/vars/0", Dtype::I64, &[]),
    ] {
        schema.add(path, dtype, shape).unwrap();
    }
    schema.set_name("layers/dense", "dense").unwrap();
    let Ours { mut files, truth } = Ours::of(&schema, format);
    let tensors = truth.tensors.into_iter().map(|(path, (_, bytes))| (path, bytes)).collect();
    (files.swap_remove(0).1, tensors)
}

const OURS: [Format; 2] = [Format::WeightsH5, Format::Keras];
const SINGLE_FILES: [Format; 4] = [Format::WeightsH5, Format::Keras, Format::LegacyH5, Format::Safetensors];

#[test]
fn every_truncation_is_refused() {
    let scratch = Scratch::new("hostile-cut");
    for format in SINGLE_FILES {
        let (bytes, tensors) = ours(format);
        let path = scratch.write("file", &bytes);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        assert_eq!(attack_path(&path, bytes.len() as u64, 0).unwrap().tensors.len(), tensors.len());
        for len in (0..bytes.len() as u64).rev() {
            file.set_len(len).unwrap();
            attack_path(&path, len, 0).expect_err("it was read");
        }
    }
}

#[test]
fn every_flipped_bit_is_found_or_does_no_harm() {
    let scratch = Scratch::new("hostile-bits");
    for format in SINGLE_FILES {
        let (mut bytes, tensors) = ours(format);
        let path = scratch.write("file", &bytes);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let (mut refused, mut harmless) = (0, 0);
        // Of the larger files, whose datasets are the same, one bit of each byte.
        let step = if matches!(format, Format::Keras | Format::LegacyH5) { 9 } else { 1 };
        for at in (0..bytes.len() * 8).step_by(step) {
            bytes[at / 8] ^= 1 << (at % 8);
            file.write_all_at(&bytes[at / 8..=at / 8], at as u64 / 8).unwrap();
            match attack_path(&path, bytes.len() as u64, 0) {
                Err(_) => refused += 1,
                Ok(found) => {
                    harmless += 1;
                    for (path, data) in found.tensors {
                        let good = tensors.iter().find(|tensor| tensor.0 == path);
                        assert!(good.is_some_and(|good| good.1 == data), "'{path}' is wrong, bit {at}");
                    }
                }
            }
            bytes[at / 8] ^= 1 << (at % 8);
            file.write_all_at(&bytes[at / 8..=at / 8], at as u64 / 8).unwrap();
        }
        assert!(refused > 1000 && harmless > 0, "{refused} refused, {harmless} harmless");
    }
}

/// What a dataset claims to be.
#[test]
fn shape_bombs_are_refused() {
    let one = |shape: &[u64], layout: &[u8]| Image::with(&[("x", dataset(shape, layout))]);
    for shape in [vec![1 << 62], vec![1 << 40, 1 << 40], vec![u64::MAX; 32], vec![3, u64::MAX, 1 << 63]] {
        let why = one(&shape, &contiguous(0, 8)).refusal();
        assert!(why.contains("2^63") || why.contains("needs"), "{why}");
    }
    assert!(one(&[1 << 40], &contiguous(0, 1 << 40)).refusal().contains("beyond the end"));
    assert!(one(&[1 << 40], &contiguous(0, 8)).refusal().contains("needs"));
    assert!(one(&[8], &contiguous(u64::MAX - 3, 8)).refusal().contains("beyond the end"));
    assert!(one(&[9], &[&[3, 0, 8, 0][..], &[7; 8]].concat()).refusal().contains("needs 9 bytes"));
    assert!(one(&[2; 33], &contiguous(0, 8)).refusal().contains("rank 33"));
    // Nothing, whatever the other sizes say.
    let nothing = one(&[u64::MAX, 0, u64::MAX], &contiguous(0, 8)).finish();
    assert_eq!(attack(&nothing).unwrap().tensors, [("x".to_owned(), vec![])]);
}

/// One tensor's bytes under two names of datasets: what one changes the other has.
#[test]
fn overlapping_datasets_are_refused() {
    let two = |at, len| {
        Image::with(&[("a", dataset(&[8], &contiguous(0, 8))), ("b", dataset(&[len], &contiguous(at, len)))])
    };
    for (at, len) in [(7, 8), (0, 8), (2, 3), (0, 100)] {
        assert!(two(at, len).refusal().contains("overlap"));
    }
    attack(&two(8, 8).finish()).unwrap();
}

/// Links that lead elsewhere, or in circles.
#[test]
fn links_that_lead_away_or_back_are_refused() {
    let typed = |class: u8, target: &[u8]| {
        let body = [&[1, 8, class, 1][..], b"x", &(target.len() as u16).to_le_bytes(), target].concat();
        Image::new(&header(&[group_mark(), message(kind::LINK, &body)]))
    };
    assert!(typed(1, b"/elsewhere").refusal().contains("soft link"));
    assert!(typed(64, b"\0other.h5\0/x\0").refusal().contains("external"));
    assert!(typed(200, b"mine").refusal().contains("external or user-defined"));
    // To the root, and to one group from two places.
    let mut looped = Image::empty();
    let group = header(&[group_mark(), link("root", 0)]);
    let at = looped.put(&group);
    looped.root(&header(&[group_mark(), link("a", at)]));
    let root = looped.0[64..72].to_vec();
    looped.set(at + group.len() as u64 - 8, &root);
    let mut diamond = Image::empty();
    let shared = diamond.put(&header(&[group_mark()]));
    diamond.root(&header(&[group_mark(), link("a", shared), link("b", shared)]));
    assert!(diamond.refusal().contains("linked to from another place"));
    for (name, header) in [("", 0), ("a/b", 0), ("a\0b", 0)] {
        let image = Image::new(&hostile_support::header(&[group_mark(), link(name, header)]));
        assert!(image.refusal().contains("cannot be the name"));
    }
}

/// The same dataset under many names: each is a tensor of its size, the file has it once.
#[test]
fn one_dataset_under_many_names_is_bounded() {
    let size = 4 << 20;
    let mut image = Image::empty();
    let data = image.put(&vec![7; size as usize]);
    let shared = image.put(&dataset(&[size], &contiguous(data, size)));
    let links: Vec<_> = (0..50_000).map(|i| link(&format!("{i:05}"), shared)).collect();
    let chunk = image.put(&links.concat());
    let len = links.concat().len() as u64;
    image.root(&header(&[group_mark(), message(kind::CONTINUATION, &words(&[chunk, len]))]));
    assert!(image.refusal().contains("same datasets over and over"));
}

/// Groups in groups, and names that fill the memory.
#[test]
fn deep_groups_and_long_names_are_bounded() {
    let deep = |levels: u64, name: &str| {
        let object = |at: u64| header(&[group_mark(), link(name, at)]);
        let step = object(0).len().next_multiple_of(8) as u64;
        let mut image = Image::new(&object(ROOT + step));
        for i in 1..levels {
            image.put(&object(ROOT + step * (i + 1)));
        }
        image.put(&header(&[group_mark()]));
        image
    };
    attack(&deep(1000, "a").finish()).unwrap();
    for (levels, name) in [(100_000, "a"), (1_000, &"n".repeat(1_000)[..])] {
        let (scratch, bytes) = (Scratch::new("hostile-deep"), deep(levels, name).finish());
        let len = bytes.len() as u64;
        let why = attack_path(&scratch.write("file", &bytes), len, max_path_bytes(len)).unwrap_err();
        assert!(why.contains("nested too deep"), "{why}");
    }
    // Many groups whose names are one text in a heap.
    let mut image = Image::empty();
    let text = 60_000;
    let mut heap = [&b"GCOL\x01\0\0\0"[..], &words(&[text + 40])].concat();
    heap.extend([&[1, 0, 1, 0, 0, 0, 0, 0][..], &words(&[text]), &vec![b'n'; text as usize]].concat());
    let heap = image.put(&heap);
    let vars = header(&[group_mark(), name_attribute(text as u32, heap, 1)]);
    let mut links = vec![group_mark()];
    for i in 0..2000 {
        let vars = image.put(&vars);
        let group = image.put(&header(&[group_mark(), link("vars", vars)]));
        links.push(link(&format!("{i}"), group));
    }
    image.root(&header(&links));
    let (scratch, bytes) = (Scratch::new("hostile-names"), image.finish());
    let len = bytes.len() as u64;
    let why = attack_path(&scratch.write("file", &bytes), len, max_path_bytes(len)).unwrap_err();
    assert!(why.contains("names too long") || why.contains("over and over"), "{why}");
}

/// Object headers that go on, or hold nothing but messages.
#[test]
fn header_bombs_are_refused() {
    let next = |at: u64, len: u64| message(kind::CONTINUATION, &words(&[at, len]));
    assert!(Image::new(&header(&[next(ROOT + 16, 24)])).refusal().contains("without end"));
    assert!(Image::new(&header(&[next(1 << 50, 24)])).refusal().contains("beyond its end"));
    assert!(Image::new(&header(&[next(0, u64::MAX)])).refusal().contains("beyond its end"));
    let mut huge = Image::new(&header(&[group_mark()]));
    huge.set(ROOT + 8, &[0xff; 4]);
    assert!(huge.refusal().contains("beyond its end"));
    // A large chunk many times, and one of messages that are empty.
    let mut image = Image::new(&header(&[group_mark(), next(0, 0), group_mark()]));
    let empty = message(kind::ATTRIBUTE, &[]).repeat(1 << 20);
    let chunk = image.put(&empty);
    image.set(ROOT + 16 + group_mark().len() as u64 + 8, &words(&[chunk, empty.len() as u64]));
    let why = image.refusal();
    assert!(why.contains("more messages"), "{why}");
    let many = (0..1000).map(|_| next(65_536, 4096)).collect::<Vec<_>>();
    let mut image = Image::new(&header(&many));
    image.put(&vec![0; 1 << 20]);
    assert!(image.refusal().contains("without end"));
}

/// Trees and heaps of a symbol table that claim too much, or go round.
#[test]
fn symbol_table_bombs_are_refused() {
    let table = |tree, heap| Image::new(&header(&[message(kind::SYMBOL_TABLE, &words(&[tree, heap]))]));
    let place = table(0, 0).end();
    assert!(table(0, 1 << 60).refusal().contains("beyond its end"));
    assert!(table(place, 0).refusal().contains("no local heap"));
    let heap = |size, at| [&b"HEAP\0\0\0\0"[..], &words(&[size, 1, at])].concat();
    for size in [1 << 62, u64::MAX, 1 << 32] {
        let mut image = table(place, place);
        image.put(&heap(size, 0));
        assert!(image.refusal().contains("beyond its end"));
    }
    // A node that has ten thousands of children where the file ends, and one that is its own child.
    let tree = |level: u8, used: u16, child: u64| {
        [&b"TREE\0"[..], &[level], &used.to_le_bytes(), &words(&[UNDEFINED, UNDEFINED, 8, child, 8])].concat()
    };
    let heap_len = heap(0, 0).len() as u64 + 16;
    for (node, why) in [
        (tree(0, 65_535, 0), "beyond its end"),
        (tree(0, 1, place + heap_len), "over and over"),
        (tree(0, 1, place), "no node of a symbol table"),
    ] {
        let mut image = table(place + heap_len, place);
        image.put(&heap(16, place + 32));
        image.put(b"\0\0\0\0\0\0\0\0a\0\0\0\0\0\0\0");
        image.put(&node);
        let found = image.refusal();
        assert!(found.contains(why), "{found}");
    }
    let mut image = table(place + heap_len, place);
    image.put(&heap(16, place + 32));
    image.put(&[0; 16]);
    image.put(&tree(9, 1, place + heap_len));
    let found = image.refusal();
    assert!(found.contains("over and over"), "{found}");
}

/// What a superblock can claim.
#[test]
fn superblock_tricks_are_refused() {
    let sound = || Image::with(&[("x", dataset(&[8], &contiguous(0, 8)))]);
    let with = |at: u64, bytes: &[u8]| {
        let mut image = Image(sound().finish());
        image.set(at, bytes);
        image.0
    };
    assert_eq!(attack(&sound().finish()).unwrap().tensors.len(), 1);
    assert!(refusal(&with(8, &[9])).contains("version 9"));
    assert!(refusal(&with(13, &[4])).contains("4 bytes"));
    assert!(refusal(&with(24, &words(&[1 << 40]))).contains("cut off"));
    assert!(refusal(&with(40, &words(&[1 << 40]))).contains("cut off"));
    assert!(refusal(&with(48, &words(&[96]))).contains("several"));
    assert!(refusal(&with(64, &words(&[1 << 40]))).contains("beyond its end"));
    assert!(refusal(&with(64, &words(&[0]))).contains("no object header"));
    assert!(refusal(&with(0, b"\x89HDG")).contains("neither"));
    // Behind a user block of zeros, and behind one that is none of the sizes where a superblock can be.
    let behind = |n| [vec![0; n], sound().finish()].concat();
    assert_eq!(attack(&behind(512)).unwrap().tensors.len(), 1);
    assert_eq!(attack(&behind(2048)).unwrap().tensors.len(), 1);
    assert!(refusal(&behind(1536)).contains("neither"));
}

/// Attributes whose parts reach beyond them, and texts that are not where they are said to be.
#[test]
fn attribute_bombs_are_refused() {
    let vars = |attribute: Vec<u8>| {
        let mut image = Image::empty();
        let vars = image.put(&header(&[group_mark(), attribute]));
        let group = image.put(&header(&[group_mark(), link("vars", vars)]));
        image.root(&header(&[group_mark(), link("a", group)]));
        image
    };
    for part in [10, 12, 14] {
        let mut attribute = name_attribute(3, 0, 1);
        attribute[part..part + 2].fill(0xff);
        assert!(vars(attribute).refusal().contains("cut off"));
    }
    for heap in [0, 1 << 40, UNDEFINED] {
        let why = vars(name_attribute(3, heap, 1)).refusal();
        assert!(why.contains("global heap") || why.contains("beyond"), "{why}");
    }
}

/// A file that another program cuts off, or writes over, while it is read.
#[test]
fn a_file_that_changes_is_an_error() {
    let scratch = Scratch::new("hostile-change");
    for format in OURS {
        let (bytes, _) = ours(format);
        let path = scratch.write("file", &bytes);
        let reader = Reader::open(&path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let spec = &reader.tensors()[0];
        let mut out = vec![0; spec.nbytes() as usize];
        file.write_all_at(&vec![0xff; bytes.len()], 0).unwrap();
        let error = reader.read(0, &mut out).unwrap_err();
        assert!(error.message().contains("does not match its checksum"), "{error}");
        file.set_len(100).unwrap();
        let error = reader.read(0, &mut out).unwrap_err();
        assert!(error.status() == Status::Format && error.message().contains("cut off"), "{error}");
        assert_eq!(reader.verify().unwrap_err().status(), Status::Format);
    }
}

/// The HDF5 file in an archive ends with its member: what is behind it is not its own.
#[test]
fn weights_do_not_reach_out_of_their_member() {
    let (mut bytes, _) = ours(Format::Keras);
    let (weights, len) = (4096, bytes.len() as u64);
    bytes[weights + 40..weights + 48].copy_from_slice(&(len - weights as u64).to_le_bytes());
    assert!(refusal(&bytes).contains("cut off"));
}

/// JSON that would exhaust the stack of a parser that calls itself.
#[test]
fn deep_json_is_bounded() {
    let mut schema = Schema::new();
    schema.add("x", Dtype::F32, &[]).unwrap();
    let scratch = Scratch::new("hostile-json");
    for depth in [100, 10_000, 1_000_000] {
        let state = [r#"{"save": 3, "a": "#, &"[".repeat(depth), &"]".repeat(depth), "}"].concat();
        let options = Options { state_capacity: state.len(), ..Options::default() };
        let mut layout = plan(&schema, Format::WeightsH5, &options).unwrap();
        let path = scratch.write("file", &materialize(&mut layout, &[vec![0; 4]], state.as_bytes()));
        let found = training_state(&path).unwrap().unwrap();
        assert_eq!(found, state.as_bytes());
        assert_eq!(save_counter(&found), (depth == 100).then_some(3));
    }
}

/// Indexes of files that are too many, too deep, or elsewhere.
#[test]
fn index_bombs_are_refused() {
    let index = |map: &str| refusal(format!(r#"{{"metadata": {{}}, "weight_map": {{{map}}}}}"#).as_bytes());
    // Ten million shards, as one list and as groups of their own.
    let list = format!(r#""/x/vars": ["a.h5"{}]"#, r#","a.h5""#.repeat(10_000_000));
    assert!(index(&list).contains("more than 10000 files"));
    let groups: String = (0..200_000).map(|i| format!(r#""/{i}/vars":["{i}.h5"],"#)).collect();
    assert!(index(groups.trim_end_matches(',')).contains("more than 10000 files"));
    let large = [&b"{"[..], &vec![b' '; 100_000_001]].concat();
    assert!(refusal(&large).contains("which no checkpoint needs"));
    // Ten thousand levels, in the map, in the metadata, as the whole.
    let deep = "[".repeat(10_000);
    assert!(index(&format!(r#""/x/vars": {deep}"#)).contains("levels deep"));
    assert!(refusal(format!(r#"{{"metadata": {deep}"#).as_bytes()).contains("levels deep"));
    assert!(refusal(r#"{"":"#.repeat(10_000).as_bytes()).contains("levels deep"));
    for name in ["../model.h5", "/etc/model.h5", "a/../model.h5", "", "..", "nul\\u0000.h5"] {
        assert!(index(&format!(r#""/x/vars": ["{name}"]"#)).contains("plain name"), "{name}");
    }
    assert!(index(r#""/x/vars": ["model.json"]"#).contains("neither .h5 nor .safetensors"));
    assert!(index(r#""/x/vars": ["missing.h5"]"#).contains("not beside it"));
}

/// An index whose file is itself, an index, or a directory.
#[test]
fn an_index_names_files_of_tensors() {
    let scratch = Scratch::new("hostile-index");
    for ending in ["h5", "safetensors"] {
        let index = format!(r#"{{"weight_map": {{"x": "model.{ending}"}}}}"#);
        let path = scratch.write(&format!("model.{ending}"), index.as_bytes());
        attack_path(&path, index.len() as u64, 0).unwrap_err();
    }
}

/// Headers of `.safetensors` files that claim too much, or have more in them than they say.
#[test]
fn safetensors_bombs_are_refused() {
    let file = |len: u64, header: &str| [&len.to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
    for len in [1 << 63, u64::MAX, u64::MAX - 8, 1 << 40, 100_000_001] {
        let why = refusal(&file(len, "{}"));
        assert!(why.contains("reaches beyond its end"), "{why}");
    }
    let header = |header: &str| refusal(&file(header.len() as u64, header));
    assert!(header(&r#"{"a":"#.repeat(10_000)).contains("levels deep"));
    let x = |shape: &str, offsets: &str| {
        header(&format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#))
    };
    assert!(x("[4611686018427387904]", "[0,8]").contains("larger than any file"));
    assert!(x("[4294967296,4294967296,0,4294967296]", "[0,8]").contains("needs 0 bytes"));
    assert!(x("[1073741824]", "[0,4294967296]").contains("beyond the end"));
    assert!(x("[2]", "[18446744073709551608,18446744073709551616]").contains("a begin and an end"));
    let list = format!("[{}]", "1,".repeat(1_000_000) + "1");
    assert!(x(&list, "[0,8]").contains("dimensions"));
}

/// JSON that is nothing but small entries takes the most memory for its size.
#[test]
fn json_of_small_entries_is_bounded() {
    let entries: Vec<_> = (0..300_000).map(|i| format!(r#""{i}":"""#)).collect();
    let map = entries.join(",");
    let header = format!(r#"{{"__metadata__":{{{map}}}}}"#);
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let index = format!(r#"{{"metadata":{{{map}}},"weight_map":{{}}}}"#);
    let tensors: Vec<_> = (0..100_000)
        .map(|i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let header = format!(r#"{{{}}}"#, tensors.join(","));
    let many = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    for bytes in [&safetensors[..], index.as_bytes(), &many] {
        attack(bytes).unwrap();
    }
}

/// A FIFO without a writer, which a plain open would wait for; a device; a directory.
#[test]
fn what_is_no_file_is_refused() {
    let scratch = Scratch::new("hostile-fifo");
    let fifo = scratch.join("fifo");
    let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
    // SAFETY: a valid string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    for (path, status) in [
        (fifo.as_path(), Status::Format),
        (std::path::Path::new("/dev/zero"), Status::Format),
        (scratch.path(), Status::Io),
    ] {
        let error = Reader::open(path).err().unwrap();
        assert_eq!(error.status(), status, "{error}");
    }
}
