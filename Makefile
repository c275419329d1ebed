# The front door: `make help`. CMakeLists.txt says how the library is built and installed, Cargo.toml what is in it;
# this file installs what they need, and puts the steps in order.
SHELL := /bin/sh
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

PREFIX ?= /usr/local
LIBDIR ?= lib
CARGO ?= cargo
PYTHON ?= python3

root := $(CURDIR)
target := $(or $(CARGO_TARGET_DIR),$(root)/target)
python := $(root)/.venv/bin/python
wheel_python := $(root)/build/wheel-tools/bin/python
library := $(root)/build/lib/libckpt.so
jobs := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

# Where tests in any language find what they need.
export CARGO_TARGET_DIR := $(target)
export CKPT_TEST_PYTHON := $(python)
export CKPT_TEST_LIBRARY := $(library)
export PYTHON

# $(call cmake_build,TESTS,TARGET): one profile everywhere, since HDF5 takes minutes to build and is built per profile.
cmake_build = cmake -S . -B build --log-level=WARNING -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_LIBDIR="$(LIBDIR)" \
	-DCKPT_CARGO_TARGET_DIR="$(target)" -DCKPT_BUILD_TESTS=$(1) > /dev/null && \
	MAKEFLAGS=--no-print-directory cmake --build build --target $(2) -j $(jobs)

##@ To use it

.PHONY: build
build: .tools  ## build the libraries: build/lib/libckpt.so, libckpt.a
	@$(call cmake_build,OFF,ckpt_libraries)

.PHONY: all
all: build

.PHONY: install
install: build  ## install into PREFIX (/usr/local), under DESTDIR if set
	@DESTDIR="$(DESTDIR)" cmake --install build --prefix "$$(realpath -m "$(PREFIX)")"

.PHONY: wheel
wheel: build build/wheel-tools/.ready  ## make the Python package, with the library in it: build/wheel/*.whl
	@rm -rf build/wheel && mkdir -p build/wheel
	@cd bindings/python && LIBCKPT_LIBRARY="$(library)" $(wheel_python) -m hatchling build --target wheel \
		--directory "$(root)/build/wheel/raw" > /dev/null 2>&1
	@cd build/wheel && PATH="$(root)/build/wheel-tools/bin:$$PATH" $(wheel_python) -m auditwheel repair --wheel-dir . raw/*.whl \
		> log 2>&1 || { cat log >&2; exit 1; }
	@rm -rf build/wheel/raw build/wheel/log && ls build/wheel/*.whl

.PHONY: demo
demo: build .venv/.ready  ## train on digits in C++, load the best checkpoint in Keras
	@mkdir -p build/demo
	@$(CXX) -std=c++17 -O2 -Wall -Wextra -Iinclude -Ibindings/cpp examples/digits/*.cpp -o build/demo/digits \
		"$(library)" "-Wl,-rpath,$(root)/build/lib"
	@gzip -dc examples/data/digits.csv.gz | \
		build/demo/digits --predictions build/demo/predictions.csv build/demo/checkpoints
	@KERAS_BACKEND=numpy $(python) examples/digits/check.py build/demo/predictions.csv

##@ To change it

.PHONY: test
test: .test-tools .venv/.ready .venv-cuda/.ready  ## run all tests
	@$(call cmake_build,ON,all)
	$(CARGO) test --release --quiet
	@$(MAKE) --no-print-directory schedules
	cd build && ctest --output-on-failure -j $(jobs) --timeout 600
	$(python) -m pytest tests/python
	@$(MAKE) --no-print-directory torture TIME=300

.PHONY: schedules
schedules:  ## run a session's threads under 2,000 schedules of each scenario; SCHEDULES=N: so many
	RUSTFLAGS="$$RUSTFLAGS --cfg ckpt_shuttle" CARGO_PROFILE_DEV_DEBUG=line-tables-only \
		$(if $(SCHEDULES),CKPT_SCHEDULES=$(SCHEDULES)) $(CARGO) test --quiet -p schedules --target-dir build/schedules

.PHONY: torture
torture: .torture-tools  ## break saves in every way, for an hour, and look; TIME=SECONDS: a part of it (it goes on where it was)
	@mkdir -p build
	@$(CARGO) build --release --quiet -p torture
	@state="$(if $(TIME),,build/torture.state)" && \
		"$(target)/release/torture" all $(if $(TIME),--seconds $(TIME)) $${state:+--state "$$state"} && rm -f $$state
	$(if $(TIME),,@$(MAKE) --no-print-directory leaks)

# 100,000 saves of changing models leave no byte behind.
.PHONY: leaks
leaks: build
	@$(CC) -std=c99 -O1 -Iinclude tests/c/leak.c "$(library)" "-Wl,-rpath,$(root)/build/lib" -o build/leaks
	@dir=$$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d) && cd "$$dir" && "$(root)/build/leaks" 100000 && rm -rf "$$dir"

.PHONY: fuzz
fuzz:  ## fuzz the parsers with AddressSanitizer for an hour; TIME=SECONDS: for so long
	@tests/fuzz/run.sh $(or $(TIME),3600) build/fuzz

.PHONY: sanitize
sanitize: .tools  ## run the C tests under ThreadSanitizer, AddressSanitizer and valgrind
	@cmake/setup.sh tools valgrind:valgrind gcc:gcc
	@for kind in thread address valgrind; do \
		echo "$$kind:" && CARGO="$(CARGO)" tests/sanitize.sh $$kind build/$$kind || exit 1; done

.PHONY: check
check: build  ## check the format, lints, the header, and the list of symbols
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) test --release --quiet --test header
	tests/abi/symbols.sh "$(library)" build/lib/libckpt.a

.PHONY: header
header: .tools  ## write include/ckpt.h and tests/abi/symbols.txt anew, after a change of src/ffi
	CKPT_BLESS=1 $(CARGO) test --release --quiet --test header
	@$(call cmake_build,OFF,ckpt_libraries)
	tests/abi/symbols.sh --bless "$(library)" build/lib/libckpt.a

.PHONY: bench
bench: build .venv/.ready  ## measure against the machine and its peers (10 minutes; BENCH=--quick: 3), draw docs/bench
	@PYTHON="$(python)" CC="$(CC)" CXX="$(CXX)" benches/setup.sh build/bench "$(library)"
	@LIBCKPT_LIBRARY="$(library)" $(python) benches/bench.py $(BENCH) --docs docs/bench build/bench

.PHONY: clean
clean:  ## remove what was built; not the Python environments in .venv and .venv-cuda
	rm -rf build
	$(CARGO) clean --quiet

.PHONY: help
help:  ## show this
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

# What the targets need of the machine.
build_tools := cmake:cmake c++:g++
# For file systems on loop devices, which nobody else can have.
root_tools := $(if $(filter 0,$(shell id -u)),mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs)

.PHONY: .tools
.tools:
	@cmake/setup.sh tools $(build_tools)

.PHONY: .test-tools
.test-tools:
	@cmake/setup.sh tools $(build_tools) pkg-config:pkg-config h5cc:libhdf5-dev h5dump:hdf5-tools unzip:unzip \
		bsdtar:libarchive-tools /usr/include/torch/csrc/api/include/torch/torch.h:libtorch-dev $(root_tools)

.PHONY: .torture-tools
.torture-tools:
	@cmake/setup.sh tools $(build_tools) $(root_tools)

build/wheel-tools/.ready: bindings/python/build-requirements.txt
	@cmake/setup.sh venv build/wheel-tools bindings/python/build-requirements.txt
	@touch $@

.venv/.ready: tests/python/requirements.txt
	@cmake/setup.sh venv .venv tests/python/requirements.txt
	@touch $@

.venv-cuda/.ready: tests/cuda/requirements.txt
	@cmake/setup.sh venv .venv-cuda tests/cuda/requirements.txt
	@touch $@
