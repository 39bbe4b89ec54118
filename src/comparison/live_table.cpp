#include "src/comparison/live_table.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "src/training/console.h"
#include "src/training/progress.h"  // with_commas(), duration_text()

namespace dither {

namespace {

constexpr double kRedrawSeconds = 0.25;  // quicker than the eye needs, too slow to flicker
constexpr size_t kRecentSteps = 20;      // that the speed shown is the mean of
constexpr int kAllLines = 1 << 20;
constexpr size_t kWidestName = 48;      // a longer one is cut: the figures matter more
constexpr double kEnoughForEta = 0.01;  // share of the work; before that the estimate jumps

bool failed(const RunStatus& s) { return s.phase == Phase::ended && state_of(s.record) != RunState::completed; }

std::string number(double value) {
  if (!std::isfinite(value)) return "-";
  return value < 1000 ? fmt::format("{:.4f}", value) : fmt::format("{:.1e}", value);  // a diverged one in its column
}

/// Tokens a second of the last steps.
std::string speed(const RunRecord& record) {
  double seconds = 0;
  const size_t count = std::min(kRecentSteps, record.steps.size());
  for (size_t i = record.steps.size() - count; i < record.steps.size(); ++i) seconds += record.steps[i].step_seconds;
  const double tokens = static_cast<double>(count) * static_cast<double>(record.config.batch.tokens_per_step);
  return seconds > 0 ? with_commas(std::lround(tokens / seconds)) : "-";
}

/// Seconds that the rest takes if it goes on as fast as all that was done since the start, evaluations and start-up
/// included; NaN while too little is done to tell.
double eta(const StudyProgress& progress) {
  double done = 0, left = 0;
  for (const RunStatus& s : progress.runs) {
    const double steps = static_cast<double>(s.record.steps_done());
    const double tokens = static_cast<double>(s.run->config.batch.tokens_per_step);
    if (!s.earlier && s.phase != Phase::waiting) done += (steps - static_cast<double>(s.steps_before)) * tokens;
    if (s.phase != Phase::ended) {
      left += (static_cast<double>(s.run->config.steps) - (s.phase == Phase::running ? steps : 0)) * tokens;
    }
  }
  return done >= kEnoughForEta * (done + left) && done > 0 ? progress.seconds * left / done : NAN;
}

int64_t count(const StudyProgress& progress, bool (*what)(const RunStatus&)) {
  return std::count_if(progress.runs.begin(), progress.runs.end(), what);
}

std::string title(const StudyProgress& progress) {
  const auto ended = count(progress, [](const RunStatus& s) { return s.phase == Phase::ended; });
  const auto running = count(progress, [](const RunStatus& s) { return s.phase == Phase::running; });
  const auto bad = count(progress, failed);
  const double left = eta(progress);
  return fmt::format("{}: {} of {} runs ended{}, {} at work with {} thread{} each    {}{}", progress.study.name, ended,
                     progress.runs.size(), bad == 0 ? "" : fmt::format(" ({} not well)", bad), running,
                     progress.threads, progress.threads == 1 ? "" : "s", duration_text(progress.seconds),
                     std::isfinite(left) && left > 0 ? ", ETA " + duration_text(left) : "");
}

std::string line(const std::string& name, size_t width, const std::string& state, const std::string& step,
                 const std::string& loss, const std::string& validation, const std::string& tokens_per_second) {
  return fmt::format("{:<{}}  {:<18}  {:>13}  {:>8}  {:>8}  {:>9}", name, width, state, step, loss, validation,
                     tokens_per_second);
}

std::string row(const RunStatus& s, size_t width) {
  const RunRecord& r = s.record;
  const bool seen = s.phase != Phase::waiting && !r.steps.empty();
  const double loss = !seen ? NAN : (s.phase == Phase::ended ? train_loss(r) : r.steps.back().loss);
  std::string text =
      line(s.run->name.substr(0, width), width, state_text(s),
           fmt::format("{}/{}", seen ? r.steps_done() : 0, s.run->config.steps), number(loss),
           seen && !r.evaluations.empty() ? number(r.evaluations.back().loss) : "-", seen ? speed(r) : "-");
  if (failed(s)) text += "  " + reason_of(r);
  return text;
}

/// At most `width` characters of UTF-8, so that no line wraps: the table would creep up the screen.
std::string cut(const std::string& text, int width) {
  int characters = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80 && ++characters > width) return text.substr(0, i);
  }
  return text;
}

/// "5 completed, 12 waiting" of the runs that are not shown.
std::string counts(const std::vector<const RunStatus*>& hidden) {
  std::vector<std::pair<std::string, int>> states;
  for (const RunStatus* s : hidden) {
    const std::string state = state_text(*s);
    const auto known = std::find_if(states.begin(), states.end(), [&state](const auto& x) { return x.first == state; });
    if (known == states.end()) {
      states.emplace_back(state, 1);
    } else {
      ++known->second;
    }
  }
  std::string text;
  for (const auto& [state, runs] : states) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", runs, state);
  return text;
}

}  // namespace

std::string state_text(const RunStatus& status) {
  if (!status.conflict.empty()) return "other config";
  if (status.phase == Phase::running) return "running";
  if (status.phase == Phase::waiting) return "waiting";
  return std::string(name_of(state_of(status.record))) + (status.earlier ? " earlier" : "");
}

std::vector<std::string> table_lines(const StudyProgress& progress, int width, int height) {
  size_t name_width = 3;
  for (const RunStatus& s : progress.runs) name_width = std::max(name_width, s.run->name.size());
  name_width = std::min(name_width, kWidestName);
  std::vector<std::string> lines = {title(progress),
                                    line("run", name_width, "state", "step", "loss", "valid.", "tok/s")};

  const size_t room = static_cast<size_t>(std::max(height, 4)) - lines.size();
  const bool all = progress.runs.size() <= room;
  std::vector<const RunStatus*> hidden;
  for (const RunStatus& s : progress.runs) {
    const bool shown = all || ((s.phase == Phase::running || failed(s)) && lines.size() < room + 1);
    if (shown) {
      lines.push_back(row(s, name_width));
    } else {
      hidden.push_back(&s);
    }
  }
  if (!hidden.empty()) lines.push_back("and " + counts(hidden));
  for (std::string& text : lines) text = cut(text, width);
  return lines;
}

LiveTable::LiveTable(std::FILE* out) : out_(out), terminal_(isatty(fileno(out)) != 0) {}

void LiveTable::show(const StudyProgress& progress) {
  if (said_.empty()) said_.assign(progress.runs.size(), Phase::waiting);
  if (!terminal_) {
    say_changes(progress);
    return;
  }
  const auto open = count(progress, [](const RunStatus& s) { return s.phase != Phase::ended; });
  if (drawn_ > 0 && open > 0 && progress.seconds - drawn_seconds_ < kRedrawSeconds) return;
  redraw(progress, open == 0);
}

void LiveTable::say_changes(const StudyProgress& progress) {
  for (size_t i = 0; i < progress.runs.size(); ++i) {
    const RunStatus& s = progress.runs[i];
    if (s.phase == said_[i]) continue;
    said_[i] = s.phase;
    const std::string place = fmt::format("[{}/{}] {}", i + 1, progress.runs.size(), s.run->name);
    if (s.phase == Phase::running) {
      const std::string from =
          s.steps_before > 0 ? fmt::format("resumed after step {} of", with_commas(s.steps_before)) : "started,";
      write_console(out_, fmt::format("{}: {} {}\n", place, from, counted(s.run->config.steps, "step")));
      continue;
    }
    const RunRecord& r = s.record;
    const std::string reason = reason_of(r);
    write_console(out_,
                  fmt::format("{}: {}{}, {}, loss {}, validation loss {}\n", place, state_text(s),
                              reason.empty() ? "" : " (" + reason + ")", counted(r.steps_done(), "step"),
                              number(train_loss(r)), r.evaluations.empty() ? "-" : number(r.evaluations.back().loss)));
  }
}

void LiveTable::redraw(const StudyProgress& progress, bool last) {
  winsize size{};
  const bool known = ioctl(fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0;
  const int width = known ? size.ws_col : 80, height = known ? size.ws_row : 24;
  std::string text = drawn_ > 0 ? fmt::format("\033[{}A", drawn_) : "";  // up to the first line drawn
  // One line is left for the cursor: a table as high as the terminal would scroll at each drawing. The last one may.
  const std::vector<std::string> lines = table_lines(progress, width, last ? kAllLines : height - 1);
  for (const std::string& drawn : lines) text += "\r" + drawn + "\033[K\n";
  text += "\033[J";
  write_console(out_, text);
  drawn_ = static_cast<int>(lines.size());
  drawn_seconds_ = progress.seconds;
}

}  // namespace dither
