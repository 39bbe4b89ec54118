// dither schema: what a config may say, made from the table of keys.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "src/commands/commands.h"
#include "src/config/config.h"

namespace dither {

void add_schema_command(CLI::App& app) {
  struct Options {
    bool reference = false, strategies = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("schema", "Print the JSON Schema of config files, or a reference page");
  CLI::Option* reference =
      command->add_flag("--reference", options->reference, "The page of all keys (docs/configuration.md), as Markdown");
  command
      ->add_flag("--strategies", options->strategies,
                 "The page of precision strategies (docs/strategies.md), as Markdown")
      ->excludes(reference);
  command->footer("Example:\n  dither schema > docs/config.schema.json");
  command->callback([options] {
    fmt::print("{}", options->reference    ? config_reference()
                     : options->strategies ? strategies_page()
                                           : config_schema());
  });
}

}  // namespace dither
