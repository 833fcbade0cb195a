#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "satrap/row_socket.h"

namespace nb = nanobind;

namespace {

using satrap::InstanceId;
using satrap::RowConnection;
using satrap::RowServer;
using satrap::RowType;
using satrap::Table;

InstanceId instance_of(const nb::bytes& id) {
  InstanceId instance;
  if (id.size() != instance.size()) throw std::invalid_argument("an instance id has 16 bytes");
  std::memcpy(instance.data(), id.data(), instance.size());
  return instance;
}

RowType row_type_of(const std::string& name) {
  if (name == "float32") return RowType::kFloat32;
  if (name == "float16") return RowType::kFloat16;
  throw std::invalid_argument("dtype must be 'float32' or 'float16', not '" + name + "'");
}

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

constexpr std::size_t kSignBytes = 8;
constexpr std::size_t kMaxSigns = std::numeric_limits<std::uint32_t>::max();

// The bytes are the caller's and are alive during the call.
void send(RowConnection& connection, const std::vector<std::pair<std::uint32_t, nb::bytes>>& groups,
          double timeout_seconds) {
  std::vector<RowConnection::Group> native;
  native.reserve(groups.size());
  for (const auto& [dim, signs] : groups) {
    if (signs.size() % kSignBytes || signs.size() / kSignBytes > kMaxSigns) {
      throw std::invalid_argument("signs are packed u64, fewer than 2^32");
    }
    native.push_back({dim, static_cast<std::uint32_t>(signs.size() / kSignBytes),
                      static_cast<const std::byte*>(signs.data())});
  }
  const nb::gil_scoped_release unlocked;
  connection.send(native, milliseconds(timeout_seconds));
}

nb::tuple receive(RowConnection& connection, double timeout_seconds) {
  const int dtype = connection.row_type() == RowType::kFloat32 ? 1 : 2;
  nb::list groups;
  std::vector<std::byte*> rows;
  for (const std::size_t bytes : connection.answer_bytes()) {
    // Not initialised: received into, below, before anybody sees it.
    auto memory = nb::steal<nb::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(bytes)));
    if (!memory.is_valid()) nb::raise_python_error();
    rows.push_back(reinterpret_cast<std::byte*>(PyBytes_AS_STRING(memory.ptr())));
    groups.append(nb::make_tuple(dtype, std::move(memory)));
  }
  const RowConnection::Counts counts = [&] {
    const nb::gil_scoped_release unlocked;
    return connection.receive(rows, milliseconds(timeout_seconds));
  }();
  return nb::make_tuple(groups, counts.missing, counts.dim_mismatch);
}

}  // namespace

void register_row_socket(nb::module_& m) {
  using namespace nb::literals;

  nb::exception<satrap::RowSocketError>(m, "RowSocketError");

  nb::class_<RowServer>(m, "RowServer",
                        "Answers lookups of this machine's processes from the tables published last.\n\n"
                        "Native threads serve; the GIL is not needed for it.")
      .def(
          "__init__",
          [](RowServer* self, const nb::bytes& instance, std::uint32_t replica_index,
             std::uint32_t replica_size, const std::string& dtype) {
            new (self) RowServer({replica_index, replica_size, row_type_of(dtype), instance_of(instance)});
          },
          "instance"_a, "replica_index"_a, "replica_size"_a, "dtype"_a,
          "`instance`: 16 random bytes, which name the socket. Nothing starts.")
      .def("start", &RowServer::start, "Listen. Raises RowSocketError.")
      .def(
          "publish",
          [](RowServer& server, const std::vector<std::shared_ptr<Table>>& tables) {
            RowServer::Tables next(tables.begin(), tables.end());
            for (const auto& table : next) {
              if (table->type() != next.front()->type()) throw std::invalid_argument("tables of two dtypes");
            }
            const nb::gil_scoped_release unlocked;
            server.publish(std::move(next));
          },
          "tables"_a, "Answer from these, one for each dim, from the next request on.")
      .def("stop", &RowServer::stop, nb::call_guard<nb::gil_scoped_release>(),
           "Close every connection and wait for the threads.")
      .def_prop_ro(
          "counters",
          [](const RowServer& server) {
            const RowServer::Counters counters = server.counters();
            return nb::make_tuple(counters.signs, counters.missing, counters.dim_mismatch);
          },
          nb::for_getter(nb::sig("def counters(self) -> tuple[int, int, int]")),
          "Signs asked, absent signs, signs of another dim.");

  nb::class_<RowConnection>(m, "RowConnection",
                            "A connection to one shard's row socket. One thread at a time.")
      .def(
          "__init__",
          [](RowConnection* self, const nb::bytes& instance, std::uint32_t replica_index,
             std::uint32_t replica_size, double timeout_seconds) {
            const InstanceId id = instance_of(instance);
            const nb::gil_scoped_release unlocked;
            new (self) RowConnection(replica_index, replica_size, id, milliseconds(timeout_seconds));
          },
          "instance"_a, "replica_index"_a, "replica_size"_a, "timeout_seconds"_a,
          "Connect, and check that the server is the one that is meant. Raises RowSocketError.")
      .def(
          "send", &send, "groups"_a, "timeout_seconds"_a,
          "Ask for the rows of [(dim, signs as packed little-endian u64)]. No other question may be open.\n\n"
          "Raises RowSocketError; then the connection is closed.")
      .def("receive", &receive, "timeout_seconds"_a,
           nb::sig("def receive(self, timeout_seconds: float) -> tuple[list[tuple[int, bytes]], int, int]"),
           "The answer: [(dtype, rows)] in the order of the groups, dtype being 1 (float32) or 2 (float16), "
           "absent\n"
           "signs, signs of another dim. Raises RowSocketError; then the connection is closed.")
      .def("close", &RowConnection::close)
      .def_prop_ro("is_open", &RowConnection::is_open);
}
