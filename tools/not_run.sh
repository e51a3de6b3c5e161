#!/bin/sh
# not_run.sh LOG: what the tests of ctest's log left out, as `./run test` says it at its end:
#   not run: 12 tests
#     11 needs ../shared/assets
#     1 paths not on this machine: amx
# A test that another tier or path of the same log leaves out, too, counts once.
set -eu
awk '
  /^\[ RUN      \]/ { test = $4 }
  /: Skipped$/ { reason = ""; getline reason; left[test] = reason == "" ? "no reason given" : reason }
  END {
    for (test in left) { count[left[test]]++; total++ }
    if (!total) { print "not run: none"; exit }
    print "not run: " total (total == 1 ? " test" : " tests"); fflush()
    for (reason in count) print "  " count[reason] " " reason | "sort -k1,1nr -k2"
  }' "$1"
