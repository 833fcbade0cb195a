// What is asked of rows before they are let into a table.
#ifndef SATRAP_ROW_KERNELS_H_
#define SATRAP_ROW_KERNELS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "satrap/embedding_file.h"
#include "satrap/table_layout.h"

namespace satrap {

// Rows as somebody else's buffer has them: `n` of `dim` values, at any alignment.
struct RowsView {
  const std::byte* values;
  std::size_t n;
  std::size_t dim;
  RowType type;

  const std::byte* row(std::size_t i) const { return values + i * dim * item_size(type); }
};

struct RowFindings {
  std::size_t misrouted = 0;              // signs that another shard owns
  std::optional<std::size_t> not_finite;  // the first row with a value that is infinite or no number
  double max_norm = 0;                    // the greatest Euclidean norm of the others
};

// Reads signs (n, at any alignment) and rows once. No rows: they are deletes.
RowFindings inspect_rows(const std::byte* signs, std::size_t n, const std::optional<RowsView>& rows,
                         ShardRoute route);

// The norm of each row: not finite where a value is not. Sums are made in double and in one order, so that
// every machine judges alike.
std::vector<double> row_norms(const RowsView& rows);

// Positions, in order, of the signs that the route owns.
std::vector<std::size_t> owned_positions(const std::byte* signs, std::size_t n, ShardRoute route);

}  // namespace satrap

#endif  // SATRAP_ROW_KERNELS_H_
