#include "satrap/id_feature.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "satrap/id_kernels.h"

namespace satrap {
namespace {

void check_offsets(std::span<const std::uint64_t> values, std::span<const std::uint32_t> offsets) {
  if (offsets.empty() || offsets.front() != 0) throw std::invalid_argument("offsets must start with 0");
  if (offsets.size() - 1 > kMaxBatchSize) {
    throw std::invalid_argument(std::to_string(offsets.size() - 1) + " samples; a batch has " +
                                std::to_string(kMaxBatchSize) + " at most");
  }
  for (std::size_t s = 1; s < offsets.size(); ++s) {
    if (offsets[s] < offsets[s - 1]) {
      throw std::invalid_argument("offsets fall at sample " + std::to_string(s - 1));
    }
  }
  if (offsets.back() != values.size()) {
    throw std::invalid_argument("offsets end at " + std::to_string(offsets.back()) + ", but there are " +
                                std::to_string(values.size()) + " ids");
  }
}

std::vector<std::uint32_t> counts_of(std::span<const std::uint32_t> offsets) {
  std::vector<std::uint32_t> counts(offsets.size() - 1);
  for (std::size_t s = 0; s < counts.size(); ++s) counts[s] = offsets[s + 1] - offsets[s];
  return counts;
}

// Calls each(i, position) for every value in sample order.
template <class Each>
void for_each_position(std::span<const std::uint32_t> offsets, const Each& each) {
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
    for (std::uint32_t i = offsets[s]; i < offsets[s + 1]; ++i) {
      each(i, Position{static_cast<std::uint16_t>(s), static_cast<std::uint16_t>(i - offsets[s])});
    }
  }
}

std::vector<std::uint32_t> offsets_of(const IdFeature& feature) {
  std::vector<std::uint32_t> offsets(feature.batch_size() + 1);
  for (std::size_t s = 0; s < feature.batch_size(); ++s) {
    offsets[s + 1] = offsets[s] + feature.sample_counts[s];
  }
  return offsets;
}

}  // namespace

IdFeature group_by_id(std::string name, std::span<const std::uint64_t> values,
                      std::span<const std::uint32_t> offsets) {
  check_offsets(values, offsets);
  Distinct distinct = dedup(values);
  IdFeature feature{std::move(name), std::move(distinct.signs), {}, {}, counts_of(offsets)};
  feature.starts.resize(feature.signs.size() + 1);
  for (const std::uint32_t entry : distinct.inverse) ++feature.starts[std::size_t{entry} + 1];
  for (std::size_t i = 0; i < feature.signs.size(); ++i) feature.starts[i + 1] += feature.starts[i];
  std::vector<std::uint32_t> next(feature.starts.begin(), feature.starts.end() - 1);
  feature.positions.resize(values.size());
  for_each_position(offsets, [&](std::uint32_t i, Position position) {
    feature.positions[next[distinct.inverse[i]]++] = position;
  });
  return feature;
}

IdFeature one_entry_each(std::string name, std::span<const std::uint64_t> values,
                         std::span<const std::uint32_t> offsets) {
  check_offsets(values, offsets);
  IdFeature feature{std::move(name), {values.begin(), values.end()}, {}, {}, counts_of(offsets)};
  feature.starts.resize(values.size() + 1);
  for (std::size_t i = 0; i <= values.size(); ++i) feature.starts[i] = static_cast<std::uint32_t>(i);
  feature.positions.resize(values.size());
  for_each_position(offsets, [&](std::uint32_t i, Position position) { feature.positions[i] = position; });
  feature.in_sample_order = true;
  return feature;
}

std::vector<std::uint32_t> places_in_sample_order(const IdFeature& feature) {
  constexpr std::size_t kColumns = 65536;
  std::size_t total = 0;
  for (const std::uint32_t count : feature.sample_counts) total += count;
  if (total != feature.positions.size()) {
    throw std::invalid_argument("sample_num_signs adds up to " + std::to_string(total) + " ids, but " +
                                std::to_string(feature.positions.size()) + " positions are there");
  }
  const std::vector<std::uint32_t> offsets = offsets_of(feature);
  std::vector<std::uint8_t> taken(total);
  std::vector<std::uint32_t> places(total);
  for (std::size_t i = 0; i < total; ++i) {
    const Position position = feature.positions[i];
    if (position.sample >= feature.batch_size()) {
      throw std::invalid_argument("an id is in sample " + std::to_string(position.sample) + " of " +
                                  std::to_string(feature.batch_size()));
    }
    const std::size_t end = offsets[std::size_t{position.sample} + 1];
    std::size_t place = std::size_t{offsets[position.sample]} + position.column;
    while (place < end && taken[place] != 0) place += kColumns;
    if (place >= end) {
      throw std::invalid_argument("sample " + std::to_string(position.sample) + " has " +
                                  std::to_string(feature.sample_counts[position.sample]) +
                                  " ids by sample_num_signs, which column " +
                                  std::to_string(position.column) + " does not fit");
    }
    taken[place] = 1;
    places[i] = static_cast<std::uint32_t>(place);
  }
  return places;
}

void to_sample_order(const IdFeature& feature, std::uint64_t* values, std::uint32_t* offsets) {
  const std::vector<std::uint32_t> starts = offsets_of(feature);
  std::copy(starts.begin(), starts.end(), offsets);
  const std::vector<std::uint32_t> places = places_in_sample_order(feature);
  for (std::size_t entry = 0; entry < feature.signs.size(); ++entry) {
    for (std::uint32_t i = feature.starts[entry]; i < feature.starts[entry + 1]; ++i) {
      values[places[i]] = feature.signs[entry];
    }
  }
}

}  // namespace satrap
