#!/bin/sh
# Builds and runs the two outsiders' projects. Each installs into a directory of its own and moves what it installed,
# so that a path that was written down shows.
#
# usage: run.sh package|fetch|subdirectory|pkgconfig BUILD_DIR CARGO_TARGET_DIR WORK_DIR
set -eu

kind=$1 build=$2 cargo_target=$3 work=$4
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)

rm -rf "$work"
mkdir -p "$work"
cd "$work"

install_and_move() {
    cmake --install "$build" --prefix "$work/first" > install.log
    mv "$work/first" "$work/moved"
    if grep -rIlF -e "$work/first" -e "$source" -e "$build" moved; then
        echo "run.sh: these installed files name a directory of this machine" >&2
        exit 1
    fi
}

# Fails unless the program needs the shared library exactly where it should.
check_needs() {
    for program in "$@"; do
        needs=$(readelf -d "$program" | grep -c 'NEEDED.*\[libckpt\.so\.0\]' || true)
        case $program in *_ckpt) expected=1 ;; *) expected=0 ;; esac
        if [ "$needs" != "$expected" ]; then
            echo "run.sh: $program needs libckpt.so.0 $needs times, not $expected" >&2
            exit 1
        fi
    done
}

run_cmake_project() {
    cmake -S "$here/cmake" -B project "$@" > configure.log || { cat configure.log; exit 1; }
    cmake --build project > build.log || { cat build.log; exit 1; }
    (cd project && ctest --output-on-failure)
    check_needs project/prog_c_ckpt project/prog_cpp_ckpt project/prog_c_static project/prog_cpp_static
}

case $kind in
package)
    install_and_move
    run_cmake_project -DCMAKE_PREFIX_PATH="$work/moved"
    grep -q "ckpt_DIR:PATH=$work/moved/" project/CMakeCache.txt
    ;;
fetch | subdirectory)
    run_cmake_project -DCKPT_FROM="$kind" -DCKPT_SOURCE="$source" -DCKPT_CARGO_TARGET_DIR="$cargo_target"
    ;;
pkgconfig)
    install_and_move
    mkdir project
    cp "$here"/prog.c "$here"/prog.cpp "$here"/pkgconfig/Makefile project
    PKG_CONFIG_PATH="$work/moved/lib/pkgconfig" make -s -C project MAKEFLAGS= check
    check_needs project/prog_c_ckpt project/prog_cpp_ckpt project/prog_c_static project/prog_cpp_static \
        project/prog_c_all_static
    ;;
*)
    echo "run.sh: unknown project '$kind'" >&2
    exit 2
    ;;
esac
