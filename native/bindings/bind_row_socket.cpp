#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "satrap/row_socket.h"

namespace nb = nanobind;

namespace {

using satrap::InstanceId;
using satrap::RowConnection;
using satrap::RowGroup;
using satrap::RowRequest;
using satrap::RowServer;
using satrap::RowType;
using satrap::Table;

using Signs = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;

InstanceId instance_of(const nb::bytes& id) {
  InstanceId instance;
  if (id.size() != instance.size()) throw std::invalid_argument("an instance id has 16 bytes");
  std::memcpy(instance.data(), id.data(), instance.size());
  return instance;
}

const char* name_of(RowType type) { return type == RowType::kFloat32 ? "float32" : "float16"; }

RowType row_type_of(const std::string& name) {
  if (name == "float32") return RowType::kFloat32;
  if (name == "float16") return RowType::kFloat16;
  throw std::invalid_argument("dtype must be 'float32' or 'float16', not '" + name + "'");
}

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

using Groups = std::vector<std::pair<Signs, Rows>>;

RowGroup group_of(const Signs& signs, const Rows& rows, RowType type) {
  const std::size_t n = signs.shape(0);
  const std::size_t dim = rows.shape(1);
  if (rows.shape(0) != n || n > std::numeric_limits<std::uint32_t>::max() || dim < 1 ||
      dim > satrap::kMaxDim) {
    throw std::invalid_argument("rows must have the shape [number of signs, dim]");
  }
  const auto code = static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float);
  if (rows.dtype().code != code || rows.dtype().bits != satrap::item_size(type) * 8) {
    throw std::invalid_argument(std::string("rows must be ") + name_of(type) + ", as the shard's are");
  }
  return {static_cast<std::uint32_t>(dim), static_cast<std::uint32_t>(n),
          reinterpret_cast<const std::byte*>(signs.data()), static_cast<std::byte*>(rows.data())};
}

nb::list exchange(const std::vector<std::pair<RowConnection*, Groups>>& requests, double timeout_seconds) {
  std::vector<RowRequest> native;
  std::vector<std::vector<RowGroup>> groups;
  native.reserve(requests.size());
  groups.reserve(requests.size());
  for (const auto& [connection, of_request] : requests) {
    std::vector<RowGroup>& of_shard = groups.emplace_back();
    for (const auto& [signs, rows] : of_request) {
      of_shard.push_back(group_of(signs, rows, connection->row_type()));
    }
    native.push_back({connection, of_shard});
  }
  {
    const nb::gil_scoped_release unlocked;
    satrap::exchange(native, milliseconds(timeout_seconds));
  }
  nb::list counts;
  for (const auto& of_shard : groups) {
    std::size_t missing = 0;
    std::size_t mismatched = 0;
    for (const RowGroup& group : of_shard) {
      missing += group.missing;
      mismatched += group.dim_mismatch;
    }
    counts.append(nb::make_tuple(missing, mismatched));
  }
  return counts;
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
      .def("close", &RowConnection::close)
      .def_prop_ro("is_open", &RowConnection::is_open)
      .def_prop_ro("dtype", [](const RowConnection& connection) { return name_of(connection.row_type()); });

  m.def("exchange", &exchange, "requests"_a.noconvert(), "timeout_seconds"_a,
        "Ask several shards at once: [(connection, [(signs u64 [n], rows [n, dim] of the shard's dtype), "
        "...]), ...].\n\n"
        "Rows are written in place. Returns (missing, dim_mismatch) for each shard. Raises RowSocketError; "
        "then\n"
        "every connection of the call is closed.");
}
