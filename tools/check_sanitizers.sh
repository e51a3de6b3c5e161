#!/bin/sh
# Runs the tests under sanitizers and the fuzzers:
#   tools/check_sanitizers.sh          everything: all tests under address + undefined, those that use
#                                      threads under thread, each fuzzer for ten minutes
#   tools/check_sanitizers.sh --short  the fast tests of text and data under address + undefined, each
#                                      fuzzer (all other readers, with the same sanitizers) for ten seconds
# Builds in build-asan, build-tsan and build-fuzz; the Rust library is taken from build. The fuzzers
# need clang (on Debian 12: clang-14 and libclang-rt-14-dev); without it they are left out, and that
# is said.
set -eu
cd "$(dirname "$0")/.."

short=no
[ "${1:-}" != --short ] || short=yes
jobs=${HONE_JOBS:-$(getconf _NPROCESSORS_ONLN)}

rust="-DHF_TEXT_TARGET=$PWD/build/rust"

sanitized() {  # FOLDER SANITIZERS TARGETS ctest arguments...
  folder=$1 sanitizers=$2 targets=$3
  shift 3
  # shellcheck disable=SC2086
  HONE_BUILD=$folder HONE_CMAKE="-DHONE_SANITIZE=$sanitizers $rust" ./run build $targets
  ctest --test-dir "$folder" -j "$jobs" --output-on-failure "$@"
}

export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS="suppressions=$PWD/tests/thread_sanitizer_suppressions.txt"
if [ $short = yes ]; then
  readers=""
  for test in tests/data_*_test.cpp tests/text_*_test.cpp; do
    name=$(basename "$test" .cpp)
    case $name in *_slow_test) ;; *) readers="$readers $name" ;; esac
  done
  sanitized build-asan address,undefined "$readers" -L fast -R '^(data|text)_'
else
  # Not what measures memory: a sanitizer has memory of its own.
  sanitized build-asan address,undefined all -E "^(plan_.*|data_memory)_slow_test"
  sanitized build-tsan thread all -R '^(core|data|text|rollout|train|io)_'
fi

clang=""
for candidate in clang++ clang++-14 clang++-18 clang++-19; do
  if command -v "$candidate" > /dev/null; then clang=$candidate; break; fi
done
if [ -z "$clang" ]; then
  echo "check_sanitizers: clang++ is not installed, the fuzzers were left out"
  exit 0
fi
HONE_BUILD=build-fuzz HONE_CMAKE="-DHONE_FUZZ=ON -DHONE_TESTS=OFF $rust
  -DCMAKE_C_COMPILER=clang${clang#clang++} -DCMAKE_CXX_COMPILER=$clang" ./run build fuzzers
seconds=600
[ $short = no ] || seconds=10
for fuzzer in build-fuzz/tests/fuzz/*_fuzz; do
  name=$(basename "$fuzzer")
  echo "== $name for $seconds s"
  found=$(mktemp -d)
  # New inputs go to a folder of their own; the corpus in the repository is only read.
  "$fuzzer" -max_total_time=$seconds -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="$found/" "$found" "tests/fuzz/corpus/$name" 2> "$found.log" ||
    { tail -n 60 "$found.log"; echo "check_sanitizers: $name failed, see $found"; exit 1; }
  grep -E 'stat::number_of_executed_units|stat::peak_rss_mb' "$found.log"
  rm -rf "$found" "$found.log"
done
