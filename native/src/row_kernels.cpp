#include "satrap/row_kernels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "satrap/byte_reader.h"
#include "satrap/half.h"
#include "satrap/id_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace satrap {
namespace {

void floats_from_halves(const std::byte* halves, std::size_t n, float* floats) {
  for (std::size_t i = 0; i < n; ++i) floats[i] = float_from_half(load<std::uint16_t>(halves + i * 2));
}

#if defined(__x86_64__)
// The same by the processor's instruction, signalling NaNs excepted, which stay NaNs.
__attribute__((target("avx,f16c"))) void floats_from_halves_f16c(const std::byte* halves, std::size_t n,
                                                                 float* floats) {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i * 2));
    _mm256_storeu_ps(floats + i, _mm256_cvtph_ps(eight));
  }
  floats_from_halves(halves + i * 2, n - i, floats + i);
}
#endif

// The sum of the squares of `n` float32 at any alignment: not finite exactly if one of them is not, because
// the square of a float32 is far from double's limits.
double sum_of_squares(const std::byte* values, std::size_t n) {
  constexpr std::size_t kLanes = 8;
  std::array<double, kLanes> sums{};
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    std::array<float, kLanes> piece;
    std::memcpy(piece.data(), values + i * sizeof(float), sizeof(piece));
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const double value = piece[lane];
      sums[lane] += value * value;
    }
  }
  for (std::size_t lane = 0; i < n; ++i, ++lane) {
    const double value = load<float>(values + i * sizeof(float));
    sums[lane] += value * value;
  }
  for (std::size_t width = kLanes / 2; width > 0; width /= 2) {
    for (std::size_t lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  }
  return sums[0];
}

template <class Visit>
void for_each_sum(const RowsView& rows, Visit&& visit) {
  if (rows.type == RowType::kFloat32) {
    for (std::size_t i = 0; i < rows.n; ++i) visit(i, sum_of_squares(rows.row(i), rows.dim));
    return;
  }
  auto widen = &floats_from_halves;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("f16c") && __builtin_cpu_supports("avx")) widen = &floats_from_halves_f16c;
#endif
  std::vector<float> row(rows.dim);
  for (std::size_t i = 0; i < rows.n; ++i) {
    widen(rows.row(i), rows.dim, row.data());
    visit(i, sum_of_squares(reinterpret_cast<const std::byte*>(row.data()), rows.dim));
  }
}

}  // namespace

RowFindings inspect_rows(const std::byte* signs, std::size_t n, const std::optional<RowsView>& rows,
                         ShardRoute route) {
  RowFindings findings;
  if (route.size != 1) {
    const ShardOfSign shard_of(route.size);
    for (std::size_t i = 0; i < n; ++i) {
      findings.misrouted += shard_of(load<std::uint64_t>(signs + i * 8)) != route.index;
    }
  }
  if (!rows) return findings;
  double greatest = 0;
  for_each_sum(*rows, [&](std::size_t i, double sum) {
    if (std::isfinite(sum)) {
      greatest = std::max(greatest, sum);
    } else if (!findings.not_finite) {
      findings.not_finite = i;
    }
  });
  findings.max_norm = std::sqrt(greatest);
  return findings;
}

std::vector<double> row_norms(const RowsView& rows) {
  std::vector<double> norms(rows.n);
  for_each_sum(rows, [&](std::size_t i, double sum) { norms[i] = std::sqrt(sum); });
  return norms;
}

std::vector<std::size_t> owned_positions(const std::byte* signs, std::size_t n, ShardRoute route) {
  const ShardOfSign shard_of(route.size);
  std::vector<std::size_t> positions;
  positions.reserve(n / route.size + n / route.size / 8 + 16);
  for (std::size_t i = 0; i < n; ++i) {
    if (shard_of(load<std::uint64_t>(signs + i * 8)) == route.index) positions.push_back(i);
  }
  return positions;
}

}  // namespace satrap
