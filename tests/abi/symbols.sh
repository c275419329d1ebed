#!/bin/sh
# Fails, and shows the difference, unless the libraries define exactly the symbols of symbols.txt. With --bless,
# writes that list instead.
#
# usage: symbols.sh [--bless] LIBCKPT_SO LIBCKPT_A
set -eu
export LC_ALL=C

bless=
if [ "$1" = --bless ]; then bless=1; shift; fi
shared=$1 static=$2
list=$(dirname "$0")/symbols.txt

names() { awk 'NF == 3 { print $3 }' | sort; }

if [ -n "$bless" ]; then
    nm -D --defined-only "$shared" | names > "$list"
    exit
fi
nm -D --defined-only "$shared" | names | diff -u "$list" - || { echo "symbols.sh: $shared differs" >&2; exit 1; }
nm -g --defined-only "$static" | names | diff -u "$list" - || { echo "symbols.sh: $static differs" >&2; exit 1; }
echo "$(wc -l < "$list") symbols in each"
