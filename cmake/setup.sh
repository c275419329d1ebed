#!/bin/sh
# Installs what the machine lacks, and says so. Run by make before whatever needs it; at once where nothing is missing.
#
# usage: setup.sh tools COMMAND:DEBIAN_PACKAGE...     commands, or files by their paths, by apt
#        setup.sh venv DIRECTORY REQUIREMENTS        a private Python environment ($PYTHON, or python3)
set -eu

say() { echo "set-up: $*"; }

# Installs Debian packages, or says which are to be installed and stops.
install() {
    if ! command -v apt-get > /dev/null; then
        say "missing: $*. Install them (these are Debian's names), and run make again." >&2
        exit 1
    fi
    if [ "$(id -u)" = 0 ]; then
        as_root=env
    elif sudo -n true 2> /dev/null; then
        as_root="sudo -n env"
    else
        say "missing: $*. Run this, and make again:" >&2
        echo "    sudo apt-get install -y $*" >&2
        exit 1
    fi
    say "installing $* by apt"
    log=$(mktemp)
    if ! { $as_root DEBIAN_FRONTEND=noninteractive apt-get -qq update &&
        $as_root DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"; } \
        > "$log" 2>&1 < /dev/null; then
        cat "$log" >&2
        exit 1
    fi
    rm -f "$log"
}

tools() {
    missing=
    for pair in "$@"; do
        # Not [ -e cmake ]: there is a directory of that name here.
        case $pair in
            /*) [ -e "${pair%%:*}" ] ;;
            *) command -v "${pair%%:*}" > /dev/null ;;
        esac || missing="$missing ${pair#*:}"
    done
    if ! command -v cargo > /dev/null; then
        say "missing: Rust. See https://rustup.rs, and run make again." >&2
        exit 1
    fi
    # shellcheck disable=SC2086
    [ -z "$missing" ] || install $missing
}

venv() {
    directory=$1 requirements=$2 python=${PYTHON:-python3}
    # Debian's Python comes without the module that puts pip into an environment.
    "$python" -c 'import ensurepip, venv' 2> /dev/null || install python3-venv
    say "installing $(grep -c '==' "$requirements") Python packages into $directory"
    "$python" -m venv --clear "$directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" < /dev/null
}

"$@"
