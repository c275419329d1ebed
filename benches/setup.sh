#!/bin/sh
# Gets what the benchmark alone needs, into DIRECTORY: torch from PyPI, the HDF5 library's headers from Debian, and
# builds its programs. Peers that cannot be had are left out; the benchmark says so and goes on.
#
# usage: setup.sh DIRECTORY LIBCKPT.so      with $PYTHON, $CC and $CXX
set -eu

directory=$1 library=$2
here=$(dirname "$0")
torch=torch==2.15.0
say() { echo "set-up: $*"; }

mkdir -p "$directory"
cmake/setup.sh tools pkg-config:pkg-config h5cc:libhdf5-dev || say "going on without the HDF5 C library"

if [ ! -d "$directory/torch" ]; then
    if [ "$(df --output=avail -k "$directory" | tail -1)" -lt $((10 << 20)) ]; then
        say "going on without torch: it takes 5 GB, and less than 10 GB are free"
    else
        say "installing $torch (5 GB, for the benchmark alone) into $directory/torch"
        rm -rf "$directory/torch.new"
        if "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-cache-dir --retries 2 \
            --target "$directory/torch.new" "$torch" < /dev/null > "$directory/pip.log" 2>&1; then
            mv "$directory/torch.new" "$directory/torch"
        else
            say "going on without torch: $(tail -1 "$directory/pip.log")"
            rm -rf "$directory/torch.new"
        fi
    fi
fi

warnings="-Wall -Wextra"
run_path="-Wl,-rpath,$(cd "$(dirname "$library")" && pwd)"
# shellcheck disable=SC2086
"$CC" -std=c11 -O2 $warnings -Iinclude "$here/speed.c" "$here/worker.c" "$here/machine.c" "$here/ours.c" \
    "$here/train.c" -o "$directory/speed" "$library" "$run_path" -lpthread
"$CC" -std=c11 -O2 $warnings -Iinclude -Ibindings/cuda -Itests/cuda/double "$here/device.c" "$here/worker.c" \
    tests/cuda/double/cuda_runtime.c -o "$directory/device" "$library" "$run_path" -lpthread
"$CC" -std=c99 -O2 -Iinclude "$here/decision.c" -o "$directory/decision" "$library" "$run_path"
rm -f "$directory/plain_hdf5"
if pkg-config --exists hdf5; then
    "$CC" -std=c11 -O2 -c "$here/worker.c" -o "$directory/worker.o"
    # shellcheck disable=SC2046
    "$CXX" -std=c++17 -O2 $(pkg-config --cflags hdf5) "$here/plain_hdf5.cpp" "$directory/worker.o" \
        -o "$directory/plain_hdf5" $(pkg-config --libs hdf5)
fi
