#include "cli/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "ddp/agreement.h"
#include "lockstep/error.h"
#include "lockstep/version.h"
#include "train/nearest.h"
#include "train/synonyms.h"
#include "world/launcher.h"

namespace lockstep {
namespace {

// The flags that `options` knows, as they are typed; only those with a value if so asked.
enum class Which { all, with_value };
std::vector<std::string> flags(const cxxopts::Options& options, Which which = Which::all) {
  std::vector<std::string> all;
  for (const std::string& group : options.groups()) {
    for (const auto& option : options.group_help(group).options) {
      if (which == Which::with_value && option.is_boolean) continue;
      for (const std::string& name : option.l) all.push_back("--" + name);
    }
  }
  return all;
}

bool among(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// cxxopts names an unknown flag without its dashes and without what is near; look first.
void check_flags(const cxxopts::Options& options, const Words& words, const std::string& hint) {
  const std::vector<std::string> known = flags(options);
  const std::vector<std::string> with_value = flags(options, Which::with_value);
  for (size_t i = 0; i < words.size() && words[i] != "--"; ++i) {
    const bool is_long = words[i].starts_with("--");
    const bool is_short = !is_long && words[i].size() > 1 && words[i][0] == '-' &&
                          std::isalpha(static_cast<unsigned char>(words[i][1])) != 0 && words[i] != "-h";
    if (!is_long && (!is_short || (i > 0 && among(with_value, words[i - 1])))) continue;
    const size_t equals = words[i].find('=');
    const std::string flag = words[i].substr(0, equals);
    if (among(known, flag)) continue;
    const std::string value = equals != std::string::npos                              ? words[i].substr(equals + 1)
                              : i + 1 < words.size() && !words[i + 1].starts_with('-') ? words[i + 1]
                                                                                       : "";
    const std::string meant = meaning_of(flag, value, [&](const std::string& name) { return among(known, name); });
    const std::string near = is_short ? "" : did_you_mean(flag, known);
    throw Error(ExitCode::usage, fmt::format("unknown flag {}", flag),
                (meant.empty() ? near : "write " + meant + "; ") + hint);
  }
}

// cxxopts quotes the value it cannot take, not the flag; a person looks for the flag.
std::string naming_the_flag(const std::string& message, const Words& words) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (!words[i].starts_with("--")) continue;
    const size_t equals = words[i].find('=');
    const std::string value = equals != std::string::npos ? words[i].substr(equals + 1)
                              : i + 1 < words.size()      ? words[i + 1]
                                                          : "";
    if (!value.empty() && message.find(value) != std::string::npos) {
      return fmt::format("'{}' is not a value for {}", value, words[i].substr(0, equals));
    }
  }
  return message;
}

}  // namespace

bool wants_help(const Words& words) {
  return std::any_of(words.begin(), words.end(),
                     [](const std::string& word) { return word == "--help" || word == "-h"; });
}

std::optional<cxxopts::ParseResult> parse(cxxopts::Options& options, const Words& words, const std::string& more_help) {
  options.add_options()("h,help", "Print this");
  const std::string hint = "all flags: " + options.program() + " --help";
  check_flags(options, words, hint);
  std::vector<const char*> arguments = {"lockstep"};
  for (const std::string& word : words) arguments.push_back(word.c_str());
  try {
    auto result = options.parse(static_cast<int>(arguments.size()), arguments.data());
    if (result.count("help") == 0) return result;
    if (launcher_rank() == 0) {
      std::fputs(options.help().c_str(), stdout);
      std::fputs(more_help.c_str(), stdout);
    }
    return std::nullopt;
  } catch (const cxxopts::exceptions::exception& error) {
    const bool value = dynamic_cast<const cxxopts::exceptions::incorrect_argument_type*>(&error) != nullptr;
    throw Error(ExitCode::usage, value ? naming_the_flag(error.what(), words) : error.what(), hint);
  }
}

void agree_on_command(World& world, const std::string& command) {
  agree(world, "the command", {"lockstep " + command, fmt::format("version {}", version())});
}

void agree_on_flags(World& world, const cxxopts::ParseResult& flags, const std::vector<std::string>& names) {
  std::vector<std::string> lines;
  for (const std::string& name : names) {
    std::string line = "--" + name;
    for (const auto& given : flags.count(name) > 0 ? flags.arguments() : flags.defaults()) {
      if (given.key() == name) line += " " + given.value();
    }
    lines.push_back(line == "--" + name ? "no " + line : line);
  }
  agree(world, "the flags", lines);
}

int64_t number_in(const cxxopts::ParseResult& flags, const char* flag, int64_t least, int64_t most) {
  const int64_t value = flags[flag].as<int64_t>();
  if (value < least || value > most) {
    throw Error(ExitCode::usage, fmt::format("--{} {} is out of range", flag, value),
                fmt::format("allowed: from {} to {}", least, most));
  }
  return value;
}

}  // namespace lockstep
