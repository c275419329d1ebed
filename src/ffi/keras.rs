//! `ckpt_keras`: a Keras model by its layers, for programs that have no Python.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::engine::{Buffer, Source};
use crate::error::{Error, Result, Status};
use crate::keras::{Builder, Variable};
use crate::session::Model;
use crate::tensor::{Dtype, TensorSpec};

use super::args::{self, free_handle, into_handle, some, string};
use super::model::{ckpt_dtype_arg, ckpt_model};
use super::reader::ckpt_tensor_info;
use super::source::{self, ckpt_fetch_fn, ckpt_put_fn};
use super::status::{ckpt_status, guard};

/// A Keras model in the making: its layers, the optimizer, and where their variables are. By one thread at a time.
///
/// It knows what keras.Sequential makes of the layers: their configuration, and the paths, the shapes and the dtypes of
/// their variables, as Keras 3.15. Strings are copied; the buffers are borrowed, as those of a ckpt_model are.
pub struct ckpt_keras {
    builder: Builder,
    /// The variables of layers, by their paths.
    bound: HashMap<String, Bound>,
    /// What the optimizer knows, by its name and the path of what it is of: its own path changes with every layer.
    bound_slots: HashMap<(&'static str, Option<String>), Bound>,
    /// What ckpt_keras_variable() has told of.
    told: Option<Told>,
}

struct Bound {
    dtype: Dtype,
    buffer: Buffer,
}

struct Told {
    path: CString,
    shape: Vec<i64>,
}

/// Makes a Sequential model without layers; *out is to be freed with ckpt_keras_free().
///
/// @param out  not NULL; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_keras_new(out: Option<&mut MaybeUninit<*mut ckpt_keras>>) -> ckpt_status {
    guard("ckpt_keras_new", || {
        let keras = ckpt_keras {
            builder: Builder::new(),
            bound: HashMap::new(),
            bound_slots: HashMap::new(),
            told: None,
        };
        some(out, "out")?.write(into_handle(keras));
        Ok(())
    })
}

/// Frees a builder, not its buffers, nor the models it has made; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_keras_free(keras: *mut ckpt_keras) {
    // SAFETY: NULL or from ckpt_keras_new, freed once, by the header's contract.
    unsafe { free_handle(keras) }
}

/// Adds a layer behind the last one. The first is the input: class "InputLayer", with "shape" (of one sample, null where
/// an axis may have any size) and, if wanted, "batch_size", "dtype" and "name". Nothing has changed after a failure.
///
/// The layers are Dense, Conv1D, Conv2D, DepthwiseConv2D, MaxPooling1D, MaxPooling2D, AveragePooling1D,
/// AveragePooling2D, GlobalAveragePooling1D, GlobalAveragePooling2D, ZeroPadding1D, ZeroPadding2D, Flatten, Reshape,
/// Permute, Dropout, BatchNormalization, LayerNormalization, Embedding, LSTM, GRU, Activation, ReLU and Softmax; another
/// class is CKPT_E_UNSUPPORTED.
///
/// @param class_name   Keras' class
/// @param config_json  an object with the arguments of the class, under Keras' names and with Keras' defaults, as in
///                     {"units": 10, "activation": "relu"}; every layer has "name", "trainable" and "dtype", too. What is
///                     missing, unknown, or no value that Keras takes is CKPT_E_INVALID_ARGUMENT, and so is a layer that does not fit
///                     what the one before it gives; the message names the argument and what it can be.
/// @param layer        the layer's number, for ckpt_keras_bind(): 0 is the input; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_keras_add(
    keras: Option<&mut ckpt_keras>,
    class_name: *const c_char,
    config_json: *const c_char,
    layer_or_null: Option<&mut MaybeUninit<usize>>,
) -> ckpt_status {
    guard("ckpt_keras_add", || {
        let keras = some(keras, "keras")?;
        // SAFETY: NULL or strings, by the header's contract.
        let (class, config) =
            unsafe { (string(class_name, "class_name")?, string(config_json, "config_json")?) };
        let number = keras.builder.add(class, config)?;
        layer_or_null.map(|layer| layer.write(number));
        Ok(())
    })
}

/// Tells what a variable of a layer is. The pointers in *out are valid until the next call of this function, or the
/// builder's end.
///
/// @param layer     the number of a layer
/// @param variable  Keras' name of it: "kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "embeddings",
///                  "recurrent_kernel"; CKPT_E_NOT_FOUND, with those that there are, for another one
/// @param out       not NULL; untouched on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_keras_variable(
    keras: Option<&mut ckpt_keras>,
    layer: usize,
    variable: *const c_char,
    out: Option<&mut MaybeUninit<ckpt_tensor_info>>,
) -> ckpt_status {
    guard("ckpt_keras_variable", || {
        let keras = some(keras, "keras")?;
        // SAFETY: NULL or a string, by the header's contract.
        let name = unsafe { string(variable, "variable") }?;
        let out = some(out, "out")?;
        let variable = keras.builder.variable(layer, name)?;
        let told = Told {
            path: CString::new(variable.spec.path.as_str()).unwrap_or_default(),
            shape: variable.spec.shape.iter().map(|&n| n as i64).collect(),
        };
        let (dtype, nbytes) = (variable.spec.dtype, variable.spec.nbytes());
        let told = keras.told.insert(told);
        out.write(ckpt_tensor_info {
            path: told.path.as_ptr(),
            dtype: dtype.into(),
            rank: told.shape.len(),
            shape: told.shape.as_ptr(),
            nbytes,
        });
        Ok(())
    })
}

/// Says where a variable of a layer is. A further call for the same variable replaces the buffer.
///
/// @param layer     the number of a layer
/// @param variable  as in ckpt_keras_variable()
/// @param dtype     of the elements; CKPT_E_MISMATCH if it is not that of the variable, which is CKPT_DTYPE_F32 unless the
///                  layer's "dtype" says otherwise
/// @param strides   a distance for each axis of the variable's shape, which ckpt_keras_variable() tells, as in
///                  ckpt_model_add(); NULL: row-major
/// @param data      the buffer, borrowed as in ckpt_model_add(), by the builder and by the models it makes
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_keras_bind(
    keras: Option<&mut ckpt_keras>,
    layer: usize,
    variable: *const c_char,
    dtype: ckpt_dtype_arg,
    strides_or_null: *const i64,
    data: *mut c_void,
) -> ckpt_status {
    guard("ckpt_keras_bind", || {
        let keras = some(keras, "keras")?;
        // SAFETY: NULL or a string, by the header's contract.
        let name = unsafe { string(variable, "variable") }?;
        let dtype = args::choice(dtype, &Dtype::ALL, "dtype")?;
        let variable = keras.builder.variable(layer, name)?.clone();
        // SAFETY: the header's contract.
        let bound = unsafe { bound(&variable, dtype, strides_or_null, data) }?;
        keras.bound.insert(variable.spec.path, bound);
        Ok(())
    })
}

/// Says that a variable of a layer is not in host memory, or not as Keras has it: functions move its bytes, which are those of
/// the shape that ckpt_keras_variable() tells, row-major. A further call, or ckpt_keras_bind(), replaces them.
///
/// @param layer        the number of a layer
/// @param variable     as in ckpt_keras_variable()
/// @param dtype        as in ckpt_keras_bind()
/// @param fetch        as in ckpt_model_add_source()
/// @param put_or_null  as in ckpt_model_add_source()
/// @param user         as in ckpt_model_add_source()
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_keras_bind_source(
    keras: Option<&mut ckpt_keras>,
    layer: usize,
    variable: *const c_char,
    dtype: ckpt_dtype_arg,
    fetch: ckpt_fetch_fn,
    put_or_null: ckpt_put_fn,
    user: *mut c_void,
) -> ckpt_status {
    guard("ckpt_keras_bind_source", || {
        let keras = some(keras, "keras")?;
        // SAFETY: NULL or a string, by the header's contract.
        let name = unsafe { string(variable, "variable") }?;
        let dtype = args::choice(dtype, &Dtype::ALL, "dtype")?;
        let variable = keras.builder.variable(layer, name)?;
        check_dtype(variable, dtype)?;
        let buffer = source::buffer(&variable.spec, fetch, put_or_null, user)?;
        let path = variable.spec.path.clone();
        keras.bound.insert(path, Bound { dtype, buffer });
        Ok(())
    })
}

/// Compiles the model, so that Keras can go on training it: with an optimizer, and a loss. Replaces an earlier optimizer,
/// and what was bound to it.
///
/// @param optimizer_class  "SGD", "RMSprop", "Adam" or "AdamW"; CKPT_E_UNSUPPORTED for another one
/// @param config_json      an object with the arguments of the optimizer and those of Keras' compile(), under Keras' names
///                         and with Keras' defaults, as in {"learning_rate": 0.01, "loss": "mse", "metrics": ["mae"]};
///                         "learning_rate" is a number
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_keras_compile(
    keras: Option<&mut ckpt_keras>,
    optimizer_class: *const c_char,
    config_json: *const c_char,
) -> ckpt_status {
    guard("ckpt_keras_compile", || {
        let keras = some(keras, "keras")?;
        // SAFETY: NULL or strings, by the header's contract.
        let class = unsafe { string(optimizer_class, "optimizer_class") }?;
        // SAFETY: as above.
        let config = unsafe { string(config_json, "config_json") }?;
        keras.builder.compile(class, config)?;
        keras.bound_slots.clear();
        Ok(())
    })
}

/// Says where a part of the optimizer's state is. Where one part is bound, all are to be, but for "learning_rate", which is that
/// of ckpt_keras_compile() then; where none is, Keras begins with a new state.
///
/// @param slot      "iteration" (an integer, CKPT_DTYPE_I32 or CKPT_DTYPE_I64: the batches so far, also
///                  those whose gradients are only accumulated) and "learning_rate", of the
///                  optimizer itself; and of each trainable variable, with its shape and dtype: of SGD "momentum" (with a
///                  momentum); of RMSprop "velocity", "momentum" (with a momentum) and "average_gradient" (centered); of
///                  Adam and AdamW "momentum", "velocity" and "velocity_hat" (amsgrad); of all "average" (use_ema) and
///                  "gradient_accumulator" (gradient_accumulation_steps). CKPT_E_NOT_FOUND, with those that there are, for
///                  another one
/// @param layer     the number of the layer; of "iteration" and "learning_rate" not looked at
/// @param variable  the layer's variable; of those two not looked at, and may be NULL
/// @param dtype     as in ckpt_keras_bind()
/// @param strides   as in ckpt_keras_bind()
/// @param data      as in ckpt_keras_bind()
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ckpt_keras_bind_optimizer(
    keras: Option<&mut ckpt_keras>,
    slot: *const c_char,
    layer: usize,
    variable_or_null: *const c_char,
    dtype: ckpt_dtype_arg,
    strides_or_null: *const i64,
    data: *mut c_void,
) -> ckpt_status {
    guard("ckpt_keras_bind_optimizer", || {
        let keras = some(keras, "keras")?;
        // SAFETY: NULL or strings, by the header's contract.
        let slot = unsafe { string(slot, "slot") }?;
        let is_whole = matches!(slot, "iteration" | "learning_rate");
        let of = match is_whole || variable_or_null.is_null() {
            true => None,
            // SAFETY: as above.
            false => Some((layer, unsafe { string(variable_or_null, "variable") }?)),
        };
        let dtype = args::choice(dtype, &Dtype::ALL, "dtype")?;
        let (mut slot, of) = keras.builder.slot(slot, of)?;
        if slot.name == "iteration" && dtype == Dtype::I64 {
            slot.spec.dtype = dtype;
        }
        // SAFETY: the header's contract.
        let bound = unsafe { bound(&slot, dtype, strides_or_null, data) }?;
        keras.bound_slots.insert((slot.name, of), bound);
        Ok(())
    })
}

/// Makes a model of what was added and bound: with the tensors, the names and the configuration that Keras needs to load
/// it. A new one, the caller's to free with ckpt_model_free(); the builder may go, or be added to for the next one.
///
/// CKPT_E_STATE, with the layer and the variable, where one is not bound.
///
/// @param out  not NULL; untouched on failure
#[unsafe(no_mangle)]
pub extern "C" fn ckpt_keras_model(
    keras: Option<&ckpt_keras>,
    out: Option<&mut MaybeUninit<*mut ckpt_model>>,
) -> ckpt_status {
    guard("ckpt_keras_model", || {
        let keras = some(keras, "keras")?;
        let out = some(out, "out")?;
        out.write(into_handle(ckpt_model { model: keras.model()?, skipped: Vec::new() }));
        Ok(())
    })
}

/// A number that the model has itself: nobody has bound it.
struct Kept(Mutex<[u8; 4]>);

impl Source for Kept {
    fn fetch(&self, _: u64, dst: &mut [u8]) -> Result<()> {
        dst.copy_from_slice(&*self.0.lock());
        Ok(())
    }

    fn put(&self, _: u64, src: &[u8]) -> Result<()> {
        self.0.lock().copy_from_slice(src);
        Ok(())
    }

    fn can_put(&self) -> bool {
        true
    }
}

fn check_dtype(variable: &Variable, dtype: Dtype) -> Result<()> {
    let Variable { name, spec } = variable;
    if dtype == spec.dtype {
        return Ok(());
    }
    let message = format!("'{}', {name}, is {}, not {}", spec.path, spec.dtype.name(), dtype.name());
    Err(Error::new(Status::Mismatch, message))
}

/// Where a variable is.
///
/// # Safety
/// `strides` is NULL or has one for each axis; `data` is as the header says of it.
unsafe fn bound(variable: &Variable, dtype: Dtype, strides: *const i64, data: *mut c_void) -> Result<Bound> {
    check_dtype(variable, dtype)?;
    let Variable { name, spec: TensorSpec { path, shape, .. } } = variable;
    // SAFETY: this function's contract.
    let strides = unsafe { args::slice_or_null(strides, shape.len(), "strides") }?;
    // SAFETY: this function's contract.
    let buffer = unsafe { Buffer::new(data.cast(), dtype.size(), shape, strides) }
        .map_err(|e| e.context(format_args!("'{path}', {name}")))?;
    Ok(Bound { dtype, buffer })
}

impl ckpt_keras {
    fn model(&self) -> Result<Model> {
        let mut model = Model::new();
        model.set_config(&self.builder.config()?)?;
        for (group, name) in self.builder.groups() {
            model.set_name(&group, &name)?;
        }
        for (layer, variable) in self.builder.variables() {
            let Bound { dtype, buffer } = self.bound.get(&variable.spec.path).ok_or_else(|| {
                let message =
                    format!("'{}' of layer '{layer}' is not bound: ckpt_keras_bind()", variable.name);
                Error::new(Status::State, message)
            })?;
            model.add(&variable.spec.path, *dtype, &variable.spec.shape, buffer.clone())?;
        }
        if self.bound_slots.is_empty() {
            return Ok(model);
        }
        for (slot, of) in self.builder.optimizer() {
            match self.bound_slots.get(&(slot.name, of.clone())) {
                Some(Bound { dtype, buffer }) => {
                    model.add(&slot.spec.path, *dtype, &slot.spec.shape, buffer.clone())?;
                }
                None if slot.name == "learning_rate" => {
                    let rate = self.builder.learning_rate().unwrap_or(0.0) as f32;
                    let kept = Arc::new(Kept(Mutex::new(rate.to_ne_bytes())));
                    model.add(&slot.spec.path, slot.spec.dtype, &[], Buffer::source(4, 4, kept)?)?;
                }
                None => {
                    let of = of.map_or(String::new(), |of| format!(" of '{of}'"));
                    let message = format!(
                        "the optimizer's '{}'{of} is not bound: ckpt_keras_bind_optimizer()",
                        slot.name
                    );
                    return Err(Error::new(Status::State, message));
                }
            }
        }
        Ok(model)
    }
}
