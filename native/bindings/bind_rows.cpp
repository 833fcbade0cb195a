#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "owned_array.h"
#include "satrap/row_kernels.h"

namespace nb = nanobind;

namespace {

using satrap::RowFindings;
using satrap::RowsView;
using satrap::RowType;
using satrap::ShardRoute;

using Signs = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const std::byte* bytes_of(const Signs& signs) { return reinterpret_cast<const std::byte*>(signs.data()); }

ShardRoute checked_route(std::uint32_t replica_index, std::uint32_t replica_size) {
  if (replica_index >= replica_size) {
    throw std::invalid_argument("replica_index must be below replica_size: " + std::to_string(replica_index) +
                                " of " + std::to_string(replica_size));
  }
  return {replica_index, replica_size};
}

RowsView view_of(const Rows& rows) {
  const auto* values = static_cast<const std::byte*>(rows.data());
  if (rows.dtype() == nb::dtype<float>()) {
    return {values, rows.shape(0), rows.shape(1), RowType::kFloat32};
  }
  if (rows.dtype() == kFloat16) return {values, rows.shape(0), rows.shape(1), RowType::kFloat16};
  throw std::invalid_argument("rows must be float32 or float16");
}

std::optional<RowsView> view_of(const std::optional<Rows>& rows, std::size_t n) {
  if (!rows) return std::nullopt;
  if (rows->shape(0) != n) {
    throw std::invalid_argument("rows must be one for each of " + std::to_string(n) + " signs, not " +
                                std::to_string(rows->shape(0)));
  }
  return view_of(*rows);
}

nb::tuple inspect(const Signs& signs, const std::optional<Rows>& rows, std::uint32_t replica_index,
                  std::uint32_t replica_size) {
  const ShardRoute route = checked_route(replica_index, replica_size);
  const std::size_t n = signs.shape(0);
  const std::optional<RowsView> values = view_of(rows, n);
  const RowFindings found = [&] {
    const nb::gil_scoped_release unlocked;
    return satrap::inspect_rows(bytes_of(signs), n, values, route);
  }();
  const std::int64_t bad = found.not_finite ? static_cast<std::int64_t>(*found.not_finite) : -1;
  return nb::make_tuple(found.misrouted, bad, found.max_norm);
}

nb::object norms(const Rows& rows) {
  const RowsView values = view_of(rows);
  std::vector<double> found = [&] {
    const nb::gil_scoped_release unlocked;
    return satrap::row_norms(values);
  }();
  return array_of(std::move(found));
}

nb::tuple select_owned(const Signs& signs, const std::optional<Rows>& rows, std::uint32_t replica_index,
                       std::uint32_t replica_size) {
  const ShardRoute route = checked_route(replica_index, replica_size);
  const std::size_t n = signs.shape(0);
  const std::optional<RowsView> values = view_of(rows, n);
  const std::size_t width = values ? values->dim * satrap::item_size(values->type) : 0;
  std::vector<std::uint64_t> own;
  std::unique_ptr<std::byte[]> own_rows;
  {
    const nb::gil_scoped_release unlocked;
    const std::vector<std::size_t> positions = satrap::owned_positions(bytes_of(signs), n, route);
    own.resize(positions.size());
    own_rows = std::make_unique_for_overwrite<std::byte[]>(positions.size() * width);
    for (std::size_t i = 0; i < positions.size(); ++i) {
      std::memcpy(&own[i], bytes_of(signs) + positions[i] * sizeof(own[i]), sizeof(own[i]));
      if (values) std::memcpy(own_rows.get() + i * width, values->row(positions[i]), width);
    }
  }
  const std::size_t count = own.size();
  nb::object picked = nb::none();
  if (values) {
    picked = array_of(std::move(own_rows), {count, values->dim},
                      values->type == RowType::kFloat32 ? nb::dtype<float>() : kFloat16);
  }
  return nb::make_tuple(array_of(std::move(own)), picked);
}

}  // namespace

void register_rows(nb::module_& m) {
  using namespace nb::literals;
  m.def("inspect", &inspect, "signs"_a.noconvert(), "rows"_a.noconvert().none(), "replica_index"_a = 0,
        "replica_size"_a = 1,
        nb::sig("def inspect(signs: numpy.typing.NDArray[numpy.uint64], rows: "
                "numpy.typing.NDArray[typing.Any] | None, "
                "replica_index: int = 0, replica_size: int = 1) -> tuple[int, int, float]"),
        "Read signs (u64 [n]) and rows ([n, dim] of float32 or float16, or None) once: (misrouted, bad_row, "
        "max_norm).\n\n"
        "How many signs another shard owns; the first row with a value that is not finite, or -1; the "
        "greatest Euclidean\n"
        "norm of the finite rows, 0.0 without any. Sums are made in one order, so every machine finds the "
        "same.\n\n"
        "Raises ValueError: another number of rows, another dtype, no such shard. The GIL is released.");
  m.def("norms", &norms, "rows"_a.noconvert(),
        nb::sig("def norms(rows: numpy.typing.NDArray[typing.Any]) -> numpy.typing.NDArray[numpy.float64]"),
        "The Euclidean norm of each row ([n, dim] of float32 or float16), not finite where a value is not: "
        "f64 [n].\n\n"
        "As `inspect` finds them. The GIL is released.");
  m.def("select", &select_owned, "signs"_a.noconvert(), "rows"_a.noconvert().none(), "replica_index"_a,
        "replica_size"_a,
        nb::sig("def select(signs: numpy.typing.NDArray[numpy.uint64], rows: "
                "numpy.typing.NDArray[typing.Any] | None, "
                "replica_index: int, replica_size: int) -> tuple[numpy.typing.NDArray[numpy.uint64], "
                "numpy.typing.NDArray[typing.Any] | None]"),
        "The signs (u64 [m], in order) that a shard owns, and their rows ([m, dim] of the same dtype; None "
        "if None).\n\n"
        "The shard of a sign is farmhash64(sign) % replica_size.\n\n"
        "Raises ValueError as `inspect` does. The GIL is released.");
}
