#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "row_wire.h"
#include "satrap/row_socket.h"

namespace satrap {

using row_wire::AnswerGroup;
using row_wire::AnswerHeader;
using row_wire::RequestGroup;
using row_wire::RequestHeader;
using row_wire::Status;

namespace {

constexpr int kBacklog = 64;
constexpr std::size_t kMaxConnections = 256;
// Asked for; the kernel gives what its limit allows, by default 416 KiB. An answer that fits is written
// without waiting for the client to read, so that shards do not take turns.
constexpr int kSendBuffer = 4 << 20;
constexpr std::size_t kKeptBytes = std::size_t{64}
                                   << 20;  // larger buffers are given back after their request

// Reads exactly n bytes; false if the peer closed, or the connection broke.
bool read_all(int socket, void* data, std::size_t n) {
  auto* next = static_cast<std::byte*>(data);
  while (n > 0) {
    const ssize_t got = ::recv(socket, next, n, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    next += got;
    n -= static_cast<std::size_t>(got);
  }
  return true;
}

// Writes both parts whole; false if the connection broke.
bool write_all(int socket, iovec first, iovec second) {
  iovec parts[] = {first, second};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  while (message.msg_iovlen > 0) {
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;
    auto left = static_cast<std::size_t>(sent);
    while (message.msg_iovlen > 0 && left >= message.msg_iov->iov_len) {
      left -= message.msg_iov->iov_len;
      ++message.msg_iov;
      --message.msg_iovlen;
    }
    if (message.msg_iovlen > 0) {
      message.msg_iov->iov_base = static_cast<std::byte*>(message.msg_iov->iov_base) + left;
      message.msg_iov->iov_len -= left;
    }
  }
  return true;
}

// Memory that is not cleared before it is written, and only ever grows.
class Buffer {
 public:
  std::byte* get(std::size_t bytes) {
    if (bytes > size_) {
      data_.reset(new std::byte[bytes]);
      size_ = bytes;
    }
    return data_.get();
  }
  void trim() {
    if (size_ > kKeptBytes) {
      data_.reset();
      size_ = 0;
    }
  }

 private:
  std::unique_ptr<std::byte[]> data_;
  std::size_t size_ = 0;
};

const Table* table_of(const RowServer::Tables& tables, std::size_t dim) {
  const auto found =
      std::find_if(tables.begin(), tables.end(), [dim](const auto& table) { return table->dim() == dim; });
  return found == tables.end() ? nullptr : found->get();
}

// How many of the signs that `found` marks as absent are in a table of another dim.
std::uint32_t held_elsewhere(const RowServer::Tables& tables, std::size_t dim, const std::byte* signs,
                             std::size_t n, const std::uint8_t* found) {
  if (tables.size() < 2 && table_of(tables, dim)) return 0;
  std::vector<std::byte> absent;
  for (std::size_t i = 0; i < n; ++i) {
    if (!found[i]) absent.insert(absent.end(), signs + i * 8, signs + (i + 1) * 8);
  }
  const std::size_t m = absent.size() / 8;
  std::vector<std::uint8_t> here(m), anywhere(m);
  for (const auto& table : tables) {
    if (table->dim() == dim) continue;
    table->contains(absent.data(), m, here.data());
    for (std::size_t i = 0; i < m; ++i) anywhere[i] |= here[i];
  }
  return static_cast<std::uint32_t>(std::count(anywhere.begin(), anywhere.end(), 1));
}

}  // namespace

// What a connection keeps from one request to the next.
struct RequestBuffers {
  std::vector<RequestGroup> groups;
  std::vector<AnswerGroup> counts;
  Buffer signs;
  Buffer found;
  Buffer head;
  Buffer rows;
};

void RowServer::start() {
  const row_wire::Address address = row_wire::address_of(identity_.instance);
  listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener_) row_wire::fail_errno("cannot make a row socket");
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address.name), address.length) != 0) {
    row_wire::fail_errno("cannot bind the row socket");
  }
  if (::listen(listener_.get(), kBacklog) != 0) row_wire::fail_errno("cannot listen on the row socket");
  wake_.reset(::eventfd(0, EFD_CLOEXEC));
  if (!wake_) row_wire::fail_errno("cannot make an eventfd");
  acceptor_ = std::thread([this] { accept_all(); });
}

void RowServer::publish(Tables tables) {
  auto next = std::make_shared<const Tables>(std::move(tables));
  const std::lock_guard lock(publication_);
  tables_.swap(next);
}

void RowServer::stop() {
  if (!acceptor_.joinable()) return;
  const std::uint64_t one = 1;
  static_cast<void>(::write(wake_.get(), &one, sizeof one));  // cannot fail: nobody else writes to it
  acceptor_.join();
  for (Connection& connection : connections_) ::shutdown(connection.socket.get(), SHUT_RDWR);
  for (Connection& connection : connections_) connection.thread.join();
  connections_.clear();
  listener_.reset();
}

RowServer::Counters RowServer::counters() const {
  return {signs_.load(std::memory_order_relaxed), missing_.load(std::memory_order_relaxed),
          dim_mismatch_.load(std::memory_order_relaxed)};
}

void RowServer::accept_all() {
  pollfd watched[] = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
  for (;;) {
    if (::poll(watched, 2, -1) < 0) continue;
    if (watched[1].revents) return;
    Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    reap_finished();
    // Too many, or no descriptor left: the client sees a closed connection and asks by gRPC.
    if (!socket || connections_.size() >= kMaxConnections) continue;
    Connection& connection = connections_.emplace_back();
    connection.socket = std::move(socket);
    connection.thread = std::thread([this, &connection] { serve(connection); });
  }
}

void RowServer::reap_finished() {
  connections_.remove_if([](Connection& connection) {
    if (!connection.finished.load(std::memory_order_acquire)) return false;
    connection.thread.join();
    return true;
  });
}

void RowServer::serve(Connection& connection) {
  const int socket = connection.socket.get();
  ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kSendBuffer, sizeof kSendBuffer);
  const row_wire::Hello hello{row_wire::kMagic,
                              identity_.replica_index,
                              identity_.replica_size,
                              static_cast<std::uint32_t>(identity_.row_type),
                              0,
                              identity_.instance};
  if (write_all(socket, {const_cast<row_wire::Hello*>(&hello), sizeof hello}, {nullptr, 0})) {
    RequestBuffers buffers;
    while (serve_one(socket, buffers)) {
    }
  }
  // The peer learns at once; the descriptor is closed when the acceptor has joined this thread.
  ::shutdown(socket, SHUT_RDWR);
  connection.finished.store(true, std::memory_order_release);
}

bool RowServer::serve_one(int socket, RequestBuffers& buffers) {
  RequestHeader header;
  if (!read_all(socket, &header, sizeof header)) return false;
  const auto refuse = [socket](Status status) {
    AnswerHeader answer{static_cast<std::uint32_t>(status), 0, 0};
    write_all(socket, {&answer, sizeof answer}, {nullptr, 0});
    return false;
  };
  if (header.groups > row_wire::kMaxGroups || header.signs > row_wire::kMaxBytes / 8) {
    return refuse(Status::kBadRequest);
  }
  buffers.groups.resize(header.groups);
  if (!read_all(socket, buffers.groups.data(), header.groups * sizeof(RequestGroup))) return false;
  const std::size_t item = item_size(identity_.row_type);
  std::uint64_t signs = 0;
  std::uint64_t bytes = 0;
  for (const RequestGroup& group : buffers.groups) {
    if (group.dim < 1 || group.dim > kMaxDim) return refuse(Status::kBadRequest);
    signs += group.n;
    bytes += std::uint64_t{group.n} * group.dim * item;
  }
  if (signs != header.signs || bytes > row_wire::kMaxBytes) return refuse(Status::kBadRequest);
  std::byte* const all_signs = buffers.signs.get(signs * 8);
  if (!read_all(socket, all_signs, signs * 8)) return false;

  const std::shared_ptr<const Tables> tables = [this] {
    const std::lock_guard lock(publication_);
    return tables_;
  }();
  if (!tables) return refuse(Status::kNothingServed);

  const std::byte* next_signs = all_signs;
  std::byte* const rows = buffers.rows.get(bytes);
  std::byte* next_rows = rows;
  buffers.counts.clear();
  for (const RequestGroup& group : buffers.groups) {
    auto* const found = reinterpret_cast<std::uint8_t*>(buffers.found.get(group.n));
    const std::size_t group_bytes = std::size_t{group.n} * group.dim * item;
    std::size_t absent = group.n;
    if (const Table* table = table_of(*tables, group.dim)) {
      absent = table->lookup(next_signs, group.n, next_rows, found);
    } else {
      std::memset(next_rows, 0, group_bytes);
      std::memset(found, 0, group.n);
    }
    const std::uint32_t mismatched =
        absent ? held_elsewhere(*tables, group.dim, next_signs, group.n, found) : 0;
    const auto missing = static_cast<std::uint32_t>(absent) - mismatched;
    buffers.counts.push_back({missing, mismatched});
    missing_.fetch_add(missing, std::memory_order_relaxed);
    dim_mismatch_.fetch_add(mismatched, std::memory_order_relaxed);
    next_signs += std::size_t{group.n} * 8;
    next_rows += group_bytes;
  }
  signs_.fetch_add(signs, std::memory_order_relaxed);

  const std::size_t head_bytes = sizeof(AnswerHeader) + buffers.counts.size() * sizeof(AnswerGroup);
  std::byte* const head = buffers.head.get(head_bytes);
  const AnswerHeader answer{static_cast<std::uint32_t>(Status::kOk), header.groups, bytes};
  std::memcpy(head, &answer, sizeof answer);
  std::memcpy(head + sizeof answer, buffers.counts.data(), buffers.counts.size() * sizeof(AnswerGroup));
  const bool sent = write_all(socket, {head, head_bytes}, {rows, bytes});
  buffers.signs.trim();
  buffers.rows.trim();
  return sent;
}

}  // namespace satrap
