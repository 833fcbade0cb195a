#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "decoded_batch.h"
#include "satrap/table_reader.h"

namespace nb = nanobind;

namespace {

using satrap::ReaderState;
using satrap::RowType;
using satrap::TableReader;

constexpr std::size_t kSignBytes = 8;
constexpr double kNanoseconds = 1e9;

satrap::InstanceId instance_of(const nb::bytes& id) {
  satrap::InstanceId instance;
  if (id.size() != instance.size()) {
    throw std::invalid_argument("an instance id has " + std::to_string(instance.size()) + " bytes, not " +
                                std::to_string(id.size()));
  }
  std::memcpy(instance.data(), id.data(), instance.size());
  return instance;
}

const char* name_of(ReaderState state) {
  switch (state) {
    case ReaderState::kLive:
      return "live";
    case ReaderState::kOrphaned:
      return "orphaned";
    case ReaderState::kAbandoned:
      return "abandoned";
  }
  return "";
}

// DType of embedding.proto.
int dtype_of(RowType type) { return type == RowType::kFloat32 ? 1 : 2; }

nb::tuple condition(const TableReader& reader) {
  const TableReader::Condition found = reader.condition();
  return nb::make_tuple(name_of(found.state), static_cast<double>(found.silent_ns) / kNanoseconds);
}

// Throws std::invalid_argument: a number that no table has, however large. TypeError: no number.
std::size_t dim_of(nb::handle given) {
  int overflow = 0;
  const long long dim = PyLong_AsLongLongAndOverflow(given.ptr(), &overflow);
  if (dim == -1 && PyErr_Occurred()) throw nb::python_error();
  if (overflow != 0 || dim < 1 || dim > static_cast<long long>(satrap::kMaxDim)) {
    throw std::invalid_argument("a dim must be 1 to " + std::to_string(satrap::kMaxDim) + ", not " +
                                nb::cast<std::string>(nb::str(given)));
  }
  return static_cast<std::size_t>(dim);
}

// Rows are written into the bytes objects that are returned: they are copied once, out of the table.
nb::tuple lookup(const TableReader& reader, const nb::sequence& asked) {
  std::deque<HeldBuffer> buffers;
  std::vector<TableReader::Group> groups;
  for (nb::handle item : asked) {
    const std::size_t dim = dim_of(item[0]);
    const auto signs = buffers.emplace_back(item[1]).bytes();
    if (signs.size() % kSignBytes != 0) {
      throw std::invalid_argument("signs are packed u64; " + std::to_string(signs.size()) +
                                  " bytes are none");
    }
    groups.push_back({dim, signs.data(), signs.size() / kSignBytes});
  }

  // It may have to attach a table that the writer has added.
  const auto use = [&] {
    const nb::gil_scoped_release unlocked;
    return std::make_unique<const TableReader::Use>(reader);
  }();
  nb::list result;
  std::vector<std::byte*> rows;
  for (const TableReader::Group& group : groups) {
    const RowType type = use->type_of(group.dim);
    const auto size = static_cast<Py_ssize_t>(group.n * group.dim * satrap::item_size(type));
    const nb::object bytes = nb::steal(PyBytes_FromStringAndSize(nullptr, size));
    if (!bytes.is_valid()) throw nb::python_error();
    rows.push_back(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(bytes.ptr())));
    result.append(nb::make_tuple(dtype_of(type), bytes));
  }
  TableReader::Counts sum;
  {
    const nb::gil_scoped_release unlocked;
    for (std::size_t i = 0; i < groups.size(); ++i) {
      const TableReader::Counts counts = use->lookup(groups[i], rows[i]);
      sum.missing += counts.missing;
      sum.dim_mismatch += counts.dim_mismatch;
    }
  }
  return nb::make_tuple(result, sum.missing, sum.dim_mismatch);
}

}  // namespace

void register_table_reader(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<TableReader>(
      m, "TableReader",
      "The tables of a generation that a server on this machine writes, mapped read-only.\n\n"
      "Any thread may use it at any time, and close it. Make it after a fork, never before: threads of its "
      "own follow\n"
      "the tables as they grow. The GIL is released.")
      .def(
          "__init__",
          [](TableReader* self, std::string folder, const nb::bytes& instance_id, std::uint32_t uid) {
            const satrap::InstanceId instance = instance_of(instance_id);
            const nb::gil_scoped_release unlocked;
            new (self) TableReader(std::move(folder), instance, uid);
          },
          "folder"_a, "instance_id"_a, "uid"_a,
          "Attach the generation in `folder`, which must hold that id (16 bytes) and belong to user `uid` or "
          "root.\n\n"
          "Raises TableError with the reason: missing, damaged, cut, of another instance, owner, layout or "
          "boot, "
          "loading,\n"
          "abandoned; TableSpaceError: no descriptor or no memory left. Nothing stays mapped then.")
      .def_prop_ro("folder", &TableReader::folder)
      .def_prop_ro(
          "instance_id",
          [](const TableReader& self) { return nb::bytes(self.instance().data(), self.instance().size()); })
      .def("condition", &condition,
           nb::sig("def condition(self) -> tuple[typing.Literal['live', 'orphaned', 'abandoned'], float]"),
           "The state, and seconds since the server's last heartbeat.\n\n"
           "orphaned: nobody holds the lock, or no heartbeat for a second. abandoned: superseded or given "
           "up.\n"
           "Raises TableError: closed, or the state is damaged.")
      .def_prop_ro(
          "state", [](const TableReader& self) { return name_of(self.condition().state); },
          nb::sig("def state(self) -> typing.Literal['live', 'orphaned', 'abandoned']"),
          "The state alone. Raises TableError as condition().")
      .def_prop_ro(
          "applied",
          [](const TableReader& self) {
            const satrap::Watermark applied = self.watermark();
            return nb::make_tuple(applied.sequence, applied.event_time_ns);
          },
          nb::sig("def applied(self) -> tuple[int, int]"),
          "How far the server's updates are: the last packet's sequence number, and its newest event in "
          "nanoseconds "
          "since the epoch. Raises TableError: closed.")
      .def("lookup", &lookup, "groups"_a,
           nb::sig("def lookup(self, groups: collections.abc.Sequence[tuple[int, bytes]]) -> "
                   "tuple[list[tuple[int, bytes]], int, int]"),
           "Rows of [(dim, signs as packed u64)]: ([(dtype, rows)], missing, dim_mismatch).\n\n"
           "dtype is 1 (float32) or 2 (float16); rows are packed, zeros for signs that no table holds "
           "(missing) or one\n"
           "of another dim (dim_mismatch). Raises TableError: closed, or a file cannot be used; "
           "TableSpaceError: it\n"
           "cannot be mapped.")
      .def("close", &TableReader::close, nb::call_guard<nb::gil_scoped_release>(),
           "Unmap everything; lookups that run end first, later ones raise TableError.");
}
