//! Small files of our own, and what is in them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::HashMap;

use ckpt::layout::{Assets, Format, Layout, Options, Schema, Source, Stamp, plan};
use ckpt::tensor::{Dtype, TensorSpec};

use crate::layout_support::{DATE, Random, data};

pub const STATE: &[u8] = br#"{"libckpt": "0.1.0", "save": 7, "epoch": 3, "metrics": {"loss": 0.25}}"#;
pub const CONFIG: &str =
    r#"{"module": "keras", "class_name": "Sequential", "config": {"layers": [1, 2.5, null]}}"#;

/// The files of a checkpoint.
pub struct Ours {
    /// Names and bytes; the first is the one to open.
    pub files: Vec<(String, Vec<u8>)>,
    pub truth: Truth,
}

/// What is in them.
pub struct Truth {
    pub tensors: HashMap<String, (TensorSpec, Vec<u8>)>,
    /// Where a checksum guards it.
    pub config: Option<&'static str>,
    /// Where in each file the data of the tensors begins, behind all metadata.
    pub data_at: Vec<usize>,
}

impl Ours {
    /// Tensors of every dtype, in small groups and in a large one.
    pub fn new(format: Format) -> Ours {
        let mut schema = Schema::new();
        for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
            schema.add(&format!("layers/dense_{}/vars/{}", i / 3, i % 3), dtype, &[3, i as u64]).unwrap();
            schema.add(&format!("many/{i}"), dtype, &[]).unwrap();
        }
        schema.set_name("layers/dense_1", "größe").unwrap();
        Ours::of(&schema, format)
    }

    /// These tensors.
    pub fn of(schema: &Schema, format: Format) -> Ours {
        let data = data(schema, &mut Random(1));
        let mut assets = Assets::new();
        assets.set("vocabulary.txt", b"one\ntwo\nthree\n").unwrap();
        let options = Options {
            config: matches!(format, Format::Keras | Format::LegacyH5).then_some(CONFIG),
            assets: &assets,
            state_capacity: 100,
            max_shard_bytes: 400,
            ..Options::default()
        };
        let mut layout = plan(schema, format, &options).unwrap();
        let stamp = Stamp { state: STATE.to_vec(), date: DATE };
        layout.name_companions(&format!("{format:?}.weights.json"), 1, &stamp).unwrap();
        layout.seal(&data.iter().map(|bytes| crc32fast::hash(bytes)).collect::<Vec<_>>(), &stamp).unwrap();
        let mut files = vec![(format!("{format:?}.weights.json"), bytes(&layout, &data))];
        let mut data_at = vec![data_begin(&layout)];
        for file in layout.companions() {
            files.push((file.name().to_owned(), bytes(file.layout(), &data[file.tensors()])));
            data_at.push(data_begin(file.layout()));
        }
        let specs = schema.tensors().iter().zip(data);
        let tensors = specs.map(|(spec, bytes)| (spec.path.clone(), (spec.clone(), bytes))).collect();
        let config = (format == Format::Keras).then_some(CONFIG);
        Ours { files, truth: Truth { tensors, config, data_at } }
    }
}

fn bytes(layout: &Layout, data: &[Vec<u8>]) -> Vec<u8> {
    let mut file = vec![0; layout.size() as usize];
    for extent in layout.extents() {
        let bytes: &[u8] = match extent.source {
            Source::Literal(i) => &layout.literals()[i],
            Source::Tensor(i) => &data[i],
        };
        file[extent.offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    file
}

fn data_begin(layout: &Layout) -> usize {
    let mut tensors = layout.extents().iter().filter(|extent| matches!(extent.source, Source::Tensor(_)));
    tensors.next().map_or(layout.size() as usize, |extent| extent.offset as usize)
}
