// What the files of a table say, found without changing anything: for people who look at a table, served or
// not.
#ifndef SATRAP_TABLE_INSPECTION_H_
#define SATRAP_TABLE_INSPECTION_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "satrap/table_layout.h"

namespace satrap {

struct TableInspection {
  RowShape shape;
  BootId boot;
  std::uint64_t rows = 0;        // as the writer counts them, after each batch
  std::uint64_t occupied = 0;    // slots with a row, counted here
  std::uint64_t tombstones = 0;  // slots with an erased sign
  std::uint64_t slots = 0;
  std::uint64_t overflowed = 0;  // buckets that a search goes past
  std::uint64_t changing = 0;    // buckets that the writer is, or was, inside
  std::size_t segments = 0;
  std::uint64_t bytes = 0;  // allocated, all files of the folder
};

// Reads every header of directory, segments and, if `count_slots` is set, buckets in `folder`. A table that
// is written meanwhile is read as it changes: its counts are of no one moment. Throws TableError: a file is
// damaged, missing, or of another layout, table or run of the machine than the rest; TableSpaceError.
TableInspection inspect_table(const std::string& folder, bool count_slots = true);

}  // namespace satrap

#endif  // SATRAP_TABLE_INSPECTION_H_
