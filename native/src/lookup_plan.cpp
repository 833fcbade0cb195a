#include "satrap/lookup_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "satrap/half.h"
#include "satrap/id_kernels.h"
#include "satrap/pooling.h"
#include "satrap/sign_index.h"

namespace satrap {
namespace {

std::size_t rounds_of(const Slot& slot) { return std::max<std::uint64_t>(slot.hash_stack_rounds, 1); }

void check_slot(const Slot& slot) {
  const auto fail = [&](const char* reason) {
    throw std::invalid_argument("slot " + slot.name + ": " + reason);
  };
  if (slot.dim == 0) fail("dim must be 1 or more");
  if (slot.sample_fixed_size == 0) fail("sample_fixed_size must be 1 or more");
  if (slot.hash_stack_rounds > 0 && slot.embedding_size == 0) fail("a hash stack needs an embedding_size");
}

}  // namespace

SlotTable::SlotTable(unsigned prefix_bits, std::vector<Slot> slots)
    : prefix_bits_(prefix_bits), slots_(std::move(slots)) {
  if (prefix_bits < 1 || prefix_bits > 63) throw std::invalid_argument("prefix_bits must be 1 to 63");
  for (const Slot& slot : slots_) {
    check_slot(slot);
    if (!by_name_.emplace(slot.name, &slot).second) {
      throw std::invalid_argument("slot " + slot.name + " is given twice");
    }
  }
}

const Slot* SlotTable::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

// ---- ids to signs per shard -------------------------------------------------------------------------------

namespace {

// Numbers every entry's sign within the request: numbers[round * entries + entry].
void number_signs(const LookupPlan::Input& input, unsigned prefix_bits, SignIndex& index,
                  std::vector<std::uint32_t>& numbers) {
  const Slot& slot = *input.slot;
  const std::vector<std::uint64_t>& signs = input.feature->signs;
  const IdPrefix prefixed(prefix_bits, slot.prefix);
  const std::size_t n = signs.size();
  numbers.resize(n * rounds_of(slot));
  if (slot.hash_stack_rounds == 0) {
    for (std::size_t i = 0; i < n; ++i) numbers[i] = index.insert(prefixed(signs[i]));
    return;
  }
  std::vector<std::uint64_t> buckets(numbers.size());
  hash_stack(signs, slot.hash_stack_rounds, slot.embedding_size, buckets.data());
  for (std::size_t i = 0; i < buckets.size(); ++i) numbers[i] = index.insert(prefixed(buckets[i]));
}

// The first entry of each entry's sign; empty if all signs differ, as they nearly always do.
std::vector<std::uint32_t> owners_of(std::span<const std::uint32_t> numbers, std::size_t distinct) {
  constexpr std::uint32_t kNone = ~std::uint32_t{0};
  std::vector<std::uint32_t> first(distinct, kNone);
  std::vector<std::uint32_t> owners(numbers.size());
  bool met = false;
  for (std::uint32_t entry = 0; entry < numbers.size(); ++entry) {
    std::uint32_t& owner = first[numbers[entry]];
    met |= owner != kNone;
    if (owner == kNone) owner = entry;
    owners[entry] = owner;
  }
  if (!met) owners.clear();
  return owners;
}

}  // namespace

LookupPlan::LookupPlan(std::span<const Input> inputs, unsigned prefix_bits, std::uint32_t replica_size)
    : shard_shift_(32u - static_cast<unsigned>(std::bit_width(replica_size - 1))) {
  std::vector<std::size_t> capacities;
  for (const Input& input : inputs) {
    const auto same = [&](const Dim& dim) { return dim.dim == input.slot->dim; };
    const auto known = std::ranges::find_if(dims_, same);
    const auto dim_index = static_cast<std::size_t>(known - dims_.begin());
    if (known == dims_.end()) {
      dims_.push_back({input.slot->dim, std::vector<std::size_t>(replica_size, kNoGroup)});
      capacities.push_back(0);
    }
    if (__builtin_add_overflow(capacities[dim_index], input.feature->signs.size() * rounds_of(*input.slot),
                               &capacities[dim_index]) ||
        capacities[dim_index] >> 31 != 0) {
      throw std::length_error("too many ids in one request");
    }
    features_.push_back({input, dim_index, {}, {}});
  }

  const ShardOfSign shard_of(replica_size);
  std::vector<SignGroup> groups;
  for (std::size_t d = 0; d < dims_.size(); ++d) {
    SignIndex index(capacities[d]);
    for (Feature& feature : features_) {
      if (feature.dim_index != d) continue;
      number_signs(feature.input, prefix_bits, index, feature.refs);
      if (!feature.input.slot->summation && feature.input.slot->hash_stack_rounds == 0) {
        feature.owners = owners_of(feature.refs, index.size());
      }
    }
    // Numbers within the request become places within the shards' groups.
    std::vector<std::vector<std::uint64_t>> by_shard(replica_size);
    std::vector<RowRef> places(index.size());
    for (std::size_t i = 0; i < index.size(); ++i) {
      const std::uint64_t sign = index.signs()[i];
      const std::uint32_t shard = shard_of(sign);
      const std::size_t place = by_shard[shard].size();
      if (replica_size > 1 && place >> shard_shift_ != 0)
        throw std::length_error("too many ids in one request");
      places[i] =
          replica_size == 1 ? static_cast<RowRef>(place) : shard << shard_shift_ | static_cast<RowRef>(place);
      by_shard[shard].push_back(sign);
    }
    for (Feature& feature : features_) {
      if (feature.dim_index != d) continue;
      for (RowRef& ref : feature.refs) ref = places[ref];
    }
    for (std::uint32_t shard = 0; shard < replica_size; ++shard) {
      if (!by_shard[shard].empty()) groups.push_back({shard, dims_[d].dim, std::move(by_shard[shard])});
    }
  }

  std::ranges::stable_sort(groups, {}, &SignGroup::shard);
  groups_ = std::move(groups);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const auto same = [&](const Dim& dim) { return dim.dim == groups_[g].dim; };
    std::ranges::find_if(dims_, same)->group_of_shard[groups_[g].shard] = g;
  }
}

// ---- rows to tensors --------------------------------------------------------------------------------------

// Rows of one dim by reference.
class LookupPlan::RowLookup {
 public:
  RowLookup(const LookupPlan& plan, const Dim& dim, std::span<const GroupRows> rows)
      : dim_(dim.dim), shift_(plan.shard_shift_), scratch_(dim.dim) {
    for (const std::size_t group : dim.group_of_shard) {
      shards_.push_back(group == kNoGroup ? GroupRows{} : rows[group]);
    }
  }

  std::size_t shard(RowRef ref) const { return shards_.size() == 1 ? 0 : ref >> shift_; }

  // The row in the format in which it came.
  GroupRows row(RowRef ref) const {
    const GroupRows& group = shards_[shard(ref)];
    const std::size_t place = shards_.size() == 1 ? ref : ref & ((RowRef{1} << shift_) - 1);
    const std::size_t bytes = dim_ * (group.format == RowFormat::kFloat32 ? 4 : 2);
    return {group.format, group.rows.subspan(place * bytes, bytes)};
  }

  // The row as float32, valid until the next call.
  const float* floats(RowRef ref) const {
    const GroupRows found = row(ref);
    const std::byte* at = found.rows.data();
    if (found.format == RowFormat::kFloat16) {
      from_half(at, scratch_.data(), dim_);
    } else if (reinterpret_cast<std::uintptr_t>(at) % alignof(float) == 0) {
      return reinterpret_cast<const float*>(at);
    } else {
      std::memcpy(scratch_.data(), at, dim_ * sizeof(float));
    }
    return scratch_.data();
  }

 private:
  std::size_t dim_;
  unsigned shift_;
  std::vector<GroupRows> shards_;
  mutable std::vector<float> scratch_;
};

std::vector<FeatureTensor> LookupPlan::assemble(std::span<const GroupRows> rows) const {
  if (rows.size() != groups_.size()) {
    throw std::invalid_argument(std::to_string(rows.size()) + " groups of rows for " +
                                std::to_string(groups_.size()) + " groups of signs");
  }
  for (std::size_t g = 0; g < rows.size(); ++g) {
    const std::size_t expected =
        groups_[g].signs.size() * groups_[g].dim * (rows[g].format == RowFormat::kFloat32 ? 4 : 2);
    if (rows[g].rows.size() != expected) {
      throw std::invalid_argument(
          "shard " + std::to_string(groups_[g].shard) + " answered " + std::to_string(rows[g].rows.size()) +
          " bytes of rows of dim " + std::to_string(groups_[g].dim) + " for " +
          std::to_string(groups_[g].signs.size()) + " ids, not " + std::to_string(expected));
    }
  }
  std::vector<RowLookup> lookups;
  lookups.reserve(dims_.size());
  for (const Dim& dim : dims_) lookups.emplace_back(*this, dim, rows);
  std::vector<FeatureTensor> tensors;
  tensors.reserve(features_.size());
  std::vector<float> scratch;
  for (const Feature& feature : features_) {
    const RowLookup& lookup = lookups[feature.dim_index];
    tensors.push_back(feature.input.slot->summation ? sum(feature, lookup, scratch)
                                                    : raw(feature, lookup, scratch));
  }
  return tensors;
}

FeatureTensor LookupPlan::sum(const Feature& feature, const RowLookup& rows,
                              std::vector<float>& scratch) const {
  const IdFeature& ids = *feature.input.feature;
  const Slot& slot = *feature.input.slot;
  const std::size_t dim = slot.dim;
  const std::size_t entries = ids.signs.size();
  const std::size_t values = ids.batch_size() * dim;
  scratch.assign(values, 0.0f);
  for (std::size_t round = 0; round < rounds_of(slot); ++round) {
    for (std::size_t entry = 0; entry < entries; ++entry) {
      const std::span<const Position> positions(ids.positions.data() + ids.starts[entry],
                                                ids.positions.data() + ids.starts[entry + 1]);
      add_to_samples(rows.floats(feature.refs[round * entries + entry]), dim, positions, scratch.data());
    }
  }
  if (slot.sqrt_scaling) {
    for (std::size_t s = 0; s < ids.batch_size(); ++s) {
      // In 32 bits, as PERSIA counts them.
      const auto count = static_cast<std::uint32_t>(ids.sample_counts[s] * rounds_of(slot));
      scale(scratch.data() + s * dim, dim, 1.0f / std::sqrt(static_cast<float>(std::max(count, 1u))));
    }
  }
  FeatureTensor tensor{&ids, &slot, ids.batch_size(), std::make_unique_for_overwrite<std::uint16_t[]>(values),
                       {},   {}};
  to_half(scratch.data(), tensor.values.get(), values);
  return tensor;
}

FeatureTensor LookupPlan::raw(const Feature& feature, const RowLookup& rows,
                              std::vector<float>& scratch) const {
  const IdFeature& ids = *feature.input.feature;
  const Slot& slot = *feature.input.slot;
  const std::size_t dim = slot.dim;
  const std::size_t entries = ids.signs.size();
  const std::size_t rounds = rounds_of(slot);
  const std::size_t columns = slot.sample_fixed_size;
  const bool scaled = slot.sqrt_scaling && slot.hash_stack_rounds > 1;
  const float factor = 1.0f / std::sqrt(static_cast<float>(rounds));
  const auto owner = [&](std::size_t entry) {
    return feature.owners.empty() ? entry : feature.owners[entry];
  };

  FeatureTensor tensor{&ids,
                       &slot,
                       entries + 1,
                       std::make_unique<std::uint16_t[]>((entries + 1) * dim),
                       std::make_unique<std::int64_t[]>(ids.batch_size() * columns),
                       std::make_unique<std::uint64_t[]>(ids.batch_size())};
  scratch.resize(dim);
  for (std::size_t entry = 0; entry < entries; ++entry) {
    if (owner(entry) != entry) continue;
    RowRef last = feature.refs[entry];
    for (std::size_t round = 1; round < rounds; ++round) {
      const RowRef ref = feature.refs[round * entries + entry];
      if (rows.shard(ref) >= rows.shard(last)) last = ref;
    }
    std::uint16_t* out = tensor.values.get() + (entry + 1) * dim;
    const GroupRows row = rows.row(last);
    if (row.format == RowFormat::kFloat16 && !scaled) {
      std::memcpy(out, row.rows.data(), row.rows.size());
    } else if (scaled) {
      const float* values = rows.floats(last);
      std::copy(values, values + dim, scratch.data());
      scale(scratch.data(), dim, factor);
      to_half(scratch.data(), out, dim);
    } else {
      to_half(rows.floats(last), out, dim);
    }
    for (std::uint32_t i = ids.starts[entry]; i < ids.starts[entry + 1]; ++i) {
      const Position position = ids.positions[i];
      std::uint64_t& filled = tensor.sample_id_num[position.sample];
      if (filled >= columns || position.column >= columns) continue;
      tensor.index[position.sample * columns + position.column] = static_cast<std::int64_t>(entry + 1);
      ++filled;
    }
  }
  return tensor;
}

}  // namespace satrap
