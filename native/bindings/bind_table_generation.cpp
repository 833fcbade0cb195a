#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "satrap/table_generation.h"
#include "satrap/table_inspection.h"

namespace nb = nanobind;

namespace {

using satrap::ControlFile;
using satrap::RowType;
using satrap::Table;
using satrap::TableGeneration;

// What a control file said at one moment.
struct TableControl {
  satrap::ControlHeader header;
  satrap::GenerationState state;
  std::uint32_t pid;
  std::uint32_t tables;
  std::vector<std::byte> info;
  satrap::Watermark watermark;
  bool locked;
  std::uint64_t heartbeat_age_ns;
};

std::span<const std::byte> view_of(const nb::bytes& bytes) {
  return {static_cast<const std::byte*>(bytes.data()), bytes.size()};
}

template <class Bytes>
nb::bytes python_bytes(const Bytes& bytes) {
  return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::array<std::byte, 16> id_of(const nb::bytes& bytes, const char* name) {
  std::array<std::byte, 16> id;
  if (bytes.size() != id.size()) {
    throw std::invalid_argument(std::string(name) + " must have 16 bytes, not " +
                                std::to_string(bytes.size()));
  }
  std::memcpy(id.data(), bytes.data(), id.size());
  return id;
}

RowType row_type(const std::string& name) {
  if (name == "float32") return RowType::kFloat32;
  if (name == "float16") return RowType::kFloat16;
  throw std::invalid_argument("dtype must be 'float32' or 'float16', not '" + name + "'");
}

std::unique_ptr<TableGeneration> create(const std::string& folder, const nb::bytes& instance,
                                        const nb::bytes& boot_id, std::uint32_t replica_index,
                                        std::uint32_t replica_size, const nb::bytes& info,
                                        std::uint32_t file_mode, std::uint32_t folder_mode,
                                        std::optional<std::uint32_t> group) {
  if (replica_index >= replica_size) throw std::invalid_argument("replica_index must be below replica_size");
  return TableGeneration::create(folder,
                                 {.instance = id_of(instance, "instance"),
                                  .boot = id_of(boot_id, "boot_id"),
                                  .replica_index = replica_index,
                                  .replica_size = replica_size},
                                 view_of(info), {.file = file_mode, .folder = folder_mode, .group = group});
}

std::unique_ptr<TableGeneration> recover(const std::string& folder, const nb::bytes& boot_id,
                                         std::uint32_t replica_index, std::uint32_t replica_size) {
  const auto boot = id_of(boot_id, "boot_id");
  const nb::gil_scoped_release unlocked;
  return TableGeneration::recover(folder, boot, replica_index, replica_size);
}

TableControl read_control(const std::string& folder) {
  const ControlFile file = ControlFile::open_for_reading(folder);
  const std::uint64_t heartbeat = file.heartbeat_ns();
  const std::uint64_t now = satrap::monotonic_ns();
  return {.header = file.header(),
          .state = file.state(),
          .pid = file.pid(),
          .tables = file.tables(),
          .info = file.info(),
          .watermark = file.watermark(),
          .locked = file.is_locked(),
          .heartbeat_age_ns = now > heartbeat ? now - heartbeat : 0};
}

void register_control(nb::module_& m) {
  nb::class_<TableControl>(m, "TableControl", "What a generation's control file said at one moment.")
      .def_prop_ro("instance_id", [](const TableControl& self) { return python_bytes(self.header.instance); })
      .def_prop_ro("boot_id", [](const TableControl& self) { return python_bytes(self.header.boot); })
      .def_prop_ro("replica_index", [](const TableControl& self) { return self.header.replica_index; })
      .def_prop_ro("replica_size", [](const TableControl& self) { return self.header.replica_size; })
      .def_prop_ro("layout", [](const TableControl& self) { return self.header.layout; })
      .def_prop_ro(
          "state", [](const TableControl& self) { return name_of(self.state); },
          nb::sig("def state(self) -> typing.Literal['loading', 'serving', 'abandoned']"))
      .def_ro("pid", &TableControl::pid, "The server that holds the lock, or held it last.")
      .def_ro("tables", &TableControl::tables, "How many tables are whole.")
      .def_ro("locked", &TableControl::locked, "Whether a living process holds the generation.")
      .def_ro("heartbeat_age_ns", &TableControl::heartbeat_age_ns)
      .def_prop_ro("info", [](const TableControl& self) { return python_bytes(self.info); })
      .def_prop_ro(
          "applied",
          [](const TableControl& self) {
            return std::pair(self.watermark.sequence, self.watermark.event_time_ns);
          },
          "(sequence, event_time_ns) of the last packet that is wholly applied.");
  m.def("read_control", &read_control, nb::arg("folder"),
        "What the control file of the generation in `folder` says; it is neither locked nor changed.\n\n"
        "Raises TableError: there is none, or it is damaged, cut, or of another layout.");
}

void register_inspection(nb::module_& m) {
  using satrap::TableInspection;
  nb::class_<TableInspection>(m, "TableInspection", "What the files of a table say.")
      .def_prop_ro("dim", [](const TableInspection& self) { return self.shape.dim; })
      .def_prop_ro(
          "dtype",
          [](const TableInspection& self) {
            return self.shape.type == RowType::kFloat32 ? "float32" : "float16";
          },
          nb::sig("def dtype(self) -> typing.Literal['float32', 'float16']"))
      .def_prop_ro("row_bytes", [](const TableInspection& self) { return self.shape.bytes(); })
      .def_prop_ro("boot_id", [](const TableInspection& self) { return python_bytes(self.boot); })
      .def_ro("rows", &TableInspection::rows, "As the writer counts them, after each batch.")
      .def_ro("occupied", &TableInspection::occupied, "Slots with a row, counted.")
      .def_ro("tombstones", &TableInspection::tombstones, "Slots with an erased sign.")
      .def_ro("slots", &TableInspection::slots)
      .def_ro("overflowed", &TableInspection::overflowed, "Buckets that a search goes past.")
      .def_ro("changing", &TableInspection::changing, "Buckets that the writer is, or was, inside.")
      .def_ro("segments", &TableInspection::segments)
      .def_ro("bytes", &TableInspection::bytes, "Memory of all files of the folder.");
  m.def("inspect_table", &satrap::inspect_table, nb::arg("folder"), nb::arg("count_slots") = true,
        nb::call_guard<nb::gil_scoped_release>(),
        "Read every header in a table's folder, those of buckets only if `count_slots` is set; nothing is "
        "changed.\n\n"
        "Raises TableError: something is damaged, missing, or of another layout; TableSpaceError.");
}

}  // namespace

void register_table_generation(nb::module_& m) {
  using namespace nb::literals;
  register_control(m);
  register_inspection(m);
  m.def(
      "present_boot", [] { return python_bytes(satrap::present_boot()); },
      "16 bytes that differ from one run of the machine to the next.");
  m.attr("MAX_INFO_BYTES") = satrap::ControlInfo::kMaxBytes;
  m.def("discard_generation", &satrap::discard_generation, "folder"_a,
        nb::call_guard<nb::gil_scoped_release>(),
        "Mark the generation in `folder` abandoned and remove it, whatever state it is in.\n\n"
        "Raises TableError: a living process holds it, or it cannot be removed.");

  nb::class_<TableGeneration>(
      m, "TableGeneration",
      "The tables of one checkpoint in a folder of their own, with their writer: it holds the control\n"
      "file's lock, and a thread of its own keeps the heartbeat fresh. Any thread may call.")
      .def_static(
          "create", &create, "folder"_a, nb::kw_only(), "instance"_a, "boot_id"_a, "replica_index"_a,
          "replica_size"_a, "info"_a, "file_mode"_a = 0600, "folder_mode"_a = 0700, "group"_a = nb::none(),
          "Make `folder`, and in it a generation without tables that is loading.\n\n"
          "`instance` and `boot_id` have 16 bytes, `info` at most MAX_INFO_BYTES. Raises TableSpaceError,\n"
          "TableError, ValueError.")
      .def_static("recover", &recover, "folder"_a, nb::kw_only(), "boot_id"_a, "replica_index"_a,
                  "replica_size"_a,
                  "Take over the generation that another process left in `folder`, tables included.\n\n"
                  "Raises TableError with the reason why it is refused, after which nothing has changed;\n"
                  "TableSpaceError.")
      .def(
          "add_table",
          [](TableGeneration& self, std::size_t dim, const std::string& dtype, std::size_t rows,
             unsigned threads) {
            const RowType type = row_type(dtype);
            const nb::gil_scoped_release unlocked;
            return self.add_table(dim, type, rows, threads);
          },
          "dim"_a, "dtype"_a, "rows"_a, "threads"_a = 1,
          nb::sig("def add_table(self, dim: int, dtype: typing.Literal['float32', 'float16'], rows: int, "
                  "threads: int = 1) -> Table"),
          "A new table with room for `rows` rows, which `threads` threads allocate.\n\n"
          "Raises TableSpaceError, after which nothing of it is left; ValueError: there is one of `dim`.")
      .def_prop_ro("tables", &TableGeneration::tables, "The tables by dim.")
      .def("serve", &TableGeneration::serve, "Say that it is whole: the next start may take it over.")
      .def("abandon", &TableGeneration::abandon,
           "Tell readers in other processes to leave. Tables go on for those of this process.")
      .def("remove", &TableGeneration::remove, nb::call_guard<nb::gil_scoped_release>(),
           "Abandon, unlink everything, and close. Memory is given back when the last reader lets go.")
      .def("close", &TableGeneration::close, nb::call_guard<nb::gil_scoped_release>(),
           "Let go of lock and heartbeat. The tables stay where they are, for `recover`.")
      .def(
          "set_applied",
          [](TableGeneration& self, std::uint64_t sequence, std::int64_t event_time_ns) {
            self.set_watermark({sequence, event_time_ns});
          },
          "sequence"_a, "event_time_ns"_a,
          "Everything up to the packet `sequence` is applied; its newest event is of that time.")
      .def_prop_ro(
          "applied",
          [](const TableGeneration& self) {
            const satrap::Watermark watermark = self.watermark();
            return std::pair(watermark.sequence, watermark.event_time_ns);
          },
          "(sequence, event_time_ns), (0, 0) at first.")
      .def_prop_rw(
          "info", [](const TableGeneration& self) { return python_bytes(self.info()); },
          [](TableGeneration& self, const nb::bytes& info) { self.set_info(view_of(info)); },
          "What was told at its creation, or set since; replaced whole or not at all.")
      .def_prop_ro(
          "state", [](const TableGeneration& self) { return name_of(self.state()); },
          nb::sig("def state(self) -> typing.Literal['loading', 'serving', 'abandoned']"))
      .def_prop_ro("instance_id", [](const TableGeneration& self) { return python_bytes(self.instance()); })
      .def_prop_ro("folder", &TableGeneration::folder)
      .def_prop_ro("bytes", &TableGeneration::bytes, "Memory held, everything counted.");
}
