#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "row_wire.h"
#include "satrap/row_socket.h"

namespace satrap {

using row_wire::AnswerGroup;
using row_wire::AnswerHeader;
using row_wire::RequestGroup;
using row_wire::RequestHeader;
using row_wire::Status;

void Descriptor::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

namespace row_wire {

Address address_of(const InstanceId& instance) {
  static constexpr char kPrefix[] = "satrap-rows-";
  static constexpr char kDigits[] = "0123456789abcdef";
  Address address{};
  address.name.sun_family = AF_UNIX;
  char* next = address.name.sun_path + 1;  // the zero byte before it says: abstract
  next = std::copy_n(kPrefix, sizeof kPrefix - 1, next);
  for (const std::byte byte : instance) {
    const auto value = std::to_integer<unsigned>(byte);
    *next++ = kDigits[value >> 4];
    *next++ = kDigits[value & 15];
  }
  address.length = static_cast<socklen_t>(next - reinterpret_cast<char*>(&address.name));
  return address;
}

void fail_errno(const std::string& what) { throw RowSocketError(what + ": " + std::strerror(errno)); }

}  // namespace row_wire

namespace {

using Clock = std::chrono::steady_clock;

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  return static_cast<int>(std::clamp<std::chrono::milliseconds::rep>(left.count(), 0, 1 << 30));
}

// A list of buffers that is worked off front to back.
class Cursor {
 public:
  void add(void* data, std::size_t bytes) {
    if (bytes > 0) parts_.push_back({data, bytes});
  }
  bool is_done() const { return next_ == parts_.size(); }
  iovec* parts() { return parts_.data() + next_; }
  std::size_t count() const { return std::min<std::size_t>(parts_.size() - next_, 64); }
  void advance(std::size_t bytes) {
    while (bytes > 0) {
      iovec& part = parts_[next_];
      const std::size_t step = std::min(bytes, part.iov_len);
      part.iov_base = static_cast<std::byte*>(part.iov_base) + step;
      part.iov_len -= step;
      bytes -= step;
      if (part.iov_len == 0) ++next_;
    }
  }

 private:
  std::vector<iovec> parts_;
  std::size_t next_ = 0;
};

std::string refusal_of(const AnswerHeader& answer) {
  switch (static_cast<Status>(answer.status)) {
    case Status::kNothingServed:
      return "the shard serves nothing yet";
    case Status::kBadRequest:
      return "the shard calls the request bad";
    default:
      return "the shard's answer does not fit the request";
  }
}

void wait_until(int socket, short events, Clock::time_point deadline) {
  pollfd wanted{socket, events, 0};
  const int ready = ::poll(&wanted, 1, milliseconds_until(deadline));
  if (ready == 0) throw RowSocketError("the shard does not answer in time");
  if (ready < 0 && errno != EINTR) row_wire::fail_errno("cannot wait for the row socket");
}

// Moves all of `cursor` with `move` (sendmsg or recvmsg, without waiting), waiting for `events` in between.
// `moved` hears how much, and may throw.
template <class Move, class Moved>
void move_all(int socket, Cursor& cursor, short events, Clock::time_point deadline, Move&& move,
              Moved&& moved) {
  while (!cursor.is_done()) {
    msghdr message{};
    message.msg_iov = cursor.parts();
    message.msg_iovlen = cursor.count();
    const ssize_t n = move(&message);
    if (n > 0) {
      cursor.advance(static_cast<std::size_t>(n));
      moved(static_cast<std::size_t>(n));
    } else if (n == 0) {
      throw RowSocketError("the shard closed the row socket");
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      wait_until(socket, events, deadline);
    } else if (errno != EINTR) {
      row_wire::fail_errno("the row socket broke");
    }
  }
}

}  // namespace

RowConnection::RowConnection(std::uint32_t replica_index, std::uint32_t replica_size,
                             const InstanceId& instance, Milliseconds timeout)
    : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  if (!socket_) row_wire::fail_errno("cannot make a socket");
  const row_wire::Address address = row_wire::address_of(instance);
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address.name), address.length) != 0) {
    row_wire::fail_errno("the shard has no row socket on this machine");
  }
  row_wire::Hello hello;
  Cursor receiving;
  receiving.add(&hello, sizeof hello);
  move_all(
      fd(), receiving, POLLIN, Clock::now() + timeout,
      [this](msghdr* message) { return ::recvmsg(fd(), message, MSG_DONTWAIT); }, [](std::size_t) {});
  if (hello.magic != row_wire::kMagic || hello.row_type > 1 || hello.instance != instance) {
    throw RowSocketError("what listens on the row socket is not the shard that was meant");
  }
  if (hello.replica_index != replica_index || hello.replica_size != replica_size) {
    throw RowSocketError("the shard is another one: " + std::to_string(hello.replica_index) + " of " +
                         std::to_string(hello.replica_size));
  }
  row_type_ = static_cast<RowType>(hello.row_type);
}

void RowConnection::send(std::span<const Group> groups, Milliseconds timeout) {
  if (!is_open()) throw RowSocketError("the row socket is closed");
  if (is_waiting_) throw RowSocketError("a request is unanswered");
  RequestHeader header{static_cast<std::uint32_t>(groups.size()), 0, 0};
  std::vector<RequestGroup> wire_groups;
  answer_bytes_.clear();
  Cursor sending;
  sending.add(&header, sizeof header);
  for (const Group& group : groups) {
    header.signs += group.n;
    wire_groups.push_back({group.dim, group.n});
    answer_bytes_.push_back(std::size_t{group.n} * group.dim * item_size(row_type_));
  }
  sending.add(wire_groups.data(), wire_groups.size() * sizeof(RequestGroup));
  // sendmsg only reads from what it is given.
  for (const Group& group : groups)
    sending.add(const_cast<std::byte*>(group.signs), group.n * std::size_t{8});
  is_waiting_ = true;
  try {
    move_all(
        fd(), sending, POLLOUT, Clock::now() + timeout,
        [this](msghdr* message) { return ::sendmsg(fd(), message, MSG_NOSIGNAL | MSG_DONTWAIT); },
        [](std::size_t) {});
  } catch (...) {
    close();
    throw;
  }
}

RowConnection::Counts RowConnection::receive(std::span<std::byte* const> rows, Milliseconds timeout) {
  if (!is_open()) throw RowSocketError("the row socket is closed");
  if (!is_waiting_ || rows.size() != answer_bytes_.size())
    throw RowSocketError("no such request is unanswered");
  AnswerHeader header{};
  std::vector<AnswerGroup> counts(rows.size());
  std::uint64_t expected = 0;
  std::size_t received = 0;
  Cursor receiving;
  receiving.add(&header, sizeof header);
  receiving.add(counts.data(), counts.size() * sizeof(AnswerGroup));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    receiving.add(rows[i], answer_bytes_[i]);
    expected += answer_bytes_[i];
  }
  const auto check = [&](std::size_t n) {
    const bool had_header = received >= sizeof header;
    received += n;
    if (had_header || received < sizeof header) return;
    if (header.status != static_cast<std::uint32_t>(Status::kOk) || header.groups != rows.size() ||
        header.bytes != expected) {
      throw RowSocketError(refusal_of(header));
    }
  };
  try {
    move_all(
        fd(), receiving, POLLIN, Clock::now() + timeout,
        [this](msghdr* message) { return ::recvmsg(fd(), message, MSG_DONTWAIT); }, check);
  } catch (...) {
    close();
    throw;
  }
  is_waiting_ = false;
  Counts totals;
  for (const AnswerGroup& group : counts) {
    totals.missing += group.missing;
    totals.dim_mismatch += group.dim_mismatch;
  }
  return totals;
}

}  // namespace satrap
