// The kernels against plain sums, over rows at the very end of an allocation and at odd addresses.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "satrap/half.h"
#include "satrap/row_kernels.h"

namespace {

using namespace satrap;

// `values` moved to an odd address, with nothing behind them.
class Borrowed {
 public:
  Borrowed(const void* values, std::size_t size) : bytes_(std::make_unique<std::byte[]>(size + 1)) {
    if (size != 0) std::memcpy(bytes_.get() + 1, values, size);
  }
  const std::byte* data() const { return bytes_.get() + 1; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
};

double plain_norm(const float* row, std::size_t dim) {
  long double sum = 0;
  for (std::size_t i = 0; i < dim; ++i) sum += static_cast<long double>(row[i]) * row[i];
  return static_cast<double>(std::sqrt(sum));
}

void test_norms() {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  for (const std::size_t dim : {1u, 3u, 8u, 16u, 29u}) {
    constexpr std::size_t kRows = 20;
    std::vector<float> values(kRows * dim);
    for (float& value : values) value = normal(random);
    std::vector<std::uint16_t> halves;
    for (float& value : values) {
      halves.push_back(half_from_float(value));
      value = float_from_half(halves.back());  // so that both types have the same rows
    }
    const std::vector<std::uint64_t> numbers(kRows, 1);
    const Borrowed floats(values.data(), values.size() * 4), narrow(halves.data(), halves.size() * 2),
        signs(numbers.data(), kRows * 8);
    for (const RowsView& rows : {RowsView{floats.data(), kRows, dim, RowType::kFloat32},
                                 RowsView{narrow.data(), kRows, dim, RowType::kFloat16}}) {
      const std::vector<double> norms = row_norms(rows);
      double greatest = 0;
      for (std::size_t i = 0; i < kRows; ++i) {
        const double expected = plain_norm(values.data() + i * dim, dim);
        CHECK(std::abs(norms[i] - expected) <= 1e-12 * expected);
        greatest = std::max(greatest, norms[i]);
      }
      const RowFindings found = inspect_rows(signs.data(), kRows, rows, {});
      CHECK(found.misrouted == 0 && !found.not_finite && found.max_norm == greatest);
    }
  }
}

void test_what_is_not_finite() {
  constexpr std::size_t kRows = 5, kDim = 11;
  const std::vector<std::uint64_t> signs(kRows, 1);
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (std::size_t at = 0; at < kRows * kDim; ++at) {
      std::vector<float> values(kRows * kDim, std::numeric_limits<float>::max());
      values[at] = bad;
      const Borrowed rows(values.data(), values.size() * 4);
      const RowFindings found = inspect_rows(reinterpret_cast<const std::byte*>(signs.data()), kRows,
                                             RowsView{rows.data(), kRows, kDim, RowType::kFloat32}, {});
      CHECK(found.not_finite == at / kDim && std::isfinite(found.max_norm) && found.max_norm > 1e38);
    }
  }
}

void test_routes() {
  std::vector<std::uint64_t> signs(1000);
  for (std::size_t i = 0; i < signs.size(); ++i) signs[i] = i * 0x9e3779b97f4a7c15u;
  const Borrowed bytes(signs.data(), signs.size() * 8);
  std::vector<bool> seen(signs.size());
  for (std::uint32_t index = 0; index < 3; ++index) {
    const ShardRoute route{index, 3};
    const std::vector<std::size_t> own = owned_positions(bytes.data(), signs.size(), route);
    for (std::size_t i = 0; i < own.size(); ++i) {
      CHECK(route.owns(signs[own[i]]) && !seen[own[i]] && (i == 0 || own[i - 1] < own[i]));
      seen[own[i]] = true;
    }
    CHECK(inspect_rows(bytes.data(), signs.size(), {}, route).misrouted == signs.size() - own.size());
  }
  for (const bool one : seen) CHECK(one);
}

}  // namespace

int main() {
  test_norms();
  test_what_is_not_finite();
  test_routes();
  std::puts("row_kernels: ok");
}
