use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::layout::{Format, Stamp, plan};

fn schema() -> Schema {
    let mut schema = Schema::new();
    schema.add("b/vars/0", Dtype::F32, &[3, 5]).unwrap();
    schema.add("b/vars/1", Dtype::Bool, &[7]).unwrap();
    schema.add("a \"1\"\n/é", Dtype::F32, &[]).unwrap();
    schema.add("c", Dtype::U64, &[2, 0]).unwrap();
    schema.add("d", Dtype::Bf16, &[1]).unwrap();
    schema.set_name("b", "dense \"x\"").unwrap();
    schema.set_name("", "model").unwrap();
    schema
}

/// The header, as JSON.
fn header(layout: &Layout) -> Value {
    let bytes = &layout.literals()[METADATA];
    let (length, text) = bytes.split_at(8);
    assert_eq!(u64::from_le_bytes(length.try_into().unwrap()), text.len() as u64);
    serde_json::from_slice(text).unwrap()
}

fn crcs(schema: &Schema) -> Vec<u32> {
    (0..).take(schema.tensors().len()).collect()
}

#[test]
fn the_data_is_in_the_order_of_the_reference_implementation() {
    let schema = schema();
    let layout = super::plan(&schema, &Options::default()).unwrap();
    let header = header(&layout);
    let offsets = |name: &str| header[name]["data_offsets"].to_string();
    assert_eq!(offsets("c"), "[0,0]");
    assert_eq!(offsets("a \"1\"\n/é"), "[0,4]");
    assert_eq!(offsets("b/vars/0"), "[4,64]");
    assert_eq!(offsets("d"), "[64,66]");
    assert_eq!(offsets("b/vars/1"), "[66,73]");
    assert_eq!(header["b/vars/0"]["dtype"], "F32");
    assert_eq!(header["b/vars/0"]["shape"], json!([3, 5]));
    assert_eq!(header["a \"1\"\n/é"]["shape"], json!([]));
    let begin = layout.extents()[0].len;
    assert_eq!(begin % 64, 0);
    let places: Vec<_> = layout.extents().iter().map(|e| (e.offset, e.len, e.source)).collect();
    let tensor = |offset, len, i| (begin + offset, len, Source::Tensor(i));
    assert_eq!(places[1..], [tensor(0, 4, 2), tensor(4, 60, 0), tensor(64, 2, 4), tensor(66, 7, 1)]);
    assert_eq!(layout.size(), begin + 73);
}

#[test]
fn the_map_of_strings_has_what_is_the_callers_and_what_is_ours() {
    let metadata = BTreeMap::from([("format".into(), "pt".into()), ("größe \"\\".into(), "\n\u{1}".into())]);
    let config = r#"{"a": "b \"c\"", "d": NaN}"#;
    let options = Options { metadata: &metadata, config: Some(config), ..Options::default() };
    let mut layout = super::plan(&schema(), &options).unwrap();
    layout
        .seal(&crcs(&schema()), &Stamp { state: br#"{"x": "\"\n"}"#.to_vec(), ..Stamp::default() })
        .unwrap();
    let map = header(&layout)[METADATA_KEY].clone();
    assert_eq!(map["format"], "pt");
    assert_eq!(map["größe \"\\"], "\n\u{1}");
    assert_eq!(map[CONFIG], config);
    let names: Value = serde_json::from_str(map[NAMES].as_str().unwrap()).unwrap();
    assert_eq!(names, json!({"": "model", "b": "dense \"x\""}));
    assert_eq!(map[STATE].as_str().unwrap().trim_end(), r#"{"x": "\"\n"}"#);
    assert_eq!(map[CHECKSUMS].as_str().unwrap().len(), ROW * 6);
    assert!(map[guard::KEY].is_string());
    assert_eq!(map.as_object().unwrap().len(), 7);
}

#[test]
fn any_state_that_is_json_fits_its_room() {
    for state in [
        String::new(),
        "\"".to_owned() + &"\\\\".repeat(31) + "\"",
        "\n".repeat(64),
        "\t\r".repeat(32),
        "é".repeat(32),
        "\"\\\"".repeat(21),
        format!("{{{}}}", "\"".repeat(62)),
    ] {
        let mut layout =
            super::plan(&schema(), &Options { state_capacity: 64, ..Options::default() }).unwrap();
        let before = layout.literals()[METADATA].len();
        layout
            .seal(&crcs(&schema()), &Stamp { state: state.clone().into_bytes(), ..Stamp::default() })
            .unwrap();
        assert_eq!(layout.literals()[METADATA].len(), before);
        assert_eq!(header(&layout)[METADATA_KEY][STATE].as_str().unwrap().trim_end(), state.trim_end());
    }
}

#[test]
fn a_state_that_is_not_json_changes_nothing() {
    let mut layout = super::plan(&schema(), &Options { state_capacity: 64, ..Options::default() }).unwrap();
    let before = layout.literals()[METADATA].clone();
    for state in [vec![1; 64], vec![0xff; 2]] {
        let e = layout.seal(&crcs(&schema()), &Stamp { state, ..Stamp::default() }).unwrap_err();
        assert_eq!(e.status(), Status::Internal);
        assert_eq!(layout.literals()[METADATA], before);
    }
}

#[test]
fn large_data_begins_at_a_page() {
    for (elements, unit) in [(hdf5::LARGE - 1, hdf5::ALIGNMENT), (hdf5::LARGE, hdf5::LARGE_ALIGNMENT)] {
        for name in 0..70 {
            let mut schema = Schema::new();
            schema.add(&"n".repeat(name + 1), Dtype::U8, &[elements]).unwrap();
            let layout = plan(&schema, Format::Safetensors, &Options::default()).unwrap();
            assert_eq!(layout.extents()[1].offset % unit, 0);
        }
    }
}

#[test]
fn what_the_format_has_no_place_for_is_refused() {
    let refused = |schema: &Schema, options: &Options, part: &str| {
        let e = super::plan(schema, options).unwrap_err();
        assert_eq!(e.status(), Status::InvalidArgument);
        assert!(e.message().contains(part), "{e}");
    };
    let own = BTreeMap::from([("libckpt.x".into(), String::new())]);
    refused(&schema(), &Options { metadata: &own, ..Options::default() }, "metadata 'libckpt.x'");
    let long = BTreeMap::from([("x".into(), "\"".repeat(MAX_HEADER as usize / 2))]);
    refused(&schema(), &Options { metadata: &long, ..Options::default() }, "with 5 tensors has 1000");
    let mut named = schema();
    named.add(METADATA_KEY, Dtype::F32, &[1]).unwrap();
    refused(&named, &Options::default(), "'__metadata__'");
    let mut large = schema();
    large.add("x", Dtype::U8, &[1 << 62]).unwrap();
    refused(&large, &Options::default(), "2^62 bytes");
    large.add("y", Dtype::U8, &[1 << 62]).unwrap();
    large.add("z", Dtype::U8, &[1 << 62]).unwrap();
    large.add("zz", Dtype::U8, &[1 << 62]).unwrap();
    refused(&large, &Options::default(), "2^62 bytes");
}
