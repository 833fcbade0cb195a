// Rows for processes of the same machine, over a Unix socket, without gRPC and without Python.
//
// A lookup by gRPC occupies a Python server and a Python client for longer than the rows take, before the
// first row is copied. Here a server thread reads signs, looks them up, and writes rows; a client sends to
// all shards and receives each answer where it is needed. Nothing else is said here: loading, status and
// errors that a user reads go by gRPC, and whoever cannot connect, or gets an error, asks by gRPC instead.
//
// The server listens in the abstract namespace, under a name made of its random 128-bit instance id, which
// its gRPC Status tells. So there is no file to clean up or to find stale, a process that can connect is on
// the same machine (and in the same network namespace, which is what loopback TCP needs too), and it has the
// server it meant.
//
// WIRE, little-endian, no padding:
//
//   hello     server, once   u64 magic | u32 replica_index | u32 replica_size | u32 row type | u32 zero | 16
//   id request   client         u32 groups | u32 zero | u64 signs | groups x { u32 dim | u32 n } | signs x
//   u64 answer    server         u32 status | u32 groups | u64 bytes of rows | groups x { u32 missing | u32
//   mismatched }
//                            | rows of all groups, in order
//
// A status other than kOk ends the connection after the header.
#ifndef SATRAP_ROW_SOCKET_H_
#define SATRAP_ROW_SOCKET_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "satrap/table.h"

namespace satrap {

using InstanceId = std::array<std::byte, 16>;

// The connection cannot be made, broke, took too long, or is not what it should be. It is closed.
struct RowSocketError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Which shard, and how its rows are stored.
struct ShardIdentity {
  std::uint32_t replica_index;
  std::uint32_t replica_size;
  RowType row_type;
  InstanceId instance;
};

// A file descriptor that is closed with its owner.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() { reset(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset(int fd = -1);

 private:
  int fd_;
};

// Answers from the tables that were published last: one thread accepts, and one serves each connection.
//
// Threads: publish and counters from any thread; start and stop from one, in this order. A request in flight
// goes on with the tables that it began with.
class RowServer {
 public:
  using Tables = std::vector<std::shared_ptr<const Table>>;  // one for each dim

  struct Counters {
    std::uint64_t signs;
    std::uint64_t missing;
    std::uint64_t dim_mismatch;
  };

  explicit RowServer(const ShardIdentity& identity) : identity_(identity) {}
  ~RowServer() { stop(); }
  RowServer(const RowServer&) = delete;
  RowServer& operator=(const RowServer&) = delete;

  // Listens and serves. Until something is published, requests are refused. Throws RowSocketError.
  void start();
  void publish(Tables tables);
  // Closes every connection and waits for the threads. May be called again.
  void stop();

  Counters counters() const;

 private:
  struct Connection {
    Descriptor socket;
    std::thread thread;
    std::atomic<bool> finished{false};
  };

  void accept_all();
  void serve(Connection& connection);
  bool serve_one(int socket, struct RequestBuffers& buffers);
  void reap_finished();

  const ShardIdentity identity_;
  Descriptor listener_;
  Descriptor wake_;  // an eventfd: readable once the server stops
  std::thread acceptor_;
  std::list<Connection> connections_;  // belongs to the acceptor while it runs
  mutable std::mutex publication_;     // guards tables_, for the copy of a pointer
  std::shared_ptr<const Tables> tables_;
  std::atomic<std::uint64_t> signs_{0};
  std::atomic<std::uint64_t> missing_{0};
  std::atomic<std::uint64_t> dim_mismatch_{0};
};

// A client's connection to one shard: send a request, receive its answer, in turns. One thread at a time.
// After an error it is closed.
class RowConnection {
 public:
  using Milliseconds = std::chrono::milliseconds;

  // n signs, of any alignment, of one dim.
  struct Group {
    std::uint32_t dim;
    std::uint32_t n;
    const std::byte* signs;
  };

  struct Counts {
    std::uint64_t missing = 0;
    std::uint64_t dim_mismatch = 0;
  };

  // Connects and checks that the server is the one that is meant. Throws RowSocketError.
  RowConnection(std::uint32_t replica_index, std::uint32_t replica_size, const InstanceId& instance,
                Milliseconds timeout);

  RowType row_type() const { return row_type_; }
  bool is_open() const { return static_cast<bool>(socket_); }
  void close() { socket_.reset(); }
  int fd() const { return socket_.get(); }

  // Sends a request; no other may be unanswered. The groups are not needed afterwards. Throws RowSocketError.
  void send(std::span<const Group> groups, Milliseconds timeout);

  // Bytes of rows that the answer has for each group of the request.
  const std::vector<std::size_t>& answer_bytes() const { return answer_bytes_; }

  // Waits for the answer; rows[i] has room for answer_bytes()[i]. Throws RowSocketError.
  Counts receive(std::span<std::byte* const> rows, Milliseconds timeout);

 private:
  Descriptor socket_;
  RowType row_type_ = RowType::kFloat32;
  bool is_waiting_ = false;  // a request is unanswered
  std::vector<std::size_t> answer_bytes_;
};

}  // namespace satrap

#endif  // SATRAP_ROW_SOCKET_H_
