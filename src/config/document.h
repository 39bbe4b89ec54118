// Strict reading of one JSON document: what the JSON library accepts in silence is an error here.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace dither {

/// Parses `text`, JSON with comments and with commas before a closing bracket; `origin` names it in messages. The
/// result is an object without nulls. Throws Error: invalid JSON, a zero byte or a number beyond double (with line and
/// column), a number that would become another integer when it is rounded, a repeated key, a null, nesting deeper than
/// any config needs, a document that is not an object.
nlohmann::json read_document(const std::string& text, const std::string& origin);

/// The same for one value of any type, without comments. Returns false where `text` is not JSON at all.
bool read_value(const std::string& text, const std::string& origin, const std::string& path, nlohmann::json& value);

/// `value` as a message shows it: one line, cut after some 60 characters.
std::string shown(const nlohmann::json& value);

}  // namespace dither
