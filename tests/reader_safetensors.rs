//! `.safetensors` files made by hand: what others write, and every way to be malformed.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod scratch;

use std::time::{Duration, Instant};

use ckpt::error::{Error, Status};
use ckpt::reader::Reader;
use ckpt::tensor::Dtype;
use scratch::Scratch;

/// A file of this header and `data` bytes, which count up.
fn file(header: &str, data: usize) -> Vec<u8> {
    let data = (0..data).map(|i| i as u8);
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat().into_iter().chain(data).collect()
}

fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

fn open(bytes: &[u8]) -> Result<Reader, Error> {
    let scratch = Scratch::new("safetensors");
    Reader::open(&scratch.write("m.safetensors", bytes))
}

fn refused(bytes: &[u8], part: &str) {
    let start = Instant::now();
    let Err(error) = open(bytes) else { panic!("it is read, and should be refused: {part}") };
    assert_eq!(error.status(), Status::Format, "{error}");
    assert!(error.message().contains("m.safetensors'"), "{error}");
    assert!(error.message().contains(part), "expected '{part}' in: {error}");
    assert!(start.elapsed() < Duration::from_secs(2), "{part}: {:?}", start.elapsed());
}

/// A file with one entry, before this many bytes of data, is refused.
fn refused_entry(entry: &str, data: usize, part: &str) {
    refused(&file(&format!("{{{entry}}}"), data), part);
}

#[test]
fn what_others_write_is_read() {
    let header = format!(
        r#"{{ "__metadata__": {{"format": "pt", "a\u00e9": ""}}, {}, {}, {}, {}, "a.weight": {{"more": [[{{}}]], "data_offsets": [16, 24], "shape": [2, 2], "dtype": "BF16"}}  }}   "#,
        entry("z/0", "F32", "[2]", 0, 8),
        entry("z", "I64", "[ ]", 8, 16),
        entry("e", "F64", "[3,0]", 16, 16),
        entry("./..//\\u0062 \\\"", "BOOL", "[1,1]", 24, 25),
    );
    let reader = open(&file(&header, 25)).unwrap();
    let found: Vec<_> =
        reader.tensors().iter().map(|t| (t.path.as_str(), t.dtype, t.shape.as_slice())).collect();
    let expected: [(&str, Dtype, &[u64]); 5] = [
        ("./..//b \"", Dtype::Bool, &[1, 1]),
        ("a.weight", Dtype::Bf16, &[2, 2]),
        ("e", Dtype::F64, &[3, 0]),
        ("z", Dtype::I64, &[]),
        ("z/0", Dtype::F32, &[2]),
    ];
    assert_eq!(found, expected);
    for (i, (name, ..)) in expected.iter().enumerate() {
        assert_eq!(reader.find(name), Some(i));
    }
    let mut bytes = [0; 8];
    reader.read(1, &mut bytes).unwrap();
    assert_eq!(bytes, [16, 17, 18, 19, 20, 21, 22, 23]);
    reader.verify().unwrap();
    assert_eq!(reader.metadata().unwrap().as_deref(), Some(r#"{"aé":"","format":"pt"}"#));
    assert!(reader.config().unwrap().is_none() && reader.state().unwrap().is_none());
}

#[test]
fn the_smallest_files_are_read() {
    for header in ["{}", r#"{"__metadata__":{}}"#, r#"{"__metadata__":null}"#, "{}          "] {
        let reader = open(&file(header, 0)).unwrap();
        assert!(reader.tensors().is_empty() && reader.metadata().unwrap().is_none());
    }
}

#[test]
fn every_dtype_has_its_name() {
    let names = ["F32", "F64", "F16", "BF16", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL"];
    for (dtype, name) in Dtype::ALL.into_iter().zip(names) {
        let size = dtype.size();
        let reader = open(&file(&format!("{{{}}}", entry("x", name, "[3]", 0, 3 * size as u64)), 3 * size));
        assert_eq!(reader.unwrap().tensors()[0].dtype, dtype);
    }
}

#[test]
fn tensors_of_other_dtypes_are_not_listed() {
    for dtype in ["F8_E4M3", "F8_E5M2", "F4", "C64", "I4", "", "f32"] {
        let (other, ours) = (entry("x", dtype, "[9]", 0, 7), entry("y", "U8", "[2]", 7, 9));
        let reader = open(&file(&format!("{{{ours},{other}}}"), 9)).unwrap();
        assert_eq!((reader.tensors().len(), reader.find("y")), (1, Some(0)));
        // Their bytes count all the same.
        refused(&file(&format!("{{{ours},{}}}", entry("x", dtype, "[9]", 0, 8)), 9), "overlap");
    }
}

#[test]
fn a_header_of_an_impossible_length_is_refused() {
    let with_length = |length: u64| [&length.to_le_bytes()[..], b"{}      "].concat();
    for length in [9, 1 << 31, 1 << 63, u64::MAX, u64::MAX - 7] {
        refused(
            &with_length(length),
            &format!("its header of {length} bytes reaches beyond its end, 8 bytes on"),
        );
    }
    refused(&with_length(1), "it is not JSON");
    refused(&with_length(0), "it is not JSON");
    refused(&[2, 0, 0, 0, 0, 0, 0, 0, b'['], "neither");
    refused(&[2, 0, 0, 0, 0, 0, 0], "neither");
    for cut in 9..60 {
        let whole = file(&format!("{{{}}}", entry("x", "F32", "[4]", 0, 16)), 16);
        refused(&whole[..cut], "reaches beyond its end");
    }
    // More than the reference implementation reads; the bytes are there, in a file with a hole.
    let scratch = Scratch::new("safetensors");
    let path = scratch.write("m.safetensors", &[&100_000_001u64.to_le_bytes()[..], b"{"].concat());
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100_000_009).unwrap();
    let Err(error) = Reader::open(&path) else { panic!() };
    assert!(error.message().contains("its header has 100000001 bytes, at most 100000000"), "{error}");
}

#[test]
fn a_header_that_is_no_object_is_refused() {
    for header in ["{", "{}}", "{}x", "{,}", r#"{"a"}"#, "{'a':1}", "{} \0"] {
        refused(&file(header, 0), "it is not JSON");
    }
    refused(&file("{\"\u{7f}", 0), "it is not JSON");
    let mut bytes = file(r#"{"__metadata__":{"x":"y"}}"#, 0);
    bytes[27] = 0xff;
    refused(&bytes, "its header is not UTF-8");
    refused(&file(&format!("{{\"x\":{}}}", "[".repeat(10_000)), 0), "levels deep");
    refused(&file(&format!("{{\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000)), 0), "levels deep");
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    let (x, again) = (entry("x", "U8", "[1]", 0, 1), entry("\\u0078", "U8", "[1]", 1, 2));
    refused(&file(&format!("{{{x},{again}}}"), 2), "'x' stands in it twice");
    refused(&file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "'__metadata__' stands in it twice");
    refused(&file(r#"{"__metadata__":{"a":"","a":""}}"#, 0), "__metadata__: 'a' stands in it twice");
    refused_entry(
        r#""x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"dtype":"U8"}"#,
        1,
        "tensor 'x': 'dtype' stands in it twice",
    );
}

#[test]
fn a_name_that_no_path_can_be_is_refused() {
    refused_entry(&entry("", "U8", "[1]", 0, 1), 1, "its name is empty");
    refused_entry(&entry("a\\u0000b", "U8", "[1]", 0, 1), 1, "its name contains a NUL");
    let long = "n".repeat(65_537);
    refused_entry(&entry(&long, "U8", "[1]", 0, 1), 1, "its name has 65537 bytes");
    assert!(open(&file(&format!("{{{}}}", entry(&long[1..], "U8", "[1]", 0, 1)), 1)).is_ok());
}

#[test]
fn an_entry_that_is_no_tensor_is_refused() {
    for (value, part) in [
        ("1", "'1' is not an object"),
        ("[]", "'[]' is not an object"),
        (r#"{"shape":[1],"data_offsets":[0,1]}"#, "it has no \"dtype\""),
        (r#"{"dtype":"U8","data_offsets":[0,1]}"#, "it has no \"shape\""),
        (r#"{"dtype":"U8","shape":[1]}"#, "it has no \"data_offsets\""),
        (r#"{"dtype":8,"shape":[1],"data_offsets":[0,1]}"#, "'8' is not a dtype"),
        (r#"{"dtype":"U8","shape":1,"data_offsets":[0,1]}"#, "'1' is not a shape"),
        (r#"{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}"#, "'[-1]' is not a shape"),
        (r#"{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}"#, "'[1.0]' is not a shape"),
        (r#"{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}"#, "is not a shape"),
        (r#"{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}"#, "is not a shape"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":[0]}"#, "'[0]' is not a begin and an end"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}"#, "is not a begin and an end"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":[0,-1]}"#, "is not a begin and an end"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":null}"#, "is not a begin and an end"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":{"0":0,"1":1}}"#, "is not a begin and an end"),
    ] {
        let message = format!("tensor 'x': {part}");
        let message = if part.starts_with("it has") || part.starts_with('\'') { &message } else { part };
        refused_entry(&format!("\"x\":{value}"), 1, message);
    }
}

#[test]
fn a_shape_that_does_not_fit_the_bytes_is_refused() {
    let x = |dtype, shape: &str, end| entry("x", dtype, shape, 0, end);
    refused_entry(
        &x("F32", "[3]", 8),
        8,
        "tensor 'x': as float32 of shape [3] it needs 12 bytes, its data has 8",
    );
    refused_entry(&x("F32", "[]", 8), 8, "it needs 4 bytes, its data has 8");
    refused_entry(&x("F32", "[0,9]", 8), 8, "it needs 0 bytes, its data has 8");
    refused_entry(&x("F32", "[1]", 0), 0, "it needs 4 bytes, its data has 0");
    let bomb = "[4294967296,4294967296,4294967296]";
    refused_entry(&x("F32", bomb, 8), 8, "it is larger than any file");
    refused_entry(&x("U64", "[2305843009213693952]", 0), 0, "it is larger than any file");
    refused_entry(&x("U8", "[9223372036854775807]", 1), 1, "it needs 9223372036854775807 bytes");
    let rank = |n: usize| format!("[{}1]", "1,".repeat(n - 1));
    refused_entry(&x("U8", &rank(33), 1), 1, "tensor 'x': it has more than 32 dimensions");
    refused_entry(&x("U8", &rank(1_000_000), 1), 1, "it has more than 32 dimensions");
    assert!(open(&file(&format!("{{{}}}", x("U8", &rank(32), 1)), 1)).is_ok());
}

#[test]
fn data_that_does_not_add_up_is_refused() {
    let two = |a: (u64, u64), b: (u64, u64), data, part: &str| {
        let of = |name, (begin, end): (u64, u64)| {
            entry(name, "U8", &format!("[{}]", end.saturating_sub(begin)), begin, end)
        };
        refused(&file(&format!("{{{},{}}}", of("b", b), of("a", a)), data), part);
    };
    two((0, 4), (3, 8), 8, "the data_offsets [3, 8] overlap those of another tensor");
    two((0, 4), (0, 4), 4, "the data_offsets [0, 4] overlap");
    two((0, 4), (5, 8), 8, "the data_offsets [5, 8] leave a hole behind offset 4");
    two((1, 4), (4, 8), 8, "the data_offsets [1, 4] leave a hole behind offset 0");
    two((0, 4), (4, 9), 8, "the data_offsets [4, 9] reach beyond the end of the data, 8");
    two((0, 4), (6, 5), 8, "tensor 'b': its data_offsets [6, 5] run backwards");
    two((0, 4), (4, 6), 8, "the last 2 bytes of its data are in no tensor");
    let max = u64::MAX;
    refused_entry(&entry("x", "U8", "[0]", max, max), 0, &format!("[{max}, {max}] reach beyond the end"));
    refused_entry(&entry("x", "U8", "[0]", 1, 1), 1, "hole");
    refused(&file("{}", 1), "the last 1 bytes of its data are in no tensor");
}

#[test]
fn a_map_of_something_else_than_strings_is_refused() {
    for (map, part) in [
        ("[]", "__metadata__: '[]' is not an object"),
        (r#""x""#, "is not an object"),
        (r#"{"a":1}"#, "__metadata__: 'a': '1' is not a string"),
        (r#"{"a":null}"#, "is not a string"),
        (r#"{"a":{"b":"c"}}"#, "is not a string"),
        (
            r#"{"libckpt.checksums":"0"}"#,
            "'libckpt.checksums': it is not a list of rows of 24 hexadecimal digits",
        ),
        (r#"{"libckpt.checksums":"+00000000000000000000000"}"#, "it is not a list of rows"),
        (r#"{"libckpt.checksums":"éééééééééééé"}"#, "it is not a list of rows"),
        (r#"{"libckpt.names":"[]"}"#, "'libckpt.names': '[]' is not an object"),
        (r#"{"libckpt.names":"{\"a\":1}"}"#, "'libckpt.names': '1' is not a string"),
    ] {
        refused(&file(&format!(r#"{{"__metadata__":{map}}}"#), 0), part);
    }
    let later = open(&file(r#"{"__metadata__":{"libckpt.of-a-later-version":"x"}}"#, 0)).unwrap();
    assert!(later.metadata().unwrap().is_none());
}

#[test]
fn a_header_full_of_entries_is_read_quickly() {
    let mut header = String::from("{");
    for i in 0..200_000 {
        header += &entry(&i.to_string(), "U8", "[0]", 0, 0);
        header.push(',');
    }
    header.pop();
    header.push('}');
    let start = Instant::now();
    assert_eq!(open(&file(&header, 0)).unwrap().tensors().len(), 200_000);
    println!("{} bytes of header: {:?}", header.len(), start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// The files of an index of two files, and the index.
fn sharded(scratch: &Scratch, map: &str) -> Result<Reader, Error> {
    let ab = format!("{{{},{}}}", entry("a", "U8", "[2]", 0, 2), entry("b", "I16", "[1]", 2, 4));
    let ac = format!("{{{},{}}}", entry("a", "U8", "[3]", 0, 3), entry("c/d", "F8_E4M3", "[1]", 3, 4));
    scratch.write("m-1.safetensors", &file(&ab, 4));
    scratch.write("m-2.safetensors", &file(&ac, 4));
    let index = format!(r#"{{"metadata": {{"total_size": 9}}, "weight_map": {{{map}}}}}"#);
    Reader::open(&scratch.write("m.safetensors.index.json", index.as_bytes()))
}

#[test]
fn an_index_says_which_file_has_a_tensor() {
    let scratch = Scratch::new("safetensors-index");
    let map = r#""b": "m-1.safetensors", "a": "m-2.safetensors", "c/d": ["m-2.safetensors"]"#;
    let reader = sharded(&scratch, map).unwrap();
    let found: Vec<_> = reader.tensors().iter().map(|t| (t.path.as_str(), t.shape[0])).collect();
    assert_eq!(found, [("a", 3), ("b", 1)]);
    let mut bytes = [0; 3];
    reader.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 1, 2]);
    let mut bytes = [0; 2];
    reader.read(1, &mut bytes).unwrap();
    assert_eq!(bytes, [2, 3]);
    assert_eq!(reader.metadata().unwrap().as_deref(), Some(r#"{"total_size": 9}"#));
    reader.verify().unwrap();
}

#[test]
fn an_index_that_is_wrong_is_refused() {
    let scratch = Scratch::new("safetensors-index");
    for (map, part) in [
        (r#""a": "m-3.safetensors""#, "it names 'm-3.safetensors', which is not beside it"),
        (r#""b": "m-2.safetensors""#, "tensor 'b' is not in 'm-2.safetensors', where it should be"),
        (r#""c": "m-2.safetensors""#, "tensor 'c' is not in 'm-2.safetensors'"),
        (r#""a": ["m-1.safetensors", "m-2.safetensors"]"#, "tensor 'a': it is said to be in 2 files"),
        (r#""a": "../m-1.safetensors""#, "'../m-1.safetensors' is not the plain name of a file"),
        (r#""a": "/m-1.safetensors""#, "is not the plain name of a file"),
        (r#""a": "m-1.safetensors", "a": "m-2.safetensors""#, "'a' stands in it twice"),
        (r#""a": "m.safetensors""#, "its file 'm.safetensors': its header of 9 bytes reaches beyond its end"),
        (r#""a": "dir.safetensors""#, "dir.safetensors"),
        (r#""a": "short.safetensors""#, "its file 'short.safetensors'"),
    ] {
        scratch.write("m.safetensors", &[9, 0, 0, 0, 0, 0, 0, 0, b'{']);
        scratch.write("short.safetensors", b"{");
        let _ = std::fs::create_dir(scratch.join("dir.safetensors"));
        let Err(error) = sharded(&scratch, map) else { panic!("{map} is read") };
        assert!(error.message().contains(part), "expected '{part}' in: {error}");
        let status = if map.contains("dir") { Status::Io } else { Status::Format };
        assert_eq!(error.status(), status, "{error}");
    }
}
