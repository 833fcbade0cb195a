// Values on their way into a row.
#ifndef SATRAP_ROW_PACK_H_
#define SATRAP_ROW_PACK_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "satrap/half.h"
#include "satrap/table_layout.h"

namespace satrap {

// `dim` values of type `source` as the words of a row of `shape`; the padding of the last word is zero.
inline void pack_row(const std::byte* values, RowType source, RowShape shape, std::uint64_t* words) {
  words[shape.words() - 1] = 0;
  if (source == shape.type) {
    std::memcpy(words, values, shape.bytes());
    return;
  }
  auto* const halves = reinterpret_cast<std::byte*>(words);
  for (std::size_t i = 0; i < shape.dim; ++i) {
    float value;
    std::memcpy(&value, values + i * sizeof(value), sizeof(value));
    const std::uint16_t half = half_from_float(value);
    std::memcpy(halves + i * sizeof(half), &half, sizeof(half));
  }
}

}  // namespace satrap

#endif  // SATRAP_ROW_PACK_H_
