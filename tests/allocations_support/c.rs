//! A checkpoint that C opens.

use std::ffi::CString;
use std::mem::MaybeUninit;

use ckpt::error::Error;
use ckpt::ffi::{
    ckpt_last_os_error, ckpt_reader, ckpt_reader_asset, ckpt_reader_asset_name, ckpt_reader_assets_len,
    ckpt_reader_config, ckpt_reader_free, ckpt_reader_group, ckpt_reader_len, ckpt_reader_metadata,
    ckpt_reader_name, ckpt_reader_open, ckpt_reader_state, ckpt_reader_tensor, ckpt_reader_verify,
    ckpt_status,
};
use ckpt::session::Async;

use super::model::Weights;
use super::save::{save, session};
use super::{again, refusing};
use crate::scratch::Scratch;

/// What C asks a checkpoint for: each call once more where it fails, since the reader is as it was.
pub fn all(dir: &Scratch, file: &str) {
    let path = dir.join(file);
    let mut weights = Weights::new();
    weights.fill(1);
    save(&session(dir.path(), file, Async::Off), 0, &weights.model()).unwrap();
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let call = |function: &mut dyn FnMut() -> ckpt_status| {
        let mut made = || match function() as i32 {
            0 => Ok(()),
            status if ckpt_last_os_error() == libc::ENOMEM => Err(Error::no_memory("C", status as u64)),
            // There is no such thing in this format.
            6 => Ok(()),
            status => panic!("status {status}"),
        };
        if let Err(error) = refusing(&mut made) {
            again(error, made);
        }
    };
    let mut reader = MaybeUninit::<*mut ckpt_reader>::zeroed();
    // SAFETY: a string.
    call(&mut || unsafe { ckpt_reader_open(path.as_ptr(), Some(&mut reader)) });
    // SAFETY: it has been opened, and is freed at the end.
    let (handle, reader) = unsafe { (reader.assume_init(), &*reader.assume_init()) };
    let mut text = MaybeUninit::uninit();
    call(&mut || ckpt_reader_config(Some(reader), Some(&mut text)));
    call(&mut || ckpt_reader_metadata(Some(reader), Some(&mut text)));
    call(&mut || ckpt_reader_state(Some(reader), Some(&mut text)));
    let mut name = MaybeUninit::uninit();
    call(&mut || ckpt_reader_group(Some(reader), 0, Some(&mut text), Some(&mut name)));
    // SAFETY: a string.
    call(&mut || unsafe { ckpt_reader_name(Some(reader), c"layers/dense".as_ptr(), Some(&mut text)) });
    call(&mut || match ckpt_reader_assets_len(Some(reader)) {
        0 => ckpt_status::CKPT_OK,
        _ => ckpt_reader_asset_name(Some(reader), 0, Some(&mut text)),
    });
    let (mut bytes, mut n) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    call(&mut || {
        // SAFETY: a string.
        unsafe { ckpt_reader_asset(Some(reader), c"large.txt".as_ptr(), Some(&mut bytes), Some(&mut n)) }
    });
    let mut info = MaybeUninit::uninit();
    for i in 0..ckpt_reader_len(Some(reader)) {
        call(&mut || ckpt_reader_tensor(Some(reader), i, Some(&mut info)));
    }
    call(&mut || ckpt_reader_verify(Some(reader)));
    // SAFETY: opened above, and not used again.
    unsafe { ckpt_reader_free(handle) };
}
