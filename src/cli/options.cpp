#include "cli/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "lockstep/error.h"
#include "train/nearest.h"
#include "world/launcher.h"

namespace lockstep {
namespace {

// The flags that `options` knows, as they are typed.
std::vector<std::string> flags(const cxxopts::Options& options) {
  std::vector<std::string> all;
  for (const std::string& group : options.groups()) {
    for (const auto& option : options.group_help(group).options) {
      for (const std::string& name : option.l) all.push_back("--" + name);
    }
  }
  return all;
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
  const std::vector<std::string> known = flags(options);
  // cxxopts names an unknown flag without its dashes and without what is near; look first.
  for (const std::string& word : words) {
    if (word == "--") break;
    if (!word.starts_with("--")) continue;
    const std::string flag = word.substr(0, word.find('='));
    if (std::find(known.begin(), known.end(), flag) == known.end()) {
      throw Error(ExitCode::usage, fmt::format("unknown flag {}", flag), did_you_mean(flag, known) + hint);
    }
  }
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

int64_t number_in(const cxxopts::ParseResult& flags, const char* flag, int64_t least, int64_t most) {
  const int64_t value = flags[flag].as<int64_t>();
  if (value < least || value > most) {
    throw Error(ExitCode::usage, fmt::format("--{} {} is out of range", flag, value),
                fmt::format("allowed: from {} to {}", least, most));
  }
  return value;
}

}  // namespace lockstep
