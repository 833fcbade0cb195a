#include "ablation.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "table_view.h"
#include "workload.h"

namespace satrap {
namespace {

using benchmarks::Gather;
using benchmarks::kRowBytes;
using benchmarks::Segments;
using benchmarks::Variant;

// As in table_lookup.cpp.
constexpr std::size_t kWindow = 48;
constexpr std::size_t kRing = 128;
constexpr std::size_t kBatchIds = std::size_t{1} << 14;
constexpr std::size_t kLateIds = 1024;

alignas(64) constexpr std::array<std::byte, kRowBytes> kZeroRow{};

// What a lookup does besides the comparison of keys. Without them nothing that a table needs is right; they
// are taken away to see what each costs.
struct Features {
  bool occupancy =
      false;              // a key counts only in an occupied slot, and a search ends where nothing overflowed
  bool version = false;   // the header is looked at again after the copy
  bool segments = false;  // the bucket is looked for in one of many mappings
};

inline std::uint64_t sign_at(const std::byte* signs, std::size_t i) {
  std::uint64_t sign;
  std::memcpy(&sign, signs + i * sizeof(sign), sizeof(sign));
  return sign;
}

}  // namespace
}  // namespace satrap

#define SATRAP_PIPELINE "ablation_pipeline.h"
#include "copy_forms.h"

namespace satrap::benchmarks {

RowArray::RowArray(std::size_t rows, TableMemory& memory)
    : mapping_(memory.create("rows", rows * kRowBytes)) {
  for (std::size_t row = 0; row < rows; ++row) {
    auto* const values = reinterpret_cast<float*>(mapping_.data() + row * kRowBytes);
    for (std::size_t column = 0; column < kDim; ++column) values[column] = value_of(row, column);
  }
  memory.remove("rows");
}

Segments::Segments(const std::vector<std::uint32_t>& order, std::size_t segments, double load,
                   TableMemory& memory) {
  const double buckets = static_cast<double>(order.size()) / load / kSlots / static_cast<double>(segments);
  const auto bucket_count = static_cast<std::size_t>(buckets) + 1;
  const SegmentLayout layout = segment_layout(bucket_count, kRowBytes / 8);
  for (std::size_t i = 0; i < segments; ++i) {
    const std::string name = "segment-" + std::to_string(i);
    const Mapping& mapping = mappings_.emplace_back(memory.create(name, layout.end));
    memory.remove(name);
    parts_.push_back({reinterpret_cast<Bucket*>(mapping.data() + layout.buckets),
                      mapping.data() + layout.rows, bucket_count});
  }
  for (std::size_t entry = 0; entry < kEntries; ++entry) {
    segment_of_[entry] = static_cast<std::uint16_t>(entry * segments / kEntries);
  }
  std::size_t displaced = 0;
  for (const std::uint32_t row : order) {
    const std::uint64_t hash = sign_hash(sign_of(row));
    const Part& part = parts_[segment_of_[entry_of(hash)]];
    const std::size_t home = home_bucket(hash, bucket_count);
    std::size_t index = home;
    std::uint64_t header = part.buckets[index].header;
    for (; bucket_header::occupied(header) == bucket_header::kSlotMask; header = part.buckets[index].header) {
      part.buckets[index].header = header | bucket_header::kOverflow;
      index = index + 1 == bucket_count ? 0 : index + 1;
    }
    displaced += index != home;
    const auto slot = static_cast<std::size_t>(std::countr_one(bucket_header::occupied(header)));
    part.buckets[index].keys[slot] = sign_of(row);
    part.buckets[index].header = header | bucket_header::occupied_bit(slot);
    auto* const values = reinterpret_cast<float*>(part.rows + (index * kSlots + slot) * kRowBytes);
    for (std::size_t column = 0; column < kDim; ++column) values[column] = value_of(row, column);
  }
  displaced_ = static_cast<double>(displaced) / static_cast<double>(order.size());
}

namespace {

CopyForm best_form() { return copy_forms().back(); }

}  // namespace

std::vector<Gather> gathers() {
#ifdef SATRAP_VECTORS
  if (best_form() == CopyForm::kAvx512) return avx512::gathers();
  if (best_form() == CopyForm::kAvx2) return avx2::gathers();
#endif
  return portable::gathers();
}

std::vector<Variant> variants() {
#ifdef SATRAP_VECTORS
  if (best_form() == CopyForm::kAvx512) return avx512::variants();
  if (best_form() == CopyForm::kAvx2) return avx2::variants();
#endif
  return portable::variants();
}

}  // namespace satrap::benchmarks
