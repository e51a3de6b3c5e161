// Data sets from files to tokens and masks, with a tokenizer of one token a byte, so that what must
// be trained is known byte by byte.
#include "data/dataset.h"

#include <algorithm>

#include "data_test_util.h"

namespace hone::data {
namespace {

using data_test::asset;
using data_test::byte_text_model;
using data_test::message_of;
using data_test::open_files;
using data_test::TempFolder;

// Tokens as text, with each run of trained tokens in ‹›.
std::string marked(const Dataset& set, const Sample& sample) {
  std::string out;
  bool inside = false;
  for (size_t t = 0; t <= sample.tokens.size(); ++t) {
    const bool trained = t < sample.tokens.size() && sample.trained[t];
    if (trained != inside) out += trained ? "‹" : "›";
    inside = trained;
    if (t < sample.tokens.size()) out += set.text_model().tokenizer.token_bytes(sample.tokens[t]);
  }
  return out;
}

std::string marked_one(const std::string& content, const std::string& name = "a.jsonl",
                       DatasetOptions options = {}) {
  TempFolder folder;
  const auto set = open_files({folder.write(name, content)}, options);
  return marked(*set, set->get(0));
}

constexpr const char* kChat =
    R"([{"role":"user","content":"Q"},{"role":"assistant","content":"A"},{"role":"user","content":"R"},{"role":"assistant","content":"Bé"}])";

TEST(Dataset, MasksOfEachFormat) {
  EXPECT_EQ(marked_one(kChat),
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n‹A<|im_end|>›\n"
            "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n‹Bé<|im_end|>›\n");
  EXPECT_EQ(marked_one(kChat, "a.jsonl", {.train_on = TrainOn::kLast}),
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
            "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n‹Bé<|im_end|>›\n");
  EXPECT_EQ(marked_one(R"({"instruction":"I","input":"in","output":"O"})", "a.jsonl",
                       {.train_on = TrainOn::kAll}),
            "<|im_start|>‹user\nI\nin<|im_end|>\n<|im_start|>assistant\nO<|im_end|>\n›");
  EXPECT_EQ(marked_one(R"([{"question":"Q","answer":"A"}])", "a.json", {.system_prompt = "S"}),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
            "<|im_start|>assistant\n‹A<|im_end|>›\n");
  EXPECT_EQ(marked_one(R"({"prompt":"the prompt ","completion":"the rest"})"),
            "the prompt ‹the rest<|im_end|>›");
  EXPECT_EQ(marked_one(R"({"text":"plain"})"), "p‹lain<|im_end|>›");
  EXPECT_EQ(marked_one(R"({"text":"plain"})", "a.jsonl", {.append_eos = false}), "p‹lain›");
  EXPECT_EQ(marked_one("plain\ntext\n", "a.txt"), "p‹lain\ntext\n›");
  EXPECT_EQ(marked_one(R"({"tokens":[65,66,67,68],"trained":[1,0,1,1]})"), "AB‹CD›");
}

TEST(Dataset, TurnsLeftOut) {
  EXPECT_EQ(marked_one(R"([{"messages":[{"role":"user","content":"Q"},
                {"role":"assistant","content":"A","weight":0},{"role":"user","content":"R"},
                {"role":"assistant","content":"B","weight":1}]}])",
                       "a.json"),
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
            "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n‹B<|im_end|>›\n");
  // A conversational prompt and its completion: only the completion.
  EXPECT_EQ(marked_one(R"([{"prompt":[{"role":"user","content":"Q"},
                {"role":"assistant","content":"A"},{"role":"user","content":"R"}],
                "completion":[{"role":"assistant","content":"B"}]}])",
                       "a.json"),
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
            "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n‹B<|im_end|>›\n");
  EXPECT_EQ(
      marked_one(R"([{"role":"user","content":"Q"},{"role":"assistant","content":"A","weight":0}])",
                 "a.jsonl", {.train_on = TrainOn::kLast}),
      "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n");
}

TEST(Dataset, GenerationPromptOnlyWhereTheUserSpokeLast) {
  EXPECT_EQ(
      marked_one(R"([{"role":"user","content":"Q"}])", "a.jsonl", {.add_generation_prompt = true}),
      "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(marked_one(R"([{"role":"user","content":"Q"},{"role":"assistant","content":"A"}])",
                       "a.jsonl", {.add_generation_prompt = true}),
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n‹A<|im_end|>›\n");
}

TEST(Dataset, MaxLengthCutsOnTheRight) {
  TempFolder folder;
  const auto path = folder.write("a.jsonl", std::string(kChat) + "\n");
  const auto whole = open_files({path})->get(0);
  for (const int64_t length : {1, 5, 26, 40, 10000}) {
    const auto set = open_files({path}, {.max_length = length});
    const Sample cut = set->get(0);
    const auto n = static_cast<size_t>(std::min(length, whole.size()));
    EXPECT_EQ(cut.tokens, std::vector(whole.tokens.begin(), whole.tokens.begin() + n));
    EXPECT_EQ(cut.trained, std::vector(whole.trained.begin(), whole.trained.begin() + n));
    EXPECT_EQ(cut.cut, length < whole.size());
    EXPECT_EQ(cut.trained_count, std::count(cut.trained.begin(), cut.trained.end(), 1));
  }
}

TEST(Dataset, TextsWithoutAnEndAreSaid) {
  TempFolder folder;
  const auto path = folder.write("a.jsonl", "{\"text\":\"ab\"}\n");
  const auto said = [&](bool append) {
    TextModel model{.tokenizer = Tokenizer::from_json(data_test::byte_tokenizer_json())};
    std::vector<std::string> lines;
    DatasetOptions options{.paths = {path}, .append_eos = append};
    options.warn = [&](const std::string& line) { lines.push_back(line); };
    EXPECT_EQ(Dataset::open(std::move(model), options)->get(0).size(), 2);
    return lines;
  };
  ASSERT_EQ(said(true).size(), 1u);
  EXPECT_HAS(said(true)[0], "--eos_token");
  EXPECT_TRUE(said(false).empty());
}

TEST(Dataset, AnswersWithoutAnEndAreSaid) {
  TempFolder folder;
  const auto path = folder.write("a.jsonl", std::string(kChat) + "\n");
  const auto said = [&](const char* chat_template) {
    std::vector<std::string> lines;
    DatasetOptions options{.paths = {path}};
    options.warn = [&](const std::string& line) { lines.push_back(line); };
    Dataset::open(byte_text_model(chat_template), options);
    return lines;
  };
  EXPECT_TRUE(said(data_test::kChatMl).empty());
  const auto lines = said(
      "{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot|>\n{% endfor %}"
      "{% if add_generation_prompt %}assistant: {% endif %}");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_HAS(lines[0], "ends an answer with no special token");
}

// A template that writes earlier answers otherwise: one sequence an answer.
constexpr const char* kRewriting =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not "
    "loop.last "
    "%}old {% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

TEST(Dataset, AnswersAsSequences) {
  TempFolder folder;
  const std::string plain = R"([{"role":"user","content":"Q"},{"role":"assistant","content":"A"}])";
  const auto path = folder.write(
      "a.jsonl", R"([{"role":"user","content":"Q"},{"role":"assistant","content":"A"},)"
                 R"({"role":"user","content":"R"},{"role":"assistant","content":"Bé"}])"
                 "\n"
                 R"([{"role":"user","content":"Q"},{"role":"assistant","content":"A","weight":0},)"
                 R"({"role":"user","content":"R"},{"role":"assistant","content":"Bé"}])"
                 "\n" +
                     plain + "\n");
  std::vector<std::string> said;
  const auto open = [&](int64_t max_length) {
    DatasetOptions options{.paths = {path}, .max_length = max_length};
    options.warn = [&](const std::string& line) { said.push_back(line); };
    return Dataset::open(byte_text_model(kRewriting), options);
  };
  const auto set = open(0);
  const std::string first = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n‹A<|im_end|>›\n";
  const std::string second =
      "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nold A<|im_end|>\n"
      "<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n‹Bé<|im_end|>›\n";
  EXPECT_EQ(marked(*set, set->get(0)), first + second);
  EXPECT_EQ(set->get(0).lengths.size(), 2u);
  EXPECT_EQ(set->get(0).lengths[0] + set->get(0).lengths[1], set->get(0).size());
  // A turn that isn't trained is no sequence; one text that is exact stays one.
  EXPECT_EQ(marked(*set, set->get(1)), second);
  EXPECT_EQ(marked(*set, set->get(2)), first);
  EXPECT_TRUE(set->get(2).lengths.empty());
  for (int64_t i = 0; i < 3; ++i) set->note(set->get(i));
  set->warn_noted();
  set->warn_noted();
  ASSERT_EQ(said.size(), 1u);
  EXPECT_HAS(said[0], "2 of 3 samples are trained answer by answer");
  EXPECT_HAS(said[0], "a.jsonl:1");

  // Each is cut on its own, and that is counted.
  said.clear();
  const int64_t most = set->get(0).lengths[0];
  const auto cut = open(most);
  const Sample sample = cut->get(0);
  EXPECT_EQ(sample.lengths,
            (std::vector<int32_t>{static_cast<int32_t>(most), static_cast<int32_t>(most)}));
  EXPECT_TRUE(sample.cut);
  EXPECT_FALSE(cut->get(2).cut);
  EXPECT_EQ(sample.trained_count, set->get(2).trained_count);
  for (int64_t i = 0; i < 3; ++i) cut->note(cut->get(i));
  cut->warn_noted();
  ASSERT_GE(said.size(), 2u);
  EXPECT_HAS(said[0], "1 of 3 samples have nothing to train");
  EXPECT_HAS(said[1], "2 of 3 samples were cut at max_length");
}

TEST(Dataset, SeveralFilesAndFolders) {
  TempFolder folder;
  std::filesystem::create_directory(folder / "sub");
  folder.write("sub/b.jsonl", "{\"text\":\"b1\"}\n\n{\"text\":\"b2\"}\n");
  folder.write("sub/a.json", "[{\"text\":\"a1\"}]");
  folder.write("sub/c.txt", "c1");
  folder.write("sub/notes.csv", "x");
  const auto last = folder.write("z.jsonl", "{\"text\":\"z1\"}");
  std::string warned;
  const auto set =
      open_files({folder / "sub", last}, {.warn = [&](const std::string& w) { warned += w; }});
  EXPECT_HAS(warned, "1 of its files is not read, being neither JSON nor plain text: notes.csv");
  ASSERT_EQ(set->size(), 5);
  std::string joined, text;
  for (int64_t i = 0; i < set->size(); ++i) {
    const Sample sample = set->get(i, &text);
    EXPECT_EQ(sample.index, i);
    joined += text + " ";
  }
  EXPECT_EQ(joined, "a1<|im_end|> b1<|im_end|> b2<|im_end|> c1 z1<|im_end|> ");
  EXPECT_EQ(set->location(2), (folder / "sub/b.jsonl") + ":3");
  EXPECT_EQ(set->record(4), "{\"text\":\"z1\"}");
}

TEST(Dataset, FaultsNameFileAndLine) {
  TempFolder folder;
  const auto fault = [&](const std::string& content, DatasetOptions options = {}) {
    const auto path = folder.write("bad.jsonl", content);
    return message_of<UserError>([&] {
      const auto set = open_files({path}, options);
      for (int64_t i = 0; i < set->size(); ++i) set->get(i);
    });
  };
  const std::string good = "{\"text\":\"ok\"}\n";
  EXPECT_HAS(fault(good + "\n{\"text\":3}\n"), "bad.jsonl:3: \"text\" is the number 3");
  EXPECT_HAS(fault(good + "{\"text\":\"\xFF\"}\n"), "bad.jsonl:2: invalid UTF-8");
  EXPECT_HAS(fault(good + "{\"text\":\n"), "bad.jsonl:2: not valid JSON");
  EXPECT_HAS(fault(good + kChat), "bad.jsonl:2: found a record of conversations in a file");
  EXPECT_HAS(fault("[]\n[]\n"), "bad.jsonl:1: the conversation is empty");
  EXPECT_HAS(fault("\n\n"), "holds no record");
  EXPECT_HAS(fault(good + "{\"tokens\":[1,300]}\n", {.vocab_limit = 300}),
             "bad.jsonl:2: token 1 has the id 300");
  EXPECT_HAS(fault(good, {.format = DatasetFormat::kMessages}), "expected a list of messages");
  EXPECT_HAS(message_of<UserError>([&] { open_files({folder / "none"}); }), "no such file");
  EXPECT_HAS(message_of<UserError>([&] { open_files({}); }), "no file was given");
  std::filesystem::create_directory(folder / "empty");
  EXPECT_HAS(message_of<UserError>([&] { open_files({folder / "empty"}); }), "holds no .jsonl");
  folder.write("empty/train.parquet", "PAR1");
  EXPECT_HAS(message_of<UserError>([&] { open_files({folder / "empty"}); }),
             "train.parquet is a Parquet file");
  // The first bad line is told, however many threads look.
  std::string many = good;
  for (int i = 0; i < 5000; ++i) many += i < 1000 ? good : "{\"text\":1}\n";
  for (const int threads : {1, 4}) EXPECT_HAS(fault(many, {.threads = threads}), "bad.jsonl:1002:");
  // Text files: the line where the piece with the fault begins.
  const auto text = folder.write("bad.txt", "good\n\xE9t\xE9\n");
  EXPECT_HAS(message_of<UserError>([&] { open_files({text}); }), "bad.txt:1: invalid UTF-8");
}

TEST(Dataset, RoleOrderIsTheTemplatesAffair) {
  TempFolder folder;
  const char* strict =
      "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
      "{{ raise_exception('roles must alternate') }}{% endif %}{{ '<|im_start|>' + m.role + '\\n' "
      "+ "
      "m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ "
      "'<|im_start|>assistant\\n' }}{% endif %}";
  const auto path = folder.write(
      "a.jsonl", std::string(kChat) + "\n" +
                     R"([{"role":"user","content":"Q"},{"role":"user","content":"R"}])" + "\n");
  const auto set = Dataset::open(byte_text_model(strict), {.paths = {path}});
  EXPECT_EQ(set->get(0).trained_count, 6);  // A, B and the two bytes of é, two ends
  const std::string text = message_of<UserError>([&] { set->get(1); });
  EXPECT_HAS(text, "a.jsonl:2:");
  EXPECT_HAS(text, "roles must alternate");
  // No template at all: chats can't be read, texts can.
  const auto bare = Dataset::open(byte_text_model(nullptr), {.paths = {path}});
  EXPECT_HAS(message_of<UserError>([&] { bare->get(0); }), "no chat template");
}

TEST(Dataset, NothingToTrain) {
  TempFolder folder;
  const std::string user_only = R"([{"role":"user","content":"Q"}])";
  const auto none = open_files({folder.write("none.jsonl", user_only + "\n" + user_only)});
  EXPECT_HAS(message_of<UserError>([&] { none->require_trainable(); }), "none of the 2 samples");
  const auto path = folder.write("one.jsonl", user_only + "\n" + kChat);
  open_files({path})->require_trainable();
  EXPECT_HAS(
      message_of<UserError>([&] { open_files({path}, {.max_length = 8})->require_trainable(); }),
      "max_length 8: raise it");
  std::vector<std::string> warnings;
  const auto set =
      open_files({path}, {.warn = [&](const std::string& w) { warnings.push_back(w); }});
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t i = 0; i < set->size(); ++i)
      if (const Sample s = set->get(i); s.trained_count == 0) set->note(s);
    set->warn_noted();
  }
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_HAS(warnings[0], "1 of 2 samples");
  EXPECT_HAS(warnings[0], "one.jsonl:1");
}

TEST(Dataset, NamesOfDatasetInfo) {
  TempFolder folder;
  folder.write("mine.json", R"([{"problem":"Q","solution":"A"}])");
  const auto info = folder.write("dataset_info.json", R"({"mine":{"file_name":"mine.json",
      "columns":{"prompt":"problem","response":"solution"}}})");
  const auto set = open_files({"mine"}, {.dataset_info = info});
  EXPECT_EQ(marked(*set, set->get(0)),
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n‹A<|im_end|>›\n");
}

TEST(Dataset, ConversationTemplateFile) {
  TempFolder folder;
  folder.write("tokenizer.json", data_test::byte_tokenizer_json());
  folder.write("tokenizer_config.json", R"({"eos_token":"<|im_end|>"})");
  Json json;
  json["chat_template"] = data_test::kChatMl;
  json["system_message"] = "S";
  json["stop_ids"] = {257};
  json["end_of_assistant"] = "<|im_end|>";
  const auto file = folder.write("template.json", json.dump());
  const auto path = folder.write("a.jsonl", R"([{"role":"user","content":"Q"}])");
  const auto set = Dataset::open(TextModel::load(folder.path(), {.conversation_template = file}),
                                 {.paths = {path}});
  std::string text;
  set->get(0, &text);
  EXPECT_EQ(text, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n");
  EXPECT_EQ(set->text_model().stop_ids, std::vector<int32_t>{257});
  EXPECT_NE(TextModel::load(folder.path()).fingerprint, set->text_model().fingerprint);
  EXPECT_FALSE(TextModel::load(folder.path()).chat_template.has_value());
}

TEST(Dataset, TemplatesByFileAndFolder) {
  TempFolder folder;
  std::filesystem::create_directory(folder / "model");
  std::filesystem::create_directory(folder / "other");
  folder.write("model/tokenizer.json", data_test::byte_tokenizer_json());
  folder.write("other/chat_template.jinja", kRewriting);
  folder.write("t.jinja", kRewriting);
  folder.write("t.txt", kRewriting);
  const auto source = [&](const std::string& path) {
    return TextModel::load(folder / "model", {.conversation_template = folder / path})
        .chat_template->source();
  };
  EXPECT_EQ(source("t.jinja"), kRewriting);
  EXPECT_EQ(source("other"), kRewriting);
  EXPECT_HAS(message_of<UserError>([&] { source("t.txt"); }), "ends in .jinja");
  EXPECT_HAS(message_of<UserError>([&] { source("none.jinja"); }), "does not exist");
  EXPECT_HAS(message_of<UserError>([&] { source("model"); }), "has no chat template");
}

TEST(Dataset, FingerprintFollowsWhatMatters) {
  TempFolder folder;
  const auto path = folder.write("a.jsonl", std::string(kChat) + "\n");
  const auto print = [&](DatasetOptions options) {
    return open_files({path}, options)->fingerprint();
  };
  const uint64_t base = print({});
  EXPECT_EQ(print({}), base);
  EXPECT_EQ(print({.vocab_limit = 1000, .threads = 3}), base);
  EXPECT_NE(print({.max_length = 100}), base);
  EXPECT_NE(print({.train_on = TrainOn::kAll}), base);
  EXPECT_NE(print({.system_prompt = "x"}), base);
  EXPECT_NE(print({.add_generation_prompt = true}), base);
  folder.write("a.jsonl", std::string(kChat) + " \n\n");
  EXPECT_NE(print({}), base);
}

// On the real files: what is trained, as text, is what the assistant says and <|im_end|>.
void check_real_file(const std::string& name, const TextModel& model, bool exact) {
  SCOPED_TRACE(name);
  DatasetOptions options;
  options.paths = {asset(name)};
  options.max_length = 0;
  const auto set = Dataset::open(model, options);
  const Tokenizer& tokenizer = set->text_model().tokenizer;
  for (int64_t i = 0; i < set->size(); ++i) {
    const Json record = Json::parse(set->record(i));
    std::string wanted;
    bool plain = true;  // no token crosses the beginning of a span
    const auto answer = [&](const std::string& text) {
      wanted += text + "<|im_end|>";
      plain = plain && !text.empty() && text[0] != '\n' && text[0] != ' ';
    };
    if (record.contains("output")) {
      answer(record["output"]);
    } else if (record.contains("answer")) {
      answer(record["answer"]);
    } else {
      const Json& messages = record.is_array() ? record : record["messages"];
      for (const Json& m : messages) {
        if (m.value("role", m.value("from", "")) != "assistant") continue;
        answer(m["content"].is_array() ? m["content"][0]["value"] : m["content"]);
      }
    }
    const Sample sample = set->get(i);
    ASSERT_EQ(sample.tokens.size(), sample.trained.size());
    ASSERT_EQ(sample.trained[0], 0);
    if (!exact && !plain) continue;
    std::string trained;
    for (size_t t = 0; t < sample.tokens.size(); ++t)
      if (sample.trained[t]) trained += tokenizer.token_bytes(sample.tokens[t]);
    ASSERT_EQ(trained, wanted) << i;
  }
}

TEST(Dataset, RealFilesWithOneTokenAByte) {
  if (!std::filesystem::exists(asset("data"))) GTEST_SKIP() << "needs ../shared/assets";
  for (const char* name :
       {"data/colossal_lora_sft_data.jsonl", "data/colossal_test_sft_data.jsonl",
        "data/llamafactory_alpaca_en_demo.json", "data/llamafactory_identity.json",
        "data/llamafactory_v1_sft_demo.jsonl", "math/gsm8k_test.jsonl"})
    check_real_file(name, byte_text_model(), true);
}

TEST(Dataset, RealFilesWithQwenTokenizer) {
  TempFolder folder;
  if (!data_test::unpack_qwen(folder)) GTEST_SKIP() << "needs ../shared/assets";
  const TextModel model = TextModel::load(folder.path());
  for (const char* name : {"data/colossal_lora_sft_data.jsonl", "data/colossal_test_sft_data.jsonl",
                           "data/llamafactory_alpaca_zh_demo.json",
                           "data/llamafactory_identity.json", "math/gsm8k_test.jsonl"})
    check_real_file(name, model, false);
  // Tool calls and reasoning go through Qwen's own template.
  DatasetOptions options;
  options.paths = {asset("data/llamafactory_reason_tool_use_demo_50.jsonl")};
  options.max_length = 0;
  const auto tools = Dataset::open(model, options);
  for (int64_t i = 0; i < tools->size(); ++i) {
    std::string text;
    EXPECT_GT(tools->get(i, &text).trained_count, 0);
    const std::string listed = Json::parse(tools->record(i)).value("tools", "");
    EXPECT_EQ(text.find("<tools>") != std::string::npos, listed != "[]") << i;
  }
}

}  // namespace
}  // namespace hone::data
