// Data sets: files of many formats as one list of samples with random access. Only an index of byte
// ranges is held (12 bytes a record); a sample is read, parsed, rendered and tokenised when asked
// for. Files are read with pread, never mapped, so that the resident size doesn't follow their
// size.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"
#include "text/conversation.h"
#include "text/tokenizer.h"

namespace hone::data {

// What a record is. kAuto: found by looking at each record; within one file chats and plain text
// may not be mixed ({"tokens"} records may stand among either).
enum class DatasetFormat {
  kAuto,
  kMessages,          // [{"role","content"}...] or {"messages": [...]}; also "from" for "role"
  kShareGpt,          // {"conversations": [{"from","value"}...], "system", "tools"}
  kAlpaca,            // {"instruction","input","output","system","history"}
  kPromptCompletion,  // {"prompt","completion"}: raw texts (no template, ends with eos), or chats
  kQuestionAnswer,    // {"question","answer"}
  kText,              // {"text"}, or a .txt file: continued pre-training
  kTokens,            // {"tokens": [...], "trained": [...]}
  // Never found by themselves:
  kPairs,     // {"prompt", "chosen", "rejected"} (data/pairs.h)
  kLabelled,  // any but these with a "label", true or false: whether the answer is desirable
};
// "auto", "messages", "sharegpt", "alpaca", "prompt_completion", "qa", "text", "tokens", "pairs",
// "labelled"; else UserError.
DatasetFormat parse_dataset_format(std::string_view name);
std::string_view dataset_format_name(DatasetFormat format);

// What differs from what the model's folder says.
struct TextModelOptions {
  // Colossal-AI's conversation_template JSON, a Jinja file (.jinja, .jinja2, .j2), a folder with a
  // chat template, or the name of one of the model's own.
  std::string conversation_template;
  std::string adapter;  // its chat_template.jinja, if there is one, goes before the model's
  std::vector<std::string> eos_token;  // texts or ids of tokens that end an answer or a text
  // Variables for the template: a JSON object, or name=value pairs parted by commas.
  std::string template_kwargs;
};

// The text side of a model: its tokenizer, and its template or another one.
struct TextModel {
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;  // none: only formats without turns can be read
  std::vector<std::string> template_names;    // of the model's, where none of several is chosen
  std::string system_message;                 // of the conversation_template JSON
  std::vector<int32_t> stop_ids;              // of the conversation_template JSON
  Json variables = Json::object();            // for the template
  std::vector<int32_t> eos_ids;               // said by hand; empty: the model's own
  // Text of the token that ends a text; "": there is none.
  std::string eos() const;
  // What to say where a template is needed and there is none.
  std::string no_template() const;
  uint64_t fingerprint = 0;  // of all files it was made from

  // folder: a model folder (no weights needed). UserError.
  static TextModel load(const std::string& folder, const TextModelOptions& options = {});
};

// What one record becomes: a sequence of tokens, or several, one behind the other (a conversation
// whose answers are trained one by one; the chosen and the rejected side of a pair).
struct Sample {
  std::vector<int32_t> tokens;
  // trained[t]: token t is a target; the first one of a sequence is none.
  std::vector<uint8_t> trained;
  std::vector<int32_t> lengths;  // of several sequences; empty: one
  int64_t index = -1;            // in the data set
  uint64_t key = 0;              // sample identity: names its random numbers
  int64_t trained_count = 0;     // 0: nothing to train, not to be computed
  bool cut = false;              // max_length took something away
  bool desirable = true;         // of a labelled answer: what its label says

  int64_t sequences() const { return lengths.empty() ? 1 : static_cast<int64_t>(lengths.size()); }
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t memory_bytes() const {
    return static_cast<int64_t>(sizeof(Sample) + tokens.capacity() * 4 + trained.capacity() +
                                lengths.capacity() * 4);
  }
};

struct DatasetOptions {
  // Files, and folders (their .jsonl, .json and .txt files in the order of names).
  std::vector<std::string> paths;
  DatasetFormat format = DatasetFormat::kAuto;
  // LLaMA-Factory's dataset_info.json: then a path may also be a name in it, and file and columns
  // come from there.
  std::string dataset_info;

  int64_t max_length = 8192;  // tokens of a sequence, cut on the right; 0 = no limit
  TrainOn train_on = TrainOn::kAssistant;
  std::string system_prompt;  // for conversations without a system message
  RenderOptions render;
  bool add_generation_prompt = false;  // to conversations that don't end with the assistant
  bool append_eos = true;  // the end-of-text token behind {"text"} and {"prompt", "completion"}

  int64_t vocab_limit =
      0;  // an id at or above it is an error (rows of the embedding); 0 = no check
  int64_t max_record_bytes = int64_t{16} << 20;
  // Records are parsed once on opening if the files together are no larger than this, so that a bad
  // line is found before anything else is done; larger sets are checked as they are read.
  int64_t check_bytes = int64_t{64} << 20;
  int threads = 0;  // for the check; 0 = all
  // Gets one line of text; null: stderr.
  std::function<void(const std::string&)> warn;
};

// Immutable after opening, but for counters; const methods may be called from many threads at once.
class Dataset {
 public:
  // UserError, naming file, line (from 1), what was found and what was expected: a missing file, no
  // records, a record that isn't what it should be, invalid UTF-8, a record over max_record_bytes.
  static std::shared_ptr<const Dataset> open(TextModel text, DatasetOptions options);
  ~Dataset();

  int64_t size() const;
  // Sample i. If text isn't null it gets the rendered text (whole, also if max_length cut the
  // tokens; token lists are decoded). UserError as above, or if the file changed meanwhile.
  Sample get(int64_t i, std::string* text = nullptr) const;
  // The bytes of record i as they stand in the file.
  std::string record(int64_t i) const;
  // "file:line" of record i, for messages.
  std::string location(int64_t i) const;

  // UserError unless some sample has a trained token; looks no further than the first. Counts in
  // this search are not part of the warning below.
  void require_trainable() const;

  // Counts what is worth a word about a sample, once an index: that it has nothing to train, was
  // cut, or is trained answer by answer. Call it for each sample that is used or left out.
  void note(const Sample& sample) const;
  // One warning for each of these that was noted since the last call: how many, out of how many,
  // and where the first is.
  void warn_noted() const;
  int64_t untrainable_seen() const;

  // Special tokens that end an assistant's answer: as the template writes them, and as the first
  // records have them.
  const std::vector<int32_t>& turn_ends() const;

  const TextModel& text_model() const;
  const DatasetOptions& options() const;
  // Of the content of all files, the text model and every option that changes a sample.
  uint64_t fingerprint() const;
  int64_t memory_bytes() const;  // of the index
  int64_t file_bytes() const;
  // One line a file: path, records, format of its first record.
  std::vector<std::string> describe() const;
  void warn(const std::string& line) const;

 private:
  struct Impl;
  explicit Dataset(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hone::data
