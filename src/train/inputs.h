// What each rank reads by itself must be the same on all of them; asked before it is used.
#pragma once

#include <string>
#include <vector>

#include "lockstep/weights.h"

namespace lockstep {

class Cifar10;
class World;
struct Settings;
struct TrainRequest;

struct ReadFile {
  std::string path;
  std::string digest;  ///< of what was read from it
};

/// Collective: compares what the ranks have read, file by file; equal content may lie at different paths. Throws
/// AgreedError (launch) that names the ranks that differ from rank 0, their hosts, the first file, and both digests.
void agree_on_files(World& world, const std::vector<ReadFile>& files, const std::string& hint);

/// Collective: agree_on_files for every byte of the sets. Ranks of one host that have mapped the same files divide the
/// reading. A process reads no file twice, so that to ask again costs three small messages.
void agree_on_data(World& world, const std::vector<const Cifar10*>& sets);

/// Collective: agree_on_files for tensors that were read from `path`: names, types, shapes and bits.
void agree_on_weights(World& world, const std::string& path, const NamedTensors& tensors);

/// Collective: the settings of a run, and what else of the request says which collective calls come.
void agree_on_request(World& world, const TrainRequest& request);

/// Collective: the settings that an evaluation depends on.
void agree_on_evaluation(World& world, const Settings& settings);

}  // namespace lockstep
