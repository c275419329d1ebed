//! include/ckpt.h is what src/ffi says. `CKPT_BLESS=1 cargo test --test header` (make header) writes it anew.

use std::path::Path;

#[test]
fn header_is_not_stale() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ffi = root.join("src/ffi");
    let config = cbindgen::Config::from_file(ffi.join("cbindgen.toml")).expect("src/ffi/cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    // From simple to advanced, as the header is to be read.
    for noun in [
        "status",
        "options",
        "when",
        "retention",
        "saving",
        "session",
        "model",
        "source",
        "fence",
        "reader",
        "load",
        "resume",
        "convert",
        "keras",
    ] {
        builder = builder.with_src(ffi.join(noun).with_extension("rs"));
    }
    let mut fresh = Vec::new();
    builder.generate().expect("src/ffi is to be parsed").write(&mut fresh);
    let fresh = String::from_utf8(fresh).expect("a header is UTF-8");

    let path = root.join("include/ckpt.h");
    if std::env::var_os("CKPT_BLESS").is_some() {
        std::fs::write(&path, &fresh).expect("include/ckpt.h is to be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if committed != fresh {
        for (i, (old, new)) in committed.lines().zip(fresh.lines()).enumerate() {
            if old != new {
                panic!("include/ckpt.h is stale at line {}:\n- {old}\n+ {new}\nrun `make header`", i + 1);
            }
        }
        panic!(
            "include/ckpt.h is stale: it has {} bytes, not {}; run `make header`",
            committed.len(),
            fresh.len()
        );
    }
}
