use super::*;
use crate::tensor::Dtype;

const FORMATS: [Format; 2] = [Format::WeightsH5, Format::Keras];
const SEALED: [Format; 3] = [Format::WeightsH5, Format::Keras, Format::Safetensors];

fn schema() -> Schema {
    let mut schema = Schema::new();
    schema.add("layers/dense/vars/0", Dtype::F32, &[3, 5]).unwrap();
    schema.add("layers/dense/vars/1", Dtype::F32, &[0]).unwrap();
    schema.add("layers/dense/vars/2", Dtype::Bf16, &[7]).unwrap();
    schema.set_name("layers/dense", "dense").unwrap();
    schema
}

fn options(state_capacity: usize) -> Options<'static> {
    Options { config: Some("{}"), state_capacity, ..Options::default() }
}

/// The file whose tensors have the byte 7 everywhere.
fn file(layout: &Layout) -> Vec<u8> {
    let mut file = vec![0; layout.size() as usize];
    for e in layout.extents() {
        let bytes = match e.source {
            Source::Literal(i) => layout.literals()[i].to_vec(),
            Source::Tensor(_) => vec![7; e.len as usize],
        };
        file[e.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    file
}

fn crcs() -> Vec<u32> {
    schema().tensors().iter().map(|t| crc32fast::hash(&vec![7; t.nbytes() as usize])).collect()
}

#[test]
fn every_seal_rewrites_every_slot() {
    let stamp = Stamp { state: b"{}".to_vec(), date: [2026, 1, 2, 3, 4, 5] };
    let longer = Stamp { state: br#"{"a": 1}"#.to_vec(), date: [2027, 1, 2, 3, 4, 5] };
    for format in SEALED {
        let mut once = plan(&schema(), format, &options(32)).unwrap();
        let unsealed = file(&once);
        once.seal(&crcs(), &stamp).unwrap();
        let mut again = once.copied().unwrap();
        again.seal(&[1, 2, 3], &longer).unwrap();
        assert_ne!(file(&again), file(&once));
        again.seal(&crcs(), &stamp).unwrap();
        assert_eq!(file(&again), file(&once));
        assert_eq!(file(&again).len(), unsealed.len());
    }
}

#[test]
fn a_seal_that_fails_changes_nothing() {
    for format in SEALED {
        let mut layout = plan(&schema(), format, &options(8)).unwrap();
        assert_eq!(layout.state_capacity(), 8);
        layout.seal(&crcs(), &Stamp { state: vec![b'1'; 8], ..Stamp::default() }).unwrap();
        let before = file(&layout);
        let e = layout.seal(&crcs(), &Stamp { state: vec![b'2'; 9], ..Stamp::default() }).unwrap_err();
        assert_eq!(e.status(), Status::State);
        let e = layout.seal(&crcs()[1..], &Stamp::default()).unwrap_err();
        assert_eq!(e.status(), Status::Internal);
        assert_eq!(file(&layout), before);
    }
}

#[test]
fn a_keras_file_needs_a_configuration() {
    let e = plan(&schema(), Format::Keras, &Options::default()).unwrap_err();
    assert_eq!(e.status(), Status::State);
    assert!(e.message().contains("ckpt_model_set_config"), "{e}");
    plan(&schema(), Format::WeightsH5, &Options::default()).unwrap();
}

#[test]
fn the_weights_of_a_keras_file_are_the_weights_file() {
    let [mut weights, mut keras] = FORMATS.map(|f| plan(&schema(), f, &options(32)).unwrap());
    weights.seal(&crcs(), &Stamp::default()).unwrap();
    keras.seal(&crcs(), &Stamp::default()).unwrap();
    let (weights, keras) = (file(&weights), file(&keras));
    assert_eq!(keras[4096..4096 + weights.len()], weights);
    // The CRC and the size in the local header.
    let field = |at: usize| u32::from_le_bytes(keras[at..at + 4].try_into().unwrap());
    assert_eq!([field(14), field(18)], [crc32fast::hash(&weights), weights.len() as u32]);
}

#[test]
fn assets_follow_in_a_keras_file_alone() {
    let mut assets = Assets::new();
    for (name, bytes) in [("z", &b"zzz"[..]), ("layers/größe/a", b"first"), ("empty", b"")] {
        assets.set(name, bytes).unwrap();
    }
    let options = |assets| Options { assets, ..options(32) };
    let [weights, mut with] = FORMATS.map(|f| plan(&schema(), f, &options(&assets)).unwrap());
    assert_eq!(file(&weights), file(&plan(&schema(), Format::WeightsH5, &options(&Assets::new())).unwrap()));
    assert!(with.extents().windows(2).all(|w| w[0].offset + w[0].len <= w[1].offset));
    assert!(with.extents().iter().all(|e| e.len > 0));

    let date = [2026, 1, 2, 3, 4, 5];
    with.seal(&crcs(), &Stamp { date, ..Stamp::default() }).unwrap();
    let mut again = with.copied().unwrap();
    again.seal(&crcs(), &Stamp::default()).unwrap();
    again.seal(&crcs(), &Stamp { date, ..Stamp::default() }).unwrap();
    assert_eq!(file(&again), file(&with));

    let file = file(&with);
    let mut at = file.windows(11).position(|w| w == b"config.json").unwrap() + 11 + 2;
    for (name, bytes) in
        [("assets/empty", &b""[..]), ("assets/layers/größe/a", b"first"), ("assets/z", b"zzz")]
    {
        let half = |at: usize| u16::from_le_bytes([file[at], file[at + 1]]);
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!(file[at..at + 4], *b"PK\x03\x04");
        let utf8 = if name.is_ascii() { 0 } else { 0x800 };
        assert_eq!([half(at + 6), half(at + 8)], [utf8, 0]);
        assert_eq!([word(at + 14), word(at + 18)], [crc32fast::hash(bytes), bytes.len() as u32]);
        let data = at + 30 + name.len();
        assert_eq!(file[at + 30..data], *name.as_bytes());
        assert_eq!(file[data..data + bytes.len()], *bytes);
        at = data + bytes.len();
    }
    assert_eq!(file[at..at + 4], *b"PK\x01\x02");
}

#[test]
fn an_asset_is_not_copied() {
    let mut assets = Assets::new();
    assets.set("a", &[1; 100]).unwrap();
    let mut layout = plan(&schema(), Format::Keras, &Options { assets: &assets, ..options(32) }).unwrap();
    layout.seal(&crcs(), &Stamp::default()).unwrap();
    let (_, bytes) = assets.iter().next().unwrap();
    assert!(layout.literals().iter().any(|l| std::sync::Arc::ptr_eq(l, bytes)));
}

#[test]
fn a_directory_that_the_reader_refuses_is_not_written() {
    let mut assets = Assets::new();
    let long = "/x".repeat(1500);
    for i in 0..23_000 {
        assets.set(&format!("{i}{long}"), b"").unwrap();
    }
    let e = plan(&schema(), Format::Keras, &Options { assets: &assets, ..options(32) }).unwrap_err();
    assert_eq!(e.status(), Status::Unsupported);
    assert!(e.message().contains("with 23000 assets"), "{e}");
}

#[test]
fn an_impossible_date_is_the_first_possible_one() {
    let text = |date| {
        let mut layout = plan(&schema(), Format::Keras, &options(0)).unwrap();
        layout.seal(&crcs(), &Stamp { date, ..Stamp::default() }).unwrap();
        let file = file(&layout);
        let at = file.windows(10).position(|w| w == b"date_saved").unwrap();
        String::from_utf8(file[at + 14..at + 33].to_vec()).unwrap()
    };
    assert_eq!(text([2107, 12, 31, 23, 59, 60]), "2107-12-31@23:59:60");
    for date in [[0; 6], [1979, 12, 31, 0, 0, 0], [2108, 1, 1, 0, 0, 0], [2026, 13, 1, 0, 0, 0]] {
        assert_eq!(text(date), "1980-01-01@00:00:00");
    }
}
