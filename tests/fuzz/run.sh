#!/bin/sh
# Fuzzes the parsers and the way back into a training, with AddressSanitizer: each target for its part of the time, from
# its corpus, the golden files, and what earlier runs have come to.
#
# usage: run.sh SECONDS DIR [TARGET...]
#
# DIR keeps what the runs find out; a file that fails is under DIR/artifacts. It takes cargo-fuzz, and a compiler that
# allows unstable flags.
set -eu

seconds=$1 dir=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if ! cargo fuzz --version > /dev/null 2>&1; then
    echo "installing cargo-fuzz"
    cargo install --quiet cargo-fuzz
fi
export RUSTC_BOOTSTRAP=1
# A case makes files: in memory, where there is room.
TMPDIR=$(mktemp -d -p /dev/shm 2> /dev/null || mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT INT TERM

targets=${*:-$(cd "$here/fuzz_targets" && ls ./*.rs | sed 's/^..//; s/\.rs$//')}
# shellcheck disable=SC2086
set -- $targets
each=$((seconds / $#))
failed=
cargo fuzz build --fuzz-dir "$here" --target-dir "$dir/target" > "$dir/build.log" 2>&1 || {
    tail -n 30 "$dir/build.log" >&2
    exit 1
}
for target; do
    mkdir -p "$dir/$target" "$dir/artifacts/$target"
    case $target in
    hdf5 | resume) seeds="hdf5 ../../golden/weights-h5" ;;
    keras) seeds="keras ../../golden/keras" ;;
    legacy) seeds="legacy ../../golden/legacy" ;;
    safetensors) seeds=../../golden/safetensors ;;
    index) seeds=../../golden/weights-json ;;
    *) seeds=$target ;;
    esac
    for from in $seeds; do
        [ ! -d "$here/corpus/$from" ] || find "$here/corpus/$from" -type f -size -200k ! -name README.md -exec sh -c '
            for file; do cp "$file" "$0/$(sha1sum < "$file" | cut -c-40)"; done' "$dir/$target" {} +
    done
    if cargo fuzz run --fuzz-dir "$here" --target-dir "$dir/target" "$target" "$dir/$target" -- \
        -max_total_time=$each -max_len=200000 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$dir/artifacts/$target/" > "$dir/$target.log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$dir/$target.log")
        echo "fuzz: $target: $runs runs in $each s, nothing found"
    else
        failed="$failed $target"
        echo "fuzz: $target failed, see $dir/$target.log:" >&2
        grep -m 5 -E 'panicked|ERROR|SUMMARY|artifact' "$dir/$target.log" >&2 || tail -n 20 "$dir/$target.log" >&2
    fi
done
[ -z "$failed" ]
