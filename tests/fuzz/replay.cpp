// Runs a target over the files of a folder, without libFuzzer: the committed corpus as an ordinary test.
//
//   replay_<target> FOLDER     valid-* must be accepted, bad-* refused, finding-* (what a fuzzer once found) end in
//   order
//                              in either way
//
// Under another compiler than the fuzzers', and without sanitizers, so what it asserts is the verdicts.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "tests/fuzz/target.h"

namespace fs = std::filesystem;

int main(int count, char** arguments) {
  if (count != 2 || !fs::is_directory(arguments[1])) {
    std::fprintf(stderr, "error: needs one argument, the folder of a corpus\n");
    return 2;
  }
  std::vector<fs::path> paths;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::absolute(arguments[1])))
    paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  int valid = 0, bad = 0, wrong = 0;
  for (const fs::path& path : paths) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    const std::string name = path.filename().string();
    std::printf("%s: ", name.c_str());
    std::fflush(stdout);  // the name is there when the next call ends the process
    const bool accepted = file && dither::accepts(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    const bool is_valid = name.rfind("valid-", 0) == 0, is_bad = name.rfind("bad-", 0) == 0;
    const bool surprise = !file || (is_valid && !accepted) || (is_bad && accepted);
    std::printf("%s%s\n", accepted ? "accepted" : "refused", surprise ? ", WRONG" : "");
    valid += is_valid;
    bad += is_bad;
    wrong += surprise;
  }
  std::printf("%zu files, %d of them valid and %d bad; %d with a wrong verdict\n", paths.size(), valid, bad, wrong);
  return wrong == 0 && valid > 0 && bad > 0 ? 0 : 1;
}
