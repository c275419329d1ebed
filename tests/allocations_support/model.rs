//! A model that makes everything large: thousands of tensors, long names, a long configuration.

use std::path::Path;

use ckpt::engine::Buffer;
use ckpt::error::Result;
use ckpt::reader::Reader;
use ckpt::session::Model;
use ckpt::tensor::Dtype;

/// Layers of two small weights each.
const LAYERS: usize = 1200;

/// Variables of the optimizer.
const SLOTS: usize = 300;

pub struct Tensor {
    pub path: String,
    dtype: Dtype,
    shape: Vec<u64>,
    strides: Option<Vec<i64>>,
    /// Where its memory begins in that of all.
    at: usize,
}

impl Tensor {
    fn bytes(&self) -> usize {
        self.dtype.size() * self.shape.iter().product::<u64>() as usize
    }
}

/// The tensors, and their memory.
pub struct Weights {
    pub tensors: Vec<Tensor>,
    memory: Vec<u8>,
    pub config: String,
    names: Vec<(String, String)>,
}

impl Weights {
    pub fn new() -> Weights {
        let mut tensors = Vec::new();
        let mut at = 0;
        let mut add = |path: String, dtype: Dtype, shape: &[u64], strides: Option<Vec<i64>>| {
            let tensor = Tensor { path, dtype, shape: shape.to_vec(), strides, at };
            at += tensor.bytes().next_multiple_of(8);
            tensors.push(tensor);
        };
        let mut names = Vec::new();
        for i in 0..LAYERS {
            let number = if i > 0 { format!("_{i}") } else { String::new() };
            let group = format!("layers/dense{number}");
            add(format!("{group}/vars/0"), Dtype::F32, &[3, 4], None);
            add(format!("{group}/vars/1"), Dtype::F32, &[4], None);
            names.push((group, name(i)));
        }
        for i in 0..SLOTS {
            let dtype = if i % 2 == 0 { Dtype::Bf16 } else { Dtype::Bool };
            add(format!("optimizer/vars/{i}"), dtype, &[7], None);
        }
        add("vars/0".into(), Dtype::F32, &[300_000], None);
        add("vars/1".into(), Dtype::F32, &[400, 500], Some(vec![1, 400]));
        add("vars/2".into(), Dtype::F16, &[100, 50], Some(vec![1, 100]));
        Weights { tensors, memory: vec![0; at], config: config(), names }
    }

    /// Gives all weights the values of a time.
    pub fn fill(&mut self, time: u8) {
        for (i, tensor) in self.tensors.iter().enumerate() {
            let value = value(tensor, time, i);
            let bytes = tensor.bytes();
            self.memory[tensor.at..tensor.at + bytes].fill(value);
        }
    }

    fn buffer(&mut self, index: usize) -> Result<Buffer> {
        let tensor = &self.tensors[index];
        let data = self.memory[tensor.at..].as_mut_ptr();
        // SAFETY: the memory outlives the models of a child, and is written between their calls alone.
        unsafe { Buffer::new(data, tensor.dtype.size(), &tensor.shape, tensor.strides.as_deref()) }
    }

    /// A model of them. `call` makes each of the calls.
    pub fn build(&mut self, mut call: impl FnMut(&mut dyn FnMut() -> Result<()>)) -> Model {
        let mut model = Model::new();
        for i in 0..self.tensors.len() {
            call(&mut || {
                let buffer = self.buffer(i)?;
                let Tensor { path, dtype, shape, .. } = &self.tensors[i];
                model.add(path, *dtype, shape, buffer)
            });
        }
        for (group, name) in &self.names {
            call(&mut || model.set_name(group, name));
        }
        // Some that no tensor is in.
        for i in 0..400 {
            call(&mut || model.set_name(&format!("layers/dropout_{i}"), &format!("dropout-{i}")));
        }
        call(&mut || model.set_config(&self.config));
        for i in 0..200 {
            call(&mut || model.set_asset(&format!("layers/lookup_{i}/vocabulary.txt"), &[b'x'; 500]));
        }
        call(&mut || model.set_asset("large.txt", &[b'y'; 20_000]));
        for i in 0..50 {
            call(&mut || model.set_metadata(&format!("key-{i}"), &"\"value\"\n".repeat(30)));
        }
        let long = "\"long\"\n".repeat(3000);
        call(&mut || model.set_metadata("long", &long));
        model
    }

    pub fn model(&mut self) -> Model {
        self.build(|call| call().unwrap())
    }

    /// Of which time the checkpoint is. All of it has to be whole, and of that time.
    pub fn time_of(&self, path: &Path) -> u8 {
        let reader = Reader::open(path).unwrap();
        reader.verify().unwrap();
        self.time_in(&reader)
    }

    pub fn time_in(&self, reader: &Reader) -> u8 {
        let index = reader.find(&self.tensors[0].path).unwrap();
        let mut bytes = vec![0; self.tensors[0].bytes()];
        reader.read(index, &mut bytes).unwrap();
        let time = bytes[0];
        for (i, tensor) in self.tensors.iter().enumerate() {
            let index = reader.find(&tensor.path).unwrap_or_else(|| panic!("no tensor '{}'", tensor.path));
            let mut bytes = vec![0; tensor.bytes()];
            reader.read(index, &mut bytes).unwrap();
            let expected = value(tensor, time, i);
            assert!(bytes.iter().all(|byte| *byte == expected), "'{}' is not of time {time}", tensor.path);
        }
        time
    }

    /// Whether the memory has the values of this time.
    pub fn is_of(&self, time: u8) -> bool {
        self.tensors.iter().enumerate().all(|(i, tensor)| {
            let memory = &self.memory[tensor.at..tensor.at + tensor.bytes()];
            let expected = value(tensor, time, i);
            // SAFETY: a live byte; the model has written it, which the compiler does not know.
            memory.iter().all(|byte| unsafe { std::ptr::read_volatile(byte) } == expected)
        })
    }
}

/// All bytes of a tensor at a time; that of the first tensor is the time.
fn value(tensor: &Tensor, time: u8, index: usize) -> u8 {
    match tensor.dtype {
        Dtype::Bool => time & 1,
        _ => time.wrapping_add((index % 50) as u8),
    }
}

fn name(layer: usize) -> String {
    format!("layer-{layer}-{}", "n".repeat(40))
}

/// A configuration of all layers, with what makes the legacy format write it anew.
fn config() -> String {
    let layer = |i: usize| {
        let name = name(i);
        format!(
            r#"{{"module": "keras.layers", "class_name": "Dense", "config": {{"name": "{name}", "trainable": true, "scale": NaN}}, "registered_name": null}}"#
        )
    };
    let layers: Vec<String> = (0..LAYERS).map(layer).collect();
    let losses: Vec<String> = (0..400).map(|i| format!(r#""out-{i}-{}": "mse""#, "o".repeat(30))).collect();
    format!(
        r#"{{"module": "mine", "class_name": "Mine", "config": {{"name": "m", "layers": [{}]}}, "registered_name": "pack>Mine", "compile_config": {{"optimizer": {{"class_name": "Adam", "config": {{"text": "{}"}}}}, "loss": {{{}}}, "metrics": ["a"]}}}}"#,
        layers.join(", "),
        "\\\"adam\\\" ".repeat(2000),
        losses.join(", ")
    )
}
