#include "satrap/lookup_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <deque>
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
  if (slot.hash_stack_rounds > kMaxHashStackRounds) fail("a hash stack has 1024 rounds at most");
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

// Rows of one dim by reference, all in one format: if some shards answer float16 and others float32 (a server
// that is being replaced), the former become float32 first.
class LookupPlan::RowLookup {
 public:
  RowLookup(const LookupPlan& plan, const Dim& dim, std::span<const GroupRows> rows)
      : dim_(dim.dim), shift_(plan.shard_shift_), mask_(mask_of(plan, dim)), scratch_(dim.dim) {
    bool mixed = false;
    for (const std::size_t group : dim.group_of_shard) {
      if (group == kNoGroup) continue;
      mixed |= !shards_.empty() && rows[group].format != format_;
      format_ = rows[group].format;
      shards_.push_back(rows[group].rows.data());
    }
    if (mixed) format_ = RowFormat::kFloat32;
    shards_.clear();
    for (const std::size_t group : dim.group_of_shard) {
      shards_.push_back(group == kNoGroup ? nullptr : in_format(rows[group]));
    }
    row_bytes_ = dim_ * (format_ == RowFormat::kFloat32 ? 4 : 2);
  }

  RowFormat format() const { return format_; }
  std::size_t shard(RowRef ref) const { return shards_.size() == 1 ? 0 : ref >> shift_; }
  const std::byte* row(RowRef ref) const { return shards_[shard(ref)] + (ref & mask_) * row_bytes_; }

  // The row as float32, valid until the next call.
  float* floats(RowRef ref) {
    if (format_ == RowFormat::kFloat16) {
      from_half(row(ref), scratch_.data(), dim_);
    } else {
      std::memcpy(scratch_.data(), row(ref), dim_ * sizeof(float));
    }
    return scratch_.data();
  }

 private:
  static RowRef mask_of(const LookupPlan& plan, const Dim& dim) {
    return dim.group_of_shard.size() == 1 ? ~RowRef{0} : (RowRef{1} << plan.shard_shift_) - 1;
  }

  const std::byte* in_format(const GroupRows& group) {
    if (group.format == format_) return group.rows.data();
    std::vector<float>& converted = converted_.emplace_back(group.rows.size() / 2);
    from_half(group.rows.data(), converted.data(), converted.size());
    return reinterpret_cast<const std::byte*>(converted.data());
  }

  std::size_t dim_;
  unsigned shift_;
  RowRef mask_;
  RowFormat format_ = RowFormat::kFloat32;
  std::size_t row_bytes_ = 0;
  std::vector<const std::byte*> shards_;
  std::deque<std::vector<float>> converted_;
  std::vector<float> scratch_;
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
  Scratch scratch;
  for (const Feature& feature : features_) {
    RowLookup& lookup = lookups[feature.dim_index];
    tensors.push_back(feature.input.slot->summation ? sum(feature, lookup, scratch) : raw(feature, lookup));
  }
  return tensors;
}

FeatureTensor LookupPlan::sum(const Feature& feature, const RowLookup& rows, Scratch& scratch) const {
  const IdFeature& ids = *feature.input.feature;
  const Slot& slot = *feature.input.slot;
  const std::size_t dim = slot.dim;
  const std::size_t entries = ids.signs.size();
  const std::size_t values = ids.batch_size() * dim;
  scratch.sums.assign(values, 0.0f);
  scratch.rows.resize(entries);
  for (std::size_t round = 0; round < rounds_of(slot); ++round) {
    const RowRef* refs = feature.refs.data() + round * entries;
    for (std::size_t entry = 0; entry < entries; ++entry) scratch.rows[entry] = rows.row(refs[entry]);
    if (ids.in_sample_order) {
      add_runs_to_samples(scratch.rows, rows.format(), dim, ids.sample_counts, scratch.sums.data());
    } else {
      add_to_samples(scratch.rows, rows.format(), dim, ids.starts, ids.positions, scratch.sums.data());
    }
  }
  if (slot.sqrt_scaling) {
    for (std::size_t s = 0; s < ids.batch_size(); ++s) {
      // In 32 bits, as PERSIA counts them.
      const auto count = static_cast<std::uint32_t>(ids.sample_counts[s] * rounds_of(slot));
      scale(scratch.sums.data() + s * dim, dim, 1.0f / std::sqrt(static_cast<float>(std::max(count, 1u))));
    }
  }
  FeatureTensor tensor{&ids, &slot, ids.batch_size(), std::make_unique_for_overwrite<std::uint16_t[]>(values),
                       {},   {}};
  to_half(scratch.sums.data(), tensor.values.get(), values);
  return tensor;
}

FeatureTensor LookupPlan::raw(const Feature& feature, RowLookup& rows) const {
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
  for (std::size_t entry = 0; entry < entries; ++entry) {
    if (owner(entry) != entry) continue;
    RowRef last = feature.refs[entry];
    for (std::size_t round = 1; round < rounds; ++round) {
      const RowRef ref = feature.refs[round * entries + entry];
      if (rows.shard(ref) >= rows.shard(last)) last = ref;
    }
    std::uint16_t* out = tensor.values.get() + (entry + 1) * dim;
    if (rows.format() == RowFormat::kFloat16 && !scaled) {
      std::memcpy(out, rows.row(last), dim * sizeof *out);
    } else {
      float* row = rows.floats(last);
      if (scaled) scale(row, dim, factor);
      to_half(row, out, dim);
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
