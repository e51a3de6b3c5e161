#!/bin/sh
# Checks that no include points up the layers: a file in src/X may include X's own headers and
# those of the folders before X in this list. And that what is for one kind of processor stays in
# its place: no include of backend/cpu/ from outside of it, no builtins of x86 outside of backend/.
# Prints each line that breaks one, and fails.
set -eu
cd "${1:-$(dirname "$0")/..}"
layers="core tensor backend comm exec ops nn models text data io load parallel optim loss rollout reward
  train plan app"

find src -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.inc' -o -name '*.inl' -o -name '*.cc' \) |
  sort | xargs awk -v layers="$layers" '
    BEGIN { n = split(layers, name, " "); for (i = 1; i <= n; i++) rank[name[i]] = i }
    FNR == 1 {
      split(FILENAME, path, "/"); files++; from = path[2]
      if (!(from in rank)) { print FILENAME ": src/" from " is not in the list of layers"; bad = 1 }
    }
    /^[ \t]*#[ \t]*include[ \t]*"/ {
      split($0, quoted, "\""); split(quoted[2], part, "/"); to = part[1]; includes++
      if (quoted[2] ~ /\.pb\.h$/) next  # made by protoc
      if (!(to in rank)) {
        print FILENAME ":" FNR ": \"" quoted[2] "\" does not begin with a folder of src/"; bad = 1
      } else if ((from in rank) && rank[to] > rank[from]) {
        print FILENAME ":" FNR ": " from " includes \"" quoted[2] "\" of " to ", which is above it"
        bad = 1
      }
    }
    /^[ \t]*#[ \t]*include[ \t]*"backend\/cpu\// && FILENAME !~ /^src\/backend\/cpu\// {
      print FILENAME ":" FNR ": includes backend/cpu/; ask backend/backend.h"; bad = 1
    }
    /(__builtin_ia32_|_mm[0-9]*_|immintrin\.h|x86intrin\.h|cpuid\.h)/ && FILENAME !~ /^src\/backend\// {
      print FILENAME ":" FNR ": is for x86 alone; such code stands in backend/cpu/"; bad = 1
    }
    END {
      if (!files) { print "check_layers: no sources found"; exit 1 }
      if (!bad) print "check_layers: " includes " includes in " files " files, none points up"
      exit bad
    }'
