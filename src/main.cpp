// dither: the command line, one line a command, and the one place where errors end the program.
//
// Exit status   0  done
//               2  "error: ..." on stderr: what the user or the world caused
//               3  "internal error: ..." on stderr: a mistake of this program
//               ended by SIGPIPE, without a word: the reader of standard output has gone (`| head`); train and compare
//               go on without it

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <system_error>

#include "base/bus_error.h"
#include "base/commit.h"
#include "base/error.h"
#include "base/printable.h"
#include "base/stack.h"
#include "base/words.h"
#include "src/commands/commands.h"

namespace {

constexpr int kBadInput = 2;
constexpr size_t kHelpColumn = 30;  // where descriptions begin: behind the longest option

constexpr const char* kDescription =
    "Dither pretrains GPT and Llama models from scratch. A JSON config says everything, above all how the optimizer\n"
    "stores and rounds its weights: FP32, BF16 with stochastic rounding, mixed precision, Collage.\n";

constexpr const char* kFooter =
    "A first run, from text to text:\n"
    "  dither tokenize --text book.txt --output data/book\n"
    "  dither train configs/quickstart.json --set name=book \\\n"
    "      --set 'data.train=data/book/train_*.bin' --set 'data.validation=data/book/val_*.bin'\n"
    "  dither sample runs/book --prompt 'Once upon a time'\n\n"
    "`dither COMMAND --help` shows a command's options, docs/configuration.md every key of a config.";

/// Where a descriptor from 0 to 2 is closed the next file would get its number, and what is printed would go into it.
void open_standard_descriptors() {
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor) {
    if (fcntl(descriptor, F_GETFD) >= 0) continue;
    if (open("/dev/null", O_RDWR) != descriptor) std::_Exit(kBadInput);  // no word: there is nowhere to say it
  }
}

/// Ends the program as SIGPIPE does, if that is why output cannot be written and the signal was ignored by the program
/// that started it.
void end_without_reader() {
  pollfd out{STDOUT_FILENO, POLLOUT, 0};
  if (poll(&out, 1, 0) != 1 || (out.revents & POLLERR) == 0) return;
  std::signal(SIGPIPE, SIG_DFL);
  raise(SIGPIPE);
}

/// A first word that is no command, said plainly; the parser would complain of the words behind it.
void check_command(const CLI::App& app, const std::string& first) {
  if (first.rfind('-', 0) == 0) return;  // an option: --help, or one that the parser refuses
  std::string names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == first) return;
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  throw dither::Error((first.empty() ? "no command given" : "\"" + first + "\" is not a command") +
                      "\n       allowed: " + names + "; dither --help shows what they do");
}

int parse_and_run(CLI::App& app, int argc, char** argv) {
  try {
    check_command(app, argc > 1 ? argv[1] : "");
    app.parse(argc, argv);  // runs the command
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    const auto chosen = app.get_subcommands();
    const std::string command = chosen.empty() ? "dither" : "dither " + chosen.front()->get_name();
    throw dither::Error(command + ": " + e.what() + "\n       " + command + " --help shows what is allowed");
  }
  if (app.get_subcommands().empty()) throw dither::Error("no command given; dither --help lists them");  // dither --
  if (std::fflush(stdout) != 0) {
    if (errno == EPIPE) end_without_reader();
    throw dither::Error(std::string("standard output cannot be written: ") + std::strerror(errno));
  }
  return 0;
}

int failed(const char* kind, const std::string& message, int status) {
  std::fprintf(stderr, "%s%s%s\n", dither::error_origin().c_str(), kind, dither::visible(message).c_str());
  return status;
}

/// An exception that no thread has caught: of a parallel region, or in a destructor.
[[noreturn]] void terminated() {
  const char* what = "an exception was not caught";
  std::string text;
  try {
    if (const std::exception_ptr e = std::current_exception()) std::rethrow_exception(e);
  } catch (const std::exception& e) {
    text = e.what();
    what = text.c_str();
  } catch (...) {  // of no standard type: nothing is known of it
  }
  std::_Exit(failed("internal error: ", what, dither::kInternalErrorStatus));
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_descriptors();
  std::set_terminate(terminated);
  // A file that may not grow any further (ulimit -f, quotas of batch systems): the write that fails says so, and is met
  // where it can be, instead of the program's death.
  std::signal(SIGXFSZ, SIG_IGN);
  dither::report_bus_errors();
  CLI::App app(kDescription, "dither");
  app.set_help_flag("-h,--help", "Show this help and exit");
  app.set_version_flag("--version", std::string("dither " DITHER_VERSION ", commit ") + dither::commit(),
                       "Show version and commit and exit");
  app.footer(kFooter);
  app.get_formatter()->column_width(kHelpColumn);
  app.get_formatter()->label("SUBCOMMAND", "COMMAND");
  app.get_formatter()->label("Positionals", "Arguments");
  app.get_formatter()->label("REQUIRED", "(required)");

  dither::add_plan_command(app);
  dither::add_train_command(app);
  dither::add_compare_command(app);
  dither::add_report_command(app);
  dither::add_evaluate_command(app);
  dither::add_sample_command(app);
  dither::add_checkpoint_command(app);
  dither::add_tune_command(app);
  dither::add_tokenize_command(app);
  dither::add_bench_command(app);
  dither::add_schema_command(app);
  for (CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) command->group("Commands");

  try {
    dither::prepare_stacks();
    return parse_and_run(app, argc, argv);
  } catch (const dither::Error& e) {
    return failed("error: ", e.what(), kBadInput);
  } catch (const std::system_error& e) {  // a disk or a system call that refused, where nobody had more to say of it
    if (e.code() == std::errc::broken_pipe) end_without_reader();
    return failed("error: ", dither::words_of(e), kBadInput);
  } catch (const std::bad_alloc& e) {
    return failed("error: ", dither::words_of(e), kBadInput);
  } catch (const std::exception& e) {
    return failed("internal error: ", e.what(), dither::kInternalErrorStatus);
  }
}
