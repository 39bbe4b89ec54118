// A text file of a run that grows line by line: metrics.jsonl and log.txt. A disk that refuses costs nothing: what is
// not written waits in memory. Nor does the removal of the file while it is open.
#pragma once

#include <string>
#include <string_view>

namespace dither {

class AppendFile {
 public:
  /// Opens or makes it; a last line that a kill has cut is ended. Throws Error.
  explicit AppendFile(std::string path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// Writes the text, after what waits. Returns "" or why not all is written; the rest then waits for the next call.
  std::string append(std::string_view text);
  /// Returns "" when all that is written is on the disk, else a message. From any thread.
  std::string sync() const;
  /// Whether there is no file of this path any more: it was removed, or its folder was.
  bool is_lost() const;
  /// Makes the file again, with all that was written to it. Throws Error.
  void restore();

  const std::string& path() const { return path_; }

 private:
  const std::string path_;
  const int descriptor_;
  std::string unwritten_;
};

}  // namespace dither
