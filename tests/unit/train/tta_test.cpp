#include "train/tta.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "lockstep/net.h"

namespace lockstep {
namespace {

// Its logits are ten pixels of the image, so averages over views are averages of pixels.
class Pixels final : public Net {
 public:
  explicit Pixels(int64_t row) : row_(row) {}
  at::Tensor forward(at::Tensor images) override { return images.select(1, 0).select(1, row_).narrow(1, 0, 10); }

 private:
  int64_t row_;
};

float pixel(const at::Tensor& image, int64_t row, int64_t column) {
  const auto reflected = [](int64_t at) { return at < 0 ? -at : at > 31 ? 62 - at : at; };
  return image[0][0][reflected(row)][reflected(column)].item<float>();
}

TEST(Tta, AveragesTheViewsThatItsNameSays) {
  at::manual_seed(1);
  const at::Tensor image = at::rand({1, 3, 32, 32});
  for (const int64_t row : {0, 7, 31}) {
    Pixels net(row);
    const at::Tensor none = average_logits(net, image, Tta::none);
    const at::Tensor mirror = average_logits(net, image, Tta::mirror);
    const at::Tensor shifts = average_logits(net, image, Tta::shifts);
    for (int64_t x = 0; x < 10; ++x) {
      const auto both = [&](int64_t by) {
        return (pixel(image, row + by, x + by) + pixel(image, row + by, 31 - x + by)) / 2;
      };
      EXPECT_EQ(none[0][x].item<float>(), pixel(image, row, x));
      EXPECT_NEAR(mirror[0][x].item<float>(), both(0), 1e-6);
      EXPECT_NEAR(shifts[0][x].item<float>(), both(0) / 2 + both(-1) / 4 + both(1) / 4, 1e-6);
    }
  }
}

}  // namespace
}  // namespace lockstep
