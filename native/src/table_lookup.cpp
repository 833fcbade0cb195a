#include "table_lookup.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace satrap {
namespace {

constexpr std::size_t kWindow = 48;  // ids between two stages: covers memory's latency, and fits into L1
constexpr std::size_t kRing = 128;   // ids on their way

using LateId = std::uint16_t;                            // an index within a batch
constexpr std::size_t kBatchIds = std::size_t{1} << 14;  // ids between two workings off of late ones
constexpr std::size_t kLateIds = 1024;                   // that are worked off together: they fit into L1
static_assert(kBatchIds <= std::size_t{1} << 16);

alignas(64) constexpr std::array<std::byte, kMaxRowWords * 8> kZeroRow{};

inline std::uint64_t sign_at(const std::byte* signs, std::size_t i) {
  std::uint64_t sign;
  std::memcpy(&sign, signs + i * sizeof(sign), sizeof(sign));
  return sign;
}

}  // namespace
}  // namespace satrap

#define SATRAP_PIPELINE "table_pipeline.h"
#include "copy_forms.h"

namespace satrap {

std::vector<CopyForm> copy_forms() {
  std::vector<CopyForm> forms{CopyForm::kPortable};
#ifdef SATRAP_VECTORS
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) {
    forms.push_back(CopyForm::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
      forms.push_back(CopyForm::kAvx512);
    }
  }
#endif
  return forms;
}

std::size_t lookup_rows(const Snapshot& snapshot, CopyForm form, const std::byte* signs, std::size_t n,
                        std::byte* out, std::uint8_t* found) {
  switch (form) {
#ifdef SATRAP_VECTORS
    case CopyForm::kAvx512:
      return avx512::lookup_rows(snapshot, signs, n, out, found);
    case CopyForm::kAvx2:
      return avx2::lookup_rows(snapshot, signs, n, out, found);
#endif
    default:
      return portable::lookup_rows(snapshot, signs, n, out, found);
  }
}

}  // namespace satrap
