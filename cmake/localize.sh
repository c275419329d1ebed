#!/bin/sh
# Makes the static library that is installed out of the one that cargo makes. Cargo's defines, beside ours, every
# symbol of Rust's library, which would clash with that of another Rust library; this one defines what the shared
# library exports (ckpt_*), and nothing else.
#
# usage: localize.sh CARGO_LIBCKPT_A CARGO_LIBCKPT_SO OUT_A      (LD, OBJCOPY, NM, AR: the binutils to use)
set -eu

archive=$1 shared=$2 out=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Each exported symbol becomes a root: what none of them reaches is left out. (nm of the shared library, since nm of
# bitcode goes wrong where a linker plugin of another LLVM is installed.)
roots=$("${NM:-nm}" -D --defined-only "$shared" | sed -n 's/.* T \(ckpt_[a-z0-9_]*\)$/-u \1/p')
if [ -z "$roots" ]; then
    echo "localize.sh: $shared exports no ckpt_ symbol" >&2
    exit 1
fi

# One object. Section groups are resolved here: left in, a group that another Rust library also has (the pointer to
# rust_eh_personality) would be dropped by the final link, and our local references with it.
"${LD:-ld}" -r --gc-sections --force-group-allocation $roots "$archive" -o "$work/all.o"

# Everything but ours becomes local; Rust's bitcode and the debug information go.
"${OBJCOPY:-objcopy}" -w --remove-section=.llvmbc --remove-section=.llvmcmd --strip-debug \
    --keep-global-symbol='ckpt_*' "$work/all.o" "$work/local.o"

# What only left-out code needed still stands there as undefined; weak references to newer system calls among it.
"${NM:-nm}" -u "$work/local.o" | sed 's/^ *[A-Za-z] //' > "$work/undefined"
"${OBJCOPY:-objcopy}" --strip-unneeded-symbols="$work/undefined" "$work/local.o" "$work/ckpt.o"

"${AR:-ar}" rcsD "$work/libckpt.a" "$work/ckpt.o"
mkdir -p "$(dirname "$out")"
mv "$work/libckpt.a" "$out"
