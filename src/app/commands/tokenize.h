// hone tokenize: a JSON string a line to a JSON list of token ids a line, and back.
#pragma once

#include <cstdio>
#include <string>

namespace hone::app {

struct TokenizeOptions {
  std::string pretrained;  // model folder; no weights needed
  std::string input;       // file; "-" = stdin
  bool decode = false;     // lists of ids to strings
  bool add_special_tokens = false;
  int threads = 0;  // 0 = all
};

// Writes to out, a line for each line of the input that isn't blank; returns the exit code.
// UserError names the line.
int run_tokenize(const TokenizeOptions& options, std::FILE* out = stdout);

}  // namespace hone::app
