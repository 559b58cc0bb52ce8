#!/usr/bin/env bash
# Builds the fuzz targets and runs each for some seconds (default 60), two at a time, from the checked-in seeds. Fails on
# a finding and leaves it in artifacts/; the corpus stays in corpus/.
#
# The flags are those of `cargo fuzz run -s none`. Without a sanitizer, neither cargo-fuzz nor a nightly compiler is needed,
# and sanitizers detect only what `unsafe` code can do, which this project forbids. The targets look for panics, overflows,
# slow inputs and failed assertions. `--cfg fuzzing` opens what they need of crates that export nothing for them. With a
# nightly compiler, cargo-fuzz and its address sanitizer work too, from this directory:
# `cargo +nightly fuzz run --fuzz-dir . event corpus/event seeds/event`.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=../target/fuzz SECONDS_EACH=${1:-60}
coverage=-Cllvm-args=-sanitizer-coverage
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module $coverage-level=4 $coverage-inline-8bit-counters \
$coverage-pc-table $coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
# Naming the target keeps the flags from build scripts, which have no fuzzer to link.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --target "$host"
export TARGETS=$CARGO_TARGET_DIR/$host/release

fuzz() {
    mkdir -p "corpus/$1" "artifacts/$1"
    local log=artifacts/$1.log
    if "$TARGETS/$1" "corpus/$1" "seeds/$1" -max_total_time="$SECONDS_EACH" -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="artifacts/$1/" >"$log" 2>&1; then
        echo "$1: $(tail -n 1 "$log"), $(grep -o 'cov: [0-9]*' "$log" | tail -n 1)"
    else
        tail -n 60 "$log"
        echo "$1: FOUND SOMETHING, see fuzz/$log"
        return 1
    fi
}
export -f fuzz
printf '%s\n' event frame bridge link host backend | xargs -P 2 -I {} bash -c 'fuzz {}'
