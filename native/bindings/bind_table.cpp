#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "owned_array.h"
#include "satrap/table.h"

namespace nb = nanobind;

namespace {

using satrap::RowType;
using satrap::SignState;
using satrap::Table;

using Signs = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using States = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ordinals = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Found = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstRows = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const std::byte* bytes_of(const Signs& signs) { return reinterpret_cast<const std::byte*>(signs.data()); }

RowType row_type(const std::string& name) {
  if (name == "float32") return RowType::kFloat32;
  if (name == "float16") return RowType::kFloat16;
  throw std::invalid_argument("dtype must be 'float32' or 'float16', not '" + name + "'");
}

const char* name_of(RowType type) { return type == RowType::kFloat32 ? "float32" : "float16"; }

std::optional<RowType> row_type_of(nb::dlpack::dtype dtype) {
  if (dtype == nb::dtype<float>()) return RowType::kFloat32;
  if (dtype.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) && dtype.bits == 16 &&
      dtype.lanes == 1) {
    return RowType::kFloat16;
  }
  return std::nullopt;
}

// The row type of an array of `n` rows for `table`; throws std::invalid_argument if it cannot be one.
template <class Array>
RowType checked_rows(const Table& table, const Array& rows, std::size_t n, const char* name) {
  const auto type = row_type_of(rows.dtype());
  if (!type) throw std::invalid_argument(std::string(name) + " must be float32 or float16");
  if (rows.shape(0) != n || rows.shape(1) != table.dim()) {
    throw std::invalid_argument(std::string(name) + " must have the shape [" + std::to_string(n) + ", " +
                                std::to_string(table.dim()) + "], not [" + std::to_string(rows.shape(0)) +
                                ", " + std::to_string(rows.shape(1)) + "]");
  }
  return *type;
}

void check_found(const Found& found, std::size_t n) {
  if (found.shape(0) != n) {
    throw std::invalid_argument("found must have one byte for each of " + std::to_string(n) + " signs, not " +
                                std::to_string(found.shape(0)));
  }
}

std::size_t lookup(const Table& table, const Signs& signs, const Rows& out,
                   const std::optional<Found>& found) {
  const std::size_t n = signs.shape(0);
  if (checked_rows(table, out, n, "out") != table.type()) {
    throw std::invalid_argument(std::string("out must be ") + name_of(table.type()) + ", as the table is");
  }
  if (found) check_found(*found, n);
  std::uint8_t* flags = found ? found->data() : nullptr;
  const nb::gil_scoped_release unlocked;
  return table.lookup(bytes_of(signs), n, static_cast<std::byte*>(out.data()), flags);
}

std::size_t contains(const Table& table, const Signs& signs, const Found& found) {
  check_found(found, signs.shape(0));
  const nb::gil_scoped_release unlocked;
  return table.contains(bytes_of(signs), signs.shape(0), found.data());
}

std::size_t upsert(Table& table, const Signs& signs, const ConstRows& rows, std::uint32_t ordinal) {
  const std::size_t n = signs.shape(0);
  const RowType source = checked_rows(table, rows, n, "rows");
  const auto* values = static_cast<const std::byte*>(rows.data());
  const nb::gil_scoped_release unlocked;
  return table.upsert(bytes_of(signs), values, n, source, ordinal);
}

std::size_t erase(Table& table, const Signs& signs, std::uint32_t ordinal) {
  const nb::gil_scoped_release unlocked;
  return table.erase(bytes_of(signs), signs.shape(0), ordinal);
}

constexpr nb::dlpack::dtype values_of(RowType type) {
  return {static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float),
          static_cast<std::uint8_t>(satrap::item_size(type) * 8), 1};
}

nb::tuple capture(const Table& table, const Signs& signs) {
  const std::size_t n = signs.shape(0);
  std::vector<std::uint8_t> states(n);
  std::vector<std::uint32_t> ordinals(n);
  auto rows = std::make_unique_for_overwrite<std::byte[]>(n * table.row_bytes());
  {
    const nb::gil_scoped_release unlocked;
    table.capture(bytes_of(signs), n, reinterpret_cast<SignState*>(states.data()), ordinals.data(),
                  rows.get());
  }
  return nb::make_tuple(array_of(std::move(states)), array_of(std::move(ordinals)),
                        array_of(std::move(rows), {n, table.dim()}, values_of(table.type())));
}

void check_one_of_each(std::size_t got, std::size_t n, const char* name) {
  if (got != n) {
    throw std::invalid_argument(std::string(name) + " must have one for each of " + std::to_string(n) +
                                " signs, not " + std::to_string(got));
  }
}

std::size_t restore(Table& table, const Signs& signs, const States& states, const Ordinals& ordinals,
                    const ConstRows& rows) {
  const std::size_t n = signs.shape(0);
  check_one_of_each(states.shape(0), n, "states");
  check_one_of_each(ordinals.shape(0), n, "ordinals");
  if (checked_rows(table, rows, n, "rows") != table.type()) {
    throw std::invalid_argument(std::string("rows must be ") + name_of(table.type()) + ", as the table is");
  }
  const auto* state = reinterpret_cast<const SignState*>(states.data());
  const auto* ordinal = reinterpret_cast<const std::byte*>(ordinals.data());
  const auto* values = static_cast<const std::byte*>(rows.data());
  const nb::gil_scoped_release unlocked;
  return table.restore(bytes_of(signs), state, ordinal, values, n);
}

nb::object next_of(const satrap::TablePage& page) {
  return page.next == satrap::TablePage::kEnd ? nb::object(nb::none()) : nb::object(nb::int_(page.next));
}

nb::tuple tombstones(const Table& table, std::uint64_t start, std::size_t limit) {
  satrap::TablePage page = [&] {
    const nb::gil_scoped_release unlocked;
    return table.tombstones(start, limit);
  }();
  const nb::object next = next_of(page);
  return nb::make_tuple(array_of(std::move(page.signs)), array_of(std::move(page.ordinals)), next);
}

nb::tuple scan(const Table& table, std::uint64_t start, std::size_t limit) {
  satrap::TablePage page = [&] {
    const nb::gil_scoped_release unlocked;
    return table.scan(start, limit);
  }();
  const std::size_t n = page.signs.size();
  const nb::object next = next_of(page);
  return nb::make_tuple(array_of(std::move(page.signs)),
                        array_of(std::move(page.rows), {n, table.dim()}, values_of(table.type())),
                        array_of(std::move(page.ordinals)), next);
}

}  // namespace

void register_table(nb::module_& m) {
  using namespace nb::literals;
  m.attr("MAX_DIM") = satrap::kMaxDim;
  nb::exception<satrap::TableError>(m, "TableError");
  nb::exception<satrap::TableSpaceError>(m, "TableSpaceError", PyExc_MemoryError);

  nb::class_<Table>(
      m, "Table",
      "Rows of one dim and dtype by sign (any u64).\n\n"
      "Any number of threads may look up, scan and ask while one writes (several writers take turns): a\n"
      "reader never sees half a row, nor waits for growth. A row is atomic, a batch is not. The GIL is\n"
      "released. Arrays must be C-contiguous and of the exact dtype; nothing is converted silently.")
      .def(
          "__init__",
          [](Table* self, std::size_t dim, const std::string& dtype, std::size_t capacity_hint) {
            new (self) Table(dim, row_type(dtype), capacity_hint);
          },
          "dim"_a, "dtype"_a, "capacity_hint"_a = 0,
          nb::sig("def __init__(self, dim: int, dtype: typing.Literal['float32', 'float16'], "
                  "capacity_hint: int = 0) -> None"),
          "An empty table for `capacity_hint` rows, which grows beyond that.\n\n"
          "Raises ValueError unless 1 <= dim <= MAX_DIM and dtype is 'float32' or 'float16'; MemoryError.")
      .def("lookup", &lookup, "signs"_a.noconvert(), "out"_a.noconvert(), "found"_a.noconvert() = nb::none(),
           "Copy the row of signs[i] (u64 [n]) into out[i] ([n, dim] of the table's dtype), zeros where "
           "there is none.\n\n"
           "`found` (u8 [n]) gets 1 or 0 for each. Returns how many were missing.")
      .def("contains", &contains, "signs"_a.noconvert(), "found"_a.noconvert(),
           "Set found[i] (u8 [n]) to 1 where signs[i] (u64 [n]) has a row, else 0. Returns how many have.")
      .def(
          "upsert", &upsert, "signs"_a.noconvert(), "rows"_a.noconvert(), "ordinal"_a = 0,
          "Write rows ([n, dim] float32, or the table's dtype; rounded to float16 where needed) for signs "
          "(u64 [n]).\n\n"
          "A stored row of a greater ordinal stays; an equal one is overwritten; later entries of the batch "
          "win.\n"
          "Returns how many were written. Raises MemoryError: the rows before are there, the table is whole.")
      .def("erase", &erase, "signs"_a.noconvert(), "ordinal"_a,
           "Remove the rows of signs (u64 [n]), except where a greater ordinal is stored. Returns how many "
           "went.\n\n"
           "A tombstone with the ordinal stays, so that an older upsert does not bring a row back.")
      .def("capture", &capture, "signs"_a.noconvert(),
           nb::sig("def capture(self, signs: numpy.typing.NDArray[numpy.uint64]) -> "
                   "tuple[numpy.typing.NDArray[numpy.uint8], "
                   "numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[typing.Any]]"),
           "What the table knows of signs (u64 [n]), to restore it later: (states u8 [n], ordinals u32 [n], "
           "rows [n, dim]).\n\n"
           "A state is 0 absent (ordinal 0), 1 present, 2 tombstone; rows that are not present are zeros. "
           "Takes turns with writers.")
      .def(
          "restore", &restore, "signs"_a.noconvert(), "states"_a.noconvert(), "ordinals"_a.noconvert(),
          "rows"_a.noconvert(),
          nb::sig(
              "def restore(self, signs: numpy.typing.NDArray[numpy.uint64], states: "
              "numpy.typing.NDArray[numpy.uint8], "
              "ordinals: numpy.typing.NDArray[numpy.uint32], rows: numpy.typing.NDArray[typing.Any]) -> int"),
          "Put signs back into what capture() returned for them, whatever ordinals they have now.\n\n"
          "Rows (of the table's dtype) and tombstones get the ordinals given. A sign that was absent becomes "
          "a tombstone\n"
          "of ordinal 0, behind which any row may come again. Sent again it ends in the same table; later "
          "entries win.\n"
          "Returns how many signs were written. Raises ValueError: an array of another length, shape or "
          "dtype, or a\n"
          "state above 2, nothing is written; MemoryError: the signs before are restored, the table is "
          "whole.")
      .def("forget_tombstones", &Table::forget_tombstones, "horizon"_a,
           nb::call_guard<nb::gil_scoped_release>(),
           "Let rebuilds drop tombstones with an ordinal below `horizon`: nothing older will come.")
      .def(
          "reserve", [](Table& table, std::size_t rows) { table.reserve(rows); }, "rows"_a,
          nb::call_guard<nb::gil_scoped_release>(), "Make room for `rows` in all. Raises TableSpaceError.")
      .def("finish_bulk", &Table::finish_bulk, nb::call_guard<nb::gil_scoped_release>(),
           "End a load (embedding_file.load): count the rows, and give back room that none came for. Raises\n"
           "TableSpaceError, after which the table is as it was.")
      .def("scan", &scan, "start"_a = 0, "limit"_a = 65536,
           nb::sig("def scan(self, start: int = 0, limit: int = 65536) -> "
                   "tuple[numpy.typing.NDArray[numpy.uint64], "
                   "numpy.typing.NDArray[typing.Any], numpy.typing.NDArray[numpy.uint32], int | None]"),
           "One page of rows: (signs u64 [n], rows [n, dim], ordinals u32 [n], next_start or None after the "
           "last).\n\n"
           "A page holds about `limit` rows. Between pages writes may be seen or not; growth may repeat "
           "rows, but "
           "leaves none out.")
      .def("tombstones", &tombstones, "start"_a = 0, "limit"_a = 65536,
           nb::sig(
               "def tombstones(self, start: int = 0, limit: int = 65536) -> "
               "tuple[numpy.typing.NDArray[numpy.uint64], numpy.typing.NDArray[numpy.uint32], int | None]"),
           "One page of signs that are erased: (signs u64 [n], ordinals u32 [n], next_start or None after "
           "the last).\n\n"
           "As `scan`. Takes turns with writers.")
      .def("__len__", &Table::size)
      .def_prop_ro("size", &Table::size, "Rows present.")
      .def_prop_ro("bytes", &Table::bytes, "Memory held, everything counted.")
      .def_prop_ro("huge_pages", &Table::huge_pages,
                   "Whether all segments of 2 MiB and more are in huge pages.")
      .def_prop_ro("dim", &Table::dim)
      .def_prop_ro(
          "dtype", [](const Table& table) { return name_of(table.type()); },
          nb::sig("def dtype(self) -> typing.Literal['float32', 'float16']"))
      .def("__repr__", [](const Table& table) {
        return "<Table dim=" + std::to_string(table.dim()) + " dtype=" + name_of(table.type()) +
               " size=" + std::to_string(table.size()) + ">";
      });
}
