#include "src/data/text_kind.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstring>

#include "base/error.h"

namespace dither {

namespace {

using namespace std::string_view_literals;  // magic bytes may hold zeros

struct Kind {
  std::string_view magic;
  size_t offset;
  const char* what;
  const char* command;  // {0}: the file
};

// Longer magic bytes first where one begins with another.
constexpr Kind kKinds[] = {
    {"\x1F\x8B"sv, 0, "compressed by gzip", "zcat {0} > {0}.txt"},
    {"\x1F\x9D"sv, 0, "compressed by compress", "zcat {0} > {0}.txt"},
    {"\xFD"
     "7zXZ\0"sv,
     0, "compressed by xz", "xzcat {0} > {0}.txt"},
    {"\x28\xB5\x2F\xFD"sv, 0, "compressed by zstd", "zstdcat {0} > {0}.txt"},
    {"\x04\x22\x4D\x18"sv, 0, "compressed by lz4", "lz4cat {0} > {0}.txt"},
    {"1AY&SY"sv, 4, "compressed by bzip2", "bzcat {0} > {0}.txt"},
    {"PK\x03\x04"sv, 0, "a zip archive (or .docx, .epub, .xlsx)", "unzip -p {0} > {0}.txt"},
    {"7z\xBC\xAF\x27\x1C"sv, 0, "a 7z archive", "7z x -so {0} > {0}.txt"},
    {"ustar"sv, 257, "a tar archive", "tar -xOf {0} > {0}.txt"},
    {"PAR1"sv, 0, "a Parquet table",
     "python3 -c 'import pandas, sys; print(*pandas.read_parquet(sys.argv[1]).text, sep=\"\\n\")' {0} > {0}.txt"},
    {"ARROW1"sv, 0, "an Arrow table",
     "python3 -c 'import pandas, sys; print(*pandas.read_feather(sys.argv[1]).text, sep=\"\\n\")' {0} > {0}.txt"},
    {"%PDF-"sv, 0, "a PDF document", "pdftotext {0} {0}.txt"},
    {"{\\rtf"sv, 0, "an RTF document", "unrtf --text {0} > {0}.txt"},
    {"\x88\xD8\x34\x01"sv, 0, "a shard of tokens already (16 bits)", "name it in data.train"},
    {"\xA1\xD9\x34\x01"sv, 0, "a shard of tokens already (32 bits)", "name it in data.train"},
    {"\xFF\xFE\0\0"sv, 0, "text in UTF-32", "iconv -f UTF-32 -t UTF-8 {0} > {0}.txt"},
    {"\0\0\xFE\xFF"sv, 0, "text in UTF-32", "iconv -f UTF-32 -t UTF-8 {0} > {0}.txt"},
    {"\xFF\xFE"sv, 0, "text in UTF-16", "iconv -f UTF-16 -t UTF-8 {0} > {0}.txt"},
    {"\xFE\xFF"sv, 0, "text in UTF-16", "iconv -f UTF-16 -t UTF-8 {0} > {0}.txt"},
};

/// The path as one word of a shell's command.
std::string word_of(const std::string& path) {
  const auto is_plain = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || std::strchr("._/+-", c); };
  if (std::all_of(path.begin(), path.end(), is_plain)) return path;
  std::string quoted = "'";
  for (const char c : path) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

[[noreturn]] void refuse(const std::string& path, const std::string& what, const std::string& command) {
  throw Error(fmt::format("{}: {}, needs plain text in UTF-8\n       cure: {}", path, what, command));
}

/// The name of the field that holds the text of a JSON object that is a line; "" where the line is none.
std::string_view text_field(std::string_view line) {
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
  if (line.size() < 2 || line.front() != '{' || line.back() != '}') return "";
  for (const std::string_view name : {"text", "content", "raw_content"}) {
    const std::string key = fmt::format("\"{}\"", name);
    const size_t at = line.find(key);
    if (at == std::string_view::npos) continue;
    const size_t colon = line.find_first_not_of(' ', at + key.size());
    if (colon == std::string_view::npos || line[colon] != ':') continue;
    const size_t value = line.find_first_not_of(' ', colon + 1);
    if (value != std::string_view::npos && line[value] == '"') return name;
  }
  return "";
}

/// Refuses JSON Lines by their first two lines. A line that is longer than `start` has no end here: its text is taken
/// to be one.
void check_is_no_json_lines(const std::string& path, std::string_view start) {
  std::string_view field;
  for (int line = 0; line < 2 && !start.empty(); ++line) {
    const size_t end = start.find('\n');
    const bool cut = end == std::string_view::npos && line == 0 && start.size() > (1 << 16);
    const std::string text = std::string(start.substr(0, end)) + (cut ? "}" : "");
    field = text_field(text);
    if (field.empty()) return;
    field = field == "text" ? "text" : field == "content" ? "content" : "raw_content";
    start = end == std::string_view::npos ? "" : start.substr(end + 1);
  }
  if (field.empty()) return;
  refuse(path, fmt::format("JSON Lines (objects with a field \"{}\")", field),
         fmt::format("jq -r .{0} {1} > {1}.txt", field, word_of(path)));
}

}  // namespace

void check_begins_as_text(const std::string& path, std::string_view start) {
  for (const Kind& kind : kKinds) {
    if (start.size() < kind.offset || !start.substr(kind.offset).starts_with(kind.magic)) continue;
    refuse(path, kind.what, fmt::format(fmt::runtime(kind.command), word_of(path)));
  }
  if (start.starts_with(kUtf8ByteOrderMark)) start.remove_prefix(kUtf8ByteOrderMark.size());
  check_is_no_json_lines(path, start);
}

void check_has_no_zero(const std::string& path, std::string_view piece, int64_t offset) {
  const size_t zero = piece.find('\0');
  if (zero == std::string_view::npos) return;
  // In UTF-16 without a mark every second byte of plain English is 0.
  const auto zeros = std::count(piece.begin(), piece.end(), '\0');
  const bool wide = zeros * 4 > static_cast<std::ptrdiff_t>(piece.size());
  refuse(path,
         fmt::format("byte {} is 0, which no text has{}", offset + static_cast<int64_t>(zero),
                     wide ? " (UTF-16 without a mark?)" : ""),
         wide ? fmt::format("iconv -f UTF-16{0} -t UTF-8 {1} > {1}.txt", zero % 2 == 0 ? "BE" : "LE", word_of(path))
              : fmt::format("look at it (file {0}); where it is text but for zeros: tr -d '\\000' < {0} > {0}.txt",
                            word_of(path)));
}

}  // namespace dither
