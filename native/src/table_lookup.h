// The batched lookup of each form; table_pipeline.h has the stages.
#ifndef SATRAP_TABLE_LOOKUP_H_
#define SATRAP_TABLE_LOOKUP_H_

#include "table_view.h"

namespace satrap {

// Rows of signs[0..n) to `out`, zeros where there is none; found (may be null) gets 1 or 0. Returns how many
// are missing. The snapshot is pinned by the caller. `form` is one of copy_forms().
std::size_t lookup_rows(const Snapshot& snapshot, CopyForm form, const std::byte* signs, std::size_t n,
                        std::byte* out, std::uint8_t* found);

}  // namespace satrap

#endif  // SATRAP_TABLE_LOOKUP_H_
