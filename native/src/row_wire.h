// What both ends of a row socket agree on; see row_socket.h.
#ifndef SATRAP_ROW_WIRE_H_
#define SATRAP_ROW_WIRE_H_

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "satrap/row_socket.h"

namespace satrap::row_wire {

constexpr std::uint64_t kMagic = 0x3153574f52525453;  // "STRROWS1"

enum class Status : std::uint32_t { kOk = 0, kNothingServed = 1, kBadRequest = 2 };

struct Hello {
  std::uint64_t magic;
  std::uint32_t replica_index;
  std::uint32_t replica_size;
  std::uint32_t row_type;
  std::uint32_t zero;
  InstanceId instance;
};
static_assert(sizeof(Hello) == 40);

struct RequestHeader {
  std::uint32_t groups;
  std::uint32_t zero;
  std::uint64_t signs;
};
static_assert(sizeof(RequestHeader) == 16);

struct RequestGroup {
  std::uint32_t dim;
  std::uint32_t n;
};

struct AnswerHeader {
  std::uint32_t status;
  std::uint32_t groups;
  std::uint64_t bytes;
};
static_assert(sizeof(AnswerHeader) == 16);

struct AnswerGroup {
  std::uint32_t missing;
  std::uint32_t dim_mismatch;
};

constexpr std::uint32_t kMaxGroups = kMaxDim;
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 31;  // of signs, and of rows

// The abstract address of an instance: a zero byte, then a name.
struct Address {
  sockaddr_un name;
  socklen_t length;
};
Address address_of(const InstanceId& instance);

// "what: reason of errno".
[[noreturn]] void fail_errno(const std::string& what);

}  // namespace satrap::row_wire

#endif  // SATRAP_ROW_WIRE_H_
