// Fields of records and messages: what is as good as absent, what takes a turn out of the loss, and
// which fields reach neither text nor mask.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/format.h"

namespace hone::data {

// Members of objects that are null are left out, at every depth.
Json without_nulls(const Json& value);

// Arguments of tool calls that are the JSON text of an object (as OpenAI writes them) become that
// object.
void parse_arguments(Json& tool_calls);

// Whether a key of a message says if the turn is trained: weight and loss_weight (0 or 1), loss,
// train, training, trainable (true or false), and masked, which says the opposite. Null: it says
// nothing. RecordError for another value.
struct TrainedKey {
  bool known = false;
  std::optional<bool> on;
};
TrainedKey trained_key(std::string_view key, const Json& value, std::string_view where);

// A field of the messages of a role, or one beside them.
struct MessageField {
  std::string role;  // "": beside the messages
  std::string name;
  auto operator<=>(const MessageField&) const = default;
};

// Counts fields by name and remembers records that have them.
class FieldUse {
 public:
  // A record's own fields that its format doesn't read, and the fields of its messages beside role
  // (tools and documents among them), of each role by itself. What an assistant says is trained.
  void add(const Record& record, int64_t index);
  void add(const FieldUse& other);
  // Tells of each message field whether it changes anything: changes(index, field) compares the
  // record with and without it, for the first few records that have it.
  void find_unreached(const std::function<bool(int64_t, const MessageField&)>& changes);

  // "\"id\" (12 records), ..." of records' fields, and of messages'; "" if there are none.
  std::string unused_fields() const;
  std::string unreached_fields() const;

 private:
  struct Seen {
    int64_t count = 0;
    std::vector<int64_t> first;  // indices, ascending
  };
  std::map<std::string, Seen> unused_;
  std::map<MessageField, Seen> messages_;
};

// The conversation without a field; a content is left empty.
Json without_field(const Json& conversation, const MessageField& field);

}  // namespace hone::data
