#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <cerrno>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "decoded_batch.h"
#include "owned_array.h"
#include "satrap/embedding_file.h"
#include "satrap/embedding_packet.h"

namespace nb = nanobind;

namespace {

using satrap::EmbeddingFileSummary;
using satrap::ShardRoute;
using satrap::Table;

using satrap::EmbeddingFile;

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A file as Python names it, a descriptor or a buffer, which stays alive with this object.
class File {
 public:
  explicit File(const nb::object& given) {
    if (nb::isinstance<nb::int_>(given)) {
      file_.emplace(EmbeddingFile::open(nb::cast<int>(given)));
    } else {
      if (!nb::try_cast(given, bytes_, /*convert=*/false)) {
        throw nb::type_error("file must be a descriptor, or a contiguous buffer of bytes");
      }
      file_.emplace(std::span(reinterpret_cast<const std::byte*>(bytes_.data()), bytes_.shape(0)));
    }
  }
  const EmbeddingFile& operator*() const { return *file_; }

 private:
  Bytes bytes_;
  std::optional<EmbeddingFile> file_;
};

ShardRoute checked_route(std::uint32_t replica_index, std::uint32_t replica_size) {
  if (replica_index >= replica_size) {
    throw std::invalid_argument("replica_index must be below replica_size: " + std::to_string(replica_index) +
                                " of " + std::to_string(replica_size));
  }
  return {replica_index, replica_size};
}

EmbeddingFileSummary summarize(const nb::object& given, std::uint32_t replica_index,
                               std::uint32_t replica_size) {
  const ShardRoute route = checked_route(replica_index, replica_size);
  const File file(given);
  const nb::gil_scoped_release unlocked;
  return satrap::summarize_embedding_file(*file, route);
}

std::optional<std::pair<std::uint64_t, std::uint64_t>> estimate(const nb::object& given) {
  const File file(given);
  const auto estimated = [&] {
    const nb::gil_scoped_release unlocked;
    return satrap::estimate_embedding_file(*file);
  }();
  if (!estimated) return std::nullopt;
  return std::pair(estimated->dim, estimated->rows);
}

EmbeddingFileSummary load(const nb::object& given, const nb::sequence& tables, std::uint32_t replica_index,
                          std::uint32_t replica_size, std::uint32_t ordinal) {
  const ShardRoute route = checked_route(replica_index, replica_size);
  const File file(given);
  std::vector<Table*> targets;
  std::vector<nb::object> alive;  // the caller may drop its tables while the GIL is released
  for (nb::handle table : tables) {
    targets.push_back(nb::cast<Table*>(table));
    alive.push_back(nb::borrow(table));
  }
  const nb::gil_scoped_release unlocked;
  return satrap::load_embedding_file(*file, route, targets, ordinal);
}

nb::tuple read_entries(const nb::object& given) {
  const File file(given);
  satrap::EmbeddingEntries entries = [&] {
    const nb::gil_scoped_release unlocked;
    return satrap::read_embedding_file(*file);
  }();
  return nb::make_tuple(array_of(std::move(entries.signs)), array_of(std::move(entries.dims)),
                        array_of(std::move(entries.inner_lens)), array_of(std::move(entries.values)));
}

nb::tuple read_packet(nb::handle data, std::uint32_t replica_index, std::uint32_t replica_size) {
  const ShardRoute route = checked_route(replica_index, replica_size);
  const HeldBuffer buffer(data);
  satrap::EmbeddingPacket packet = [&] {
    const nb::gil_scoped_release unlocked;
    return satrap::read_embedding_packet(buffer.bytes(), route);
  }();
  nb::dict rows;
  for (auto& [dim, of_dim] : packet.rows_by_dim) {
    const std::size_t n = of_dim.signs.size();
    rows[nb::int_(dim)] =
        nb::make_tuple(array_of(std::move(of_dim.signs)), array_of(std::move(of_dim.values), {n, dim}));
  }
  return nb::make_tuple(packet.unix_seconds, rows, packet.entries_by_dim);
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

  nb::exception<satrap::MissingDimError>(m, "MissingDimError", PyExc_ValueError);
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::system_error& error) {
      errno = error.code().value();
      PyErr_SetFromErrno(PyExc_OSError);
    }
  });

  m.def("estimate", &estimate, "file"_a,
        nb::sig("def estimate(file: int | bytes | mmap.mmap) -> tuple[int, int] | None"),
        "The dim and the number of rows that a .emb file (a descriptor, or a buffer of u8) has if its first "
        "entries\n"
        "are like all others, from these and its size: (0, 0) without rows, None if it has to be "
        "summarized.\n\n"
        "Raises DecodeError, OSError. The GIL is released.");
  m.def("summarize", &summarize, "file"_a, "replica_index"_a = 0, "replica_size"_a = 1,
        nb::sig("def summarize(file: int | bytes | mmap.mmap, replica_index: int = 0, replica_size: int = 1) "
                "-> EmbeddingFileSummary"),
        "Read a whole .emb file (a descriptor, or a buffer of u8) and count. The rows counted by dim are "
        "those of\n"
        "one shard.\n\n"
        "Raises DecodeError, OSError. The GIL is released.");
  m.def("load", &load, "file"_a, "tables"_a, "replica_index"_a = 0, "replica_size"_a = 1, "ordinal"_a = 0,
        nb::sig("def load(file: int | bytes | mmap.mmap, "
                "tables: collections.abc.Sequence[satrap._core.table.Table], "
                "replica_index: int = 0, replica_size: int = 1, ordinal: int = 0) -> EmbeddingFileSummary"),
        "Insert one shard's rows of a .emb file into `tables` (at most one for each dim), which nobody reads "
        "yet, and\n"
        "count as `summarize` does. Any number of threads may load into the same tables.\n\n"
        "Raises DecodeError, MissingDimError (a ValueError), OSError, TableSpaceError: some of the rows are "
        "in the\n"
        "tables then, and the file may be loaded again. The GIL is released.");
  m.def(
      "read_packet", &read_packet, "data"_a, "replica_index"_a = 0, "replica_size"_a = 1,
      nb::sig("def read_packet(data: bytes | bytearray | memoryview | mmap.mmap, replica_index: int = 0, "
              "replica_size: int = 1) "
              "-> tuple[int, dict[int, tuple[numpy.typing.NDArray[numpy.uint64], "
              "numpy.typing.NDArray[numpy.float32]]], dict[int, int]]"),
      "Read a whole .inc file: (unix_seconds, {dim: (signs u64 [n], rows f32 [n, dim])}, {dim: entries}).\n\n"
      "Rows are those of one shard, in the order of the file, without the optimizer's floats; entries are "
      "counted of\n"
      "every shard. A file that does not end with its time is refused.\n\n"
      "Raises DecodeError. The GIL is released.");
  m.def("read", &read_entries, "file"_a,
        nb::sig("def read(file: int | bytes | mmap.mmap) -> tuple[numpy.typing.NDArray[numpy.uint64], "
                "numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.uint32], "
                "numpy.typing.NDArray[numpy.float32]]"),
        "Every live entry of a .emb file: (signs u64 [n], dims u32 [n], inner_lens u32 [n], values f32 [sum "
        "of dims]).\n\n"
        "Raises DecodeError, OSError. The GIL is released.");
}
