// The logits of sjnet for images of the caller, for inference_test.py to compare with Python's.
//     print_logits WEIGHTS.pth < images > logits
// Both are raw float32: n images of [3, 32, 32] in, n rows of 10 out. One thread.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <vector>

#include "lockstep/model.h"
#include "lockstep/net.h"
#include "lockstep/weights.h"

int main(int argc, char** argv) {
  if (argc != 2) return 64;
  try {
    at::set_num_threads(1);
    const c10::NoGradGuard no_gradients;
    const auto net = lockstep::make_net("sjnet");
    lockstep::load_state_dict(*net, lockstep::load_pth(argv[1]), argv[1]);
    net->eval();

    constexpr int64_t kImage = 3 * 32 * 32;
    std::vector<float> pixels;
    std::vector<float> image(kImage);
    while (std::fread(image.data(), sizeof(float), kImage, stdin) == kImage)
      pixels.insert(pixels.end(), image.begin(), image.end());
    const auto count = static_cast<int64_t>(pixels.size()) / kImage;
    const at::Tensor logits = net->forward(at::from_blob(pixels.data(), {count, 3, 32, 32}, at::kFloat)).contiguous();
    std::fwrite(logits.const_data_ptr<float>(), sizeof(float), static_cast<size_t>(logits.numel()), stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
