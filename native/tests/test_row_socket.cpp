// Row sockets: right rows under concurrent clients and publications, every refusal, every way to be cut off.
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "../src/row_wire.h"
#include "check.h"
#include "satrap/row_socket.h"

namespace {

using namespace satrap;
using namespace std::chrono_literals;
using satrap::row_wire::AnswerHeader;
using satrap::row_wire::RequestGroup;
using satrap::row_wire::RequestHeader;

constexpr std::size_t kRows = 5000;

InstanceId instance_id(unsigned seed) {
  InstanceId id;
  for (std::size_t i = 0; i < id.size(); ++i) id[i] = static_cast<std::byte>(seed * 31 + i * 7 + ::getpid());
  return id;
}

// Every value of the row of `sign` is sign + addend.
std::shared_ptr<Table> table(std::size_t dim, std::uint64_t first, float addend) {
  auto made = std::make_shared<Table>(dim, RowType::kFloat32, kRows);
  std::vector<std::uint64_t> signs(kRows);
  std::vector<float> rows(kRows * dim);
  for (std::size_t i = 0; i < kRows; ++i) {
    signs[i] = first + i;
    for (std::size_t j = 0; j < dim; ++j) rows[i * dim + j] = static_cast<float>(signs[i]) + addend;
  }
  made->upsert(reinterpret_cast<const std::byte*>(signs.data()),
               reinterpret_cast<const std::byte*>(rows.data()), kRows, RowType::kFloat32, 0);
  return made;
}

// One group of a request with the memory that it points to.
struct Asked {
  Asked(std::size_t dim, std::uint64_t first, std::size_t n) : dim_(dim), signs(n), rows(n * dim, -1.0f) {
    for (std::size_t i = 0; i < n; ++i) signs[i] = first + i;
  }
  RowConnection::Group group() const {
    return {static_cast<std::uint32_t>(dim_), static_cast<std::uint32_t>(signs.size()),
            reinterpret_cast<const std::byte*>(signs.data())};
  }
  std::byte* out() { return reinterpret_cast<std::byte*>(rows.data()); }
  std::size_t dim_;
  std::vector<std::uint64_t> signs;
  std::vector<float> rows;
};

// Sends one request with these groups and receives its answer.
template <class... More>
RowConnection::Counts ask(RowConnection& connection, std::chrono::milliseconds timeout, More&... asked) {
  const std::vector<RowConnection::Group> groups{asked.group()...};
  const std::vector<std::byte*> rows{asked.out()...};
  connection.send(groups, timeout);
  return connection.receive(rows, timeout);
}

template <class Call>
bool refused(Call&& call) {
  try {
    call();
  } catch (const RowSocketError&) {
    return true;
  }
  return false;
}

void test_rows_and_counts() {
  RowServer server({0, 2, RowType::kFloat32, instance_id(1)});
  server.start();
  server.publish({table(16, 1000, 0.5f), table(3, 100'000, 0.25f)});
  RowConnection connection(0, 2, instance_id(1), 5s);
  CHECK(connection.row_type() == RowType::kFloat32);
  // 1000.. are in dim 16; of the 3-dim request half are there, and ten are rows of the other table.
  Asked sixteen(16, 1000, 4000), three(3, 105'000 - 50, 100), other(3, 1000, 10), none(16, 1, 5),
      unknown(7, 1, 2);
  const auto counts = ask(connection, 5s, sixteen, three, other, none, unknown);
  for (std::size_t i = 0; i < sixteen.rows.size(); ++i) {
    CHECK(sixteen.rows[i] == static_cast<float>(1000 + i / 16) + 0.5f);
  }
  for (std::size_t i = 0; i < 50 * 3; ++i)
    CHECK(three.rows[i] == static_cast<float>(104'950 + i / 3) + 0.25f);
  for (std::size_t i = 50 * 3; i < 100 * 3; ++i) CHECK(three.rows[i] == 0.0f);
  for (const float value : other.rows) CHECK(value == 0.0f);
  CHECK(counts.missing == 57 && counts.dim_mismatch == 10);
  const auto counters = server.counters();
  CHECK(counters.signs == 4117 && counters.missing == 57 && counters.dim_mismatch == 10);
  ask(connection, 5s);
  CHECK(connection.is_open());
  CHECK(refused([&] { connection.receive({}, 5s); }));  // nothing was asked
}

void test_who_is_not_meant_is_refused() {
  RowServer server({1, 2, RowType::kFloat16, instance_id(2)});
  CHECK(refused([] { RowConnection(1, 2, instance_id(2), 1s); }));  // not started
  server.start();
  CHECK(refused([] { RowConnection(0, 2, instance_id(2), 1s); }));
  CHECK(refused([] { RowConnection(1, 3, instance_id(2), 1s); }));
  CHECK(refused([] { RowConnection(1, 2, instance_id(3), 1s); }));
  RowConnection connection(1, 2, instance_id(2), 1s);
  CHECK(connection.row_type() == RowType::kFloat16);
  Asked asked(4, 1, 1);
  CHECK(refused([&] { ask(connection, 1s, asked); }));  // nothing is published
  CHECK(!connection.is_open());
  CHECK(refused([&] { ask(connection, 1s, asked); }));  // stays closed
  RowServer twin({1, 2, RowType::kFloat16, instance_id(2)});
  CHECK(refused([&] { twin.start(); }));
}

// Sends raw bytes; returns the status of the answer, or -1 if the connection was closed without one.
int status_of(const InstanceId& id, const std::vector<std::byte>& bytes) {
  RowConnection connection(0, 1, id, 5s);
  CHECK(::send(connection.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
        static_cast<ssize_t>(bytes.size()));
  ::shutdown(connection.fd(), SHUT_WR);
  AnswerHeader answer;
  const ssize_t got = ::recv(connection.fd(), &answer, sizeof answer, MSG_WAITALL);
  return got == sizeof answer ? static_cast<int>(answer.status) : -1;
}

template <class... Parts>
std::vector<std::byte> bytes_of(const Parts&... parts) {
  std::vector<std::byte> bytes;
  const auto append = [&bytes](const auto& part) {
    const auto* first = reinterpret_cast<const std::byte*>(&part);
    bytes.insert(bytes.end(), first, first + sizeof part);
  };
  (append(parts), ...);
  return bytes;
}

void test_bad_requests_cost_their_connection_only() {
  const InstanceId id = instance_id(4);
  RowServer server({0, 1, RowType::kFloat32, id});
  server.start();
  server.publish({table(16, 0, 0.0f)});
  const std::uint64_t sign = 7;
  const auto good = bytes_of(RequestHeader{1, 0, 1}, RequestGroup{16, 1}, sign);
  CHECK(status_of(id, good) == 0);
  for (std::size_t length = 0; length < good.size(); ++length) {
    CHECK(status_of(id, {good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length)}) == -1);
  }
  CHECK(status_of(id, bytes_of(RequestHeader{0xffffffff, 0, 0})) == 2);
  CHECK(status_of(id, bytes_of(RequestHeader{1, 0, ~0ull})) == 2);
  CHECK(status_of(id, bytes_of(RequestHeader{1, 0, 2}, RequestGroup{16, 1}, sign)) == 2);
  CHECK(status_of(id, bytes_of(RequestHeader{1, 0, 1}, RequestGroup{0, 1}, sign)) == 2);
  CHECK(status_of(id, bytes_of(RequestHeader{1, 0, 1}, RequestGroup{4097, 1}, sign)) == 2);
  const std::uint32_t many = 200'000'000;  // the rows of so many signs would be 3 TB
  CHECK(status_of(id, bytes_of(RequestHeader{1, 0, many}, RequestGroup{4096, many})) == 2);
  CHECK(status_of(id, good) == 0);
}

void test_a_server_that_stops_closes_and_a_silent_one_times_out() {
  const InstanceId id = instance_id(5);
  auto server = std::make_unique<RowServer>(ShardIdentity{0, 1, RowType::kFloat32, id});
  server->start();
  server->publish({table(16, 0, 0.0f)});
  RowConnection connection(0, 1, id, 5s);
  server->stop();
  server->stop();
  Asked asked(16, 1, 10);
  CHECK(refused([&] { ask(connection, 5s, asked); }));

  // A listener that never says anything.
  const auto address = row_wire::address_of(instance_id(6));
  const Descriptor silent(::socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK(::bind(silent.get(), reinterpret_cast<const sockaddr*>(&address.name), address.length) == 0);
  CHECK(::listen(silent.get(), 1) == 0);
  CHECK(refused([] { RowConnection(0, 1, instance_id(6), 20ms); }));
}

// Clients ask two shards at once while tables are replaced: every row is of one publication, whole.
void test_many_clients_while_tables_are_replaced() {
  const InstanceId ids[] = {instance_id(7), instance_id(8)};
  RowServer first({0, 2, RowType::kFloat32, ids[0]}), second({1, 2, RowType::kFloat32, ids[1]});
  RowServer* servers[] = {&first, &second};
  for (RowServer* server : servers) {
    server->publish({table(16, 0, 0.0f)});
    server->start();
  }
  std::atomic<bool> done{false};
  std::vector<std::thread> clients;
  for (int client = 0; client < 3; ++client) {
    clients.emplace_back([&ids, &done] {
      RowConnection left(0, 2, ids[0], 5s), right(1, 2, ids[1], 5s);
      Asked a(16, 10, 3000), b(16, 500, 3000);
      do {
        const RowConnection::Group of_left[] = {a.group()}, of_right[] = {b.group()};
        std::byte* const out_left[] = {a.out()};
        std::byte* const out_right[] = {b.out()};
        left.send(of_left, 5s);
        right.send(of_right, 5s);
        const auto counts_left = left.receive(out_left, 5s);
        const auto counts_right = right.receive(out_right, 5s);
        for (std::size_t i = 0; i < a.rows.size(); ++i) {
          const float addend = a.rows[0] - 10.0f;
          CHECK(addend >= 0.0f && a.rows[i] == static_cast<float>(10 + i / 16) + addend);
        }
        CHECK(counts_left.missing == 0 && counts_right.missing == 0);
      } while (!done);
    });
  }
  for (int round = 1; round < 12; ++round) {
    for (RowServer* server : servers) server->publish({table(16, 0, static_cast<float>(round))});
  }
  done = true;
  for (std::thread& client : clients) client.join();
}

// More than any socket buffer holds, both ways.
// A server that answers something else than what was asked.
void test_a_lying_answer_is_refused() {
  for (const AnswerHeader lie : {AnswerHeader{0, 1, 63}, AnswerHeader{0, 2, 64}, AnswerHeader{9, 1, 64}}) {
    const InstanceId id = instance_id(10);
    const auto address = row_wire::address_of(id);
    const Descriptor listener(::socket(AF_UNIX, SOCK_STREAM, 0));
    CHECK(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address.name), address.length) == 0);
    CHECK(::listen(listener.get(), 1) == 0);
    std::thread liar([&] {
      const Descriptor peer(::accept(listener.get(), nullptr, nullptr));
      const row_wire::Hello hello{row_wire::kMagic, 0, 1, 0, 0, id};
      const auto bytes = bytes_of(hello, lie, std::array<std::byte, 128>{});
      CHECK(::send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
      std::byte request[32];
      CHECK(::recv(peer.get(), request, sizeof request, MSG_WAITALL) == sizeof request);
    });
    RowConnection connection(0, 1, id, 5s);
    Asked asked(16, 1, 1);
    CHECK(refused([&] { ask(connection, 5s, asked); }));
    CHECK(!connection.is_open());
    liar.join();
  }
}

void test_large_requests() {
  const InstanceId id = instance_id(9);
  RowServer server({0, 1, RowType::kFloat32, id});
  server.start();
  server.publish({table(64, 0, 0.0f)});
  RowConnection connection(0, 1, id, 5s);
  Asked asked(64, 0, 300'000);
  CHECK(ask(connection, 60s, asked).missing == 300'000 - kRows);
  CHECK(asked.rows[64 * 4999] == 4999.0f && asked.rows[64 * 5000] == 0.0f);
}

}  // namespace

int main() {
  test_rows_and_counts();
  test_who_is_not_meant_is_refused();
  test_bad_requests_cost_their_connection_only();
  test_a_server_that_stops_closes_and_a_silent_one_times_out();
  test_many_clients_while_tables_are_replaced();
  test_a_lying_answer_is_refused();
  test_large_requests();
  std::puts("row_socket ok");
}
