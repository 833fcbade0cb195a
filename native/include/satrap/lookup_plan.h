// A request's lookups and, from the rows that come back, its tensors.
//
//     ids ▸ hash stack ▸ prefix ▸ dedup over the whole request ▸ shard ▸ [signs per (shard, dim)]
//     rows per (shard, dim) ▸ sums or raw rows ▸ float16 tensors per feature
//
// The results are PERSIA's, value for value. Where PERSIA panics or depends on the random order of its hash
// maps, this is what happens here:
//
//   - An id's row in a raw tensor of a feature with a hash stack is the last one that PERSIA writes: the one
//     of the highest shard, within it of the highest round. Ids whose buckets collide, for which PERSIA
//     panics, have their own rows all the same.
//   - In a raw feature without a hash stack, ids that the prefix's modulus makes equal share the first one's
//     row; the positions of the others stay 0 in the index, as in PERSIA, and their rows are zeros.
//
// A plan is made and used by one thread; after it is made it does not change, and `assemble` is const.
#ifndef SATRAP_LOOKUP_PLAN_H_
#define SATRAP_LOOKUP_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "satrap/id_feature.h"
#include "satrap/pooling.h"

namespace satrap {

// How one feature is looked up: the embedding config's slot with its prefix worked out.
struct Slot {
  std::string name;
  std::uint32_t dim = 0;
  bool summation = true;
  bool sqrt_scaling = false;
  std::uint32_t sample_fixed_size = 0;
  std::uint64_t hash_stack_rounds = 0;  // up to kMaxHashStackRounds
  std::uint64_t embedding_size = 0;     // not 0 if there are rounds
  std::uint64_t prefix = 0;             // 0: none
};

constexpr std::uint64_t kMaxHashStackRounds = 1024;

class SlotTable {
 public:
  // Throws std::invalid_argument for prefix_bits outside 1 to 63, a dim or sample_fixed_size of 0, a hash
  // stack without embedding_size or with too many rounds, or a name given twice.
  SlotTable(unsigned prefix_bits, std::vector<Slot> slots);

  // Null if there is no such slot.
  const Slot* find(std::string_view name) const;
  unsigned prefix_bits() const { return prefix_bits_; }

 private:
  unsigned prefix_bits_;
  std::vector<Slot> slots_;
  std::unordered_map<std::string_view, const Slot*> by_name_;
};

// Rows of one sign group, in the order of its signs.
struct GroupRows {
  RowFormat format = RowFormat::kFloat32;
  std::span<const std::byte> rows;
};

struct SignGroup {
  std::uint32_t shard;
  std::uint32_t dim;
  std::vector<std::uint64_t> signs;  // distinct, never empty
};

// A feature's tensor: values[rows, dim], and for raw features the index into it.
struct FeatureTensor {
  const IdFeature* feature = nullptr;
  const Slot* slot = nullptr;
  std::size_t rows = 0;                            // samples, or entries + 1 (row 0 is zeros)
  std::unique_ptr<std::uint16_t[]> values;         // float16
  std::unique_ptr<std::int64_t[]> index;           // raw: [samples, sample_fixed_size]; 0 pads
  std::unique_ptr<std::uint64_t[]> sample_id_num;  // raw: ids in each sample's row of the index
};

class LookupPlan {
 public:
  struct Input {
    const IdFeature* feature;
    const Slot* slot;
  };

  // `inputs` and the slots' table outlive the plan. replica_size is 1 or more. Throws std::length_error if a
  // (shard, dim) has too many signs to be numbered.
  LookupPlan(std::span<const Input> inputs, unsigned prefix_bits, std::uint32_t replica_size);

  // By shard, then in the order in which the dims were met. A shard that is not asked anything has none.
  std::span<const SignGroup> groups() const { return groups_; }

  // One tensor per input, in their order. `rows` belong to groups(). Throws std::invalid_argument if a group
  // does not have signs x dim values.
  std::vector<FeatureTensor> assemble(std::span<const GroupRows> rows) const;

 private:
  // A row's place: shard in the high bits, number within the shard's group of that dim in the low ones.
  using RowRef = std::uint32_t;
  class RowLookup;

  struct Feature {
    Input input;
    std::size_t dim_index;
    std::vector<RowRef> refs;           // entries x max(rounds, 1), round after round
    std::vector<std::uint32_t> owners;  // raw without a stack, only if ids met: the first entry of each sign
  };

  struct Dim {
    std::uint32_t dim;
    std::vector<std::size_t> group_of_shard;  // into groups_, kNoGroup if the shard has none
  };
  static constexpr std::size_t kNoGroup = ~std::size_t{0};

  // Memory that features of a request share one after the other.
  struct Scratch {
    std::vector<float> sums;
    std::vector<const std::byte*> rows;
  };

  FeatureTensor sum(const Feature& feature, const RowLookup& rows, Scratch& scratch) const;
  FeatureTensor raw(const Feature& feature, RowLookup& rows) const;

  unsigned shard_shift_;
  std::vector<Feature> features_;
  std::vector<Dim> dims_;
  std::vector<SignGroup> groups_;
};

}  // namespace satrap

#endif  // SATRAP_LOOKUP_PLAN_H_
