// Rows as values: float32, and float16 as numpy rounds to it.
#ifndef SATRAP_HALF_H_
#define SATRAP_HALF_H_

#include <bit>
#include <cstdint>

namespace satrap {

// The nearest float16 (ties to even; too great becomes infinity; a NaN keeps the high bits of its payload).
// The same bits as numpy's astype(float16), unlike the CPU's instruction, which alters signalling NaNs.
inline std::uint16_t half_from_float(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) {
    std::uint32_t payload = (magnitude & 0x7fffffu) >> 13;
    if (payload == 0 && magnitude != 0x7f800000u) payload = 1;
    return static_cast<std::uint16_t>(sign | 0x7c00u | payload);
  }
  if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, which float addition rounds to
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1u;
  const std::uint32_t rounded = magnitude - (112u << 23) + 0xfffu + odd;
  return static_cast<std::uint16_t>(sign | (rounded >= (31u << 23) ? 0x7c00u : rounded >> 13));
}

// Exact: every float16 is a float32. A NaN keeps its payload.
inline float float_from_half(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x400u) return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
}

}  // namespace satrap

#endif  // SATRAP_HALF_H_
