#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "satrap/half.h"
#include "satrap/pooling.h"

namespace {

using satrap::Kernels;
using satrap::Position;

void test_every_half_survives() {
  std::vector<std::uint16_t> halves(65536);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
  std::vector<float> best(halves.size());
  std::vector<float> portable(halves.size());
  const auto* bytes = reinterpret_cast<const std::byte*>(halves.data());
  satrap::from_half(bytes, best.data(), halves.size());
  satrap::from_half(bytes, portable.data(), halves.size(), Kernels::kPortable);
  CHECK(std::memcmp(best.data(), portable.data(), best.size() * sizeof(float)) == 0);
  for (const Kernels kernels : {Kernels::kBest, Kernels::kPortable}) {
    std::vector<std::uint16_t> back(halves.size());
    satrap::to_half(best.data(), back.data(), back.size(), kernels);
    CHECK(back == halves);
  }
}

void test_both_forms_round_alike() {
  std::mt19937 random(2);
  std::vector<float> values(1 << 20);
  for (float& value : values) value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
  // Where rounding is decided: around every half, and half way between two.
  for (std::uint32_t half = 0; half < 0x7c00; ++half) {
    const float low = satrap::float_from_half(static_cast<std::uint16_t>(half));
    const float middle = low + (satrap::float_from_half(static_cast<std::uint16_t>(half + 1)) - low) / 2;
    for (const float value : {low, middle, std::nextafterf(middle, 0.f), std::nextafterf(middle, 1e9f)}) {
      values.push_back(value);
      values.push_back(-value);
    }
  }
  std::vector<std::uint16_t> best(values.size());
  std::vector<std::uint16_t> portable(values.size());
  satrap::to_half(values.data(), best.data(), values.size());
  satrap::to_half(values.data(), portable.data(), values.size(), Kernels::kPortable);
  CHECK(best == portable);
}

void test_limits() {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> values{65504.f, 65519.99f, 65520.f, -65520.f, infinity, 1e-8f, -0.f};
  const std::vector<std::uint16_t> expected{0x7bff, 0x7bff, 0x7c00, 0xfc00, 0x7c00, 0, 0x8000};
  for (const Kernels kernels : {Kernels::kBest, Kernels::kPortable}) {
    std::vector<std::uint16_t> halves(values.size());
    satrap::to_half(values.data(), halves.data(), values.size(), kernels);
    CHECK(halves == expected);
  }
}

void test_any_alignment() {
  std::vector<std::byte> bytes(2 * 40 + 1);
  for (std::size_t i = 0; i < 40; ++i) {
    const std::uint16_t half = satrap::half_from_float(static_cast<float>(i));
    std::memcpy(bytes.data() + 1 + 2 * i, &half, 2);
  }
  for (const Kernels kernels : {Kernels::kBest, Kernels::kPortable}) {
    std::vector<float> out(40);
    satrap::from_half(bytes.data() + 1, out.data(), out.size(), kernels);
    for (std::size_t i = 0; i < out.size(); ++i) CHECK(out[i] == static_cast<float>(i));
  }
}

void test_sums() {
  for (const std::size_t dim : {1u, 7u, 8u, 16u, 19u, 24u, 32u, 40u}) {
    std::vector<float> values(2 * dim);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) + 0.25f;
    std::vector<std::uint16_t> halves(values.size());
    satrap::to_half(values.data(), halves.data(), values.size());
    const std::vector<Position> positions{{2, 0}, {0, 5}, {2, 9}, {0, 6}};
    const std::vector<std::uint32_t> starts{0, 3, 4};
    for (const satrap::RowFormat format : {satrap::RowFormat::kFloat32, satrap::RowFormat::kFloat16}) {
      const bool wide = format == satrap::RowFormat::kFloat32;
      const auto* first = wide ? reinterpret_cast<const std::byte*>(values.data())
                               : reinterpret_cast<const std::byte*>(halves.data());
      const std::vector<const std::byte*> rows{first, first + dim * (wide ? 4 : 2)};
      for (const Kernels kernels : {Kernels::kBest, Kernels::kPortable}) {
        std::vector<float> sums(3 * dim, 1.f);
        satrap::add_to_samples(rows, format, dim, starts, positions, sums.data(), kernels);
        for (std::size_t i = 0; i < dim; ++i) {
          CHECK(sums[i] == 1 + values[i] + values[dim + i]);
          CHECK(sums[dim + i] == 1);
          CHECK(sums[2 * dim + i] == 1 + 2 * values[i]);
        }
      }
    }
  }
}

// Rows that follow the samples: what the general form says of the same, bit for bit.
void test_runs() {
  std::mt19937 random(7);
  const std::vector<std::uint32_t> counts{0, 3, 1, 0, 40, 2, 0};
  std::size_t n = 0;
  std::vector<Position> positions;
  for (std::size_t s = 0; s < counts.size(); ++s) {
    for (std::uint32_t i = 0; i < counts[s]; ++i, ++n) {
      positions.push_back({static_cast<std::uint16_t>(s), static_cast<std::uint16_t>(i)});
    }
  }
  std::vector<std::uint32_t> starts(n + 1);
  for (std::size_t i = 0; i <= n; ++i) starts[i] = static_cast<std::uint32_t>(i);
  for (const std::size_t dim : {1u, 7u, 8u, 16u, 19u, 24u, 32u, 40u}) {
    std::vector<float> values(n * dim);
    for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 20001) - 10000) / 777;
    std::vector<std::uint16_t> halves(values.size());
    satrap::to_half(values.data(), halves.data(), values.size());
    for (const satrap::RowFormat format : {satrap::RowFormat::kFloat32, satrap::RowFormat::kFloat16}) {
      const bool wide = format == satrap::RowFormat::kFloat32;
      const auto* first = wide ? reinterpret_cast<const std::byte*>(values.data())
                               : reinterpret_cast<const std::byte*>(halves.data());
      std::vector<const std::byte*> rows;
      for (std::size_t i = 0; i < n; ++i) rows.push_back(first + i * dim * (wide ? 4 : 2));
      std::vector<float> expected(counts.size() * dim, 0.5f);
      satrap::add_to_samples(rows, format, dim, starts, positions, expected.data(), Kernels::kPortable);
      for (const Kernels kernels : {Kernels::kBest, Kernels::kPortable}) {
        std::vector<float> sums(counts.size() * dim, 0.5f);
        satrap::add_runs_to_samples(rows, format, dim, counts, sums.data(), kernels);
        CHECK(std::memcmp(sums.data(), expected.data(), sums.size() * sizeof(float)) == 0);
      }
    }
  }
  std::vector<float> untouched(2, 1.f);
  satrap::add_runs_to_samples({}, satrap::RowFormat::kFloat32, 1, std::vector<std::uint32_t>{0, 0},
                              untouched.data());
  CHECK(untouched == std::vector<float>(2, 1.f));
}

}  // namespace

int main() {
  test_every_half_survives();
  test_both_forms_round_alike();
  test_limits();
  test_any_alignment();
  test_sums();
  test_runs();
  std::puts("pooling: ok");
}
