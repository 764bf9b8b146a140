// Reading a subcommand's flags, by cxxopts, with our errors.
#pragma once

// A comma in a value is part of it (paths, lists to come).
#define CXXOPTS_VECTOR_DELIMITER '\0'
#include <cstdint>
#include <cxxopts.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"

namespace lockstep {

class World;

/// Parses `words` with `options`, to which --help is added. Nothing when help was asked for: it has then been printed
/// by the first rank. Throws Error (usage) for an unknown flag (with the nearest one) or a value that does not fit.
std::optional<cxxopts::ParseResult> parse(cxxopts::Options& options, const Words& words,
                                          const std::string& more_help = "");

/// Collective, and the first collective call of a command: all ranks run this one. Throws AgreedError (launch) naming
/// those that run another, or another version of Lockstep.
void agree_on_command(World& world, const std::string& command);

/// Collective: these flags have the same values on all ranks, given or by default. They say which collective calls
/// come. Throws AgreedError (launch) naming the ranks and the flag.
void agree_on_flags(World& world, const cxxopts::ParseResult& flags, const std::vector<std::string>& names);

/// The number that a flag gives. Throws Error (usage) when it is not from `least` to `most`.
int64_t number_in(const cxxopts::ParseResult& flags, const char* flag, int64_t least, int64_t most);

/// Whether --help or -h is among the words: then it is printed and nothing is started.
bool wants_help(const Words& words);

}  // namespace lockstep
