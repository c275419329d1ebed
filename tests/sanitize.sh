#!/bin/sh
# Runs the tests in C under ThreadSanitizer, AddressSanitizer (with its search for leaks) or valgrind.
#
# usage: sanitize.sh thread|address|valgrind DIR [TEST...]
#
# TEST is a program of c/, or cuda_PROGRAM[:ARGUMENT...], one of cuda/. DIR is where to build. A stable compiler does: of
# its own standard library, which no sanitizer sees into, sanitize/std_sync.c tells what matters.
set -eu

kind=$1 dir=$2
shift 2
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
cargo=${CARGO:-cargo}
cc=${CC:-gcc}
host=$(rustc -vV | sed -n 's/^host: //p')
asan=exitcode=66:allocator_may_return_null=1
leaks=
libs="-lpthread -ldl -lrt -lm -lutil"
flags="-std=c99 -g -O1 -I$root/include"
includes=

# build FLAGS: the library, with these flags of the compiler's.
build() {
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="$1" CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 "$cargo" build --release --quiet --lib \
        --manifest-path "$root/Cargo.toml" --target "$host" --target-dir "$dir"
    library=$dir/$host/release/libckpt.a
}

# runtime NAME: the compiler's own runtime of a sanitizer, whole.
runtime() {
    echo "-Wl,--whole-archive $(rustc --print target-libdir --target "$host")/librustc-stable_rt.$1.a -Wl,--no-whole-archive"
}

# std_symbol PATTERN: the name of a function of the standard library's that the library calls.
std_symbol() {
    nm "$library" 2> /dev/null | awk '$1 == "U" { print $2 }' | grep "3std3sys4sync.*$1" | sort -u
}

case $kind in
thread)
    # The one that is about threads. Of others the ends of scoped threads are reported, which the standard library knows
    # and the sanitizer does not.
    tests=${*:-threads cuda_calls cuda_saves:off:50 cuda_saves:copy:50 cuda_saves:borrow:50}
    build "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
    lock=$(std_symbol 14lock_contended) wait=$(std_symbol 7Condvar4wait) call=$(std_symbol 4Once4call)
    $cc -O1 -DLOCK="$lock" -DWAIT="$wait" -DCALL="$call" -c "$root/tests/sanitize/std_sync.c" -o "$dir/std_sync.o"
    flags="$flags -fsanitize=thread"
    link="$dir/std_sync.o -Wl,--wrap=$lock,--wrap=$wait,--wrap=$call $library $(runtime tsan)"
    export TSAN_OPTIONS="exitcode=66 suppressions=$root/tests/sanitize/thread.supp"
    # Its shadow memory has no room for addresses as random as new kernels make them.
    run="setarch -R"
    ;;
address)
    tests=${*:-$(cd "$root/tests/c" && ls ./*.c | sed 's/^..//; s/\.c$//') cuda_calls cuda_saves:borrow:50}
    build "-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer"
    flags="$flags -fsanitize=address"
    link="$library $(runtime asan)"
    run=
    ;;
valgrind)
    # All but one that moves bytes for minutes there.
    tests=${*:-$(cd "$root/tests/c" && ls ./*.c | sed 's/^..//; s/\.c$//; /^company$/d')}
    "$cargo" build --release --quiet --lib --manifest-path "$root/Cargo.toml" --target-dir "$dir"
    link=$dir/release/libckpt.a
    run="valgrind --quiet --error-exitcode=66 --fair-sched=yes"
    leaks="--leak-check=full --show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect"
    ;;
*)
    echo "sanitize.sh: '$kind' is none of thread, address, valgrind" >&2
    exit 2
    ;;
esac

failed=0 passed=0
for test in $tests; do
    with=$run
    case $test in
    # What a thread has, a child that does not have the thread can never give back.
    exit | fork | lock | company) ASAN_OPTIONS="$asan:detect_leaks=0" ;;
    *) with="$run $leaks" ASAN_OPTIONS=$asan ;;
    esac
    export ASAN_OPTIONS
    # The linker is that of C++ for what the runtimes need; the flag is not there, so that the runtime is ours.
    source=$root/tests/c/$test.c more= arguments=
    case $test in
    cuda_*)
        arguments=$(echo "$test" | tr : ' ' | cut -s -d ' ' -f 2-)
        source=${test%%:*}
        source=$root/tests/cuda/${source#cuda_}.c
        includes="-I$root/tests/c -I$root/tests/cuda/double -I$root/bindings/cuda"
        more=$dir/double.o
        # shellcheck disable=SC2086
        $cc $flags -c "$root/tests/cuda/double/cuda_runtime.c" -o "$more"
        ;;
    esac
    # shellcheck disable=SC2086
    $cc $flags $includes -c "$source" -o "$dir/$test.o"
    # shellcheck disable=SC2086
    ${CXX:-g++} "$dir/$test.o" $more $link $libs -o "$dir/$test"
    mkdir -p "$dir/run/$test"
    # shellcheck disable=SC2086
    if (cd "$dir/run/$test" && timeout 600 $with "$dir/$test" $arguments > "$dir/$test.log" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "sanitize.sh: $kind: $test failed:" >&2
        head -n 60 "$dir/$test.log" >&2
    fi
done
echo "$kind: $passed passed, $failed failed"
[ "$failed" = 0 ]
