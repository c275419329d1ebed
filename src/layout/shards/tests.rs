use super::*;
use crate::tensor::Dtype;

const GENERATION: u64 = 0xabc;

fn planned(schema: &Schema, max_shard_bytes: u64) -> Layout {
    let options = Options { max_shard_bytes, ..Options::default() };
    let mut layout = plan(schema, &options).unwrap();
    layout.name_companions("m.weights.json", GENERATION, &Stamp::default()).unwrap();
    layout
}

fn index(layout: &Layout) -> serde_json::Value {
    serde_json::from_slice(&layout.literals()[0]).unwrap()
}

/// A layer whose variables have these many bytes.
fn add(schema: &mut Schema, group: &str, sizes: &[u64]) {
    for (i, &size) in sizes.iter().enumerate() {
        schema.add(&format!("{group}/vars/{i}"), Dtype::U8, &[size]).unwrap();
    }
    schema.set_name(group, &format!("the {group}")).unwrap();
}

#[test]
fn packs_greedily_in_the_order_of_the_tensors() {
    let pack = |sizes: &[u64], max| {
        let spec = |&n: &u64| TensorSpec { path: "x".into(), dtype: Dtype::U8, shape: vec![n] };
        let ranges = pack(&sizes.iter().map(spec).collect::<Vec<_>>(), max).unwrap();
        ranges.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
    };
    assert_eq!(pack(&[4, 6, 1, 10, 11, 0, 1, 0], 10), [(0, 2), (2, 3), (3, 4), (4, 6), (6, 8)]);
    assert_eq!(pack(&[1, 2], 0), [(0, 1), (1, 2)]);
    assert_eq!(pack(&[1, 2], u64::MAX), [(0, 2)]);
    assert_eq!(pack(&[], 10), [(0, 0)]);
    assert_eq!(pack(&[0, 0], 0), [(0, 2)]);
}

#[test]
fn the_index_names_the_shards_of_each_group() {
    let mut schema = Schema::new();
    add(&mut schema, "layers/a", &[40, 40, 40]);
    add(&mut schema, "layers/b", &[20]);
    schema.add("layers/a/vars/3", Dtype::Bool, &[4]).unwrap();
    schema.add("straße\"", Dtype::F32, &[]).unwrap();
    schema.add("vars/0", Dtype::F32, &[]).unwrap();
    let layout = planned(&schema, 80);
    let shard = |n: usize| format!("m_0000000000000abc_{n:05}.weights.h5");
    let expected = serde_json::json!({
        "metadata": {"total_size": 148.5},
        "weight_map": {
            "/layers/a/vars": [shard(0), shard(1)],
            "/layers/b/vars": [shard(1)],
            "/": [shard(1)],
            "/vars": [shard(1)],
        }
    });
    assert_eq!(index(&layout), expected);
    assert!(layout.literals()[0].is_ascii());
    let files: Vec<_> =
        layout.companions().iter().map(|f| (f.name().to_owned(), f.tensors(), f.yields())).collect();
    assert_eq!(
        files,
        [("m_00000.weights.h5".to_owned(), 0..0, true), (shard(0), 0..2, false), (shard(1), 2..7, false)]
    );
    let sizes: u64 = layout.companions().iter().map(|f| f.layout().size()).sum();
    assert_eq!(layout.total_size(), layout.size() + sizes);
}

#[test]
fn the_state_is_in_the_index() {
    let mut layout = planned(&Schema::new(), 1);
    assert_eq!(index(&layout), serde_json::json!({"metadata": {"total_size": 0.0}, "weight_map": {}}));
    let state = r#"{"save": 7, "metrics": {"ß\n": "NaN"}}"#;
    let stamp = Stamp { state: state.into(), ..Stamp::default() };
    layout.name_companions("m.weights.json", 1, &stamp).unwrap();
    assert_eq!(
        index(&layout)["metadata"]["libckpt"],
        serde_json::json!({"state": state, "crc32": crc32fast::hash(state.as_bytes())})
    );
    assert_eq!(layout.size(), layout.literals()[0].len() as u64);
    layout.name_companions("m.weights.json", 1, &Stamp::default()).unwrap();
    assert!(index(&layout)["metadata"].get("libckpt").is_none());
}

#[test]
fn groups_are_named_wherever_they_are() {
    let mut schema = Schema::new();
    for group in ["layers/flatten", "", "x/vars/y"] {
        schema.set_name(group, &format!("the {group}")).unwrap();
    }
    add(&mut schema, "layers/a", &[5, 5]);
    schema.set_name("outer", "the outer").unwrap();
    schema.add("outer/vars/inner", Dtype::U8, &[9]).unwrap();
    let layout = planned(&schema, 5);
    let holds = |file: usize, text: &str| {
        let metadata = &layout.companions()[file].layout().literals()[0];
        metadata.windows(text.len()).any(|w| w == text.as_bytes())
    };
    for name in ["the layers/flatten", "the x/vars/y", "the layers/a"] {
        assert!(holds(1, name), "{name}");
    }
    assert!(holds(2, "the layers/a") && !holds(2, "flatten") && !holds(1, "outer"));
    assert!(holds(3, "the outer") && !holds(3, "the layers/a"));
}

#[test]
fn a_layout_is_replayed_under_another_name() {
    let mut schema = Schema::new();
    add(&mut schema, "a", &[10]);
    let mut layout = planned(&schema, 10);
    layout.name_companions("other.weights.json", 2, &Stamp::default()).unwrap();
    assert_eq!(index(&layout)["weight_map"]["/a/vars"][0], "other_0000000000000002_00000.weights.h5");
    assert_eq!(layout.companions()[1].name(), "other_0000000000000002_00000.weights.h5");
    assert!(layout.seal(&[], &Stamp::default()).is_err());
    layout.seal(&[1], &Stamp::default()).unwrap();
    let once = layout.companions()[1].layout().literals()[0].clone();
    layout.seal(&[2], &Stamp::default()).unwrap();
    assert_ne!(layout.companions()[1].layout().literals()[0], once);
}

#[test]
fn too_many_shards_are_refused() {
    let mut schema = Schema::new();
    for i in 0..=MAX_SHARDS {
        schema.add(&format!("{i}"), Dtype::U8, &[1]).unwrap();
    }
    let e = plan(&schema, &Options { max_shard_bytes: 1, ..Options::default() }).unwrap_err();
    assert_eq!(e.status(), Status::InvalidArgument);
    assert!(e.message().contains("10001 files"), "{e}");
}

#[test]
fn names_begin_as_keras_has_them() {
    for (file, shard) in [
        ("m.weights.json", "m_0000000000000abc_00000.weights.h5"),
        ("a.b.weights.json", "a.b_0000000000000abc_00000.weights.h5"),
        ("a.weights.b.weights.json", "a.b_0000000000000abc_00000.weights.h5"),
        (".weights.json", "_0000000000000abc_00000.weights.h5"),
        ("plain", "plain_0000000000000abc_00000.weights.h5"),
        (".hidden", ".hidden_0000000000000abc_00000.weights.h5"),
        ("dot.", "dot._0000000000000abc_00000.weights.h5"),
    ] {
        assert_eq!(Names::new(file, GENERATION).shard(0), shard);
    }
    assert_eq!(Names::new("m.weights.json", u64::MAX).shard(123_456), "m_ffffffffffffffff_123456.weights.h5");
    assert_eq!(Names::new("m.weights.json", 1).opened_by_keras(), "m_00000.weights.h5");
}

#[test]
fn only_shards_of_other_saves_are_superseded() {
    let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let mine = Names::new("m.weights.json", GENERATION);
    let kept = [
        "m.weights.json",
        "m_00000.weights.h5",
        "m_00001.weights.h5",
        "m_0000000000000abc_00000.weights.h5",
        "m_0000000000000ABD_00000.weights.h5",
        "m_000000000000abd_00000.weights.h5",
        "m_0000000000000abdd_00000.weights.h5",
        "m_0000000000000abd_0000.weights.h5",
        "m_0000000000000abd_0000x.weights.h5",
        "m_0000000000000abd_00000.weights.h5.bak",
        "m_0000000000000abd_00000_00000.weights.h5",
        "mm_0000000000000abd_00000.weights.h5",
        "_0000000000000abd_00000.weights.h5",
        "m_+000000000000abd_00000.weights.h5",
        "m_0000000000000abd.weights.h5",
        "other.weights.json",
    ];
    let gone = [
        "m_0000000000000abd_00000.weights.h5",
        "m_0000000000000abd_123456.weights.h5",
        "m_ffffffffffffffff_00007.weights.h5",
    ];
    let all = names(&[&kept[..], &gone[..]].concat());
    assert_eq!(mine.superseded(&all).unwrap(), gone);
    // What Keras calls the shard of an index of that name.
    let all = names(&[&gone[..], &["m_ffffffffffffffff.weights.json"]].concat());
    assert_eq!(mine.superseded(&all).unwrap(), gone[..2]);
    // Two indices whose shards are called the same.
    let all = names(&[&gone[..], &["m.weights.weights.json"]].concat());
    assert!(mine.superseded(&all).unwrap().is_empty());
}

#[test]
fn an_index_mentions_its_companions() {
    let mut schema = Schema::new();
    add(&mut schema, "a", &[10]);
    for file in ["m.weights.json", "ü\"_1.weights.json", "m_1.weights.json.weights.json"] {
        let mut layout = planned(&schema, 10);
        layout.name_companions(file, GENERATION, &Stamp::default()).unwrap();
        let text = String::from_utf8(layout.literals()[0].to_vec()).unwrap();
        let shard = mention(layout.companions()[1].name());
        assert_eq!(shard, "0000000000000abc");
        assert!(text.contains(&shard));
        let first = layout.companions()[0].name();
        assert_eq!(opened_for(file), first);
    }
    assert_eq!(mention("ü_00000.weights.h5"), "\"\\u00fc_00000.weights.h5\"");
    assert_eq!(mention("m_0123456789abcdef_00000.weights.h5"), "0123456789abcdef");
    for name in ["m.weights.json", "m.json.bak", "M.JSON", "x.weights.json~"] {
        assert!(may_be_index(name), "{name}");
    }
    assert!(!may_be_index("m_00000.weights.h5") && !may_be_index("json"));
}
