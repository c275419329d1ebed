//! The archives of `.keras` files before a zip library, Zip64 among them.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod layout_support;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use ckpt::layout::{Assets, Format, Layout, Options, Schema, Source, Stamp, plan};
use ckpt::reader::Reader;
use ckpt::tensor::Dtype;
use layout_support::{DATE, Scratch, materialize};
use zip::{CompressionMethod, ZipArchive};

/// A file whose only tensor has `len` zeros, which are holes in it.
fn zeros(scratch: &Scratch, config: &str, len: u64) -> (Layout, PathBuf) {
    let mut schema = Schema::new();
    schema.add("x", Dtype::U8, &[len]).unwrap();
    let options = Options { config: Some(config), ..Options::default() };
    let mut layout = plan(&schema, Format::Keras, &options).unwrap();
    let mut crc = crc32fast::Hasher::new_with_initial(!0);
    crc.combine(&crc32fast::Hasher::new_with_initial_len(0, len));
    layout.seal(&[!crc.finalize()], &Stamp { date: DATE, ..Stamp::default() }).unwrap();
    let path = scratch.path().join("zeros.keras");
    let mut file = File::create(&path).unwrap();
    for extent in layout.extents() {
        if let Source::Literal(i) = extent.source {
            file.seek(SeekFrom::Start(extent.offset)).unwrap();
            file.write_all(&layout.literals()[i]).unwrap();
        }
    }
    file.set_len(layout.size()).unwrap();
    (layout, path)
}

/// Opens the archive and reads it, the weights too if `all`, so that the CRCs are checked.
fn check(layout: &Layout, path: &PathBuf, config: &str, all: bool) {
    let weights = layout.extents()[2].offset + layout.extents()[2].len - 4096;
    let mut archive = ZipArchive::new(File::open(path).unwrap()).unwrap();
    let names = ["model.weights.h5", "metadata.json", "config.json"];
    assert_eq!(archive.len(), 3);
    for (i, name) in names.iter().enumerate() {
        let mut member = archive.by_index(i).unwrap();
        assert_eq!(member.name().unwrap(), *name);
        assert_eq!(member.compression(), CompressionMethod::Stored);
        assert_eq!(member.unix_mode(), Some(0o100_600));
        let date = member.last_modified().unwrap();
        assert_eq!(date.to_string(), "2026-11-24 21:47:30");
        if i == 0 {
            assert_eq!((member.data_start(), member.size()), (Some(4096), weights));
            if all {
                assert_eq!(std::io::copy(&mut member, &mut std::io::sink()).unwrap(), weights);
            }
        } else {
            let mut text = String::new();
            member.read_to_string(&mut text).unwrap();
            match i {
                1 => assert_eq!(text, r#"{"keras_version": "3.15.1", "date_saved": "2026-11-24@21:47:30"}"#),
                _ => assert_eq!(text, config),
            }
        }
    }
}

#[test]
fn a_small_file() {
    let scratch = Scratch::new("layout-zip");
    for config in ["{}".to_owned(), format!("{{\"größe\": \"{}\"}}", "x".repeat(1 << 20))] {
        let (layout, path) = zeros(&scratch, &config, 100);
        check(&layout, &path, &config, true);
    }
}

/// As many members as 16 bits count, and more.
#[test]
fn many_assets() {
    let scratch = Scratch::new("layout-zip-many");
    let mut assets = Assets::new();
    for i in 0..0xffff - 5 {
        assets.set(&format!("{i:05}"), b"").unwrap();
    }
    for (name, bytes) in [("größe", &b"last but one"[..]), ("z", b"last"), ("~", b"1")] {
        assets.set(name, bytes).unwrap();
        let mut schema = Schema::new();
        schema.add("x", Dtype::U8, &[0]).unwrap();
        let options = Options { config: Some("{}"), assets: &assets, ..Options::default() };
        let mut layout = plan(&schema, Format::Keras, &options).unwrap();
        let path = scratch.path().join("many.keras");
        std::fs::write(&path, materialize(&mut layout, &[vec![]], b"{}")).unwrap();
        Reader::open(&path).unwrap().verify().unwrap();
        let mut archive = ZipArchive::new(File::open(&path).unwrap()).unwrap();
        let mut found = Vec::new();
        let mut member = archive.by_name(&format!("assets/{name}")).unwrap();
        member.read_to_end(&mut found).unwrap();
        assert_eq!(found, bytes);
        assert_eq!(member.last_modified().unwrap().to_string(), "2026-11-24 21:47:30");
    }
}

/// Sizes and offsets on both sides of what 32 bits hold.
#[test]
fn files_of_four_gigabytes() {
    const LIMIT: u64 = 0xffff_ffff;
    let scratch = Scratch::new("layout-zip64");
    let (layout, _) = zeros(&scratch, "{}", 1 << 20);
    let before = layout.extents()[2].offset; // the same for every large tensor
    for end in [LIMIT - 4096, LIMIT - 100, LIMIT, LIMIT + 4095, LIMIT + 4096, LIMIT + (1 << 20)] {
        let (layout, path) = zeros(&scratch, "{}", end - before);
        check(&layout, &path, "{}", end == LIMIT + 4096); // the first weights that need Zip64
    }
}
