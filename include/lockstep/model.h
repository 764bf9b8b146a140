// The networks that recipes name. Light to include; lockstep/net.h has the class.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace lockstep {

class Net;  // lockstep/net.h

/// Makes a network by the name a recipe gives it; its initial values come from LibTorch's global generator
/// (torch::manual_seed), in the order in which Python's torch.nn draws them. Throws Error (ExitCode::usage) for an
/// unknown name, with the known ones.
///
///     sjnet   the network of the tutorial: conv 3→32, 32→32, 32→64 (5x5, padding 2), each followed by a 2x2 max-pool;
///             flatten; linear 1024→64, 64→10; no activation. 145,578 parameters, named model.0.weight … model.8.bias.
///     airbench94   Keller Jordan's (arXiv:2404.00498): whitening conv 2x2 3→24 with frozen weights, from the training
///             images (Net::prepare); three groups of conv 3x3, max-pool 2, batch norm, GELU, conv 3x3, batch norm,
///             GELU, 64, 256 and 256 channels wide; max-pool 3; linear 256→10, over 256. 1,972,792 parameters, 1,440 of
///             them frozen, named whiten.weight, group1.conv1.weight … head.weight. Statistics are per pass.
std::shared_ptr<Net> make_net(const std::string& name);

std::vector<std::string> net_names();

}  // namespace lockstep
