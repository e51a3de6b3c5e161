# Compares two outputs of `hone generate` on the same questions with a known "answer": prints the
# first few side by side, or, with -v counts=TITLE, one line that counts the right ones.
#   awk [-v counts=TITLE] -f demo/compare.awk BASE.jsonl TUNED.jsonl

# The value of a field of a JSON line; for these files, whose texts hold no quotes.
function field(name,   rest) {
  if (!match($0, "\"" name "\": *")) return ""
  rest = substr($0, RSTART + RLENGTH)
  if (substr(rest, 1, 1) == "\"") { rest = substr(rest, 2); sub(/".*/, "", rest) }
  else sub(/[,} ].*/, "", rest)
  return rest
}

# Right is what ends with "Answer: " and the number, and nothing after it.
function right(text, answer,   said) {
  said = text
  if (!sub(/^.*Answer: /, "", said)) return 0
  return said == answer
}

FNR == 1 { file++; row = 0 }
{
  row++
  text[file, row] = field("completion")
  ok[file, row] = right(text[file, row], field("answer"))
  good[file] += ok[file, row]
  if (file == 1) question[row] = field("content")
  rows = row
}

END {
  if (file != 2 || rows == 0) { print "compare: needs two files with answers" > "/dev/stderr"; exit 1 }
  if (counts != "") {
    printf "%-34s %12s %12s\n", counts, good[1] "/" rows, good[2] "/" rows
    exit
  }
  for (row = 1; row <= 6 && row <= rows; row++)
    printf "%s\n   base:  %-44s %s\n   tuned: %-44s %s\n", question[row], text[1, row],
      ok[1, row] ? "right" : "wrong", text[2, row], ok[2, row] ? "right" : "wrong"
}
