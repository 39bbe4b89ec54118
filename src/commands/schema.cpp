// dither schema: what a config may say, made from the table of keys.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "src/commands/commands.h"
#include "src/config/config.h"

namespace dither {

void add_schema_command(CLI::App& app) {
  const auto reference = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("schema", "Print the JSON Schema of config files, or their reference page");
  command->add_flag("--reference", *reference, "The reference page (docs/configuration.md), as Markdown");
  command->footer("Example:\n  dither schema > docs/config.schema.json");
  command->callback([reference] { fmt::print("{}", *reference ? config_reference() : config_schema()); });
}

}  // namespace dither
