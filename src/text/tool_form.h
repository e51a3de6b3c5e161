// Templates differ in what they take for a message that calls tools: its content absent, empty or
// null, its arguments an object or the text of one; and in whether a content is a text.
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

// Whether the template writes contents that are lists of parts, [{"type": "text", "text": ...}],
// and not those that are texts: those of models that see images may.
bool wants_parts(const ChatTemplate& chat_template, const RenderOptions& options);

// The messages with every content that is a text as such a list.
Json with_parts(Json messages);

}  // namespace hone
