// Ranks for tests of what several processes do together: forked from the test, which makes no threads, each with a
// function to run; what it complains of comes back.
#pragma once

#include <functional>
#include <string>

namespace dither {

/// What a rank has to complain of, one a line; tests go on after a complaint, so that the other ranks do not wait for
/// one that has left.
class Complaints {
 public:
  void expect(bool condition, const std::string& what);
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// Runs `body` in `ranks` processes at once. Returns their complaints, what they threw and what signals ended them; ""
/// if all went well. None runs longer than `seconds`.
std::string run_ranks(int ranks, const std::function<void(int rank, Complaints& complaints)>& body, int seconds = 60);

/// "dither-test-...": unlike any other on this machine.
std::string unique_test_name();

}  // namespace dither
