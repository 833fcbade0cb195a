#include "satrap/id_kernels.h"

#include <stdexcept>
#include <utility>

#include "satrap/sign_index.h"

namespace satrap {

void hash_stack(std::span<const std::uint64_t> signs, std::uint64_t rounds, std::uint64_t embedding_size,
                std::uint64_t* out) {
  const std::size_t n = signs.size();
  for (std::size_t i = 0; i < n; ++i) {
    std::uint64_t hash = signs[i];
    for (std::uint64_t round = 0; round < rounds; ++round) {
      hash = farmhash64(hash);
      out[round * n + i] = hash_stack_bucket(hash, round, embedding_size);
    }
  }
}

Distinct dedup(std::span<const std::uint64_t> signs) {
  if (signs.size() >> 31 != 0) throw std::length_error("more than 2^31 signs at once");
  SignIndex index(signs.size());
  std::vector<std::uint32_t> inverse(signs.size());
  for (std::size_t i = 0; i < signs.size(); ++i) inverse[i] = index.insert(signs[i]);
  return {index.take_signs(), std::move(inverse)};
}

SplitSigns split_by_shard(std::span<const std::uint64_t> signs, std::uint32_t replica_size) {
  const ShardOfSign shard_of(replica_size);
  const std::size_t n = signs.size();
  std::vector<std::uint32_t> shards(n);
  SplitSigns split{std::vector<std::uint64_t>(n), std::vector<std::size_t>(n),
                   std::vector<std::size_t>(std::size_t{replica_size} + 1)};
  for (std::size_t i = 0; i < n; ++i) {
    shards[i] = shard_of(signs[i]);
    ++split.starts[std::size_t{shards[i]} + 1];
  }
  for (std::size_t s = 0; s < replica_size; ++s) split.starts[s + 1] += split.starts[s];
  std::vector<std::size_t> next(split.starts.begin(), split.starts.end() - 1);
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t at = next[shards[i]]++;
    split.signs[at] = signs[i];
    split.order[at] = i;
  }
  return split;
}

}  // namespace satrap
