// Templates differ in what they take for a message that calls tools: its content absent, empty or
// null, its arguments an object or the text of one.
#pragma once

#include "text/chat_template.h"

namespace hone {

struct ToolForm {
  bool null_content = false;    // else "" where a call has no text
  bool arguments_text = false;  // else an object
};

// The first form in which a call and its arguments come out as they are; the default one where none
// does.
ToolForm find_tool_form(const ChatTemplate& chat_template, const RenderOptions& options);

// Puts every call of the messages into the form.
void apply_tool_form(const ToolForm& form, Json& messages);

}  // namespace hone
