#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

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

// One request on its way: send, then the answer's head, then its rows. `step` does what can be done without
// waiting.
class Exchange {
 public:
  explicit Exchange(const RowRequest& request)
      : connection_(*request.connection), groups_(request.groups), counts_(groups_.size()) {
    request_.groups = static_cast<std::uint32_t>(groups_.size());
    for (const RowGroup& group : groups_) {
      wire_groups_.push_back({group.dim, group.n});
      request_.signs += group.n;
    }
    sending_.add(&request_, sizeof request_);
    sending_.add(wire_groups_.data(), wire_groups_.size() * sizeof(RequestGroup));
    // sendmsg only reads from what it is given.
    for (const RowGroup& group : groups_) sending_.add(const_cast<std::byte*>(group.signs), group.n * 8ul);
    receiving_.add(&answer_, sizeof answer_);
    receiving_.add(counts_.data(), counts_.size() * sizeof(AnswerGroup));
    for (const RowGroup& group : groups_) {
      const std::size_t bytes = group.n * item_size(connection_.row_type()) * group.dim;
      receiving_.add(group.rows, bytes);
      rows_bytes_ += bytes;
    }
  }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  bool is_done() const { return receiving_.is_done(); }
  pollfd wanted() const {
    return {connection_.fd(), static_cast<short>(sending_.is_done() ? POLLIN : POLLOUT), 0};
  }

  void step() {
    while (!sending_.is_done()) {
      msghdr message{};
      message.msg_iov = sending_.parts();
      message.msg_iovlen = sending_.count();
      if (!advance(sending_, ::sendmsg(connection_.fd(), &message, MSG_NOSIGNAL | MSG_DONTWAIT))) return;
    }
    while (!receiving_.is_done()) {
      msghdr message{};
      message.msg_iov = receiving_.parts();
      message.msg_iovlen = receiving_.count();
      const ssize_t got = ::recvmsg(connection_.fd(), &message, MSG_DONTWAIT);
      if (got == 0) throw RowSocketError("the shard closed the row socket" + refusal());
      if (!advance(receiving_, got)) return;
      received_ += static_cast<std::size_t>(got);
      check_head();
    }
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      groups_[i].missing = counts_[i].missing;
      groups_[i].dim_mismatch = counts_[i].dim_mismatch;
    }
  }

 private:
  // Whether anything moved; false when the socket would make us wait.
  static bool advance(Cursor& cursor, ssize_t moved) {
    if (moved < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
      if (errno == EINTR) return true;
      row_wire::fail_errno("the row socket broke");
    }
    cursor.advance(static_cast<std::size_t>(moved));
    return true;
  }

  void check_head() {
    if (checked_ || received_ < sizeof answer_) return;
    checked_ = true;
    if (answer_.status != static_cast<std::uint32_t>(Status::kOk)) {
      throw RowSocketError("the shard refused the request" + refusal());
    }
    if (answer_.groups != groups_.size() || answer_.bytes != rows_bytes_) {
      throw RowSocketError("the shard's answer does not fit the request");
    }
  }

  std::string refusal() const {
    if (received_ < sizeof answer_) return "";
    if (answer_.status == static_cast<std::uint32_t>(Status::kNothingServed))
      return ": it serves nothing yet";
    if (answer_.status == static_cast<std::uint32_t>(Status::kBadRequest)) return ": bad request";
    return "";
  }

  RowConnection& connection_;
  std::span<RowGroup> groups_;
  RequestHeader request_{};
  std::vector<RequestGroup> wire_groups_;
  AnswerHeader answer_{};
  std::vector<AnswerGroup> counts_;
  Cursor sending_;
  Cursor receiving_;
  std::size_t rows_bytes_ = 0;
  std::size_t received_ = 0;
  bool checked_ = false;
};

}  // namespace

RowConnection::RowConnection(std::uint32_t replica_index, std::uint32_t replica_size,
                             const InstanceId& instance, std::chrono::milliseconds timeout)
    : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  if (!socket_) row_wire::fail_errno("cannot make a socket");
  const row_wire::Address address = row_wire::address_of(instance);
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address.name), address.length) != 0) {
    row_wire::fail_errno("the shard has no row socket on this machine");
  }
  row_wire::Hello hello;
  const auto deadline = Clock::now() + timeout;
  for (std::size_t got = 0; got < sizeof hello;) {
    pollfd readable{socket_.get(), POLLIN, 0};
    if (::poll(&readable, 1, milliseconds_until(deadline)) == 0)
      throw RowSocketError("the row socket says nothing");
    const ssize_t n =
        ::recv(socket_.get(), reinterpret_cast<std::byte*>(&hello) + got, sizeof hello - got, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) throw RowSocketError("the shard closed the row socket before it said hello");
    got += static_cast<std::size_t>(n);
  }
  if (hello.magic != row_wire::kMagic || hello.row_type > 1 || hello.instance != instance) {
    throw RowSocketError("what listens on the row socket is not the shard that was meant");
  }
  if (hello.replica_index != replica_index || hello.replica_size != replica_size) {
    throw RowSocketError("the shard is another one: " + std::to_string(hello.replica_index) + " of " +
                         std::to_string(hello.replica_size));
  }
  row_type_ = static_cast<RowType>(hello.row_type);
}

void exchange(std::span<RowRequest> requests, std::chrono::milliseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  try {
    std::list<Exchange> exchanges;
    for (const RowRequest& request : requests) {
      if (!request.connection->is_open()) throw RowSocketError("the row socket is closed");
      exchanges.emplace_back(request);
    }
    std::vector<pollfd> waiting;
    for (;;) {
      waiting.clear();
      for (Exchange& one : exchanges) {
        if (!one.is_done()) one.step();
        if (!one.is_done()) waiting.push_back(one.wanted());
      }
      if (waiting.empty()) return;
      const int ready = ::poll(waiting.data(), waiting.size(), milliseconds_until(deadline));
      if (ready == 0) throw RowSocketError("no answer within " + std::to_string(timeout.count()) + " ms");
      if (ready < 0 && errno != EINTR) row_wire::fail_errno("cannot wait for the row sockets");
    }
  } catch (...) {
    for (const RowRequest& request : requests) request.connection->close();
    throw;
  }
}

}  // namespace satrap
