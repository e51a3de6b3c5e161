// Files of records in other forms than JSON or plain text: told by what they are.
#pragma once

#include <string>
#include <string_view>

namespace hone::data {

// What the file is and how its records become JSON lines ("is a CSV file (...); ..."), or "" where
// it may be JSON or plain text. head: its first bytes.
std::string foreign_file(std::string_view path, std::string_view head);

// Whether a folder's file of this name is data in such a form.
bool is_foreign_name(std::string_view path);

}  // namespace hone::data
