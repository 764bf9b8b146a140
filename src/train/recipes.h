// Recipes compiled into the binary from launch/recipes/*.toml.
#pragma once

#include <string>
#include <vector>

namespace lockstep {

struct EmbeddedRecipe {
  std::string name;
  std::string toml;
};

const std::vector<EmbeddedRecipe>& embedded_recipes();

}  // namespace lockstep
