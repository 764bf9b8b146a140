// One function for each subcommand: takes the words after its name, gives the exit code, throws Error.
#pragma once

#include <string>
#include <vector>

namespace lockstep {

using Words = std::vector<std::string>;

int train_command(const Words& words);     ///< collective
int evaluate_command(const Words& words);  ///< collective
int data_command(const Words& words);      ///< one process
int info_command(const Words& words);      ///< one process
int bench_command(const Words& words);     ///< the commands below, collective as they are

int bench_comm_command(const Words& words);  ///< collective
int bench_step_command(const Words& words);  ///< collective

}  // namespace lockstep
