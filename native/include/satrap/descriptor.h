// A file descriptor that is closed with its owner.
#ifndef SATRAP_DESCRIPTOR_H_
#define SATRAP_DESCRIPTOR_H_

#include <unistd.h>

#include <utility>

namespace satrap {

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
  void reset(int fd = -1) {
    const int old = std::exchange(fd_, fd);
    if (old >= 0) ::close(old);
  }

 private:
  int fd_;
};

}  // namespace satrap

#endif  // SATRAP_DESCRIPTOR_H_
