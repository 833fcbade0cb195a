#include "workload.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#include "satrap/table_layout.h"

namespace satrap::benchmarks {

Random::Random(std::uint64_t seed) {
  for (std::uint64_t& word : state_) word = sign_hash(seed += 0x9e3779b97f4a7c15u);
}

std::uint64_t Random::next() {
  const std::uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0];
  const std::uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

std::vector<std::uint32_t> permutation(std::size_t count, Random& random) {
  std::vector<std::uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  for (std::size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

Zipf::Zipf(std::size_t count, double exponent) : cumulative_(count) {
  double sum = 0;
  for (std::size_t rank = 0; rank < count; ++rank) {
    sum += std::pow(static_cast<double>(rank + 1), -exponent);
    cumulative_[rank] = sum;
  }
}

std::size_t Zipf::draw(Random& random) const {
  const double wanted = random.uniform() * cumulative_.back();
  const auto at = std::upper_bound(cumulative_.begin(), cumulative_.end(), wanted);
  return std::min(static_cast<std::size_t>(at - cumulative_.begin()), cumulative_.size() - 1);
}

Batches draw_batches(std::size_t table_rows, double exponent, std::size_t count, std::size_t size,
                     Random& random) {
  Batches batches{exponent > 0 ? "zipf" : "uniform", size, {}, {}};
  batches.rows.resize(count * size);
  if (exponent > 0) {
    const Zipf ranks(table_rows, exponent);
    const std::vector<std::uint32_t> popular = permutation(table_rows, random);
    for (std::uint32_t& row : batches.rows) row = popular[ranks.draw(random)];
  } else {
    for (std::uint32_t& row : batches.rows) row = static_cast<std::uint32_t>(random.below(table_rows));
  }
  batches.signs.resize(batches.rows.size());
  std::transform(batches.rows.begin(), batches.rows.end(), batches.signs.begin(), sign_of);
  return batches;
}

}  // namespace satrap::benchmarks
