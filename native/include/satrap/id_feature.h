// The ids of one feature of a batch, by distinct id: what every batch decoder produces and every plan takes.
#ifndef SATRAP_ID_FEATURE_H_
#define SATRAP_ID_FEATURE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace satrap {

// Where an id stands: sample of the batch, place among the sample's ids modulo 2^16. Laid out as on the wire.
struct Position {
  std::uint16_t sample;
  std::uint16_t column;
};
static_assert(sizeof(Position) == 4);

// One array per property, no allocation per id. Entry i is signs[i] at positions[starts[i]] to
// positions[starts[i + 1]]; every sample is below batch_size().
struct IdFeature {
  std::string name;
  std::vector<std::uint64_t> signs;
  std::vector<std::uint32_t> starts;  // signs.size() + 1
  std::vector<Position> positions;
  std::vector<std::uint32_t> sample_counts;  // ids of each sample, duplicates included
  bool in_sample_order = false;              // every entry stands at one place, and they follow the samples

  std::size_t batch_size() const { return sample_counts.size(); }
};

// Samples that a feature may have: a Position holds no more.
constexpr std::size_t kMaxBatchSize = 65535;

// One entry per distinct id, in order of first occurrence. `values` are the ids of all samples one after the
// other, sample s owning values[offsets[s]] to values[offsets[s + 1]]. Throws std::invalid_argument unless
// offsets start at 0, never fall, end at values.size(), and make at most kMaxBatchSize samples.
IdFeature group_by_id(std::string name, std::span<const std::uint64_t> values,
                      std::span<const std::uint32_t> offsets);

// One entry per value, equal ids included: cheaper, and enough where rows are only summed. Throws the same.
IdFeature one_entry_each(std::string name, std::span<const std::uint64_t> values,
                         std::span<const std::uint32_t> offsets);

// The inverse of both: the ids in sample order. `values` has room for positions.size() ids, `offsets` for
// batch_size() + 1. In a sample of more than 2^16 ids, where columns repeat, equal columns keep their order.
void to_sample_order(const IdFeature& feature, std::uint64_t* values, std::uint32_t* offsets);

// The places of the positions in sample order. Throws std::invalid_argument if they do not fill each sample's
// sample_counts places exactly once.
std::vector<std::uint32_t> places_in_sample_order(const IdFeature& feature);

}  // namespace satrap

#endif  // SATRAP_ID_FEATURE_H_
