//! A model whose weights tell at which time they were saved, and whether all of them are of that time.

use std::path::Path;

use ckpt::engine::Buffer;
use ckpt::reader::Reader;
use ckpt::session::Model;
use ckpt::tensor::Dtype;

use crate::random::Random;

pub const CONFIG: &str =
    r#"{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": []}}"#;

/// A path, a dtype, a shape.
type Spec = (&'static str, Dtype, Vec<u64>);

/// The tensors of a model, and their memory.
pub struct Weights {
    specs: Vec<Spec>,
    memory: Vec<Vec<u64>>,
    pub model: Model,
}

impl Weights {
    /// Some KiB, or at least `bytes`.
    pub fn new(bytes: u64) -> Weights {
        let rows = (bytes / (4 * 32)).max(16);
        let specs: Vec<Spec> = vec![
            ("layers/dense/vars/0", Dtype::F32, vec![rows, 32]),
            ("layers/dense/vars/1", Dtype::F32, vec![32]),
            ("layers/dense_1/vars/0", Dtype::F16, vec![32, 5]),
            ("layers/dense_1/vars/1", Dtype::Bool, vec![3]),
            ("optimizer/vars/0", Dtype::I64, vec![]),
            ("vars/0", Dtype::Bf16, vec![7, 2]),
        ];
        let mut model = Model::new();
        let mut memory = Vec::new();
        for (path, dtype, shape) in &specs {
            let bytes = size(*dtype, shape);
            let mut words = vec![0u64; bytes.div_ceil(8)];
            // SAFETY: the words hold all elements and stay where they are when the Vec moves; they are written by
            // `fill` alone, when no save reads them.
            let buffer = unsafe { Buffer::new(words.as_mut_ptr().cast(), dtype.size(), shape, None) };
            let added = buffer.and_then(|buffer| model.add(path, *dtype, shape, buffer));
            added.unwrap_or_else(|e| panic!("{path}: {e}"));
            memory.push(words);
        }
        let named =
            model.set_name("layers/dense", "first").and_then(|()| model.set_name("layers/dense_1", "größe"));
        named.and_then(|()| model.set_config(CONFIG)).unwrap_or_else(|e| panic!("{e}"));
        Weights { specs, memory, model }
    }

    /// Sets all weights to those of a time.
    pub fn fill(&mut self, time: u64) {
        for (i, ((_, dtype, _), words)) in self.specs.iter().zip(&mut self.memory).enumerate() {
            // The model reads this memory; volatile, since the compiler does not know that.
            words.iter_mut().enumerate().for_each(|(at, word)| {
                // SAFETY: a live element.
                unsafe { std::ptr::write_volatile(word, value(*dtype, time, i, at)) }
            });
        }
    }

    /// The time of a checkpoint, if it is whole, and all in it is of one time.
    pub fn time_of(&self, path: &Path) -> Result<u64, String> {
        let reader = Reader::open(path).map_err(|e| e.message().to_owned())?;
        reader.verify().map_err(|e| e.message().to_owned())?;
        self.time_in(&reader)
    }

    /// As above, of what has been opened.
    pub fn time_in(&self, reader: &Reader) -> Result<u64, String> {
        if reader.tensors().len() != self.specs.len() {
            return Err(format!("{} tensors instead of {}", reader.tensors().len(), self.specs.len()));
        }
        let mut time = None;
        for (i, (path, dtype, shape)) in self.specs.iter().enumerate() {
            let index = reader.find(path).ok_or_else(|| format!("no tensor '{path}'"))?;
            let spec = &reader.tensors()[index];
            if (spec.dtype, &spec.shape) != (*dtype, shape) {
                return Err(format!("'{path}' is {:?} {:?}", spec.dtype, spec.shape));
            }
            let mut bytes = vec![0; size(*dtype, shape)];
            reader.read(index, &mut bytes).map_err(|e| e.message().to_owned())?;
            let mut expected = Vec::new();
            let of = *time.get_or_insert_with(|| bytes.first().map_or(0, |_| first(&bytes)));
            (0..bytes.len().div_ceil(8))
                .for_each(|at| expected.extend(value(*dtype, of, i, at).to_le_bytes()));
            if expected.get(..bytes.len()) != Some(&bytes[..]) {
                return Err(format!("'{path}' is not of time {of}"));
            }
        }
        time.ok_or_else(|| "no tensors".into())
    }
}

/// The word of a tensor at a time; the first one of the first tensor is the time.
fn value(dtype: Dtype, time: u64, tensor: usize, at: usize) -> u64 {
    match (dtype, tensor, at) {
        (_, 0, 0) => time,
        (Dtype::Bool, ..) => 0x0101_0001_0100_0101 & Random::new(time ^ at as u64).next(),
        _ => Random::new(time.wrapping_mul(0x1_0001) ^ ((tensor as u64) << 40) ^ at as u64).next(),
    }
}

fn first(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

fn size(dtype: Dtype, shape: &[u64]) -> usize {
    dtype.size() * shape.iter().product::<u64>() as usize
}
