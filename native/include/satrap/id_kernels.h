// What PERSIA does to ids between a batch and a table, one function per rule.
#ifndef SATRAP_ID_KERNELS_H_
#define SATRAP_ID_KERNELS_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace satrap {

// farmhash64 (farmhashxo, as the Rust crate 1.1.5 has it) of the sign's 8 little-endian bytes.
constexpr std::uint64_t farmhash64(std::uint64_t sign) {
  constexpr std::uint64_t k = 0x9ae16a3b2f90404fu;
  constexpr std::uint64_t m = k + 16;
  const std::uint64_t a = sign + k;
  const std::uint64_t c = std::rotr(sign, 37) * m + a;
  const std::uint64_t d = (std::rotr(a, 25) + sign) * m;
  std::uint64_t u = (c ^ d) * m;
  u ^= u >> 47;
  std::uint64_t w = (d ^ u) * m;
  w ^= w >> 47;
  return w * m;
}

// Moves ids into the space of their feature group. PERSIA's modulus is one less than the space is wide, so
// ids 0 and 2^(64-bits)-1 meet; a checkpoint's signs depend on it. A prefix of 0 changes nothing.
class IdPrefix {
 public:
  // `bits` is feature_index_prefix_bit, 1 to 63.
  IdPrefix(unsigned bits, std::uint64_t prefix)
      : spacing_(prefix == 0 ? 0 : (std::uint64_t{1} << (64 - bits)) - 1), prefix_(prefix) {}

  std::uint64_t operator()(std::uint64_t sign) const {
    if (spacing_ == 0) return sign;
    if (sign >= spacing_) sign %= spacing_;
    return sign + prefix_;
  }

 private:
  std::uint64_t spacing_;
  std::uint64_t prefix_;
};

// The bucket of an id in `round` of a hash stack, given the id's hash of that round.
constexpr std::uint64_t hash_stack_bucket(std::uint64_t hash, std::uint64_t round,
                                          std::uint64_t embedding_size) {
  return hash % embedding_size + round * embedding_size;
}

// Shard of a sign after its prefix.
class ShardOfSign {
 public:
  // `replica_size` is 1 or more.
  explicit ShardOfSign(std::uint32_t replica_size)
      : size_(replica_size), mask_(std::has_single_bit(replica_size) ? replica_size - 1 : 0) {}

  std::uint32_t operator()(std::uint64_t sign) const {
    if (size_ == 1) return 0;
    const std::uint64_t hash = farmhash64(sign);
    return static_cast<std::uint32_t>(mask_ != 0 ? hash & mask_ : hash % size_);
  }

 private:
  std::uint32_t size_;
  std::uint32_t mask_;
};

// out[round * signs.size() + i] is the bucket of signs[i] in that round. embedding_size is not 0.
void hash_stack(std::span<const std::uint64_t> signs, std::uint64_t rounds, std::uint64_t embedding_size,
                std::uint64_t* out);

struct Distinct {
  std::vector<std::uint64_t> signs;    // in order of first occurrence
  std::vector<std::uint32_t> inverse;  // signs[inverse[i]] is the i-th input
};

// Throws std::length_error for 2^31 signs or more.
Distinct dedup(std::span<const std::uint64_t> signs);

struct SplitSigns {
  std::vector<std::uint64_t> signs;  // those of shard 0, then of shard 1, ...; in input order within a shard
  std::vector<std::size_t> order;    // order[i] is where signs[i] was in the input
  std::vector<std::size_t> starts;   // replica_size + 1: where each shard begins
};

SplitSigns split_by_shard(std::span<const std::uint64_t> signs, std::uint32_t replica_size);

}  // namespace satrap

#endif  // SATRAP_ID_KERNELS_H_
