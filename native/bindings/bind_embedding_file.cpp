#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>

#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "owned_array.h"
#include "satrap/embedding_file.h"

namespace nb = nanobind;

namespace {

using satrap::EmbeddingFileSummary;
using satrap::ShardRoute;
using satrap::Table;

using File = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::span<const std::byte> bytes_of(const File& file) {
  return {reinterpret_cast<const std::byte*>(file.data()), file.shape(0)};
}

ShardRoute checked_route(std::uint32_t replica_index, std::uint32_t replica_size) {
  if (replica_index >= replica_size) {
    throw std::invalid_argument("replica_index must be below replica_size: " + std::to_string(replica_index) +
                                " of " + std::to_string(replica_size));
  }
  return {replica_index, replica_size};
}

EmbeddingFileSummary summarize(const File& file, std::uint32_t replica_index, std::uint32_t replica_size) {
  const ShardRoute route = checked_route(replica_index, replica_size);
  const nb::gil_scoped_release unlocked;
  return satrap::summarize_embedding_file(bytes_of(file), route);
}

std::size_t load(const File& file, const nb::sequence& tables, std::uint32_t replica_index,
                 std::uint32_t replica_size, std::uint32_t ordinal) {
  const ShardRoute route = checked_route(replica_index, replica_size);
  std::vector<Table*> targets;
  std::vector<nb::object> alive;  // the caller may drop its tables while the GIL is released
  for (nb::handle table : tables) {
    targets.push_back(nb::cast<Table*>(table));
    alive.push_back(nb::borrow(table));
  }
  const nb::gil_scoped_release unlocked;
  return satrap::load_embedding_file(bytes_of(file), route, targets, ordinal);
}

nb::tuple read_entries(const File& file) {
  satrap::EmbeddingEntries entries = [&] {
    const nb::gil_scoped_release unlocked;
    return satrap::read_embedding_file(bytes_of(file));
  }();
  return nb::make_tuple(array_of(std::move(entries.signs)), array_of(std::move(entries.dims)),
                        array_of(std::move(entries.inner_lens)), array_of(std::move(entries.values)));
}

}  // namespace

void register_embedding_file(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<EmbeddingFileSummary>(m, "EmbeddingFileSummary", "What a pass over a .emb file found.")
      .def_ro("count", &EmbeddingFileSummary::count, "Live nodes, as the header says.")
      .def_ro("nodes", &EmbeddingFileSummary::nodes, "Nodes, live and free.")
      .def_ro("live", &EmbeddingFileSummary::live, "Live nodes found, of every shard.")
      .def_ro("rows_by_dim", &EmbeddingFileSummary::rows_by_dim, "Rows of the shard asked for, by dim.")
      .def_ro("linked", &EmbeddingFileSummary::linked,
              "Live nodes that the links lead to (all that PERSIA itself would load); None if count equals "
              "live.");

  m.def("summarize", &summarize, "file"_a.noconvert(), "replica_index"_a = 0, "replica_size"_a = 1,
        nb::sig("def summarize(file: bytes | mmap.mmap, replica_index: int = 0, replica_size: int = 1) "
                "-> EmbeddingFileSummary"),
        "Read a whole .emb file (any buffer of u8) and count. The rows counted by dim are those of one "
        "shard.\n\n"
        "Raises DecodeError. The GIL is released.");
  m.def(
      "load", &load, "file"_a.noconvert(), "tables"_a, "replica_index"_a = 0, "replica_size"_a = 1,
      "ordinal"_a = 0,
      nb::sig("def load(file: bytes | mmap.mmap, tables: collections.abc.Sequence[satrap._core.table.Table], "
              "replica_index: int = 0, replica_size: int = 1, ordinal: int = 0) -> int"),
      "Upsert one shard's rows of a .emb file into `tables` (at most one for each dim). Returns how many "
      "there are.\n\n"
      "Raises DecodeError (some of the rows before that place are in the tables then), ValueError if a dim "
      "has no\n"
      "table, MemoryError. The GIL is released.");
  m.def("read", &read_entries, "file"_a.noconvert(),
        nb::sig("def read(file: bytes | mmap.mmap) -> tuple[numpy.typing.NDArray[numpy.uint64], "
                "numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.uint32], "
                "numpy.typing.NDArray[numpy.float32]]"),
        "Every live entry of a .emb file: (signs u64 [n], dims u32 [n], inner_lens u32 [n], values f32 [sum "
        "of dims]).\n\n"
        "Raises DecodeError. The GIL is released.");
}
